"""What a run is: frozen dataclasses, units in the names, derived numbers as properties.

A run config is stored whole in every checkpoint. It is made by a recipe (`birdkit.recipes`), changed by
`birdkit.settings.replace`, and read strictly.
"""
from birdkit.config.base import Member
from birdkit.config.distil import DistilConfig
from birdkit.config.frontend import FrontEndConfig
from birdkit.config.labelling import ALL, MEANS, OTHERS, PEOPLE, SAME_SPLIT, LabelConfig
from birdkit.config.model import OWN, ModelConfig
from birdkit.config.pseudo import PseudoConfig
from birdkit.config.run import POOLS, InferenceConfig, RunConfig, SplitConfig, TaskConfig, ValidationConfig
from birdkit.config.training import (
    LABELLED,
    PSEUDO,
    SOUNDSCAPES,
    UNLABELLED,
    AugmentConfig,
    DataConfig,
    SourceConfig,
    TrainConfig,
)

__all__ = ["ALL", "LABELLED", "MEANS", "OTHERS", "OWN", "PEOPLE", "POOLS", "PSEUDO", "SAME_SPLIT", "SOUNDSCAPES",
           "UNLABELLED", "AugmentConfig", "DataConfig", "DistilConfig", "FrontEndConfig", "InferenceConfig",
           "LabelConfig", "Member", "ModelConfig", "PseudoConfig", "RunConfig", "SourceConfig", "SplitConfig",
           "TaskConfig", "TrainConfig", "ValidationConfig"]
