"""Augmentations: one file for each concept, every member entered in `AUGMENTATIONS`. A new file is a line here.

A random number that belongs to an example is drawn as a tensor whose first axis is the batch; one that belongs to
the whole batch is drawn as a plain number or a list.
"""
from birdkit.augmentations.background import AddedBackground, Background, SoundscapeMix, SourceOnly, Substitute
from birdkit.augmentations.base import AUGMENTATIONS, Augmentation, joint_shares
from birdkit.augmentations.cutmix import CutMix, HorizontalCutMix
from birdkit.augmentations.distance import Distance, Reverb
from birdkit.augmentations.equaliser import RandomEQ
from birdkit.augmentations.filtering import FilterChain, LowPass
from birdkit.augmentations.mixing import Mixup, OrMixup, PartMixup, SelectiveMixup
from birdkit.augmentations.recorder import Clipping, Codec
from birdkit.augmentations.repeat import During, OneOf, Repeat, build_augmentations
from birdkit.augmentations.scene import Scene
from birdkit.augmentations.spectrogram import CoarseDropout, FrequencyMask, TimeMask
from birdkit.augmentations.sumix import Sumix, SumixFreq
from birdkit.augmentations.waveform import Gain, Noise, Polarity, Speed, TimeShift

__all__ = [
    "AUGMENTATIONS", "AddedBackground", "Augmentation", "Background", "Clipping", "CoarseDropout", "Codec", "CutMix",
    "Distance", "During", "FilterChain", "FrequencyMask", "Gain", "HorizontalCutMix", "LowPass", "Mixup", "Noise",
    "OneOf", "OrMixup", "PartMixup", "Polarity", "RandomEQ", "Repeat", "Reverb", "Scene", "SelectiveMixup",
    "SoundscapeMix", "SourceOnly", "Speed", "Substitute", "Sumix", "SumixFreq", "TimeMask", "TimeShift",
    "build_augmentations", "joint_shares",
]
