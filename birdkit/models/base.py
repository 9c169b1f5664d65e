"""The contract of a model: a front end, features over segments, and a decision that turns them into a SEDOutput."""
from __future__ import annotations

import dataclasses
import inspect
from typing import ClassVar

from torch import Tensor, nn

from birdkit.config import OWN, FrontEndConfig, ModelConfig
from birdkit.folding import fold, unfold
from birdkit.frontend import FrontEnd
from birdkit.models.backbones import BackboneMap, fit_channels, without_classifier
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

    published, published_frontend  config of the paper it comes from, and its preset in
                                   birdkit.recipes.presets.FRONT_ENDS
    small, small_frontend          the same of a size that two CPU cores train in minutes
    class_free                     submodules that do not depend on the classes: what a warm start takes from a birdkit
                                   checkpoint of other classes
    unread                         settings of ModelConfig that this model has no use for: another value than the
                                   default is refused, for it would be an experiment that was never run
    pooled                         how segments make a clip, see SEDOutput
    n_segments                     S, the segments of one clip; set by the member
    weights_report                 what a weights file gave, None where there was none
    """

    published: ClassVar[ModelConfig]
    published_frontend: ClassVar[str]
    small: ClassVar[ModelConfig]
    small_frontend: ClassVar[FrontEndConfig]
    class_free: ClassVar[tuple[str, ...]] = ("backbone", "input_norm")
    unread: ClassVar[tuple[str, ...]] = ()
    pooled: str = "logits"
    n_segments: int
    weights_report: WeightsReport | None = None

    def __init__(self, config: ModelConfig, frontend: FrontEndConfig, n_classes: int) -> None:
        super().__init__()
        if n_classes < 1:
            raise ValueError(f"n_classes = {n_classes} must be at least 1")
        for name in self.unread:
            if getattr(config, name) != getattr(ModelConfig(), name):
                raise ValueError(f"model.{name} = {getattr(config, name)!r}, but {config.name} would not read it")
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
        return self.decide(self.joined_features(image))

    def joined_features(self, image: Tensor) -> Tensor:
        """The same -> (B, D, S) or (B, D, P * S): what is decided on, and what distillation compares."""
        if image.ndim == 4:
            return self.features(self.input_norm(image))
        features = self.features(self.input_norm(image.flatten(0, 1)))  # (B * P, D, S)
        parts = features.unflatten(0, (-1, image.shape[1]))
        return parts.transpose(1, 2).flatten(2)

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

    Raises TypeError for options that the model does not take, ValueError for weights "hub" that do not exist; for a
    weights file see `warm_start`.
    """
    kind = MODELS.get(config.name)
    known = [name for name in inspect.signature(kind).parameters if name not in ("config", "frontend", "n_classes")]
    unknown = sorted(set(config.options) - set(known))
    if unknown:
        raise TypeError(f"model {config.name!r} takes no option {', '.join(unknown)}; "
                        f"it takes: {', '.join(known) or 'none'}")
    if config.weights == "hub" and config.backbone == OWN:
        raise ValueError(f"{config.name}'s own network has no weights on timm's hub; give the path of a file")
    model = kind(config, frontend, n_classes, **config.options)
    if config.weights not in ("none", "hub"):
        model.weights_report = warm_start(model, config.weights, partial=config.partial_weights)
    return model


def lengthen(model: Model, times: int) -> Model:
    """The same weights for clips that are `times` as long, in eval mode, on the same device; itself for times = 1.

    Raises ValueError where the network's weights depend on the length of the clip.
    """
    if times == 1:
        return model
    longer = build_model(dataclasses.replace(model.config, weights="none"), model.frontend.config.lengthened(times),
                         model.n_classes)
    try:
        longer.load_state_dict(model.state_dict())
    except RuntimeError as error:
        raise ValueError(f"model {model.config.name!r} cannot take clips {times} times as long as it was trained "
                         f"with: {error}") from error
    return longer.eval().to(next(model.parameters()).device)


def warm_start(model: Model, path: str, *, partial: bool = False) -> WeightsReport:
    """Fill a model from a weights file and report what became of every tensor.

    A birdkit checkpoint gives what does not depend on its classes (`Model.class_free`). Any other file is the
    authors' whole model where config.backbone is "own", and a timm backbone's state dict where it is not; from that
    the classifier is left out. The first convolution of a timm backbone is fitted to the image's channels.

    Raises FileNotFoundError, and WeightsError where the file does not fit and `partial` is not set.
    """
    weights = read_weights(path)
    backbone = next((part.network for part in model.children() if isinstance(part, BackboneMap)), None)
    if any(name.startswith("golden.") for name in weights):  # only a birdkit checkpoint proves itself
        within = tuple(f"{part}." for part in model.class_free)
        own = {name.removeprefix("model."): value for name, value in weights.items() if name.startswith("model.")}
        chosen = {name: value for name, value in own.items() if name.startswith(within)}
        adapted: tuple[str, ...] = ()
        if backbone is not None:
            chosen, adapted = fit_channels(backbone, chosen, "backbone.network.")
        return load_weights(model, chosen, path=path, partial=partial, within=within, adapted=adapted)
    if backbone is None:
        return load_weights(model, model.translate(weights), path=path, partial=partial)
    chosen, adapted = fit_channels(backbone, without_classifier(backbone, weights))
    return load_weights(backbone, chosen, path=path, partial=partial, adapted=adapted)
