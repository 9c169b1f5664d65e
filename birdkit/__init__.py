"""SED models on folded spectrograms for BirdCLEF: audio in, scored submission out.

The package, from the ground up; a module imports only from the rows above it.

registry · folding · windows · metrics · postprocess · profiles · kaggle   names and arithmetic, without torch
config · audio · splits · batch · output · composition · ambience · calls  a run; files to waves; in and out
frontend · presets · losses · augmentations · sampling · recipes ·
  soundscapes                                                             the one image; what is learnt, and how
models                                                                    backbone, unfold, attention over time
checkpoint · data                                                         one proven file; recordings to batches
predictor · inference · export · preprocess · synthesis                   probabilities; audits; a generated competition
validation · training · pseudolabel · submission                          the three jobs, and the score
pipeline · report · cli                                                   the whole way
"""

__version__ = "0.1.0"
