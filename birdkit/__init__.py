"""SED models on folded spectrograms for BirdCLEF: audio in, scored submission out.

The package, from the ground up; a part imports only from the rows above it, or from its own where that makes no circle.
A folder's docstring says what lies in it, a line for each module, and its __init__.py offers what others need of it.

names and arithmetic, without torch      registry settings folding metrics decisions postprocess blending effects
                                         profiles kaggle sending
what a run is; files to waves            config audio splits batch output pace
the one image; what is learnt, and how   frontend losses augmentations sampling recipes
backbone, unfold, a head over segments   models pictures
one proven file; recordings to batches   checkpoint data backends
probabilities; tables; test material     inference ensembles export preprocess submission synthesis
a run, and the labels it learns from     pseudolabel training
the whole way, and which way is better   runs experiments reports pipeline catalogue commands cli
"""

__version__ = "0.1.0"
