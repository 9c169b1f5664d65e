"""From probabilities to heard or not: shares, invariances, and the first seed's penalty."""
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from birdkit.config import InferenceConfig, Member
from birdkit.decisions import DECISIONS, decide
from birdkit.inference.predictor import ensemble_decision

BIRDS = [f"bird{number}" for number in range(21)]


def table(rows: int = 120, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).beta(0.3, 2, (rows, len(BIRDS)))


def by(name: str, **options: Any) -> Member:
    return Member(name, options)


@pytest.mark.parametrize("q", [0.0, 0.5, 0.75, 0.85, 0.9987])
def test_a_quantile_leaves_its_share(q: float) -> None:
    """The first seed's 0.85 is 15 % of all cells, to within one, and the second place's 0.9987 half a bird a row."""
    values = table()
    heard = decide(values, BIRDS, by("quantile", q=q))
    assert abs(heard.sum() - (1 - q) * values.size) <= 1
    assert values[heard].min() > values[~heard].max()


@pytest.mark.parametrize("how", [by("quantile", q=0.85), by("labels_per_row", labels=3.15)], ids=lambda how: how.name)
def test_a_quantile_does_not_care_how_a_model_is_calibrated(how: Member) -> None:
    """That is why both entries had it: the members of an ensemble are sure to different degrees."""
    values = table()
    heard = decide(values, BIRDS, how)
    for mapped in (values**3, np.log(values + 1e-6), 0.1 + 0.01 * values):
        np.testing.assert_array_equal(decide(mapped, BIRDS, how), heard)


def test_a_quantile_of_each_class_hears_every_class_as_often() -> None:
    """One over the table would never hear a class of which the model is always unsure."""
    values = table() * np.linspace(0.01, 1, len(BIRDS))
    of_class = decide(values, BIRDS, by("quantile", q=0.9, per="class")).sum(0)
    assert set(of_class) <= {11, 12} and decide(values, BIRDS, by("quantile", q=0.9)).sum(0)[0] == 0


@pytest.mark.parametrize(("labels", "count"), [(0, 0), (0.5, 60), (3.15, 378), (21, 2520), (50, 2520)])
def test_labels_per_row_are_counted(labels: float, count: int) -> None:
    """It is what makes one default hold for 4 classes and for 397."""
    assert decide(table(), BIRDS, by("labels_per_row", labels=labels)).sum() == count


def test_equal_probabilities_are_heard_nowhere() -> None:
    """A model that says the same of everything must not fill the page with one class, whichever comes first."""
    for name in ("quantile", "labels_per_row"):
        assert not decide(np.full((8, 21), 0.3), BIRDS, by(name)).any()


def test_thresholds_are_matched_by_name() -> None:
    """By position, the bird with a threshold of its own would be another one."""
    values = np.full((1, 21), 0.3)
    heard = decide(values, BIRDS, by("threshold", threshold=0.05, thresholds={"bird7": 0.35}))
    assert heard.sum() == 20 and not heard[0, 7]
    assert decide(values, BIRDS, by("threshold", threshold=0.3)).all()
    with pytest.raises(ValueError, match="no class: owl"):
        decide(values, BIRDS, by("threshold", thresholds={"owl": 0.5}))


def test_the_penalty_takes_as_much_off_as_it_says_and_keeps_the_order_in_a_class() -> None:
    """p - 0.4 n_c / sum(n): what is taught most is said most. 0.4 in all, and nothing within a bird changes."""
    counts = np.random.default_rng(1).integers(1, 90, len(BIRDS))
    shares = dict(zip(BIRDS, (counts / counts.sum()).tolist(), strict=True))
    values = table()
    heard = decide(values, BIRDS, by("quantile", q=0.85, penalty=0.4, shares=shares))
    shifted = values - 0.4 * counts / counts.sum()
    assert (values - shifted).sum(1) == pytest.approx(0.4)
    np.testing.assert_array_equal(heard, decide(shifted, BIRDS, by("quantile", q=0.85)))
    plain = decide(values, BIRDS, by("quantile", q=0.85))
    assert heard[:, counts.argmax()].sum() < plain[:, counts.argmax()].sum()
    for own, said in zip(values.T, heard.T, strict=True):
        assert own[said].min(initial=1) > own[~said].max(initial=0)
    with pytest.raises(ValueError, match=r"penalty = 0.4 needs the share of every class; 21 have none, .* bird0"):
        decide(values, BIRDS, by("quantile", penalty=0.4))


@pytest.mark.parametrize("name", sorted(DECISIONS))
def test_every_decision_keeps_rows_and_columns_and_takes_none(name: str) -> None:
    """A table of no rows is what is left where no file could be read."""
    values = table(rows=6)
    heard = decide(values, BIRDS, by(name))
    assert heard.shape == values.shape and heard.dtype == bool
    rows, columns = np.random.default_rng(2).permutation(6), np.random.default_rng(3).permutation(21)
    shuffled = decide(values[rows][:, columns], [BIRDS[k] for k in columns], by(name))
    np.testing.assert_array_equal(shuffled, heard[rows][:, columns])
    assert decide(values[:0], BIRDS, by(name)).shape == (0, 21)


@pytest.mark.parametrize(("how", "message"), [
    (by("majority"), "no decision named 'majority'; there is: labels_per_row, quantile, threshold"),
    (by("quantile", share=0.1), "takes no share; it takes: q, per, penalty, shares"),
])
def test_a_decision_that_is_none_is_refused_when_the_config_is_made(how: Member, message: str) -> None:
    """Not after hours of training, when the first validation decides."""
    with pytest.raises((KeyError, TypeError), match=message):
        InferenceConfig(decision=how)


@pytest.mark.parametrize(("how", "message"), [
    (by("quantile", q=85), "q = 85 must be in"), (by("quantile", per="row"), "per = 'row' must be"),
    (by("labels_per_row", labels=-1), "labels = -1"),
])
def test_a_number_that_is_out_of_range_is_refused(how: Member, message: str) -> None:
    """85 for 0.85 would be an error of numpy's, somewhere."""
    with pytest.raises(ValueError, match=message):
        decide(table(), BIRDS, how)


def test_what_is_no_table_of_probabilities_is_refused() -> None:
    """A NaN is above no quantile and below none: it would be decided in silence."""
    values = table()
    values[3, 2] = np.nan
    with pytest.raises(ValueError, match="1 of them not finite"):
        decide(values, BIRDS, by("quantile"))
    with pytest.raises(ValueError, match=r"\(120, 21\).* rows of 20 classes"):
        decide(table(), BIRDS[:20], by("quantile"))


def test_an_ensemble_decides_as_its_first_member_and_says_where_others_would_not(
        caplog: pytest.LogCaptureFixture) -> None:
    """A threshold is one for the whole submission: that of a model trained with another would go unseen."""
    members = [SimpleNamespace(config=SimpleNamespace(inference=InferenceConfig(decision=by("quantile", q=q))))
               for q in (0.85, 0.85, 0.9)]
    assert ensemble_decision(members) == by("quantile", q=0.85)  # type: ignore[arg-type]
    assert "1 of 3 predictors" in caplog.text and "0.9" in caplog.text
    caplog.clear()
    ensemble_decision(members[:2])  # type: ignore[arg-type]
    assert not caplog.text
