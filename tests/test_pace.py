"""When time is short: what is left out, in which order, and that what remains can be compared."""
from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
from conftest import RATE, noise
from loudness import loudness

from birdkit import blending, pace
from birdkit.inference import Predictions, Predictor, predict, predicting
from birdkit.kaggle import Deadline
from birdkit.metrics import METRICS
from birdkit.pace import Pace, Plan

EVERYTHING = Plan((0, 1, 2))


class Clock:
    """A clock that somebody moves by hand, and a deadline by it."""

    def __init__(self, budget_s: float) -> None:
        self.now_s = 0.0
        self.budget_s = budget_s

    def remaining(self) -> float:
        """Seconds left."""
        return self.budget_s - self.now_s

    def monotonic(self) -> float:
        """What birdkit.pace looks at."""
        return self.now_s


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], Clock]:
    """Makes a clock that is the only one that planning knows."""
    def make(budget_s: float) -> Clock:
        clock = Clock(budget_s)
        monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=clock.monotonic))
        return clock
    return make


def spend(some: Pace, clock: Clock, seconds: list[float], *, images: tuple[int, int] = (10, 5), n: int = 1,
          other_s: float = 0.0) -> None:
    """Soundscapes whose images take so many seconds each in each network."""
    for index in some.now.used:
        each_s = seconds[index]
        made = images[0] if some.now.augmented else images[1]
        with some.timing(index, made * n):
            clock.now_s += each_s * made * n
    clock.now_s += other_s * n
    some.done(n, [(images[0] * n, images[1] * n)] * len(some.now.used))


def test_augmentation_goes_first_then_predictors_from_the_end(by_hand: Callable[[float], Clock]) -> None:
    """Half an ensemble on every file is worth more than all of it on half of them."""
    clock = by_hand(1000.0)
    some = Pace(103, [1, 1, 1], 1, clock)
    assert some.plan() == EVERYTHING and some.is_measuring()  # nothing is known yet
    for _ in range(3):
        spend(some, clock, [0.1, 0.1, 0.1])  # 3 s a soundscape, 1.5 without augmentation
    assert not some.is_measuring() and some.cost_s(some.now) == pytest.approx(3.0)
    for budget_s, plan in ((301, EVERYTHING), (299, Plan((0, 1, 2), False)), (151, Plan((0, 1, 2), False)),
                           (149, Plan((0, 1), False)), (99, Plan((0,), False)), (1, Plan((0,), False))):
        clock.budget_s = clock.now_s + budget_s
        assert some.plan() == plan  # never fewer than the least
    clock.budget_s = clock.now_s + 140  # what 2 predictors need and a tenth more
    assert some.plan() == Plan((0, 1), False)
    clock.budget_s = clock.now_s + 1000
    assert some.plan() == EVERYTHING


def test_scales_go_before_models(by_hand: Callable[[float], Clock]) -> None:
    """A second and third length of clip is augmentation of one model; another model knows something else."""
    clock = by_hand(1000.0)
    some = Pace(103, [3, 1, 2], 1, clock)
    for _ in range(3):
        spend(some, clock, [0.1, 0.2, 0.4, 0.1, 0.1, 0.2])  # 11 s a soundscape, 5.5 without shifts, 1.5 at first scales
    everyone = (0, 1, 2, 3, 4, 5)
    for budget_s, plan in ((1101, Plan(everyone)), (1099, Plan(everyone, False)), (549, Plan((0, 3, 4), False)),
                           (149, Plan((0, 3), False)), (99, Plan((0,), False)), (1, Plan((0,), False))):
        clock.budget_s = clock.now_s + budget_s
        assert some.plan() == plan


def test_a_model_that_grows_slow_is_noticed_and_one_slow_start_is_not(by_hand: Callable[[float], Clock]) -> None:
    """The first file waits for memory and caches; a machine that becomes slower after an hour does so for all files."""
    clock = by_hand(400.0)
    some = Pace(103, [1], 1, clock)
    spend(some, clock, [5.0])
    for _ in range(2):
        spend(some, clock, [0.1])
    assert some.cost_s(some.now) == pytest.approx(1.0) and some.plan().augmented
    for _ in range(pace.RECENT):
        spend(some, clock, [1.0], other_s=0.5)
    assert some.cost_s(some.now) == pytest.approx(10.5)
    assert not some.plan().augmented


def test_without_a_deadline_nothing_is_planned() -> None:
    """Validation and labelling have the time they need."""
    some = Pace(10, [1, 1], 1, None)
    assert not some.is_measuring() and not some.is_over() and some.plan() == Plan((0, 1))


def write(folder: Path, n: int, *, seconds: float = 6.0) -> list[str]:
    """Files of noise, each louder than the last."""
    paths = []
    for k in range(n):
        paths.append(str(folder / f"{k:03d}.wav"))
        sf.write(paths[-1], noise(seconds, amplitude=10 ** (k / n - 1.5), seed=k), RATE, subtype="FLOAT")
    return paths


def slow(clock: Clock, each_s: float, **options: object) -> Predictor:
    """A loudness listener for each of whose images the clock goes on."""
    def wait(images: int) -> None:
        clock.now_s += each_s * images
    return loudness(before=wait, **options)  # type: ignore[arg-type]


def values(predictions: Predictions) -> np.ndarray:
    return predictions.table["loud"].to_numpy()


def test_a_slow_model_costs_augmentation_then_itself_and_never_a_row(tmp_path: Path,
                                                                     by_hand: Callable[[float], Clock]) -> None:
    """Every file has all its rows within the time, and the report says what was left out from which file on."""
    files, clock = write(tmp_path, 30), by_hand(32.0)
    ways = {"clip_shifts_s": (1.0, 2.0)}  # 4 images a file, of which 2 are needed
    models = [slow(clock, 0.1, name="quick", **ways), slow(clock, 1.0, name="slow", **ways)]
    done = predict(files, models, window_s=5.0, progress=False, deadline=clock)
    assert not len(done.faults) and done.table["file"].tolist() == [file for file in files for _ in range(2)]
    assert clock.remaining() > 0
    assert f"from {files[3]} on, with 27 left: 1 of 2 predictors (without slow)" in done.dropped[0]
    assert "augmentation left out" in done.dropped[0] and len(done.dropped) < 5


def test_augmentation_alone_is_left_out_where_that_is_enough(tmp_path: Path, by_hand: Callable[[float], Clock]) -> None:
    """A model lost where a shift would have done is worth more than the shift. Without, a file is predicted as if no
    augmentation had been asked for; what time is left at the end is used for it."""
    files, clock = write(tmp_path, 30), by_hand(90.0)
    ways = {"clip_shifts_s": (1.0, 2.0)}
    models = [slow(clock, 0.2, name="quick", **ways), slow(clock, 1.0, name="slow", **ways)]
    done = predict(files, models, window_s=5.0, progress=False, deadline=clock)
    assert f"from {files[3]} on, with 27 left: 2 of 2 predictors, test-time augmentation left out" in done.dropped[0]
    assert not len(done.faults) and clock.remaining() > 0
    plain = predict(files[:5], [loudness(), loudness()], window_s=5.0, progress=False)
    assert np.array_equal(values(done)[6:10], values(plain)[6:10])
    assert not np.array_equal(values(done)[:6], values(plain)[:6])


def test_when_time_is_up_the_rest_is_named_and_not_predicted(tmp_path: Path, by_hand: Callable[[float], Clock]) -> None:
    """A run that is killed submits nothing; one that stops in time submits what it has."""
    files, clock = write(tmp_path, 12), by_hand(10.0)
    done = predict(files, [slow(clock, 1.0)], window_s=5.0, progress=False, deadline=clock)
    n = len(done.faults)
    assert 0 < n < 12 and set(done.faults["reason"]) == {"no time was left"}
    assert sorted(done.faults["file"]) == files[-n:] and not done.dropped
    assert clock.now_s <= 12.0  # no more than the file that was begun in time


def test_files_that_fewer_models_heard_stay_comparable(tmp_path: Path, by_hand: Callable[[float], Clock]) -> None:
    """A model that is sure of everything, left out after three files, must not move all later ones down the ranking."""
    files, clock = write(tmp_path, 30), by_hand(33.0)
    order = np.random.default_rng(0).permutation(30)
    shuffled = [files[k] for k in order]
    models = [slow(clock, 0.1, name="shy"), slow(clock, 1.0, above=4.0, name="sure")]
    done = predict(shuffled, models, window_s=5.0, progress=False, deadline=clock)
    assert "without sure" in done.dropped[0]
    whole = predict(shuffled, [loudness(), loudness(above=4.0)], window_s=5.0, progress=False)
    alone = predict(shuffled, [loudness()], window_s=5.0, progress=False)
    later = slice(6, 36)  # fifteen files that one model heard
    assert np.abs(values(done) - values(whole))[later].max() < 0.1 < np.abs(values(alone) - values(whole))[later].min()
    loud = (order >= 15).repeat(2)[:, None].astype(float)
    unlevelled = np.concatenate([values(whole)[:6], values(alone)[later], values(whole)[36:]])
    score = METRICS["macro_roc_auc"]
    assert score(loud, values(whole)[:, None]) == 1.0
    assert score(loud, values(done)[:, None]) > 0.99 > 0.95 > score(loud, unlevelled[:, None])


def at_two_scales(clock: Clock, each_s: tuple[float, float], *, above: tuple[float, float], name: str,
                  ) -> list[Predictor]:
    """One model, which the second time says something else and is slower."""
    first, second = (slow(clock, seconds, above=level, name=name) for seconds, level in zip(each_s, above, strict=True))
    first.share = second.share = 0.5
    second.place = 1
    return [first, second]


@pytest.mark.parametrize("mean", ["probabilities", "logits"])
def test_a_model_at_its_first_scale_weighs_as_much_as_ever(tmp_path: Path, by_hand: Callable[[float], Clock],
                                                           mean: str) -> None:
    """A model of two scales that loses one must not count half beside a model that has only one; and what is lost is
    named by its clips' length."""
    files, clock = write(tmp_path, 30), by_hand(34.0)
    a = at_two_scales(clock, (0.1, 1.0), above=(0.0, 2.0), name="a")
    done = predict(files, [*a, slow(clock, 0.1, above=-3.0, name="b")], window_s=5.0, progress=False, deadline=clock,
                   mean=mean)
    assert f"from {files[3]} on, with 27 left: 2 of 3 predictors (without a at 4 s), test" in done.dropped[0]
    assert not len(done.faults) and clock.remaining() > 0
    plain = predict(files, [loudness(), loudness(above=-3.0)], window_s=5.0, progress=False, mean=mean)
    # Moved by one number, what the second scale said more in the first three files: the two weigh alike.
    moved = blending.logit(values(done)[6:40]) - blending.logit(values(plain)[6:40])
    assert moved.std() < 1e-3 and 0.3 < moved.mean() < 1.0


def test_files_that_cannot_be_read_are_not_waited_for(tmp_path: Path, by_hand: Callable[[float], Clock]) -> None:
    """Half the files are broken: the time they do not take is there for the others, and no model is dropped for it."""
    files, clock = write(tmp_path, 40), by_hand(50.0)
    for file in files[3:20]:
        Path(file).write_text("not audio")
    models = [slow(clock, 0.1, name="quick"), slow(clock, 0.9, name="slow")]  # 2 s a file: 46 s for 23, 80 s for 40
    done = predict(files, models, window_s=5.0, progress=False, deadline=clock)
    assert sorted(done.faults["file"]) == files[3:20] and not done.dropped


def test_what_is_called_in_between_takes_a_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                             by_hand: Callable[[float], Clock]) -> None:
    """A file of 50,000 rows, written every three minutes, would take a tenth of the time that there is to predict."""
    clock, seen = by_hand(1e9), []
    monkeypatch.setattr(predicting, "time", SimpleNamespace(monotonic=clock.monotonic))

    def write_slowly(so_far: Predictions) -> None:
        seen.append(so_far.table["file"].nunique())
        clock.now_s += 10.0

    predict(write(tmp_path, 11), [slow(clock, 50.0)], window_s=5.0, progress=False, deadline=clock,  # 100 s a file
            interim=write_slowly, every_s=1.0)
    assert seen == [1, 4, 7, 10]  # each 300 s after the last one ended


def test_what_sound_takes_is_measured_by_model(tmp_path: Path, by_hand: Callable[[float], Clock]) -> None:
    """A rehearsal on four files is there to say what seven hundred will take: without the start, and with everything
    that was asked for, also where time then grew short."""
    files, clock = write(tmp_path, 12), by_hand(30.0)
    ways = {"clip_shifts_s": (1.0, 2.0)}  # 3 images of 6 s

    def start_slowly(images: int) -> None:
        clock.now_s += 9.0 * (clock.now_s == 0) + 0.1 * images

    models = [loudness(before=start_slowly, name="quick", **ways), slow(clock, 0.5, name="slow", **ways)]
    done = predict(files, models, window_s=5.0, progress=False, deadline=clock)
    assert done.dropped and done.taken is not None
    assert done.taken.network_s == pytest.approx((0.3 / 6, 1.5 / 6)) and done.taken.other_s == pytest.approx(0.0)
    assert done.taken.sound_s == 12.0 and done.taken.cores == pace.n_cores() > 0  # the second and the third file
    one = predict(files[:1], models, window_s=5.0, progress=False, deadline=clock).taken
    assert one is not None and one.sound_s == 6.0
    assert predict([], models, window_s=5.0, progress=False, deadline=clock).taken is None


def test_a_real_clock_is_kept_to(tmp_path: Path) -> None:
    """The same with true seconds: forty files with a model that would take 8 s, in 4 s."""
    files = write(tmp_path, 40)
    models = [loudness(name="quick"), loudness(name="slow", before=lambda images: time.sleep(0.1 * images))]
    deadline = Deadline(4.0)
    done = predict(files, models, window_s=5.0, progress=False, deadline=deadline)
    assert any("without slow" in what for what in done.dropped)
    assert deadline.remaining() > -1.0
    assert len(done.faults) + done.table["file"].nunique() == 40
