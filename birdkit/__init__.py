"""SED models on folded spectrograms for BirdCLEF: audio in, scored submission out.

The package, from the ground up; a module imports only from the rows above it.

registry · folding · metrics · postprocess · profiles · kaggle       no torch: names, arithmetic, what each year fixed
config · audio · splits · batch · output                             what a run is; files to waves; what goes in and out
frontend · losses · augmentations · sampling · recipes               the one image; what is learnt from, and how
models                                                               backbone, unfold, attention over time
checkpoint · data                                                    one proven file; recordings to batches
inference · export · preprocess · synthesis                          soundscapes to probabilities; audits; a generated competition
training · pseudolabel · submission                                  the three jobs
pipeline · report · cli                                              the whole way
"""

__version__ = "0.1.0"
