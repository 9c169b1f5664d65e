"""What a run is: frozen dataclasses, units in the names, derived numbers as properties.

A run config is stored whole in every checkpoint. It is made by a recipe (`birdkit.recipes`), changed by
`birdkit.settings.replace`, and read strictly.
"""
from birdkit.config.base import Member
from birdkit.config.distil import DistilConfig
from birdkit.config.frontend import FrontEndConfig
from birdkit.config.model import OWN, ModelConfig
from birdkit.config.run import POOLS, InferenceConfig, RunConfig, SplitConfig, ValidationConfig
from birdkit.config.training import SOUNDSCAPES, AugmentConfig, DataConfig, SourceConfig, TrainConfig

__all__ = ["OWN", "POOLS", "SOUNDSCAPES", "AugmentConfig", "DataConfig", "DistilConfig", "FrontEndConfig",
           "InferenceConfig", "Member", "ModelConfig", "RunConfig", "SourceConfig", "SplitConfig", "TrainConfig",
           "ValidationConfig"]
