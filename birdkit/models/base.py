"""The contract of a model: a front end and a `classify` that turns its images into a SEDOutput."""
from __future__ import annotations

from torch import Tensor, nn

from birdkit.config import FrontEndConfig, ModelConfig
from birdkit.frontend import FrontEnd
from birdkit.output import SEDOutput
from birdkit.registry import Registry

MODELS: Registry[Model] = Registry("model")


class Model(nn.Module):
    """A front end and a network. A member implements `classify`; `forward` is classify(frontend(wave)).

    Training puts spectrogram augmentations between the two halves; everyone else calls the whole. Only `classify` is
    exported for the CPU: the front end is this same object wherever the model goes.

    frontend    the FrontEnd of the config
    n_classes   K
    n_segments  S, the time steps of the segment logits
    """

    n_segments: int

    def __init__(self, config: ModelConfig, frontend: FrontEndConfig, n_classes: int) -> None:
        super().__init__()
        if n_classes < 1:
            raise ValueError(f"n_classes = {n_classes} must be at least 1")
        self.config = config
        self.frontend = FrontEnd(frontend)
        self.n_classes = n_classes

    def classify(self, image: Tensor) -> SEDOutput:
        """(B, C, strips * n_mels, T / strips) -> SEDOutput of B clips, S segments, K classes."""
        raise NotImplementedError

    def forward(self, wave: Tensor) -> SEDOutput:
        """(B, N) -> SEDOutput."""
        return self.classify(self.frontend(wave))


def build_model(config: ModelConfig, frontend: FrontEndConfig, n_classes: int) -> Model:
    """The registered model that `config` names, for images of `frontend` and K = n_classes."""
    return MODELS.get(config.name)(config, frontend, n_classes)
