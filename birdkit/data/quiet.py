"""What a place sounds like without what stands out of it: for backgrounds of which nobody knows what calls in them.

Whoever mixes an unlabelled soundscape under a recording and labels only the recording says of every animal in the
soundscape that it is not there. In training that teaches not to hear animals at the test's own places; in validation it
marks down the models that do hear them. The first seed mixed in what people had labelled "nocall". Where nobody has,
what calls is taken out of the sound here, and the air of the place, its colour and its steady noise stay.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.fft import irfft, rfft

FRAME = 1024  # samples
HOP = FRAME // 2
BLOCK = 3750 * HOP  # samples that share a noise level, a minute at 32 kHz: air changes within the hours of a file
QUANTILE = 0.25  # of the levels of a frequency in a block: noise, where something calls for up to three quarters of it
HEADROOM = 2.0  # times the noise's RMS, which noise itself exceeds in one of 55 frames

_WINDOW = np.sqrt(np.hanning(FRAME + 1)[:-1]).astype(np.float32)
# What replaces a cell is drawn by its place in the file, so that a clip sounds the same however it was read.
_OTHER = np.random.default_rng(0).standard_normal((509, 2 * HOP + 2), dtype=np.float32).view(np.complex64)
_OTHER *= np.float32(np.sqrt(0.5))


def noise_of(block: np.ndarray) -> np.ndarray:
    """The RMS of the noise in each frequency of a block, (FRAME / 2 + 1,) float32.

    What Gaussian noise would have whose level is exceeded for three quarters of the time.

    block  its samples and FRAME more, as far as the file goes, (N,)
    """
    n_frames = max(1, -(-min(len(block), BLOCK) // HOP))
    level = np.abs(_spectra(np.pad(block, (0, FRAME)), n_frames))
    place = int(QUANTILE * n_frames)
    return np.partition(level, place, axis=0)[place] / np.float32(np.sqrt(-np.log(1 - QUANTILE)))  # Rayleigh's


def quietened(wave: np.ndarray, *, first: int = 0, noise: Callable[[int], np.ndarray] | None = None) -> np.ndarray:
    """The wave (N,) float32 with everything that stands out of its noise replaced by such noise, always the same.

    Where the level of a frequency is more than twice its noise's RMS, other noise of that RMS takes its place; all else
    stays as it is. What sounds all the time, as a chorus of insects does, is noise. The median clipping of Lasseck
    (2013), the other way round.

    first  sample of its file with which the wave begins, a multiple of HOP. What is less than HOP from a beginning that
           is not the file's, or less than FRAME from an end that is not, differs from the same place of a whole file
    noise  `noise_of` each block of the file, by its number; None where the wave is a whole file

    >>> noise = np.random.default_rng(0).standard_normal(64000).astype(np.float32) / 100
    >>> tone = np.sin(np.arange(64000, dtype=np.float32)) * (np.arange(64000) > 56000)
    >>> [round(float(one[58000:62000].std()), 2) for one in (noise, noise + tone, quietened(noise + tone))]
    [0.01, 0.71, 0.01]
    """
    if first % HOP:
        raise ValueError(f"first = {first} is no multiple of {HOP}")
    n = len(wave)
    n_frames = n // HOP + 2
    spectra = _spectra(np.pad(wave, (HOP, 2 * FRAME)), n_frames)
    begins = first + HOP * np.arange(-1, n_frames - 1)
    for number in np.unique(blocks := begins.clip(0, max(first + n - 1, 0)) // BLOCK):
        own = blocks == number
        steady = noise_of(wave[number * BLOCK:(number + 1) * BLOCK + FRAME]) if noise is None else noise(int(number))
        part = spectra[own]
        other = _OTHER[begins[own] // HOP % len(_OTHER)] * steady
        spectra[own] = np.where(np.abs(part) > HEADROOM * steady, other, part)
    parts = irfft(spectra, axis=1).astype(np.float32) * _WINDOW
    whole = np.zeros((n_frames + 1, HOP), np.float32)
    whole[:-1] += parts[:, :HOP]
    whole[1:] += parts[:, HOP:]
    return whole.ravel()[HOP:HOP + n]


def _spectra(wave: np.ndarray, n_frames: int) -> np.ndarray:
    """The first frames of a wave, (n_frames, FRAME / 2 + 1) complex64."""
    frames = sliding_window_view(np.asarray(wave, np.float32), FRAME)[::HOP][:n_frames]
    return rfft(frames * _WINDOW, axis=1)
