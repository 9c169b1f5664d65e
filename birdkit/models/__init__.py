"""Models: from an image to logits over segments. A new model is one file here and one import line below."""
from birdkit.models.base import MODELS, build_model
from birdkit.models.heads import HEADS
from birdkit.models.scratch import BACKBONES
from birdkit.models.sed import SED

__all__ = ["BACKBONES", "HEADS", "MODELS", "SED", "build_model"]
