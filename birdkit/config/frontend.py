"""The image of a clip."""
from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from birdkit.config.base import one_of


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
        one_of("mel_scale", self.mel_scale, ("slaney", "htk"))
        one_of("mel_norm", self.mel_norm, ("slaney", "none"))
        one_of("window", self.window, ("hann", "hamming"))
        one_of("level", self.level, ("rms", "peak", "none"))
        one_of("scaling", self.scaling, ("standardise", "minmax", "minmax_band", "db80", "none"))
        one_of("channels", self.channels, ("one", "repeat", "delta"))
        one_of("edges", self.edges, ("reflect", "constant"))
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
