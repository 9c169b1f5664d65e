"""The image a network sees, from a waveform. No other file makes a spectrogram."""
from __future__ import annotations

from collections.abc import Callable
from typing import Self

import librosa
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from birdkit.config import FrontEndConfig
from birdkit.folding import fold

# Of the arithmetic below: one more whenever any config's images change. Checkpoints and pseudo-label tables hold it.
VERSION = 1
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CACHED_SAMPLES = 640_000  # of waves that go through a CPU at once
CACHED_FRAMES = 128  # of a spectrogram that a CPU works off at once: bins of 48 s are 25 MB, bins of these one


class FrontEnd(nn.Module):
    """The one way from a waveform to an image: level, STFT, mel bands, decibels, scaling, channels, fold.

    `forward` takes the wave and nothing else: no train flag, no probability, no mode. Every statistic is taken inside
    one clip, so neither the batch nor the audio around the clip can change an image. It runs in float32 whatever the
    autocast state: the power of a full-scale tone overflows half precision, and the floor of silence underflows it,
    which is what made mixed precision explode in the first seed (2022). For the same reason `half` and `to` move it
    but leave it in float32: a model in half precision has the same images.

    Shape:
        wave   (B, N), N = config.n_samples, any gain where level is "rms" or "peak"
        image  (B, C, strips * n_mels, T / strips) float32

    Raises ValueError where the wave is not (B, N). Mel bands are librosa's, which warns of bands that hold no FFT bin
    because n_fft is too short for so many; folding follows HTS-AT (Chen et al. 2022,
    arXiv:2202.00874).

    >>> FrontEnd(FrontEndConfig())(torch.zeros(1, 384_000)).shape
    torch.Size([1, 1, 384, 384])
    """

    window: Tensor
    mel: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, config: FrontEndConfig) -> None:
        super().__init__()
        self.config = config
        mel = librosa.filters.mel(sr=config.sample_rate_hz, n_fft=config.n_fft, n_mels=config.n_mels,
                                  fmin=config.fmin_hz, fmax=config.fmax_hz, htk=config.mel_scale == "htk",
                                  norm="slaney" if config.mel_norm == "slaney" else None)
        # In float64 first: near its ends a window is a small difference of large numbers.
        window = (torch.hann_window(config.n_fft, dtype=torch.float64) if config.window == "hann" else
                  torch.hamming_window(config.n_fft, periodic=False, dtype=torch.float64))
        self.blocks = _band_blocks(mel)
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("mel", torch.from_numpy(mel), persistent=False)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """(B, N) -> (B, C, strips * n_mels, T / strips)."""
        if wave.ndim != 2 or wave.shape[1] != self.config.n_samples:
            raise ValueError(f"the front end takes waves of shape (B, {self.config.n_samples}), "
                             f"{self.config.clip_s:g} s at {self.config.sample_rate_hz} Hz, not {tuple(wave.shape)}")
        with torch.autocast(wave.device.type, enabled=False):
            if wave.device.type != "cpu":
                return self._image(wave)
            # Nothing is taken from the batch, so it may go through in parts. On a CPU, parts that stay in its cache
            # are three times as fast as 48 clips at once.
            clips = max(1, CACHED_SAMPLES // wave.shape[1])
            return torch.cat([self._image(part) for part in wave.split(clips)]) if len(wave) else self._image(wave)

    def _image(self, wave: Tensor) -> Tensor:
        """(B, N) -> (B, C, strips * n_mels, T / strips), all clips at once."""
        spectrogram = self._stretch(self._scale(self._decibels(self._level(wave.float()))))  # (B, F, T)
        return fold(self._channels(spectrogram), self.config.strips)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `to`, `half` and `cuda` call: the constants change place, never their precision."""
        exact = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, moved in self._buffers.items():
            before = exact[name]
            if before is not None and moved is not None and moved.dtype != before.dtype:
                self._buffers[name] = before.to(moved.device)
        return self

    def _level(self, wave: Tensor) -> Tensor:
        """Remove the gain of each clip; silence stays silence."""
        if self.config.level == "rms":
            wave = wave - wave.mean(1, keepdim=True)  # a recorder's constant offset is not part of the sound
            return wave / wave.square().mean(1, keepdim=True).sqrt().clamp_min(1e-8)
        if self.config.level == "peak":
            return wave / wave.abs().amax(1, keepdim=True).clamp_min(1e-8)
        return wave

    def _decibels(self, wave: Tensor) -> Tensor:
        """(B, N) -> mel bands in decibels, (B, F, T)."""
        config = self.config
        frames = functional.pad(wave.unsqueeze(1), (config.n_fft // 2,) * 2, mode=config.edges).squeeze(1)
        frames = frames.unfold(1, config.n_fft, config.hop_samples)  # (B, 1 + N // hop, n_fft), a view
        # A clip of N samples has one frame more than N / hop, centred on the sample after its end: it belongs to the
        # next clip, and without it the frames divide evenly.
        first = 0 if config.frames is None else (frames.shape[1] - config.kept_frames) // 2
        frames = frames[:, first:first + config.kept_frames]  # (B, T, n_fft)
        at_once = max(1, CACHED_FRAMES // len(wave)) if wave.device.type == "cpu" and len(wave) else frames.shape[1]
        bands = torch.cat([self._bands(part) for part in frames.split(at_once, 1)], 2)
        decibels = (20 / config.power) * torch.log10(bands.clamp_min(config.floor))
        if config.top_db is not None:
            loudest = decibels.amax((1, 2), keepdim=True)
            decibels = torch.maximum(decibels, loudest - config.top_db)
        return decibels

    def _bands(self, frames: Tensor) -> Tensor:
        """(B, T, n_fft) -> the energy of the mel bands, (B, F, T)."""
        bins = torch.fft.rfft(frames * self.window)  # (B, T, bins)
        power = bins.real.square().addcmul_(bins.imag, bins.imag)
        if self.config.power != 2.0:
            power = power.pow(self.config.power / 2)
        # A mel band holds few bins: multiplying block by block leaves out most of the zeros.
        return torch.cat([self.mel[low:high, start:stop] @ power[..., start:stop].transpose(1, 2)
                          for low, high, start, stop in self.blocks], 1)

    def _scale(self, decibels: Tensor) -> Tensor:
        """(B, F, T) decibels to the range the network sees; a constant clip, or band, becomes zeros."""
        if self.config.scaling == "standardise":
            centred = decibels - decibels.mean((1, 2), keepdim=True)
            return centred / centred.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-3)
        if self.config.scaling in ("minmax", "minmax_band"):
            over = (1, 2) if self.config.scaling == "minmax" else (2,)
            low, high = decibels.amin(over, keepdim=True), decibels.amax(over, keepdim=True)
            return (decibels - low).div_((high - low).clamp_min(1e-3))
        if self.config.scaling == "db80":
            return (decibels + 80) / 80
        return decibels

    def _stretch(self, spectrogram: Tensor) -> Tensor:
        """(B, F, kept frames) -> (B, F, T): bicubic along time where the config asks for it."""
        size = spectrogram.shape[1], self.config.n_frames
        if spectrogram.shape[2] == size[1]:
            return spectrogram
        return functional.interpolate(spectrogram.unsqueeze(1), size, mode="bicubic", align_corners=True).squeeze(1)

    def _channels(self, spectrogram: Tensor) -> Tensor:
        """(B, F, T) -> (B, C, F, T)."""
        config = self.config
        channels = spectrogram.unsqueeze(1)
        if config.channels == "repeat":
            channels = channels.expand(-1, 3, -1, -1)
        elif config.channels == "delta":
            slope = _slope(spectrogram)
            channels = torch.stack([spectrogram, slope, _slope(slope)], 1)
        if config.imagenet:
            channels = (channels - self.mean).div_(self.std)
        return channels


def _slope(spectrogram: Tensor) -> Tensor:
    """(B, F, T) -> per frame, of the straight line through five frames that fits best; the edges are repeated."""
    frames = spectrogram.shape[2]
    padded = functional.pad(spectrogram, (2, 2), mode="replicate")
    before_2, before, _, after, after_2 = (padded[..., start:start + frames] for start in range(5))
    return (after - before).add_(after_2 - before_2, alpha=2).div_(10)


def _band_blocks(mel: np.ndarray, height: int = 24) -> list[tuple[int, int, int, int]]:
    """The mel matrix (F, bins) as blocks of rows with the bins they hold: (first row, end row, first bin, end bin)."""
    blocks = []
    for low in range(0, len(mel), height):
        held = np.flatnonzero(mel[low:low + height].any(axis=0))
        start, stop = (int(held[0]), int(held[-1]) + 1) if len(held) else (0, 1)
        blocks.append((low, min(low + height, len(mel)), start, stop))
    return blocks
