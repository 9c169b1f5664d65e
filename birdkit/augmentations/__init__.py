"""Augmentations: one file for each concept, every member entered in `AUGMENTATIONS`. A new file is a line here.

A random number that belongs to an example is drawn as a tensor whose first axis is the batch; one that belongs to
the whole batch is drawn as a plain number or a list.
"""
from birdkit.augmentations.background import AddedBackground, Background, SoundscapeMix
from birdkit.augmentations.base import AUGMENTATIONS, Augmentation
from birdkit.augmentations.filtering import FilterChain, LowPass, RandomEQ, Reverb
from birdkit.augmentations.mixing import CutMix, Mixup, OrMixup, PartMixup, Sumix
from birdkit.augmentations.repeat import Repeat, build_augmentations
from birdkit.augmentations.spectrogram import CoarseDropout, FrequencyMask, TimeMask
from birdkit.augmentations.waveform import Gain, Noise, Polarity, TimeShift

__all__ = [
    "AUGMENTATIONS", "AddedBackground", "Augmentation", "Background", "CoarseDropout", "CutMix", "FilterChain",
    "FrequencyMask", "Gain", "LowPass", "Mixup", "Noise", "OrMixup", "PartMixup", "Polarity", "RandomEQ", "Repeat",
    "Reverb", "SoundscapeMix", "Sumix", "TimeMask", "TimeShift", "build_augmentations",
]
