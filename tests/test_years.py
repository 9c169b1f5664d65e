"""Every year's competition on the way that a person goes: generated files, notebooks 01, 03 and 04, a valid file."""
from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from birdkit import checkpoint, profiles, reports, submission, synthesis
from birdkit.metrics import METRICS
from birdkit.pipeline import find_notebooks
from birdkit.synthesis import Generated
from birdkit.training.run_files import PREDICTIONS

pytestmark = pytest.mark.notebook
YEARS = sorted(profiles.PROFILES)
LEAST = {**synthesis.TINY, "n_recordings": 10, "soundscape_s": 10.0, "longest_s": 3.0}
SMALL = {"data__samples_per_epoch": 8, "train__epochs": 1, "train__batch_size": 4}


def run_notebook(name: str, **settings: Any) -> dict[str, Any]:
    """Run the cells of a notebook here, without a kernel, and return the names it leaves."""
    book = json.loads((find_notebooks() / f"{name}.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    sources = {tag: "".join(cell["source"]) for cell in cells for tag in cell["metadata"].get("tags", ["code"])[:1]}
    names: dict[str, Any] = {"display": lambda *_: None}
    for node in ast.parse(sources["parameters"]).body:
        assert isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        names[node.targets[0].id] = ast.literal_eval(node.value)
    assert settings.keys() <= names.keys()
    names |= settings
    for cell in cells:
        if "tags" not in cell["metadata"]:
            exec("".join(cell["source"]), names)
    return names


def run_all(generated: Generated, work: Path, changes: dict[str, Any], *, recipe: str = "tiny") -> dict[str, Any]:
    """01, 03 and 04 on a generated competition; the names that 04 leaves."""
    folders = {"COMPETITION_DIR": str(generated.competition_dir), "WORK_DIR": str(work)}
    run_notebook("01_preprocess", **folders, RECIPE=recipe)
    run_notebook("03_train_fold", **folders, RECIPE=recipe, CHANGES=changes)
    return run_notebook("04_ensemble_infer", **folders)


@pytest.mark.parametrize("year", YEARS)
def test_a_competition_of_every_year_ends_in_a_file_that_its_host_takes(tmp_path: Path, year: int) -> None:
    """Tables, file names, rows and the form of a cell differ in every year: one wrong, and nothing is scored."""
    generated = synthesis.generate(tmp_path / "competition", year=year, progress=False, **LEAST)
    left = run_all(generated, tmp_path / "work", SMALL)
    competition, path = profiles.recognise(generated.competition_dir), tmp_path / "work" / "submission.csv"
    assert competition == profiles.PROFILES[year] and left["submitted"].written.path == path
    assert profiles.form_of(list(pd.read_csv(path).columns)) == competition.row_format
    table = submission.validate(path, generated.competition_dir)
    assert len(table) == 2 * 2 and not len(left["submitted"].written.filled)
    assert pd.read_csv(path)["row_id"].tolist() == pd.read_csv(generated.truth_path)["row_id"].tolist()
    assert 0 <= submission.score(path, generated.truth_path, year) <= 1
    best = checkpoint.read_info(tmp_path / "work" / "round0_split0" / "best.safetensors")
    assert best["config"]["year"] == year
    with np.load(tmp_path / "work" / "round0_split0" / PREDICTIONS) as validated:
        assert str(validated["metric"]) == competition.metric
        assert ("decisions" in validated) == METRICS[competition.metric].on_decisions
        assert tuple(validated["classes"]) == profiles.read_scored(generated.competition_dir)
    page = reports.page(generated.competition_dir, tmp_path / "work", truth=generated.truth_path)
    assert competition.metric in page.read_text(encoding="utf-8")


def test_a_competition_of_no_known_year_goes_the_same_way(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Next spring's files have other names, and fewer columns: the first submission must not wait for a release."""
    generated = synthesis.generate(tmp_path / "birdclef-2031", year=2025, progress=False, **LEAST)
    folder = generated.competition_dir
    pd.read_csv(folder / "taxonomy.csv", dtype=str)[["primary_label"]].to_csv(folder / "names.csv", index=False)
    clips = pd.read_csv(folder / "train.csv", dtype=str)[["primary_label", "filename"]]
    clips.to_csv(folder / "clips.csv", index=False)
    for name in ("taxonomy.csv", "train.csv"):
        (folder / name).unlink()
    left = run_all(generated, tmp_path / "work", SMALL)
    competition, written = profiles.recognise(folder), left["submitted"].written
    assert competition.guessed == written.guessed and "guessed" in repr(written)
    assert (competition.train_table, competition.soundscape_s) == ("clips.csv", 10.0)
    submission.validate(written.path, folder)
    audit = json.loads((tmp_path / "work" / "audit.json").read_text(encoding="utf-8"))
    assert audit["settings"]["guessed"] == list(competition.guessed) and audit["counts"]["recordings"] == 10
    best = checkpoint.read_info(tmp_path / "work" / "round0_split0" / "best.safetensors")
    assert best["config"]["task"]["metric"] == "macro_roc_auc" and best["config"]["task"]["soundscape_s"] == 10.0
    assert "guessed: " in caplog.text
