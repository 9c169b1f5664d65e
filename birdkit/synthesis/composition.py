"""Soundscapes composed of known sounds over a background, and what can be heard in each window of them.

Two uses: the generated mini-competition, and 'composed' validation, where held-out recordings are laid over unlabelled
minutes so that a model can be scored as in a submission. Not an augmentation: nothing here is used to train.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import butter, fftconvolve, sosfilt

from birdkit.synthesis.ambience import coloured_noise

Wave = np.ndarray | Callable[[], np.ndarray]

# Audibility is kept per frame of this length.
FRAME_S = 0.02

# Mean power below which a wave counts as silent: -120 dB of full scale, below one step of 16 bits.
SILENCE = 1e-12


@dataclass(frozen=True)
class Event:
    """A sound to place: the bout of one animal.

    wave     (N,) at the rate of the background, any gain
    start_s  where it begins, >= 0; what does not fit before the end of the background is cut off
    snr_db   its level over the background, broadband above 150 Hz, while it is active
    """

    wave: np.ndarray
    label: str
    start_s: float
    snr_db: float


@dataclass(frozen=True)
class Bout:
    """What is audible of one event.

    audible  (frames of the whole soundscape,) bool, one for each FRAME_S
    """

    label: str
    start_s: float
    end_s: float
    snr_db: float
    audible: np.ndarray

    @property
    def audible_s(self) -> float:
        """Seconds in which the bout is audible."""
        return float(self.audible.sum()) * FRAME_S

    @property
    def spans_s(self) -> list[tuple[float, float]]:
        """When the bout is audible, as (start, end)."""
        edges = np.flatnonzero(np.diff(np.concatenate([[0], self.audible.astype(int), [0]])))
        return [(float(a) * FRAME_S, float(b) * FRAME_S) for a, b in edges.reshape(-1, 2)]


@dataclass(frozen=True)
class ComposedSoundscape:
    """A composed soundscape: wave (N,) float32 in [-1, 1], and its bouts in the order of the events."""

    wave: np.ndarray
    bouts: tuple[Bout, ...]
    sample_rate_hz: int

    def truth(self, classes: Sequence[str], *, window_s: float = 5.0) -> np.ndarray:
        """`window_truth` of the bouts, (windows, classes), for every window that begins before the end."""
        n_windows = int(np.ceil(len(self.wave) / (window_s * self.sample_rate_hz) - 1e-6))
        return window_truth(self.bouts, classes, n_windows=n_windows, window_s=window_s)


def compose(background: np.ndarray, events: Sequence[Event], sample_rate_hz: int, *, cut_hz: float = 150.0,
            peak: float = 0.99) -> ComposedSoundscape:
    """The background with every event at its level, and when each can be heard.

    The level of an event is set so that, above `cut_hz`, its mean power over the frames in which it is active is
    `snr_db` above the mean power of the background in the same stretch (never less than a hundredth of the whole
    background's, so that a gap of digital silence does not make an event vanish). Only where the sum would exceed
    `peak` is the whole scaled down.

    background  (N,) finite and not silent

    Raises ValueError for a silent background, an event that is silent, not finite, or begins outside.
    """
    background = np.asarray(background, dtype=np.float32)
    filtered = _high_pass(background, sample_rate_hz, cut_hz)
    total, floor = background.copy(), _power(filtered)
    if not np.isfinite(floor) or floor < SILENCE:
        raise ValueError("the background is silent or not finite: no level can be measured against it")
    n_frames = int(np.ceil(len(background) / (FRAME_S * sample_rate_hz) - 1e-6))
    bouts = []
    for event in events:
        start = round(event.start_s * sample_rate_hz)
        wave = np.asarray(event.wave, dtype=np.float32)[: max(0, len(background) - start)]
        if start < 0 or not len(wave):
            raise ValueError(f"event {event.label!r} at {event.start_s} s is outside a background of "
                             f"{len(background) / sample_rate_hz} s, or empty")
        heard = _high_pass(wave, sample_rate_hz, cut_hz)
        active = active_frames(heard, sample_rate_hz)
        if not active.any():
            raise ValueError(f"event {event.label!r} at {event.start_s} s is silent above {cut_hz:g} Hz or not finite")
        signal = _frame_power(heard, sample_rate_hz)[active].mean()
        noise = max(_power(filtered[start:start + len(wave)]), floor / 100)
        total[start:start + len(wave)] += wave * np.float32(np.sqrt(noise / signal * 10 ** (event.snr_db / 10)))
        audible = np.zeros(n_frames, dtype=bool)
        first = int(start / (FRAME_S * sample_rate_hz))
        audible[first:first + len(active)] = active[: n_frames - first]
        end_s = (start + len(wave)) / sample_rate_hz
        bouts.append(Bout(event.label, event.start_s, end_s, event.snr_db, audible))
    loudest = float(np.abs(total).max())
    return ComposedSoundscape(total * np.float32(min(1.0, peak / loudest)), tuple(bouts), sample_rate_hz)


def active_frames(wave: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """The frames of FRAME_S in which a wave (N,) holds its sound rather than the noise between, (frames,) bool.

    An energy gate on the power p of frames: loud is the 95th percentile, quiet the 10th. A frame is active above
    loud - 20 dB and above quiet + 6 dB; but never is more asked than loud - 6 dB, so a steady insect is active
    throughout. Nothing is active in silence.
    """
    power = _frame_power(np.asarray(wave, dtype=np.float32), sample_rate_hz)
    quiet, loud = np.quantile(power, [0.1, 0.95])
    # A click much shorter than the clip lies above the 95th percentile alone.
    loud = max(loud, power.max() / 100)
    if not np.isfinite(loud) or loud < SILENCE:
        return np.zeros(len(power), dtype=bool)
    return power >= max(loud / 100, min(quiet * 4, loud / 4))


def window_truth(bouts: Sequence[Bout], classes: Sequence[str], *, n_windows: int, window_s: float = 5.0,
                 least_s: float = 0.2, share: float = 0.3) -> np.ndarray:
    """Which class is in which window: (windows, classes) uint8 of 0 and 1.

    Positive where the class is audible for `least_s` of the window, or where the window holds `share` of the audible
    time of one bout, which may be a single short call. Raises ValueError for a label that is not one of the classes.
    """
    truth = np.zeros((n_windows, len(classes)), dtype=np.uint8)
    edges = np.round(np.arange(n_windows + 1) * window_s / FRAME_S).astype(int)
    columns = {label: column for column, label in enumerate(classes)}
    unknown = sorted({bout.label for bout in bouts} - set(columns))
    if unknown:
        raise ValueError(f"bouts of {', '.join(unknown)}, which are not among the {len(columns)} classes")
    for label in sorted({bout.label for bout in bouts}):
        own = [bout.audible for bout in bouts if bout.label == label]
        inside = _counts(np.logical_or.reduce(own), edges) * FRAME_S >= least_s - 1e-9
        for audible in own:
            counts = _counts(audible, edges)
            inside |= (counts > 0) & (counts >= share * audible.sum())
        truth[:, columns[label]] = inside
    return truth


def compose_from_recordings(recordings: Sequence[tuple[Wave, Sequence[str]]], backgrounds: Sequence[Wave], *,
                            rng: np.random.Generator, sample_rate_hz: int, n_soundscapes: int,
                            soundscape_s: float = 60.0, n_labels: tuple[int, int] = (3, 7),
                            n_bouts: tuple[int, int] = (1, 3), bout_s: tuple[float, float] = (2.0, 20.0),
                            snr_db: tuple[float, float] = (-8.0, 16.0)) -> Iterator[ComposedSoundscape]:
    """Soundscapes of known content for validation, one at a time: held-out recordings over backgrounds.

    Each has one background, `n_labels` classes and `n_bouts` bouts of each, every bout a stretch of a recording around
    something active; half of the bouts are low-passed at 4 to 12 kHz (distance), half get a light reverberation.
    Classes are dealt like cards, so that rare ones are heard as often as common ones. The same rng state gives the same
    soundscapes; each has its own child generator, so the first n of a larger set are the same n.

    recordings   (wave, labels): a wave (N,) or a function that loads one, and the labels with the primary first.
                 Only the primary counts as truth, so recordings with more labels are used only for classes that have
                 no others.
    backgrounds  waves or functions; a shorter one is repeated, a silent one or none is replaced by coloured noise

    What lives in the backgrounds is not in the truth: nothing should call in them (birdkit.data.quiet).
    """
    by_label = _choices(recordings)
    deck: list[str] = []
    for child in rng.spawn(n_soundscapes):
        events = []
        for label in deal(deck, sorted(by_label), int(child.integers(n_labels[0], n_labels[1] + 1)), child):
            for _ in range(int(child.integers(n_bouts[0], n_bouts[1] + 1))):
                wave = _loaded(by_label[label][int(child.integers(len(by_label[label])))])
                length_s = float(np.exp(child.uniform(*np.log(bout_s))))
                bout = _distant(_stretch(wave, child, sample_rate_hz, length_s), child, sample_rate_hz)
                start_s = child.uniform(0, max(soundscape_s - len(bout) / sample_rate_hz, 0.0))
                level_db = child.uniform(*snr_db)
                if active_frames(_high_pass(bout, sample_rate_hz, 150.0), sample_rate_hz).any():
                    events.append(Event(bout, label, float(start_s), float(level_db)))
        background = _background(backgrounds, child, round(soundscape_s * sample_rate_hz))
        yield compose(background, events, sample_rate_hz)


def deal(deck: list[str], labels: Sequence[str], n: int, rng: np.random.Generator) -> list[str]:
    """`n` different labels from the top of the deck, which is changed, and shuffled anew whenever it has too few."""
    hand: list[str] = []
    while len(hand) < min(n, len(labels)):
        fresh = [label for label in deck if label not in hand]
        if fresh:
            deck.remove(fresh[0])
            hand.append(fresh[0])
        else:
            deck.extend(str(label) for label in rng.permutation(labels))
    return hand


def reverberate(wave: np.ndarray, rng: np.random.Generator, sample_rate_hz: int, *, decay_s: float,
                wet: float) -> np.ndarray:
    """The wave (N,) with an exponentially decaying noise tail, of the same length.

    decay_s  time in which the tail falls by 60 dB
    wet      RMS of the tail's share relative to the direct sound, >= 0
    """
    n = max(2, round(decay_s * sample_rate_hz))
    tail = rng.standard_normal(n) * 10.0 ** (-3.0 * np.arange(n) / n)
    response = (wet * tail / np.sqrt((tail**2).sum())).astype(np.float32)
    response[0] += 1.0
    return fftconvolve(wave, response)[: len(wave)].astype(np.float32)


def low_pass(wave: np.ndarray, sample_rate_hz: int, cut_hz: float, *, order: int = 2) -> np.ndarray:
    """The wave (N,) behind a Butterworth low-pass; unchanged where the cut is at or above half the rate."""
    if cut_hz >= sample_rate_hz / 2:
        return wave
    return sosfilt(butter(order, cut_hz, fs=sample_rate_hz, output="sos"), wave).astype(np.float32)


def _distant(wave: np.ndarray, rng: np.random.Generator, sample_rate_hz: int) -> np.ndarray:
    """The bout as heard from further off: half of them low-passed, half with reverberation, edges faded."""
    filtered, cut_hz = rng.random() < 0.5, rng.uniform(4e3, 12e3)
    echoing, decay_s, wet = rng.random() < 0.5, rng.uniform(0.2, 0.8), 10 ** rng.uniform(-0.7, -0.2)
    if filtered:
        far = low_pass(wave, sample_rate_hz, cut_hz, order=4)
        # A distance that swallows the animal and leaves its hiss would make the truth wrong.
        wave = far if _power(far) > 0.1 * _power(wave) else wave
    if echoing:
        wave = reverberate(wave, rng, sample_rate_hz, decay_s=decay_s, wet=wet)
    n = min(len(wave) // 2, round(0.02 * sample_rate_hz))
    ramp = np.ones(len(wave), dtype=np.float32)
    ramp[:n] = np.linspace(0, 1, n, endpoint=False)
    ramp[len(wave) - n:] = ramp[:n][::-1]
    return wave * ramp


def _choices(recordings: Sequence[tuple[Wave, Sequence[str]]]) -> dict[str, list[Wave]]:
    """The recordings of each primary label: those with no other label where there are any."""
    if not recordings:
        raise ValueError("no recordings to compose soundscapes from")
    alone: dict[str, list[Wave]] = {}
    mixed: dict[str, list[Wave]] = {}
    for wave, labels in recordings:
        (alone if len(labels) == 1 else mixed).setdefault(labels[0], []).append(wave)
    return mixed | alone


def _stretch(wave: np.ndarray, rng: np.random.Generator, sample_rate_hz: int, length_s: float) -> np.ndarray:
    """At most length_s of the wave, placed at random so that it holds an active frame drawn at random."""
    n_samples, frame = round(length_s * sample_rate_hz), round(FRAME_S * sample_rate_hz)
    active = np.flatnonzero(active_frames(wave, sample_rate_hz))
    if len(wave) <= n_samples or not len(active):
        return wave[:n_samples]
    start = int(rng.choice(active)) * frame - int(rng.integers(n_samples - frame))
    start = min(max(start, 0), len(wave) - n_samples)
    return wave[start:start + n_samples]


def _background(backgrounds: Sequence[Wave], rng: np.random.Generator, n_samples: int) -> np.ndarray:
    """One of the backgrounds at the wanted length, or coloured noise where there is none or it is silent."""
    wave = _loaded(backgrounds[int(rng.integers(len(backgrounds)))]) if backgrounds else np.zeros(0, np.float32)
    start = int(rng.integers(max(1, len(wave) - n_samples + 1)))
    wave = wave[start:start + n_samples]
    if _power(wave) < SILENCE:
        return 0.01 * coloured_noise(n_samples, rng, slope=rng.uniform(0.5, 2.0))
    return np.resize(wave, n_samples)


def _loaded(wave: Wave) -> np.ndarray:
    return np.asarray(wave() if callable(wave) else wave, dtype=np.float32)


def _high_pass(wave: np.ndarray, sample_rate_hz: int, cut_hz: float) -> np.ndarray:
    return sosfilt(butter(4, cut_hz, "highpass", fs=sample_rate_hz, output="sos"), wave)


def _power(wave: np.ndarray) -> float:
    return float(np.mean(np.square(wave, dtype=np.float64))) if len(wave) else 0.0


def _frame_power(wave: np.ndarray, sample_rate_hz: int) -> np.ndarray:
    """Mean power of each frame of FRAME_S, (frames,); the last may be shorter."""
    starts = np.arange(0, len(wave), round(FRAME_S * sample_rate_hz))
    sums = np.add.reduceat(np.square(wave, dtype=np.float64), starts)
    return sums / np.diff(np.append(starts, len(wave)))


def _counts(flags: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """True frames between consecutive edges, (len(edges) - 1,); edges beyond the end count nothing."""
    running = np.concatenate([[0], np.cumsum(flags)])
    return np.diff(running[np.minimum(edges, len(flags))])
