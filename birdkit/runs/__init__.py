"""What notebooks and commands do with the files on disk. Nothing is imported here: each job loads what it needs.

training       notebook 03: one split here, or several at once, a process each
labelling      notebook 02: teachers label soundscapes, with the page to judge it by
submitting     notebook 04: a submission from the first minute on, better with every file
rounds         what each round of pseudo-labelling brought
call_detector  what call detectors, the gate of a submission, learn from
ensembles      files of ensembles from trained runs, with equal and with fitted weights
effects        rows to measure post-processing on, from models and soundscapes
testing        what a trained model says of test soundscapes with a known truth
jobs           several commands at once, all of them ended when this process is

Notebook 01 is birdkit.preprocess; all four in order are birdkit.pipeline.
"""
