"""Train one split: what it learns from, its epochs, what each scored, and the checkpoint to deploy.

fitting        one run from its tables to its checkpoints
material       what it learns from, and never what validates
loop           steps, validations, averages; when to save and when to stop
trainer        one step: what is done to a batch, a model and its averages
validation     the score on the validating split, by the same prediction as a submission
run_files      the folder of a run: checkpoints, history, and the state from which it goes on
optimisation   optimiser, learning rates, precision
averaging      averages of weights along a run
distributed    several processes that train one model
distillation   learning from a teacher beside the labels
teacher_model  a teacher's network, such as Perch v2, from an ONNX file
relabelling    labels that a model under training gives to the soundscapes it goes on with

Run from the files on disk, as notebook 03 does it, by birdkit.runs.training.
"""
from birdkit.training.fitting import FitResult, fit

__all__ = ["FitResult", "fit"]
