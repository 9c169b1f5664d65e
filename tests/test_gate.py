"""The gate: what is right passes, and every way of being wrong that we know of is caught, with its numbers."""
import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from settled import CLASSES, settled_config, write_checkpoint, write_soundscapes, write_truth

from birdkit import checkpoint
from birdkit.backends import ExportError, TorchClassifier
from birdkit.backends.parity import Parity, rank_agreements
from birdkit.config import Member
from birdkit.export import GateReport, gate, measure_gate, require_gate
from birdkit.export.gate import TruthReport
from birdkit.frontend import FrontEnd
from birdkit.inference import Predictor
from birdkit.metrics import Interval
from birdkit.output import SEDOutput
from birdkit.profiles import profile
from birdkit.settings import replace
from birdkit.submission import SubmissionError, read_truth


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[checkpoint.Checkpoint, list[Path]]:
    folder = tmp_path_factory.mktemp("gate")
    config = settled_config(inference__postprocess=(Member("smooth"), Member("scale_by_file_top", {"power": 0.4})))
    return checkpoint.load(write_checkpoint(folder / "best.safetensors", config)), write_soundscapes(folder, 4)


def model_of(loaded: checkpoint.Checkpoint, **changes) -> Predictor:
    """The model of a checkpoint as a predictor; `classify` and `frontend` may be others."""
    config = changes.pop("config", loaded.config)
    options = {"frontend": FrontEnd(config.frontend), "classify": TorchClassifier(loaded.model),
               "classes": loaded.classes, **changes}
    front, classify = options.pop("frontend"), options.pop("classify")
    return Predictor(front, classify, config=config, n_segments=loaded.model.n_segments, **options)


def measured(loaded, exported: Predictor, truth: pd.DataFrame | None = None) -> GateReport:
    one, files = loaded
    return measure_gate([model_of(one)], [exported], files, window_s=5.0, audio="4 files", truth=truth)


def changed(loaded: checkpoint.Checkpoint, change: Callable[[SEDOutput], SEDOutput]) -> Predictor:
    """The model with something done to what it says."""
    classify = TorchClassifier(loaded.model)
    return model_of(loaded, classify=lambda image: change(classify(image)))


def shifted(by: float) -> Callable[[SEDOutput], SEDOutput]:
    return lambda said: SEDOutput(said.clip_logits + by, said.segment_logits + by, said.attention, said.pooled)


def noisy(by: float) -> Callable[[SEDOutput], SEDOutput]:
    generator = torch.Generator().manual_seed(0)

    def change(said: SEDOutput) -> SEDOutput:
        noise = by * torch.randn(said.segment_logits.shape, generator=generator)
        return SEDOutput(said.clip_logits, said.segment_logits + noise, said.attention, said.pooled)

    return change


def test_the_same_network_passes_at_every_precision(loaded) -> None:
    """A gate that lets nothing through would be taken down by whoever stands before it."""
    report = measured(loaded, model_of(loaded[0]))
    assert (report.files, report.rows, report.row_error, report.rank_min) == (4, 16, 0.0, pytest.approx(1.0))
    for precision in ("f32", "bf16", "f16", "int8"):
        require_gate(report, precision)


def test_a_changed_weight_is_caught(loaded) -> None:
    """One bias by a hundredth: no ear and no ranking would find it."""
    other = copy.deepcopy(loaded[0].model)
    with torch.no_grad():
        other.head.classifier.bias[1] += 0.01  # type: ignore[union-attr, operator, index]
    with pytest.raises(ExportError, match=r"differ by up to 0\.01"):
        require_gate(measured(loaded, model_of(loaded[0], classify=TorchClassifier(other))), "f32")


def test_swapped_columns_are_caught(loaded) -> None:
    """The right probabilities under each other's names: 0.5 on the leaderboard, and not a single error."""
    swapped = model_of(loaded[0], classes=(CLASSES[1], CLASSES[0], *CLASSES[2:]))
    report = measured(loaded, swapped)
    assert report.row_error > 0.01 and report.logits.max_error == 0.0
    for precision in ("f32", "int8"):
        with pytest.raises(ExportError, match="rows"):
            require_gate(report, precision)
    with pytest.raises(ExportError, match="classes"):
        measured(loaded, model_of(loaded[0], classes=("z", *CLASSES[1:])))


def test_another_normalisation_is_caught(loaded) -> None:
    """What cost both seeds their place: images that are scaled otherwise than in training."""
    other = replace(loaded[0].config, frontend__scaling="minmax")
    for precision in ("f32", "int8"):
        with pytest.raises(ExportError, match="not the model"):
            require_gate(measured(loaded, model_of(loaded[0], config=other)), precision)


def test_another_post_processing_is_caught(loaded) -> None:
    """Equal logits are not equal rows: the gate goes to the end of the way."""
    report = measured(loaded, model_of(loaded[0], config=replace(loaded[0].config, inference__postprocess=())))
    assert report.logits.max_error == 0.0
    with pytest.raises(ExportError, match="rows may differ"):
        require_gate(report, "f32")


def test_lower_precisions_are_judged_by_the_order_of_each_class(loaded) -> None:
    """A ranking metric does not see a shift; it does see one class that is all noise, however good the mean is."""
    require_gate(measured(loaded, changed(loaded[0], noisy(1e-3))), "int8")
    with pytest.raises(ExportError, match=r"rank correlation of 0\.98"):
        require_gate(measured(loaded, changed(loaded[0], noisy(3.0))), "int8")
    with pytest.raises(ExportError, match=r"0\.9 in every class"):
        require_gate(GateReport("", 1, 12, Parity(0.1, 1, 0, 1), 0.1, 0.99, 0.5, "rare"), "bf16")
    with pytest.raises(ExportError, match="f32 may differ"):
        require_gate(measured(loaded, changed(loaded[0], shifted(0.01))), "f32")
    with pytest.raises(ExportError, match="inf"):
        require_gate(GateReport("", 1, 12, Parity(float("inf"), 1, 0, 1), 0, 1, 1, "a"), "f32")


def test_with_a_truth_the_loss_counts_with_its_interval(loaded, tmp_path: Path) -> None:
    """The measure is the competition's; what the interval cannot exclude may have been lost."""
    rows = gate._predicted_rows([model_of(loaded[0])], loaded[1], 5.0, None)[0]
    truth = read_truth(write_truth(tmp_path / "truth.csv", rows))
    truth["d"] = 0.0  # nobody heard it: the truth cannot say what becomes of it
    good = measured(loaded, changed(loaded[0], noisy(1e-3)), truth)
    assert (good.truth.files, good.truth.classes, good.truth.others_rank_min_class) == (4, 3, "d")
    assert good.truth.auc == pytest.approx(1.0) and good.truth.difference.low > -0.01
    assert "of 3 classes in 4 files" in str(good) and "no ROC-AUC" in str(measured(loaded, model_of(loaded[0])))
    require_gate(good, "int8")
    bad = measured(loaded, changed(loaded[0], noisy(0.5)), truth)
    assert bad.truth.difference.low < -0.01
    with pytest.raises(ValueError, match="names 0 of 16 rows"):
        measured(loaded, model_of(loaded[0]), truth.rename(index=lambda row: f"x{row}"))
    with pytest.raises(ValueError, match="judges none of 1 classes"):
        measured(loaded, model_of(loaded[0]), truth[["d"]])
    truth.reset_index(drop=True).to_csv(tmp_path / "nameless.csv", index=False)
    with pytest.raises(SubmissionError, match="row_id"):
        read_truth(tmp_path / "nameless.csv")


def judged(low: float, high: float, *, files: int = 12, mean: float = 0.99, least: float = 0.95,
           others: float = 0.95) -> GateReport:
    """A report of an exported network by what decides."""
    truth = TruthReport(files, 3, 0.9, Interval((low + high) / 2, low, high), others, "rare")
    return GateReport("", files, 12 * files, Parity(0.1, 1, 0, 1), 0.1, mean, least, "worst", truth)


@pytest.mark.parametrize(("report", "fault"), [
    (judged(-0.0051, 0.004), r"may have lost more than 0\.005"),
    (judged(-0.0040, -0.0010), "has surely lost ROC-AUC"),
    (judged(-0.0099, -0.0070, least=-1.0), r"0\.8 in every class; int8 may have lost .*; int8 has surely lost"),
    (judged(0.0, 0.0, least=-1.0), r"0\.8 in every class"),
    (judged(0.0, 0.0, mean=0.94), r"0\.95 on average"),
    (judged(0.0, 0.0, least=0.85, others=0.85), r"0\.9 in every class that the truth does not judge"),
    (judged(0.0, 0.0, least=0.85, files=9), "a truth of 10 files"),
    (judged(0.0, 0.0, least=float("nan")), "every class")])
def test_a_truth_forgives_nothing_that_is_or_may_be_lost(report: GateReport, fault: str) -> None:
    """A class upside down beside a certain loss passed once, and a truth of one file, whose interval has no width."""
    with pytest.raises(ExportError, match=fault):
        require_gate(report, "int8")


def test_a_truth_allows_a_class_that_it_judges_more() -> None:
    """What the order of the windows in which nobody calls does to a rank correlation, no metric sees."""
    for report in (judged(-0.0045, 0.0046, least=0.85, mean=0.96), judged(-0.0004, -0.0001), judged(0.001, 0.003)):
        require_gate(report, "bf16")
    with pytest.raises(ExportError, match=r"0\.98 on average and of 0\.9 in every class"):
        require_gate(judged(0.0, 0.0, least=0.85, mean=0.96, files=9), "bf16")


def test_a_truth_names_its_rows_as_its_year_does(loaded, tmp_path: Path) -> None:
    """The host's own labels of 2021 hold names, and rows without the date that the files' names have."""
    files = [path.rename(path.with_name(f"{index}_SSW_20170429.wav"))
             for index, path in enumerate(write_soundscapes(tmp_path / "audio", 2))]
    rows = [f"{index}_SSW_{end_s},SSW,{index},{end_s},{birds}" for index in range(2)
            for end_s, birds in ((5, "a"), (10, "nocall"), (15, "a b"), (20, "c"))]
    (tmp_path / "labels.csv").write_text("\n".join(["row_id,site,audio_id,seconds,birds", *rows]) + "\n")
    truth = read_truth(tmp_path / "labels.csv")
    report = measure_gate([model_of(loaded[0])], [model_of(loaded[0])], files, window_s=5.0, audio="2 files",
                          truth=truth, competition=profile(2021))
    assert (report.truth.files, report.truth.classes, report.truth.others_rank_min_class) == (2, 3, "d")
    with pytest.raises(ValueError, match="names 0 of 8 rows"):
        measure_gate([model_of(loaded[0])], [model_of(loaded[0])], files, window_s=5.0, audio="2 files", truth=truth)


def test_files_that_cannot_be_read_do_not_pass_for_agreement(loaded, tmp_path: Path) -> None:
    """No rows on either side are equal rows."""
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    with pytest.raises(ExportError, match="none of 1 files"):
        measure_gate([model_of(loaded[0])], [model_of(loaded[0])], [tmp_path / "broken.wav"], window_s=5.0,
                     audio="1 file")


def test_rank_agreement_is_spearmans() -> None:
    """Against scipy, ties included; a column that says nothing agrees with nothing but its like."""
    rng = np.random.default_rng(0)
    wanted, got = rng.integers(0, 6, (40, 3)).astype(float), rng.integers(0, 6, (40, 3)).astype(float)
    expected = [spearmanr(wanted[:, k], got[:, k]).statistic for k in range(3)]
    assert np.allclose(rank_agreements(wanted, got), expected)
    flat = np.zeros((40, 3))
    assert list(rank_agreements(flat, flat)) == [1, 1, 1] and list(rank_agreements(wanted, flat)) == [0, 0, 0]
    assert list(rank_agreements(wanted, got * np.nan)) == [0, 0, 0]
