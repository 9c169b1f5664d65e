"""SED models on folded spectrograms for BirdCLEF: audio in, scored submission out.

The package, from the ground up; a module imports only from the rows above it.

names and arithmetic, without torch      registry settings folding windows metrics comparison decisions postprocess
                                         blending rows effects weight_fit profiles kaggle jobs window_index disk offline
                                         manifest sending repetition
what a run is; files to waves            config audio crops packed splits marks filecache batch output composition
                                         ambience calls distributed pace
the one image; what is learnt, and how   frontend presets losses augmentations sampling optimisation recipes
                                         soundscapes view
backbone, unfold, a head over segments   models fingerprint
one proven file; recordings to batches   checkpoint tables window_labels window_choice labelled_soundscapes
                                         recording_labels teacher_table audio_store sources feeding data backends
probabilities; tables; test material     parity export bundles predictor reading listening levels inference binding
                                         ensembles preprocess packing call_sources submission layouts synthesis
the three jobs, and the score            validation teacher_model distillation material trainer loop relabelling
                                         run_files averaging training pseudolabel gate bundle_export
the whole way, and which way is better   pipeline runs call_run label_run submit_run rounds plan experiments pictures
                                         report report_compare report_labels report_rounds effects_run report_effects
                                         ensemble_making catalogue commands cli
"""

__version__ = "0.1.0"
