"""Soundscapes to probabilities of windows: the one way, for validation, pseudo-labels and submission alike.

predicting   an ensemble on soundscapes of any number and length
predictor    one model, ready to predict: front end, network behind a backend, classes
listening    images of several soundscapes at once through the networks
reading      decoding and front ends ahead of the network, in threads
soundscapes  what clips are cut from: a file of any length, or a wave in memory
windows      which clips are cut, and what share of their segments lies in each window
view         which clips a network is shown, and where in time their segments lie
levels       rows that fewer models heard, made comparable
repetition   whether a model says the same of everything in a soundscape
"""
from birdkit.inference.predicting import (
    WINDOW_COLUMNS,
    Ensemble,
    Heard,
    PredictionError,
    Predictions,
    predict,
    predict_wave,
    predict_waves,
)
from birdkit.inference.predictor import Predictor, load_predictors
from birdkit.inference.soundscapes import Soundscape, SoundscapeFile, SoundscapeWave

__all__ = ["WINDOW_COLUMNS", "Ensemble", "Heard", "PredictionError", "Predictions", "Predictor", "Soundscape",
           "SoundscapeFile", "SoundscapeWave", "load_predictors", "predict", "predict_wave", "predict_waves"]
