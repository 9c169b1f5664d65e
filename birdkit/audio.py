"""Files to waves: decode, check, mix to mono, resample. Level and spectrograms belong to the front end.

libsndfile decodes by content, so a wrong extension does not matter. A file is either read as it is or refused with
AudioError, which names the file and the reason; no audio is ever invented for it. Peaks above one and a constant
offset are kept: both are removed in one place, by the front end, and a mean taken over the range that happens to be
read would make a clip differ from the same seconds of the whole file.
"""
from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr

MIN_S = 0.1  # a shorter file holds no call
RATES_HZ = (1_000, 2_000_000)  # a header outside this range lies
MAX_PEAK = 1e10  # float files scaled as 32-bit integers reach 2e9; beyond are other bytes read as floats
EDGE_S = 0.05  # read around a range before resampling: soxr HQ at 8 kHz settles to 1e-6 within 0.02 s
MP3_EDGE_S = 0.5  # an MP3 frame needs up to 511 bytes of the frames before it
BLOCK = 1 << 21  # frames decoded at a time, so that a header which claims hours allocates nothing
CANCELLED = 0.05  # a mean of channels with less of the louder channel's power has cancelled: antiphase


class AudioError(ValueError):
    """A file that cannot be used as audio; the message holds its path and the reason, `reason` the reason alone."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[AudioError], tuple[str, str]]:
        return type(self), (self.path, self.reason)


@dataclass(frozen=True)
class AudioInfo:
    """What a file holds.

    duration_s      what its header says from `info`, what really decodes from `check`
    sample_rate_hz  of the file
    channels        of the file
    peak            largest absolute sample, 0 for digital silence; NaN from `info`, which decodes nothing
    content         sha256 of the decoded samples, rate and channels; "" from `info`. Two Ogg files of the same audio
                    differ in a random serial number, so hashing the encoded bytes would miss duplicates
    """

    duration_s: float
    sample_rate_hz: int
    channels: int
    peak: float = math.nan
    content: str = ""


def load(path: Path | str, sample_rate_hz: int, *, start_s: float = 0.0, duration_s: float | None = None) -> np.ndarray:
    """Decode a file, or `duration_s` of it from `start_s` on, to mono at `sample_rate_hz`.

    Only the asked range is decoded. Where no resampling is needed the samples are exactly those of the whole file;
    where it is, a little more is read around the range, and they equal those of the whole file within 1e-5 of full
    scale. A range that reaches past the end returns what is there.

    Channels are averaged; where that cancels (antiphase stereo) the louder channel is taken, decided on the range.

    Shape: -> (N,) float32, finite, any peak; N = round(duration_s * sample_rate_hz) inside the file.
    Raises AudioError where nothing is left in the range, or the file is absent, empty, shorter than 0.1 s, not
    decodable, or holds NaN or infinite samples; ValueError for a range that cannot be.
    """
    if not (start_s >= 0 and math.isfinite(start_s)) or not (duration_s is None or 0 < duration_s < math.inf):
        raise ValueError(f"{path}: start_s = {start_s}, duration_s = {duration_s} is not a range of time")
    first = round(start_s * sample_rate_hz)
    count = None if duration_s is None else max(round(duration_s * sample_rate_hz), 1)
    with _open(path) as sound:
        rate = sound.samplerate
        common = math.gcd(rate, sample_rate_hz)
        native, asked = rate // common, sample_rate_hz // common  # `native` samples in are exactly `asked` samples out
        edge = 0 if rate == sample_rate_hz else math.ceil(EDGE_S * rate / native)
        period = max(first // asked - edge, 0)  # starting on a whole period keeps the resampler's phase
        stop = None if count is None else math.ceil((first + count) * rate / sample_rate_hz) + edge * native
        blocks = list(_blocks(sound, path, period * native, stop))
    wave = _mix(blocks[0] if len(blocks) == 1 else np.concatenate(blocks))
    if rate != sample_rate_hz and len(wave):
        wave = soxr.resample(wave, rate, sample_rate_hz, quality="HQ")
    skip = first - period * asked
    wave = wave[skip:] if count is None else wave[skip:skip + count]
    if not len(wave):
        raise AudioError(path, f"nothing can be decoded from {start_s:g} s on")
    if first == 0 and count is None and len(wave) < MIN_S * sample_rate_hz:
        raise AudioError(path, f"only {len(wave) / sample_rate_hz:.4f} s decode, less than {MIN_S} s")
    return np.ascontiguousarray(wave, np.float32)


def info(path: Path | str) -> AudioInfo:
    """What the header says, without decoding: cheap, and wrong where the header is. Raises AudioError."""
    with _open(path) as sound:
        return AudioInfo(sound.frames / sound.samplerate, sound.samplerate, sound.channels)


def check(path: Path | str) -> AudioInfo:
    """Decode the whole file and say what it really holds. Raises AudioError where `load` would."""
    digest, frames, peak = hashlib.sha256(), 0, 0.0
    with _open(path) as sound:
        rate, channels = sound.samplerate, sound.channels
        for block in _blocks(sound, path, 0, None):
            digest.update(np.ascontiguousarray(block, "<f4").data)
            frames += len(block)
            peak = max(peak, _peak(block))
    if frames < MIN_S * rate:
        raise AudioError(path, f"only {frames / rate:.4f} s decode, less than {MIN_S} s")
    digest.update(f"{rate} Hz, {channels} channels".encode())
    return AudioInfo(frames / rate, rate, channels, peak, digest.hexdigest())


def pad_cyclic(wave: np.ndarray, n_samples: int) -> np.ndarray:
    """The wave repeated until it is `n_samples` long; a longer one is cut.

    Shape: (N,) -> (n_samples,). Raises ValueError for an empty wave.

    >>> pad_cyclic(np.array([1.0, 2.0, 3.0]), 5)
    array([1., 2., 3., 1., 2.])
    """
    if not len(wave):
        raise ValueError(f"an empty wave cannot be repeated to {n_samples} samples")
    return wave[:n_samples] if len(wave) >= n_samples else np.resize(wave, n_samples)  # resize always copies


def _open(path: Path | str) -> sf.SoundFile:
    """The opened file; AudioError with the reason where it is no audio, has no samples or an impossible header."""
    try:
        sound = sf.SoundFile(str(path))
    except (sf.SoundFileError, TypeError) as error:  # TypeError: soundfile wants to be told how to read a .raw file
        raise AudioError(path, _why(Path(path), error)) from error
    low, high = RATES_HZ
    fault = ""
    if sound.frames <= 0:
        fault = f"no samples can be decoded ({sound.format}, {Path(path).stat().st_size} bytes)"
    elif not low <= sound.samplerate <= high:
        fault = f"its header says {sound.samplerate} Hz, outside {low} to {high}"
    elif sound.frames < MIN_S * sound.samplerate:
        fault = f"{sound.frames} samples are {sound.frames / sound.samplerate:.4f} s, less than {MIN_S} s"
    if fault:
        sound.close()
        raise AudioError(path, fault)
    return sound


def _why(path: Path, error: Exception) -> str:
    """Why libsndfile could not open a file, from its first bytes, since its own message is often empty."""
    if not path.exists():
        return "there is no such file"
    if not path.is_file():
        return "not a file"
    if path.stat().st_size == 0:
        return "the file is empty (0 bytes)"
    with path.open("rb") as stream:
        head = stream.read(512)
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not audio: fetch the file with `git lfs pull`"
    if head[4:8] == b"ftyp":
        return "MP4 audio (AAC), which libsndfile cannot decode: convert it to ogg, flac or wav"
    if not set(head) & (set(range(32)) - set(b"\t\r\n")):
        return f"text, not audio: it starts {head[:40].decode('utf-8', errors='replace')!r}"
    return f"not an audio format that libsndfile knows: {str(error).strip()}"


def _blocks(sound: sf.SoundFile, path: Path | str, start: int, stop: int | None) -> Iterator[np.ndarray]:
    """Samples `start` to `stop` in blocks (n, channels) float32, at least one, fewer where the file ends early.

    soundfile seeks after every read, and an MP3 decoder forgets the frames before a seek: each block of an MP3 is read
    with some audio before it.
    """
    edge = math.ceil(MP3_EDGE_S * sound.samplerate) if sound.format in ("MP3", "MPEG") else 0
    position, ended = min(start, sound.frames), False
    try:
        while not ended:
            lead = min(position, edge)
            size = BLOCK if stop is None else min(BLOCK, stop - position)
            if sound.tell() != position - lead:
                sound.seek(position - lead)
            block = sound.read(lead + size, dtype="float32", always_2d=True)
            _refuse_faulty(block, path, (position - lead) / sound.samplerate)
            block = block[lead:]
            ended = len(block) < size or position + size == stop
            yield block[max(start - position, 0):]
            position += len(block)
    except sf.SoundFileError as error:
        at_s = position / sound.samplerate
        raise AudioError(path, f"decoding fails at or after {at_s:.1f} s: {error!r}") from error


def _peak(block: np.ndarray) -> float:
    """The largest absolute sample, 0 for none; NaN where any is NaN."""
    return max(float(block.max()), -float(block.min())) if block.size else 0.0


def _refuse_faulty(block: np.ndarray, path: Path | str, at_s: float) -> None:
    """AudioError where samples are NaN, infinite or beyond any scale in use."""
    peak = _peak(block)
    if not math.isfinite(peak):
        raise AudioError(path, f"{np.count_nonzero(~np.isfinite(block))} of {block.size} samples from {at_s:.1f} s on "
                               "are NaN or infinite")
    if peak > MAX_PEAK:
        raise AudioError(path, f"a sample of {peak:.3g} is not audio")


def _mix(samples: np.ndarray) -> np.ndarray:
    """Mono from channels, (n, channels) -> (n,): their mean, or the louder channel where the mean cancels."""
    if samples.shape[1] == 1 or not len(samples):
        return samples[:, 0]
    channels = np.ascontiguousarray(samples.T)  # reductions along a row are many times faster than over columns
    mean = channels.mean(axis=0)
    powers = channels.var(axis=1)
    if mean.var() < CANCELLED * powers.max():
        return channels[powers.argmax()]
    return mean
