"""Fitted weights: found where there is something to find, equal where there is not, and judged on unseen files."""
from __future__ import annotations

import numpy as np
import pytest

from birdkit.blending import blend
from birdkit.effects import Rows
from birdkit.ensembles import fit_weights
from birdkit.ensembles import weights as ensembles_weights
from birdkit.metrics import macro_roc_auc
from birdkit.metrics.comparison import Validated

N_FILES, N_WINDOWS, N_CLASSES = 12, 5, 4


def heard(*noises: float, seed: int = 0, classes: int = N_CLASSES) -> Rows:
    """Rows of models that hear the truth through noise of their own."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((N_FILES * N_WINDOWS, classes)) < 0.3).astype(int)
    members = [1 / (1 + np.exp(-(2 * truth - 1 + rng.normal(0, noise, truth.shape)))) for noise in noises]
    return Rows(truth, np.stack(members), np.repeat([f"{n:02d}" for n in range(N_FILES)], N_WINDOWS),
                tuple("abcd")[:classes], tuple(f"m{n}" for n in range(len(noises))), "macro_roc_auc",
                np.full(len(truth), np.nan))


def test_a_good_member_beside_useless_ones_is_found_and_worth_it() -> None:
    """Where there is a lot to gain, files that were not fitted to gain it, too."""
    found = fit_weights(heard(0.5, 6.0, 6.0))
    assert found.weights["m0"] > 0.7 and sum(found.weights.values()) == pytest.approx(1)
    assert found.honest.low > 0.05 and found.is_worth_it
    assert found.alone["m0"] > max(found.alone["m1"], found.alone["m2"])


def test_members_that_are_the_same_keep_equal_weights() -> None:
    """A fit among equals finds differences that are none: on unseen files they are worth nothing."""
    one = heard(2.0)
    rows = Rows(one.truth, np.repeat(one.members, 3, axis=0), one.files, one.classes, ("a", "b", "c"), one.metric,
                one.calls)
    found = fit_weights(rows)
    assert list(found.weights.values()) == pytest.approx([1 / 3] * 3) and found.shrinkage == 1.0
    assert found.honest.value == 0.0 and not found.is_worth_it
    assert found.fitted == found.equal


def test_what_is_reported_on_fitted_files_is_what_the_weights_score_there() -> None:
    """The scores beside the weights are those of the very blend that is submitted."""
    rows = heard(1.5, 2.5, seed=3)
    found = fit_weights(rows, "logits")
    weights = np.array(list(found.weights.values()))
    assert found.fitted.value == pytest.approx(macro_roc_auc(rows.truth, blend(rows.members, weights, "logits")))
    assert found.equal.value == pytest.approx(macro_roc_auc(rows.truth, blend(rows.members, np.ones(2), "logits")))
    assert (found.n_fitted, found.n_rows, found.n_files) == (2, N_FILES * N_WINDOWS, N_FILES)


def test_the_honest_gain_is_below_the_flattering_one_among_noisy_equals() -> None:
    """Over several sets of equals, what a fit gains on its own files is more than it gains on others."""
    found = [fit_weights(heard(2.0, 2.0, seed=seed)) for seed in range(3)]
    flattering = [one.fitted.value - one.equal.value for one in found]
    assert np.mean(flattering) > np.mean([one.honest.value for one in found]) + 1e-4
    assert not all(one.is_worth_it for one in found)


def test_shrinkage_moves_weights_back_to_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half shrunk is half way, wholly shrunk is equal, however good one member is: else the number is a decoration."""
    found = {}
    for shrinkage in (0.0, 0.5, 1.0):
        monkeypatch.setattr(ensembles_weights, "SHRINKAGES", (shrinkage,))
        found[shrinkage] = fit_weights(heard(0.7, 4.0))
        assert found[shrinkage].shrinkage == shrinkage
    free, half = found[0.0].weights["m0"], found[0.5].weights["m0"]
    assert free > 0.7 and half == pytest.approx((free + 0.5) / 2) and found[1.0].weights["m0"] == 0.5


def test_a_specialist_keeps_a_weight_for_what_only_it_knows() -> None:
    """However weak it is, without it a class would have nobody."""
    rows = heard(1.0, 5.0)
    rows.members[0, :, 3] = np.nan
    assert fit_weights(rows).weights["m1"] > 0


def test_a_fit_is_the_same_every_time() -> None:
    """The files of the parts come from the seed alone."""
    assert fit_weights(heard(1.5, 2.0), seed=4) == fit_weights(heard(1.5, 2.0), seed=4)


@pytest.mark.parametrize(("noises", "how", "fault"), [((1.0,), "rank", "two members or more"),
                                                      ((1.0, 1.0), "minimum", "weights do not count there")])
def test_what_cannot_be_fitted_is_an_error(noises: tuple[float, ...], how: str, fault: str) -> None:
    """One member, or a way in which no weight counts: every answer would be an invention."""
    with pytest.raises(ValueError, match=fault):
        fit_weights(heard(*noises), how)


def test_rows_of_runs_are_put_together_by_class_name() -> None:
    """A specialist's columns stand elsewhere in its file; and two validations that differ are refused."""
    base = heard(1.0)
    groups = np.repeat(np.arange(N_FILES), N_WINDOWS)
    general = Validated(base.truth, base.members[0], groups, tuple("abcd"), "macro_roc_auc")
    special = Validated(base.truth[:, [3, 1]], base.members[0][:, [3, 1]], groups, ("d", "b"), "macro_roc_auc")
    rows = Rows.of_validated([general, special], ["all", "some"])
    np.testing.assert_allclose(rows.members[1][:, [3, 1]], base.members[0][:, [3, 1]], rtol=1e-6)
    assert np.isnan(rows.members[1][:, [0, 2]]).all() and len(rows.blocks()) == N_FILES
    other = Validated(1 - base.truth, base.members[0], groups, tuple("abcd"), "macro_roc_auc")
    with pytest.raises(ValueError, match="other and all were not validated on the same rows"):
        Rows.of_validated([general, other], ["all", "other"])


def test_rows_are_read_as_they_were_written(tmp_path) -> None:
    """They take minutes to predict; a table of effects is made from the file."""
    rows = heard(1.0, 2.0)
    rows.save(tmp_path / "rows.npz")
    again = Rows.read(tmp_path / "rows.npz")
    np.testing.assert_allclose(again.members, rows.members, rtol=1e-6)
    assert (again.classes, again.names, again.metric) == (rows.classes, rows.names, rows.metric)
    np.testing.assert_array_equal(again.files, rows.files)
    with pytest.raises(ValueError, match="not beside each other"):
        Rows(rows.truth, rows.members, np.roll(rows.files, 3), rows.classes, rows.names, rows.metric, rows.calls)
