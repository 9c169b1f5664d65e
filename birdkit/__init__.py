"""SED models on folded spectrograms for BirdCLEF: audio in, scored submission out.

The package, from the ground up; a module imports only from the rows above it.

names and arithmetic, without torch      registry settings folding windows metrics postprocess profiles kaggle
what a run is; files to waves            config audio splits batch output composition ambience calls
the one image; what is learnt, and how   frontend presets losses augmentations sampling recipes soundscapes
backbone, unfold, a head over segments   models
one proven file; recordings to batches   checkpoint data
probabilities; tables; test material     predictor inference export preprocess call_sources synthesis
the three jobs, and the score            validation training pseudolabel submission
the whole way                            pipeline report catalogue cli
"""

__version__ = "0.1.0"
