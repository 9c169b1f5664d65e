"""SED models on folded spectrograms for BirdCLEF: audio in, scored submission out.

The package, from the ground up; a module imports only from the rows above it.

names and arithmetic, without torch      registry settings folding windows metrics comparison postprocess profiles
                                         kaggle jobs window_index manifest sending
what a run is; files to waves            config audio crops packed splits marks filecache batch output composition
                                         ambience calls distributed pace
the one image; what is learnt, and how   frontend presets losses augmentations sampling optimisation recipes
                                         soundscapes
backbone, unfold, a head over segments   models fingerprint
one proven file; recordings to batches   checkpoint tables window_labels window_choice labelled_soundscapes
                                         recording_labels teacher_table audio_store sources feeding data
probabilities; tables; test material     predictor inference export preprocess packing call_sources synthesis
the three jobs, and the score            validation teacher_model distillation material trainer loop relabelling
                                         run_files averaging training pseudolabel submission
the whole way, and which way is better   pipeline runs label_run rounds plan experiments pictures report
                                         report_compare report_labels report_rounds catalogue cli
"""

__version__ = "0.1.0"
