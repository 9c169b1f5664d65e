"""What a person changes at submission, without training anew: thresholds, post-processing, clips; and whether it helps.

On the years whose hosts ask for decisions, 2021 and 2022.
"""
from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_years import LEAST, run_notebook
from tiny_teacher import teacher

from birdkit import cli, preprocess, profiles, recipes, submission, synthesis
from birdkit.config import Member
from birdkit.decisions import decide
from birdkit.effects import Rows
from birdkit.ensembles import bind, load_ensemble, read_ensemble
from birdkit.metrics import METRICS
from birdkit.metrics.comparison import Validated
from birdkit.runs.submitting import Submitted
from birdkit.settings import replace, to_dict

NAMES = ("round0_split0", "round0_split1")
HALF: dict[str, Any] = {"name": "quantile", "options": {"q": 0.5, "per": "class"}}  # every class in half of the windows


@dataclass(frozen=True)
class Place:
    """A generated competition and a work folder with two models of it."""

    generated: synthesis.Generated
    work: Path

    @property
    def folder(self) -> Path:
        return self.generated.competition_dir

    def run(self, name: str, **settings: Any) -> Submitted:
        """Notebook 04 with some settings."""
        return run_notebook("04_ensemble_infer", COMPETITION_DIR=str(self.folder), WORK_DIR=str(self.work),
                            SUBMISSION=name, **settings)["submitted"]

    def submitted(self, name: str, **settings: Any) -> np.ndarray:
        """What it writes, (windows, scored classes) of 0 and 1."""
        self.run(name, **settings)
        scored = profiles.read_scored(self.folder)
        return submission.validate(self.work / name, self.folder).reindex(columns=list(scored)).to_numpy()


@pytest.fixture(scope="module", params=[2021, 2022])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp(f"of_{request.param}")
    least = {**LEAST, "soundscape_s": 20.0}
    generated = synthesis.generate(folder / "competition", year=request.param, progress=False, **least)
    preprocess.audit(generated.competition_dir, folder / "work", n_splits=2, near_duplicates=False)
    config = replace(recipes.get("tiny").run(0, 0), inference__backend="torch", validation__n_soundscapes=2)
    for seed, name in enumerate(NAMES):
        teacher(folder / "work" / name / "best.safetensors",
                recipes.for_competition(config, generated.competition_dir), seed=seed,
                classes=profiles.read_classes(generated.competition_dir))
    return Place(generated, folder / "work")


def test_notebook_04_decides_and_processes_as_it_is_told(place: Place) -> None:
    """The quantile and the threshold are found on the leaderboard, when no hour is left to train in."""
    as_trained = place.submitted("as_trained.csv")
    half = place.submitted("half.csv", CHANGES={"decision": HALF, "scales": [1]})
    assert as_trained.sum() == pytest.approx(0.5 * len(half), abs=1) and half.mean() == pytest.approx(0.5, abs=0.01)
    # The shares of the one and the counts of the other are the competition's: neither works without them.
    changes = {"decision": {"name": "quantile", "options": {**HALF["options"], "penalty": 0.4}},
               "postprocess": [{"name": "pull_to_file_max", "options": {"alpha": 1.0}}, {"name": "frequency_penalty"}]}
    plain, lasting = (place.run("lasting.csv", CHANGES={**changes, "postprocess": one}).table.groupby("file").nunique()
                      for one in ([], changes["postprocess"]))
    classes = list(profiles.read_scored(place.folder))
    assert (lasting[classes] == 1).all(axis=None) and (plain[classes] > 1).all(axis=None)


@pytest.mark.parametrize(("changes", "fault"), [
    ({"desicion": HALF}, "'desicion' is no setting of InferenceConfig"),
    ({"decision": "quantile"}, r"decision\[0\] must be a table of settings, not 'quantile'"),
    ({"decision": {"name": "quantil"}}, "no decision named 'quantil'"),
    ({"decision": {"name": "quantile", "option": {}}}, r"decision\[0\]: unknown key 'option'"),
    ({"postprocess": {"name": "smooth"}}, "postprocess must be a list of tables"),
    ({"postprocess": [{"name": "smoth"}]}, "no post-processing named 'smoth'"),
    ({"scales": 2}, r"InferenceConfig\.scales must be a list, not 2"),
    ({"window_shift": "two"}, r"InferenceConfig\.window_shift must be int, not 'two'")])
def test_a_change_that_is_none_is_named(place: Place, changes: dict[str, Any], fault: str) -> None:
    """In the hour before the deadline a bare AttributeError is a lost submission."""
    with pytest.raises((ValueError, TypeError, KeyError), match=fault):
        load_ensemble([place.work / NAMES[0] / "best.safetensors"], competition_dir=place.folder, changes=changes)


def ensemble(place: Place, name: str, more: str = "") -> str:
    """An ensemble of both models, with more lines at its end."""
    members = "".join(f'[[members]]\npath = "{one}/best.safetensors"\n' for one in NAMES)
    (place.work / name).write_text(members + more, encoding="utf-8")
    return str(place.work / name)


def test_an_ensembles_file_decides(place: Place) -> None:
    """It says everything that is done to its members; said twice, one of the two would be without effect."""
    file = ensemble(place, "half.toml", '[decision]\nname = "quantile"\noptions = {q = 0.5, per = "class"}\n')
    told = place.submitted("of_file.csv", ENSEMBLE=file)
    assert np.array_equal(told, place.submitted("of_changes.csv", ENSEMBLE=ensemble(place, "plain.toml"),
                                                CHANGES={"decision": HALF}))
    assert told.mean() == pytest.approx(0.5, abs=0.01)
    with pytest.raises(ValueError, match=r"half\.toml says decision, and so do the changes"):
        place.submitted("twice.csv", ENSEMBLE=file, CHANGES={"decision": HALF})


def test_effects_are_those_of_what_is_decided(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """The host scores decisions, and so must whoever asks what helps; with a quantile it is that of by_quantile."""
    command = ["--debug", "effects", str(place.folder), str(place.work), "--truth", str(place.generated.truth_path)]
    assert cli.main([*command, "--ensemble", ensemble(place, "plain.toml")]) == 0
    said, rows = capsys.readouterr().out, Rows.read(place.work / "rows_test.npz")
    decision = load_ensemble(ensemble(place, "plain.toml"), competition_dir=place.folder).decision
    scores = [METRICS[rows.metric](rows.truth, decide(one, rows.classes, decision)) for one in rows.members]
    assert f"{rows.metric} of decisions by labels_per_row (labels = 0.5)" in said and f"{np.mean(scores):.4f} [" in said
    assert cli.main([*command, "--ensemble", ensemble(place, "plain.toml"), "--quantile", "0.7"]) == 0
    by_quantile = [METRICS[rows.metric](rows.truth, decide(one, rows.classes, Member("quantile", {"q": 0.7})))
                   for one in rows.members]
    assert f"by quantile (q = 0.7) on 2 soundscapes, 2 models, nothing done to them: {np.mean(by_quantile):.4f} [" in (
        capsys.readouterr().out)
    assert cli.main(command[:4]) == 0  # on the validation, over the scored classes alone
    assert Rows.read(place.work / "rows_validation.npz").classes == profiles.read_scored(place.folder)


def test_other_settings_are_compared_as_they_would_be_submitted(place: Place,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    """Whether overlapping clips, or another threshold, are worth their time: what stands in CHANGES, asked before."""
    capsys.readouterr()
    against = ["decision=" + json.dumps(HALF), "clip_step_s=1.0"]
    command = ["effects", str(place.folder), str(place.work), "--truth", str(place.generated.truth_path)]
    assert cli.main(["--debug", *command, "--against", *against]) == 0
    said = capsys.readouterr().out.splitlines()
    competition = profiles.recognise(place.folder)
    scores = []
    for name, changes in (("is.csv", {}), ("against.csv", {"decision": HALF, "clip_step_s": 1.0})):
        place.submitted(name, CHANGES=changes)
        scores.append(submission.score(place.work / name, place.generated.truth_path, competition.year))
    assert said[0] == f"{competition.metric} on 2 soundscapes, as submitted"
    assert said[1].startswith(f"as the models say: {scores[0]:.4f} [")
    assert said[2].startswith("decision = {") and f"clip_step_s = 1.0: {scores[1]:.4f} [" in said[2]
    assert said[3].startswith(f"difference: {scores[1] - scores[0]:+.4f} [")
    assert cli.main(["--debug", *command, "--set", *against, "--against", "clip_step_s=null"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert f"clip_step_s = 1.0: {scores[1]:.4f} [" in said[1] and "clip_step_s = null: " in said[2]


def test_weights_are_fitted_to_what_is_decided(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """`birdkit ensemble --fit` of runs of these years: the weights for the score of the host, the decision in the
    file."""
    metric = profiles.recognise(place.folder).metric
    rng, classes, decision = np.random.default_rng(0), ("a", "b", "c"), Member("quantile", {"q": 0.7})
    truth = (rng.random((60, 3)) < 0.3).astype(int)
    config = replace(recipes.get("tiny").config, inference__decision=decision)
    for name, noise in zip(NAMES, (0.3, 3.0), strict=True):
        said = 1 / (1 + np.exp(-(2 * truth - 1 + rng.normal(0, noise, truth.shape))))
        Validated(truth, said, np.repeat(np.arange(12), 5), classes, metric,
                  json.loads(json.dumps({"config": to_dict(config)})), decide(said, classes, decision)
                  ).save(place.work / name / "predictions.npz")
    out = place.work / "fit.toml"
    runs = [str(place.work / name) for name in NAMES]
    assert cli.main(["--debug", "ensemble", *runs, "--fit", "--out", str(out)]) == 0
    assert metric in capsys.readouterr().out
    fitted = read_ensemble(out)
    assert fitted.decision == decision == read_ensemble(out.with_stem("fit_equal")).decision
    assert max(fitted.members, key=lambda one: one.weight).path == f"{NAMES[0]}/best.safetensors"


def test_the_labelled_soundscapes_of_2021_are_a_prior(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Rows there name a file without its date; the year that is stated is the year whose files are read."""
    member = [Member("site_hour_prior", {"use": ["site"]})]
    if profiles.recognise(place.folder).year != 2021:
        assert bind(member, place.folder) == () and "of 2022" in caplog.text
        return
    labels = pd.read_csv(place.folder / "train_soundscape_labels.csv")
    cells = bind(member, place.folder)[0].options["prior"]["cells"]
    assert {cell["site"]: cell["windows"] for cell in cells} == labels["site"].value_counts().to_dict()
    heard = labels.loc[labels["birds"] != "nocall", "birds"].str.split().explode().value_counts().to_dict()
    totals: dict[str, int] = {}
    for cell in cells:
        for name, count in cell["heard"].items():
            totals[name] = totals.get(name, 0) + count
    assert totals == heard and heard
    assert bind(member, place.folder, year=2022) == () and "of 2022" in caplog.text


def test_the_rows_of_another_runtime_are_not_taken_for_these(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle has the hash of its checkpoint: exchanged in an ensemble's file, it must be heard itself."""
    from birdkit.runs import effects

    run = place.work / NAMES[0]
    if not (run / "openvino_f32").is_dir():
        command = ["export", str(run / "best.safetensors"), "--audio", str(place.folder / "test_soundscapes")]
        assert cli.main(["--debug", *command]) == 0
    command = ["effects", str(place.folder), str(place.work), "--truth", str(place.generated.truth_path)]
    file = Path(ensemble(place, "swapped.toml"))
    assert cli.main(["--debug", *command, "--ensemble", str(file)]) == 0
    monkeypatch.setattr(effects, "_hear", lambda *_: pytest.fail("predicted again"))
    assert cli.main(["--debug", *command, "--ensemble", str(file)]) == 0
    file.write_text(file.read_text().replace(f'"{NAMES[0]}/best.safetensors"',
                                             f'"{NAMES[0]}/openvino_f32"\nname = "{NAMES[0]}/best.safetensors"'))
    with pytest.raises(pytest.fail.Exception, match="predicted again"):
        cli.main(["--debug", *command, "--ensemble", str(file)])
