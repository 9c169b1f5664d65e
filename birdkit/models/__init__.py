"""Models: from an image to logits over segments. A new model is one file here and one import line below."""
from birdkit.models.base import MODELS, build_model, lengthen
from birdkit.models.call_detector import CallDetector
from birdkit.models.conformer import Conformer
from birdkit.models.fdy_crnn import FDYCRNN
from birdkit.models.heads import HEADS
from birdkit.models.htsat import HTSAT
from birdkit.models.scratch import BACKBONES
from birdkit.models.sed import SED

__all__ = ["BACKBONES", "FDYCRNN", "HEADS", "HTSAT", "MODELS", "SED", "CallDetector", "Conformer", "build_model",
           "lengthen"]
