"""The contract of a model: a front end, features over segments, and a decision that turns them into a SEDOutput."""
from __future__ import annotations

import inspect
from typing import ClassVar

from torch import Tensor, nn

from birdkit.config import OWN, FrontEndConfig, ModelConfig
from birdkit.folding import fold, unfold
from birdkit.frontend import FrontEnd
from birdkit.models.backbones import BackboneMap, backbone_weights
from birdkit.models.input_norm import InputNorm
from birdkit.models.weights import WeightsReport, load_weights, read_weights
from birdkit.output import SEDOutput
from birdkit.registry import Registry

MODELS: Registry[Model] = Registry("model")


class Model(nn.Module):
    """A front end and a network in two halves: `features` of an image, and what they `decide`.

    A member implements the two; `classify` is input norm, features, decide, and `forward` is classify(frontend(wave)).
    An image may come in parts, (B, P, C, H, W): each goes through `features` alone, the segments are joined along
    time and decided on together. So one set of weights takes a clip, or as many clips as there are parts.

    Training puts spectrogram augmentations before `classify`; everyone else calls the whole. Only `classify` is
    exported for the CPU: the front end is this same object wherever the model goes.

    published, published_frontend  config of the paper it comes from, and its preset in birdkit.presets.FRONT_ENDS
    small, small_frontend          the same of a size that two CPU cores train in minutes
    class_free                     submodules that do not depend on the classes: what a warm start takes from a birdkit
                                   checkpoint of other classes
    pooled                         how segments make a clip, see SEDOutput
    n_segments                     S, the segments of one clip; set by the member
    weights_report                 what a weights file gave, None where there was none
    """

    published: ClassVar[ModelConfig]
    published_frontend: ClassVar[str]
    small: ClassVar[ModelConfig]
    small_frontend: ClassVar[FrontEndConfig]
    class_free: ClassVar[tuple[str, ...]] = ("backbone", "input_norm")
    pooled: str = "logits"
    n_segments: int
    weights_report: WeightsReport | None = None

    def __init__(self, config: ModelConfig, frontend: FrontEndConfig, n_classes: int) -> None:
        super().__init__()
        if n_classes < 1:
            raise ValueError(f"n_classes = {n_classes} must be at least 1")
        self.config = config
        self.frontend = FrontEnd(frontend)
        self.n_classes = n_classes
        self.input_norm = InputNorm(config.input_norm, frontend)

    def features(self, image: Tensor) -> Tensor:
        """(B, C, strips * n_mels, T / strips) -> (B, D, S), the segments along true time."""
        raise NotImplementedError

    def decide(self, features: Tensor) -> SEDOutput:
        """(B, D, any number of segments) -> SEDOutput."""
        raise NotImplementedError

    @classmethod
    def translate(cls, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights that the authors published under their own names, by ours; as they are where those are ours."""
        return weights

    def classify(self, image: Tensor) -> SEDOutput:
        """(B, C, H, W), or (B, P, C, H, W) in P parts, -> SEDOutput of B clips with S or P * S segments."""
        if image.ndim == 4:
            return self.decide(self.features(self.input_norm(image)))
        features = self.features(self.input_norm(image.flatten(0, 1)))  # (B * P, D, S)
        parts = features.unflatten(0, (-1, image.shape[1]))
        return self.decide(parts.transpose(1, 2).flatten(2))

    def forward(self, wave: Tensor) -> SEDOutput:
        """(B, N), or (B, P * N) in P parts, -> SEDOutput."""
        return self.classify(self.image(self.spectrogram(wave)))

    def spectrogram(self, wave: Tensor) -> Tensor:
        """(B, P * N) -> (B, C, F, P * T): each part through the front end alone, laid out along true time."""
        n = self.frontend.config.n_samples
        if wave.ndim != 2 or wave.shape[1] % n:
            raise ValueError(f"waves of shape {tuple(wave.shape)} are not whole clips of {n} samples")
        spectrogram = unfold(self.frontend(wave.reshape(-1, n)), self.frontend.config.strips)  # (B * P, C, F, T)
        return spectrogram.unflatten(0, (len(wave), -1)).permute(0, 2, 3, 1, 4).flatten(3)

    def image(self, spectrogram: Tensor) -> Tensor:
        """The inverse: (B, C, F, P * T) -> (B, C, strips * F, T / strips), or (B, P, C, ...) where P > 1."""
        config = self.frontend.config
        parts = spectrogram.unflatten(3, (-1, config.n_frames)).permute(0, 3, 1, 2, 4)  # (B, P, C, F, T)
        image = fold(parts, config.strips)
        return image.squeeze(1) if image.shape[1] == 1 else image


def build_model(config: ModelConfig, frontend: FrontEndConfig, n_classes: int) -> Model:
    """The registered model that `config` names, for images of `frontend` and K = n_classes, with its weights.

    Raises TypeError for options that the model does not take; for weights see `warm_start`.
    """
    kind = MODELS.get(config.name)
    known = [name for name in inspect.signature(kind).parameters if name not in ("config", "frontend", "n_classes")]
    unknown = sorted(set(config.options) - set(known))
    if unknown:
        raise TypeError(f"model {config.name!r} takes no option {', '.join(unknown)}; "
                        f"it takes: {', '.join(known) or 'none'}")
    model = kind(config, frontend, n_classes, **config.options)
    if config.weights not in ("none", "hub"):
        model.weights_report = warm_start(model, config.weights, partial=config.partial_weights)
    return model


def warm_start(model: Model, path: str, *, partial: bool = False) -> WeightsReport:
    """Fill a model from a weights file and report what became of every tensor.

    A birdkit checkpoint gives what does not depend on its classes (`Model.class_free`). Any other file is the
    authors' whole model where config.backbone is "own", and a timm backbone's state dict where it is not; from that
    the classifier is left out, and its first convolution is adapted to the image's channels.

    Raises FileNotFoundError, and WeightsError where the file does not fit and `partial` is not set.
    """
    weights = read_weights(path)
    if any(name.startswith("golden.") for name in weights):  # only a birdkit checkpoint proves itself
        within = tuple(f"{part}." for part in model.class_free)
        own = {name.removeprefix("model."): value for name, value in weights.items() if name.startswith("model.")}
        chosen = {name: value for name, value in own.items() if name.startswith(within)}
        return load_weights(model, chosen, path=path, partial=partial, within=within)
    if model.config.backbone == OWN:
        return load_weights(model, model.translate(weights), path=path, partial=partial)
    backbone = model.get_submodule("backbone")
    if not isinstance(backbone, BackboneMap):
        raise TypeError(f"model {model.config.name!r} has no backbone that {path} could fill")
    chosen, first = backbone_weights(backbone.network, weights)
    return load_weights(backbone.network, chosen, path=path, partial=partial, first_convolutions=first)
