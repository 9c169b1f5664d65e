"""Effects on rows whose truth is known by construction, so that each is better, worse or nothing as it must be."""
from __future__ import annotations

import numpy as np
import pytest

from birdkit import postprocess
from birdkit.blending import BLENDS, blend
from birdkit.config import Member
from birdkit.effects import Rows, Tried, measure
from birdkit.effects.measuring import MISSING, NOTHING
from birdkit.metrics import bootstrap_difference, macro_roc_auc
from birdkit.postprocess.published import PUBLISHED
from birdkit.reports import effects_text, write_effects

CLASSES = ("ant", "bee", "cat")


def lasting(n_members: int = 2, n_files: int = 20, windows: int = 12) -> Rows:
    """Animals that are heard for a whole soundscape or not at all, through noise that differs window by window."""
    rng = np.random.default_rng(0)
    truth = np.repeat(rng.random((n_files, 3)) < 0.4, windows, axis=0).astype(int)
    members = 1 / (1 + np.exp(-(2 * truth - 1 + rng.normal(0, 2, (n_members, *truth.shape)))))
    files = np.repeat([f"{n:02d}" for n in range(n_files)], windows)
    return Rows(truth, members, files, CLASSES, tuple("pqr"[:n_members]), "macro_roc_auc",
                np.where(truth.any(1), 0.9, 0.1))


def test_what_helps_and_what_does_nothing_is_seen() -> None:
    """Where animals stay, neighbours tell a lot; a map of each class alone tells a ranking nothing."""
    counts = {"ant": 1, "bee": 5, "cat": 10}
    tried = [Tried("smooth", (Member("smooth"),)),
             Tried("penalty", (Member("frequency_penalty", {"counts": counts}),)),
             Tried("missing", None), Tried("gate", (), gate="multiply")]
    smooth, penalty, missing, gate = measure(lasting(), tried, n_draws=200).effects
    assert smooth.verdict == "better" and smooth.alone and smooth.alone.low > 0.05
    assert penalty.verdict == NOTHING and penalty.alone and penalty.alone.value == 0
    assert missing.verdict == MISSING and missing.alone is missing.together is None
    assert gate.alone and gate.alone.value > 0.01


def test_an_effect_is_the_difference_by_hand() -> None:
    """Post-processed file by file, the mean over the models of the paired differences; and that of their blend."""
    rows, member = lasting(), Member("smooth", {"kernel": [1.0, 1.0, 1.0]})
    measured = measure(rows, [Tried("smooth", (member,))], shares=np.array([1.0, 3.0]), n_draws=300)

    def processed(values: np.ndarray) -> np.ndarray:
        return np.concatenate([postprocess.apply(values[block], [member]) for block in rows.blocks()])

    by_hand = [macro_roc_auc(rows.truth, processed(one)) - macro_roc_auc(rows.truth, one) for one in rows.members]
    effect, together = measured.effects[0], blend(rows.members, np.array([1.0, 3.0]), "probabilities")
    assert effect.alone is not None and effect.together is not None
    assert effect.alone.value == pytest.approx(np.mean(by_hand))
    expected = bootstrap_difference(rows.truth, processed(together), together, rows.files, n_draws=300)
    assert (effect.together.value, effect.together.low, effect.together.high) == pytest.approx(
        (expected.value, expected.low, expected.high))
    assert measured.together.value == pytest.approx(macro_roc_auc(rows.truth, together))


def test_decisions_see_what_ranks_do_not() -> None:
    """At a quantile the metric is the class-balanced accuracy: the seed's penalty moves it, ranks it cannot."""
    rows = lasting()
    counts = {"ant": 1, "bee": 5, "cat": 20}
    tried = [Tried("penalty", (Member("frequency_penalty", {"counts": counts}),))]
    measured = measure(rows, tried, decision=Member("quantile", {"q": 0.6}), n_draws=100)
    assert measured.effects[0].alone and abs(measured.effects[0].alone.value) > 1e-3
    said = rows.members[0] > np.quantile(rows.members[0], 0.6, method="lower")
    rates = [(said[rows.truth[:, k] == 1, k].mean() + 1 - said[rows.truth[:, k] == 0, k].mean()) / 2 for k in range(3)]
    alone = measure(Rows(rows.truth, rows.members[:1], rows.files, CLASSES, ("p",), rows.metric, rows.calls), [],
                    decision=Member("quantile", {"q": 0.6}), n_draws=100)
    assert alone.alone.value == pytest.approx(np.mean(rates)) and not alone.blends


def test_a_metric_of_decisions_needs_one() -> None:
    """Probabilities scored as decisions would be an error after everything was predicted."""
    rows = lasting()
    judged = Rows(rows.truth, rows.members, rows.files, CLASSES, rows.names, "row_f1", rows.calls)
    with pytest.raises(ValueError, match="row_f1 judges decisions"):
        measure(judged, [])


def test_every_way_of_blending_is_measured_beside_the_mean() -> None:
    """The mean itself differs by nothing from itself."""
    blends = {one.label: one for one in measure(lasting(3), [], n_draws=100).blends}
    assert set(blends) == set(BLENDS) and blends["probabilities"].verdict == NOTHING
    assert blends["minimum"].together is not None and blends["minimum"].together.value != 0


def test_a_class_that_a_model_does_not_know_is_left_out_of_its_score() -> None:
    """A specialist is judged on what it knows; blended, the others stand in."""
    rows = lasting()
    rows.members[1, :, 0] = np.nan
    measured = measure(rows, [Tried("smooth", (Member("smooth"),))], n_draws=100)
    known = macro_roc_auc(rows.truth[:, 1:], rows.members[1][:, 1:])
    assert measured.alone.value == pytest.approx((macro_roc_auc(rows.truth, rows.members[0]) + known) / 2)
    assert measured.effects[0].verdict == "better"


def test_everything_published_can_be_applied_to_a_config() -> None:
    """A label in the table whose settings no config takes could be measured and not used."""
    for one in PUBLISHED:
        postprocess.check_members(one.steps)
    assert len({one.label for one in PUBLISHED}) == len(PUBLISHED)
    assert {step.name for one in PUBLISHED for step in one.steps} == set(postprocess.POSTPROCESS)


def test_a_table_says_what_was_measured_and_what_not(tmp_path) -> None:
    """As text, markdown and CSV, with the number of tries that the verdicts are adjusted for."""
    tried = [Tried("smooth", (Member("smooth"),), "2024 3rd", "+.01"), Tried("missing", None)]
    measured = measure(lasting(), tried, n_draws=100)
    assert "verdicts after Holm over 1 and 6 tries" in effects_text(measured)
    markdown = effects_text(measured, markdown=True)
    assert "| smooth | 2024 3rd | +.01 | +0." in markdown and f"| missing |  |  |  |  | {MISSING} |" in markdown
    write_effects(measured, tmp_path / "effects.csv")
    assert (tmp_path / "effects.csv").read_text().count("\n") == 1 + 2 + len(BLENDS)
