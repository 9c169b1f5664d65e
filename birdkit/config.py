"""What a run is: frozen dataclasses, units in the names, derived numbers as properties.

A run config is stored whole in every checkpoint. It is made by a recipe (`birdkit.recipes`), changed by
`birdkit.settings.replace`, and read strictly.
"""
from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from birdkit.postprocess import GATES

POOLS = ("segments", "clips")  # what makes a window's probability, see birdkit.output.probabilities
OWN = "own"  # as a backbone: the network of the model's own paper


def _one_of(where: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{where} = {value!r}; it must be one of {', '.join(allowed)}")


@dataclass(frozen=True)
class Member:
    """A member of a registry with the options of its constructor."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FrontEndConfig:
    """The image of a clip. The default is the geometry of the second seed's experiment 93, without its min-max:

    12 s * 32,000 Hz / 500 = 768 frames; 768 / 2 strips = 384; 2 strips * 192 mels = 384: an image of 384 x 384.

    level     gain removed from the clip first: "rms" (unit RMS), "peak" (unit peak), "none"
    floor     smallest power (or magnitude, where power = 1) that the decibels see; absolute, so with level "rms"
              it is relative to the clip's own power
    top_db    dynamic range kept below the loudest cell of the clip, or None
    window    "hann", or "hamming", the symmetric one, as ConformerSED and FDY-SED have it
    scaling   of the decibels: "standardise" (zero mean, unit deviation over the clip), "minmax" (0 to 1 over the
              clip), "minmax_band" (0 to 1 in each mel band of the clip), "db80" ((dB + 80) / 80), "none"
    channels  "one", "repeat" (three equal) or "delta" (x, its slope over five frames of true time, and the slope of
              that)
    imagenet  True scales three channels by ImageNet's mean and deviation, as the second seed did
    frames    None: T = N / hop exactly. A number keeps that many of the 1 + N // hop frames, centred
    stretch   None, or the T frames that those are resized to along time, bicubic (HTS-AT: 1001 -> 1024)
    edges     what the STFT sees beyond both ends of the clip: "reflect" (its mirror image) or "constant" (zeros)
    """

    sample_rate_hz: int = 32_000
    clip_s: float = 12.0
    n_fft: int = 2048
    hop_samples: int = 500
    n_mels: int = 192
    fmin_hz: float = 20.0
    fmax_hz: float = 15_000.0
    mel_scale: str = "slaney"
    mel_norm: str = "slaney"
    window: str = "hann"
    power: float = 2.0
    level: str = "rms"
    floor: float = 1e-4
    top_db: float | None = None
    scaling: str = "standardise"
    channels: str = "one"
    imagenet: bool = False
    strips: int = 2
    frames: int | None = None
    stretch: int | None = None
    edges: str = "reflect"

    def __post_init__(self) -> None:
        _one_of("mel_scale", self.mel_scale, ("slaney", "htk"))
        _one_of("mel_norm", self.mel_norm, ("slaney", "none"))
        _one_of("window", self.window, ("hann", "hamming"))
        _one_of("level", self.level, ("rms", "peak", "none"))
        _one_of("scaling", self.scaling, ("standardise", "minmax", "minmax_band", "db80", "none"))
        _one_of("channels", self.channels, ("one", "repeat", "delta"))
        _one_of("edges", self.edges, ("reflect", "constant"))
        for name in ("sample_rate_hz", "clip_s", "n_fft", "hop_samples", "n_mels", "power", "top_db"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} = {value:g} must be above 0")
        samples = self.clip_s * self.sample_rate_hz
        if samples != int(samples):
            raise ValueError(f"clip_s {self.clip_s} * {self.sample_rate_hz} Hz = {samples} samples, not a whole number")
        if self.frames is None and self.n_samples % self.hop_samples:
            raise ValueError(f"{self.clip_s:g} s * {self.sample_rate_hz} Hz / hop {self.hop_samples} = "
                             f"{self.n_samples / self.hop_samples:.3f} frames, not a whole number; "
                             "choose a hop that divides the clip, or set `frames`")
        if self.frames is not None and not 0 < self.frames <= 1 + self.n_samples // self.hop_samples:
            raise ValueError(f"frames = {self.frames}, but {self.clip_s:g} s at hop {self.hop_samples} "
                             f"has {1 + self.n_samples // self.hop_samples}")
        if self.edges == "reflect" and self.n_fft // 2 >= self.n_samples:
            raise ValueError(f"n_fft {self.n_fft} / 2 = {self.n_fft // 2} samples of mirror image do not fit into "
                             f"{self.clip_s:g} s * {self.sample_rate_hz} Hz = {self.n_samples} samples")
        if self.stretch is not None and self.stretch < self.kept_frames:
            raise ValueError(f"stretch = {self.stretch} is below the {self.kept_frames} frames of {self.clip_s:g} s at "
                             f"hop {self.hop_samples}: it would lose some; set `frames`, or a longer hop")
        if self.strips < 1 or self.n_frames % self.strips:
            raise ValueError(f"{self.n_samples} samples / hop {self.hop_samples} = {self.n_frames} frames; "
                             f"{self.n_frames} / {self.strips} strips = {self.n_frames / max(self.strips, 1):.3f}")
        if not 0 <= self.fmin_hz < self.fmax_hz <= self.sample_rate_hz / 2:
            raise ValueError(f"0 <= fmin_hz {self.fmin_hz:g} < fmax_hz {self.fmax_hz:g} <= "
                             f"{self.sample_rate_hz / 2:g} Hz, half the sample rate, does not hold")
        if self.floor <= 0:
            raise ValueError(f"floor = {self.floor} must be above 0: the logarithm of silence is not a number")
        if self.imagenet and self.channels == "one":
            raise ValueError("imagenet scaling needs three channels, not channels = 'one'")

    @property
    def n_samples(self) -> int:
        """Samples of a clip."""
        return int(self.clip_s * self.sample_rate_hz)

    @property
    def kept_frames(self) -> int:
        """Frames that are kept of the STFT's."""
        return self.n_samples // self.hop_samples if self.frames is None else self.frames

    @property
    def n_frames(self) -> int:
        """T, frames of the spectrogram before folding."""
        return self.kept_frames if self.stretch is None else self.stretch

    def lengthened(self, times: int) -> FrontEndConfig:
        """The same front end for clips that are that many times as long: T grows, everything else stays.

        >>> FrontEndConfig(clip_s=5.0, hop_samples=512, frames=313, strips=1).lengthened(2).n_frames
        626
        """
        longer = self.clip_s * times
        all_frames = 1 + self.n_samples // self.hop_samples
        frames = self.frames and self.frames * times
        if self.frames == all_frames:  # frames at both ends of every clip: a longer one has fewer ends
            frames = 1 + times * self.n_samples // self.hop_samples
            frames -= frames % self.strips
        return dataclasses.replace(self, clip_s=longer, frames=frames, stretch=self.stretch and self.stretch * times)

    @property
    def n_channels(self) -> int:
        """Channels of the image."""
        return 1 if self.channels == "one" else 3

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of the image."""
        return self.strips * self.n_mels, self.n_frames // self.strips


@dataclass(frozen=True)
class ModelConfig:
    """The network behind the image.

    name            a registered model
    backbone        a timm model name, one of birdkit.models.scratch, or "own": the network of the model's own paper
    weights         "none" (from scratch), "hub" (timm's pretrained weights) or the path of a weights file: the
                    backbone's, the whole model's as its authors published it, or a birdkit checkpoint
    partial_weights True allows a weights file that fits only in part; what was left out is logged either way
    input_norm      learned scaling of the image: "none", "band" (batch norm, one per mel band: first seed, HTS-AT),
                    "channel" (batch norm of the image: second seed), "instance" (of each image: 2021 call detector)
    parts           training clips are this many clips long: each goes through the backbone alone, then their segments
                    are joined along time and decided on together (2021 second place, first seed). 1 for whole clips
    pooling         of the features over the axis that is not the head's: "mean", "max", "gem" (generalised mean,
                    Radenovic et al. 2017), or "mean_max" (mean + max), which lets one band stand out
    smoothing       True adds the maximum and the mean over three neighbouring segments (PANNs; the first seed's
                    "channel smoothing")
    neck            before the head: "linear" (dropout, linear, ReLU, dropout) or "none" (dropout)
    hidden          width of the linear neck, 0 for the backbone's own
    head            a registered head
    head_axis       the axis the head pools over: "time", or "frequency" (segments are then bands)
    head_options    of the head
    options         of the model: sizes that only this model has
    """

    name: str = "sed"
    backbone: str = "tf_efficientnet_b0.ns_jft_in1k"
    weights: str = "none"
    partial_weights: bool = False
    input_norm: str = "none"
    parts: int = 1
    pooling: str = "mean"
    smoothing: bool = False
    neck: str = "linear"
    hidden: int = 0
    dropout: float = 0.2
    drop_path: float = 0.0
    head: str = "attention"
    head_axis: str = "time"
    head_options: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _one_of("head_axis", self.head_axis, ("time", "frequency"))
        _one_of("pooling", self.pooling, ("mean", "max", "gem", "mean_max"))
        _one_of("neck", self.neck, ("linear", "none"))
        _one_of("input_norm", self.input_norm, ("none", "band", "channel", "instance"))
        if self.parts < 1:
            raise ValueError(f"parts = {self.parts} must be at least 1")


@dataclass(frozen=True)
class DataConfig:
    """What a training example is.

    crop              where a clip is taken from a longer recording: "random", "first", or "rms" (random, weighted by
                      the energy of the clip)
    secondary_target  target of a secondary label, in [0, 1]
    unrated_weight    weight of a recording with rating 0, which on Xeno-canto means that nobody rated it
    rating_weights    True weighs a rated recording by clip(rating / 5, 0.1, 1)
    label_smoothing   added to every target, then clipped to 1 (2021 second place)
    balance           sampling weight of a recording is (recordings of its class) ** -balance
    samples_per_epoch examples in an epoch, 0 for as many as there are recordings
    pseudo_power      pseudo-label probabilities are raised to this before use
    pseudo_floor      pseudo-label probabilities below this become 0
    cache_gib         memory in which decoded audio is kept between epochs, per worker; 0 decodes every clip afresh
    """

    crop: str = "random"
    secondary_target: float = 0.5
    unrated_weight: float = 1.0
    rating_weights: bool = False
    label_smoothing: float = 0.0
    balance: float = 0.5
    samples_per_epoch: int = 0
    pseudo_power: float = 1.0
    pseudo_floor: float = 0.1
    cache_gib: float = 0.0

    def __post_init__(self) -> None:
        _one_of("crop", self.crop, ("random", "first", "rms"))
        if not 0 <= self.secondary_target <= 1:
            raise ValueError(f"secondary_target = {self.secondary_target} is not in [0, 1]")


@dataclass(frozen=True)
class AugmentConfig:
    """What happens to a training batch: `wave` members in order before the front end, `spectrogram` members after."""

    wave: tuple[Member, ...] = ()
    spectrogram: tuple[Member, ...] = ()


@dataclass(frozen=True)
class TrainConfig:
    """The optimiser, its schedule, and when it stops.

    peak_lr reached after `warmup_epochs` (linear), then half a cosine down to `final_lr`. Weight decay is not applied
    to norms and biases. `ema_decay` 0 switches the averaged weights off. `precision`: "auto" takes what the device
    does in hardware, "f32", "bf16" or "fp16". `validate_every` epochs, 0 only at the end.
    """

    epochs: int = 30
    batch_size: int = 32
    optimiser: str = "adamw"
    peak_lr: float = 1e-3
    final_lr: float = 1e-6
    weight_decay: float = 1e-2
    warmup_epochs: float = 1.0
    clip_grad_norm: float = 1.0
    ema_decay: float = 0.0
    precision: str = "auto"
    validate_every: int = 1
    workers: int = 2
    threads: int = 0

    def __post_init__(self) -> None:
        _one_of("precision", self.precision, ("auto", "f32", "bf16", "fp16"))
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"epochs = {self.epochs} and batch_size = {self.batch_size} must be at least 1")


@dataclass(frozen=True)
class InferenceConfig:
    """How a soundscape becomes window probabilities; the same in validation, pseudo-labelling and submission.

    clip_step_s  time from one clip to the next, None for contiguous clips
    scales       lengths of the clips the network sees, in clips of the front end: (1, 2, 4) also shows it images twice
                 and four times as long and averages the probabilities (2021 second place: 5, 10 and 20 s). Only for
                 networks that take images of any width
    pool         of what a window's probability is made, one of POOLS
    backend      "auto" (OpenVINO where it is installed), "openvino" or "torch"
    precision    "f32" or "bf16": always explicit, OpenVINO alone would pick bf16 where the CPU has it
    postprocess  members of birdkit.postprocess, in order, applied per soundscape
    gate         what call detectors that are given to birdkit.inference.predict do to the probabilities before that:
                 "none", "multiply" or "threshold", see birdkit.postprocess.gate. Training's own validation has none
    gate_threshold  probability of a call from which "threshold" lets a window pass
    """

    clip_step_s: float | None = None
    scales: tuple[int, ...] = (1,)
    pool: str = "segments"
    batch_size: int = 12
    backend: str = "auto"
    precision: str = "f32"
    postprocess: tuple[Member, ...] = ()
    gate: str = "none"
    gate_threshold: float = 0.5

    def __post_init__(self) -> None:
        _one_of("pool", self.pool, POOLS)
        _one_of("gate", self.gate, GATES)
        if not 0 <= self.gate_threshold <= 1:
            raise ValueError(f"gate_threshold = {self.gate_threshold} is not in [0, 1]")
        _one_of("backend", self.backend, ("auto", "openvino", "torch"))
        _one_of("precision", self.precision, ("f32", "bf16"))
        if not self.scales or min(self.scales) < 1 or len(set(self.scales)) < len(self.scales):
            raise ValueError(f"scales = {self.scales} must be different whole numbers from 1 on")


@dataclass(frozen=True)
class ValidationConfig:
    """What the validating split is scored on, through the same prediction as a submission.

    kind           "recordings": held-out recordings, each one row, the maximum over its windows.
                   "composed": soundscapes composed from held-out recordings over backgrounds of the validating
                   split, scored window by window, which is nearer to the test
    n_soundscapes  composed soundscapes
    """

    kind: str = "recordings"
    n_soundscapes: int = 20

    def __post_init__(self) -> None:
        _one_of("validation.kind", self.kind, ("recordings", "composed"))


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what one training run does; stored whole in its checkpoint.

    year        the competition profile
    split       the part of the cross-validation that validates; -1 trains on everything and validates on nothing
    round       0 is supervised; from 1 on pseudo-labels of the round before are used
    """

    name: str = "default"
    year: int = 2025
    split: int = 0
    n_splits: int = 5
    round: int = 0
    seed: int = 0
    frontend: FrontEndConfig = FrontEndConfig()
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    loss: Member = field(default_factory=lambda: Member("bce"))
    train: TrainConfig = TrainConfig()
    validation: ValidationConfig = ValidationConfig()
    inference: InferenceConfig = InferenceConfig()

    def __post_init__(self) -> None:
        if not -1 <= self.split < self.n_splits:
            raise ValueError(f"split = {self.split} is not one of -1 .. {self.n_splits - 1}")

    @property
    def example_s(self) -> float:
        """Seconds of a training example: a clip, or as many clips as the model has parts."""
        return self.model.parts * self.frontend.clip_s
