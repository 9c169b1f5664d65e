"""Ensembles as data, on a tiny generated competition: what a file says is what is predicted."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_notebooks import BOOKS, code_cells, parameters
from tiny_teacher import teacher

from birdkit import blending, cli, inference, pipeline, preprocess, profiles, recipes, reports, synthesis
from birdkit.config import Member
from birdkit.effects import Rows
from birdkit.ensembles import EnsembleFile, EnsembleMember, load_ensemble, read_ensemble, write_ensemble
from birdkit.kaggle import MissingInputError, Workspace
from birdkit.metrics.comparison import Validated
from birdkit.postprocess import apply
from birdkit.runs import effects
from birdkit.settings import replace, to_dict

pytestmark = [pytest.mark.filterwarnings("ignore:Empty filters")]
NAMES = ("round0_split0", "round0_split1", "few")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[synthesis.Generated, Path]:
    """A competition and a work folder with notebook 01's tables, two models of all classes and one of two."""
    folder = tmp_path_factory.mktemp("ensembles")
    generated = synthesis.generate(folder / "competition", **synthesis.TINY, progress=False)
    work = Workspace(folder / "work", roots=[])
    preprocess.audit(generated.competition_dir, work.folder, n_splits=2, near_duplicates=False)
    classes = profiles.read_classes(generated.competition_dir)
    config = replace(recipes.get("tiny").run(0, 0), inference__backend="torch", validation__n_soundscapes=2,
                     inference__postprocess=(Member("scale_by_file_top"),))
    for seed, (name, known) in enumerate(zip(NAMES, (classes, classes, classes[2:0:-1]), strict=True)):
        teacher(work.folder / name / "best.safetensors", config, seed=seed, classes=known)
    return generated, work.folder


def predicted(places: tuple[synthesis.Generated, Path], source: object) -> pd.DataFrame:
    """The test soundscapes as notebook 04 predicts them."""
    competition = places[0].competition_dir
    loaded = load_ensemble(source, competition_dir=competition, work=Workspace(places[1], roots=[]))  # type: ignore[arg-type]
    files = sorted((competition / "test_soundscapes").glob("*"))
    return inference.predict(files, loaded.predictors, window_s=5.0, classes=profiles.read_classes(competition),
                             mean=loaded.mean, members=loaded.members, progress=False).table


@pytest.fixture(scope="module")
def apart(places: tuple[synthesis.Generated, Path]) -> np.ndarray:
    """What the three models say, nothing done to it, (3, R, K) in the order of the competition's classes."""
    rows = []
    for name in NAMES:
        own = inference.load_predictors([places[1] / name / "best.safetensors"])
        files = sorted((places[0].competition_dir / "test_soundscapes").glob("*"))
        table = inference.predict(files, own, window_s=5.0, members=(), progress=False).table
        rows.append(table.reindex(columns=list(profiles.read_classes(places[0].competition_dir))).to_numpy())
    return np.stack(rows)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


MEMBERS = """
[[members]]
path = "round0_split0/best.safetensors"
weight = 2.0

[[members]]
path = "round0_split1/best.safetensors"
postprocess = [{name = "smooth", options = {kernel = [1.0, 2.0, 1.0]}}]

[[members]]
name = "few"
path = "few/best.safetensors"
"""


@pytest.mark.parametrize("how", ["logits", "minimum", "rank"])
def test_a_file_predicts_what_it_says(places, apart, how: str) -> None:
    """Weights, what is done to one member, who knows what, the blend, and what is done after: by hand."""
    classes = list(profiles.read_classes(places[0].competition_dir))
    path = write(places[1] / "ensemble.toml",
                 f'blend = "{how}"\npostprocess = [{{name = "pull_to_file_max"}}]\n{MEMBERS}')
    table, said = predicted(places, path), apart.copy()
    blocks = [np.flatnonzero(table["file"] == file) for file in table["file"].unique()]
    for rows in blocks:
        said[1, rows] = apply(said[1, rows], [Member("smooth", {"kernel": [1.0, 2.0, 1.0]})])
    blended = blending.blend(said.astype(np.float32), np.array([2.0, 1.0, 1.0]), how)
    expected = np.concatenate([apply(blended[rows], [Member("pull_to_file_max")]) for rows in blocks])
    np.testing.assert_allclose(table[classes].to_numpy(), expected, atol=2e-6)


def test_without_a_file_checkpoints_count_alike_and_do_what_the_first_says(places, apart) -> None:
    """What notebook 04 did before there were files of ensembles."""
    classes = list(profiles.read_classes(places[0].competition_dir))
    paths = [places[1] / name / "best.safetensors" for name in ("round0_split0", "round0_split1")]
    table, mean = predicted(places, paths), apart[:2].mean(0)
    expected = np.concatenate([apply(mean[rows], [Member("scale_by_file_top")])
                               for rows in np.split(np.arange(len(mean)), 2)])
    np.testing.assert_allclose(table[classes].to_numpy(), expected, atol=2e-6)


def test_a_member_counts_only_in_the_classes_it_is_given(places, apart) -> None:
    """A frog specialist that was trained on everything shall not speak of birds, in any way of blending."""
    classes = list(profiles.read_classes(places[0].competition_dir))
    path = write(places[1] / "frogs.toml", f'''blend = "minimum"
postprocess = []
[[members]]
path = "round0_split0/best.safetensors"
[[members]]
path = "round0_split1/best.safetensors"
classes = ["{classes[0]}"]
''')
    table = predicted(places, path)
    np.testing.assert_allclose(table[classes[0]], apart[:2, :, 0].min(0), atol=2e-6)
    np.testing.assert_allclose(table[classes[1:]], apart[0][:, 1:], atol=2e-6)


def test_changes_reach_the_member_and_no_other(places) -> None:
    """Overlapping clips for a small model, contiguous ones for a large one: each as the file says."""
    text = MEMBERS.replace("weight = 2.0", "inference = {clip_step_s = 0.5, batch_size = 3}")
    loaded = load_ensemble(write(places[1] / "changed.toml", text), competition_dir=places[0].competition_dir)
    assert [one.config.inference.clip_step_s for one in loaded.predictors] == [0.5, None, None]
    assert [one.config.inference.batch_size for one in loaded.predictors[:1]] == [3]


@pytest.mark.parametrize(("text", "fault"), [
    ("blend = 'rank'", "there is no member"), ("members = []", "there is no member"),
    (MEMBERS + "\n[[member]]\npath = 'x'", "unknown key 'member'"),
    (MEMBERS.replace("weight", "wieght"), r"ensemble.members\[0\]: unknown key 'wieght'"),
    (MEMBERS.replace("2.0", "'2'"), r"members\[0\].weight must be float, not '2'"),
    (MEMBERS.replace("2.0", "0"), "round0_split0/best.safetensors: weight = 0.0 must be above 0"),
    (MEMBERS.replace('path = "few/best.safetensors"', ""), r"members\[2\]: missing key 'path'"),
    ("blend = 'mean'\n" + MEMBERS, "blend = 'mean'; it must be one of probabilities, logits"),
    (MEMBERS.replace("smooth", "smoth"), "no post-processing named 'smoth'"),
    (MEMBERS + "inference = {clip_step = 1.0}", "'clip_step' is no setting of InferenceConfig"),
    (MEMBERS + "inference = {postprocess = []}", "few: inference.postprocess is no setting of one member"),
    (MEMBERS + "inference = {decision = {name = 'quantile'}}", "inference.decision is no setting of one member"),
    ("decision = {name = 'quantil'}" + MEMBERS, "no decision named 'quantil'"),
    ("decision = 0.9" + MEMBERS, r"ensemble\.decision must be a table of settings, not 0\.9"),
    ("postprocess = [{name = 'smooth', options = {width = 3}}]" + MEMBERS, "takes no width"),
    ("blend = [", "ensemble.toml: ")])
def test_a_file_that_is_wrong_is_named_with_what_is_wrong(tmp_path: Path, text: str, fault: str) -> None:
    """Found after an hour's predictions, or never, a misspelt weight is an ensemble that nobody chose."""
    with pytest.raises(ValueError, match=rf"ensemble\.toml: .*{fault}" if "toml" not in fault else fault):
        read_ensemble(write(tmp_path / "ensemble.toml", text))


def test_members_are_found_beside_the_file_or_among_the_inputs(places, tmp_path: Path) -> None:
    """On Kaggle the file and the checkpoints come from different datasets; two of one name are refused."""
    (tmp_path / "mine").mkdir()
    file = write(tmp_path / "mine" / "ensemble.toml", MEMBERS)
    with pytest.raises(MissingInputError, match=r"ensemble\.toml: member 'round0_split0/best.safetensors' is not"):
        load_ensemble(file, competition_dir=places[0].competition_dir)
    attached = Workspace(tmp_path / "working", roots=[places[1].parent])
    loaded = load_ensemble("mine/ensemble.toml", competition_dir=places[0].competition_dir,
                           work=Workspace(tmp_path, roots=[places[1].parent]))
    assert loaded.names == ("round0_split0/best.safetensors", "round0_split1/best.safetensors", "few")
    with pytest.raises(MissingInputError, match=r"ensemble 'nowhere\.toml' is not there: .* and 0 in"):
        load_ensemble("nowhere.toml", competition_dir=places[0].competition_dir, work=attached)


def test_a_class_that_the_member_does_not_know_is_an_error(places) -> None:
    """A misspelt class would take the specialist's say away and tell nobody."""
    path = write(places[1] / "wrong.toml", MEMBERS + 'classes = ["unicorn"]\n')
    with pytest.raises(ValueError, match="few does not know 1 of its classes: unicorn"):
        load_ensemble(path, competition_dir=places[0].competition_dir)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """Names in quotes, nested options and all; a comment of several lines goes before it."""
    members = (EnsembleMember("a/b.safetensors", 0.25, 'the "first"', ("x y", "z"), {"clip_step_s": 2.5},
                              (Member("frequency_penalty", {"counts": {"a b": 1, "c": 2}}), Member("smooth"))),
               EnsembleMember("é.safetensors"))
    for after in (None, (), (Member("smooth", {"kernel": [1.0]}),)):
        ensemble = EnsembleFile(members, "logits", after, Member("quantile", {"q": 0.9}) if after else None)
        write_ensemble(ensemble, tmp_path / "ensemble.toml", comment="one\n\ntwo")
        assert read_ensemble(tmp_path / "ensemble.toml") == ensemble
    assert (tmp_path / "ensemble.toml").read_text(encoding="utf-8").startswith("# one\n#\n# two\nblend")


def test_notebook_04_submits_the_ensemble(places, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one setting that a person changes on Kaggle: its file, and nothing else, decides what is submitted."""
    generated, work = places
    write(work / "ranked.toml", f'blend = "rank"\npostprocess = []\n{MEMBERS}')
    monkeypatch.setattr(reports, "soundscape", lambda *_, **__: None)
    book = next(path for path in BOOKS if path.stem == "04_ensemble_infer")
    names = {**parameters(book), "COMPETITION_DIR": str(generated.competition_dir), "WORK_DIR": str(work),
             "ENSEMBLE": "ranked.toml", "SUBMISSION": "ranked.csv"}
    for source in code_cells(book, without=("parameters", "install")):
        exec(source, names)
    submitted = pd.read_csv(work / "ranked.csv", dtype={"row_id": str})
    expected = predicted(places, work / "ranked.toml")
    np.testing.assert_allclose(submitted.iloc[:, 1:], expected[list(submitted.columns[1:])], atol=1e-6)


def test_the_pipeline_hands_the_file_to_the_last_submission(tmp_path: Path) -> None:
    """It stands in for the last round's checkpoints; the rounds before are compared as they are. Read before all."""
    plan = pipeline.steps("tiny", [0], rounds=1, every_round=True, ensemble=tmp_path / "e.toml")
    assert [step.parameters.get("ENSEMBLE") for step in plan if step.notebook == pipeline.INFER] == [
        None, str(tmp_path / "e.toml")]
    with pytest.raises(ValueError, match=r"e\.toml: there is no member"):
        pipeline.run(tmp_path, tmp_path / "w", recipe="tiny", ensemble=write(tmp_path / "e.toml", "blend = 'rank'"))


def test_an_ensemble_labels_as_it_would_submit(places) -> None:
    """`birdkit label --ensemble`: weights and blend of the file, on the test's minutes as if they were one's own."""
    generated, work = places
    file = write(work / "teachers.toml", f'blend = "root_mean_square"\npostprocess = []\n{MEMBERS}')
    root, out = generated.competition_dir / "test_soundscapes", work / "labels.parquet"
    command = ["--debug", "label", str(generated.competition_dir), str(work), "--round", "1", "--recipe", "tiny",
               "--root", str(root), "--out", str(out), "--device", "cpu"]
    assert cli.main([*command, "--ensemble", str(file)]) == 0
    labels = pd.read_parquet(out)
    expected = predicted(places, file)
    classes = list(profiles.read_classes(generated.competition_dir))
    np.testing.assert_allclose(labels[classes].to_numpy(), expected[classes].to_numpy(), atol=2e-6)
    with pytest.raises(ValueError, match="blend = 'rank' needs the rows of all files"):
        cli.main([*command, "--ensemble", str(write(work / "ranks.toml", f"blend = 'rank'\n{MEMBERS}"))])
    with pytest.raises(ValueError, match=r"teachers\.toml lists the teachers: give no others"):
        cli.main([*command, "--ensemble", str(file), "--teachers", "a.safetensors"])


def test_effects_are_measured_on_the_test_and_on_the_validation(places, apart, capsys, monkeypatch) -> None:
    """`birdkit effects`: rows are predicted once and kept, a table with every published setting is said and written."""
    generated, work = places
    command = ["effects", str(generated.competition_dir), str(work), "--truth", str(generated.truth_path)]
    assert cli.main(["--debug", *command, "--ensemble", str(write(work / "three.toml", MEMBERS))]) == 0
    said = capsys.readouterr().out
    assert "3 models, nothing done to them" in said and "as the models say: scale_by_file_top" in said
    rows = Rows.read(work / "rows_test.npz")
    truth = pd.read_csv(generated.truth_path, dtype={"row_id": str}).set_index("row_id")
    np.testing.assert_allclose(rows.members[[0, 2]], apart[[0, 2]], atol=1e-6)
    ids = [f"{Path(file).stem}_{end_s}" for file in dict.fromkeys(rows.files.tolist()) for end_s in range(5, 25, 5)]
    np.testing.assert_array_equal(rows.truth, truth.loc[ids, list(rows.classes)])
    assert truth.to_numpy().any() and len(pd.read_csv(work / "effects_test.csv")) > 20
    monkeypatch.setattr(effects, "_hear", lambda *_: pytest.fail("predicted again"))
    assert cli.main([*command, "--ensemble", str(work / "three.toml"), "--markdown"]) == 0
    assert "| smooth .1 .2 .4 .2 .1 |" in capsys.readouterr().out
    monkeypatch.undo()
    one = str(work / "round0_split0" / "best.safetensors")
    assert cli.main(["--debug", *command[:3], "--checkpoints", one, "--out", str(work)]) == 0
    assert "1 model, nothing done" in capsys.readouterr().out and (work / "effects_validation.csv").is_file()


def test_an_ensemble_is_fitted_beside_its_equal_twin(places, apart, capsys) -> None:
    """`birdkit ensemble`: both files are written, with what is known of them, and both predict."""
    generated, work = places
    rng, classes = np.random.default_rng(0), profiles.read_classes(generated.competition_dir)
    truth = (rng.random((60, len(classes))) < 0.3).astype(int)
    for name, noise in (("round0_split0", 0.3), ("round0_split1", 3.0)):
        said = 1 / (1 + np.exp(-(2 * truth - 1 + rng.normal(0, noise, truth.shape))))
        origin = {"config": to_dict(replace(recipes.get("tiny").config,
                                            inference__postprocess=(Member("pull_to_file_max"),)))}
        Validated(truth, said, np.repeat(np.arange(12), 5), classes, "macro_roc_auc", json.loads(json.dumps(origin))
                  ).save(work / name / "predictions.npz")
    runs = [str(work / name) for name in ("round0_split0", "round0_split1")]
    assert cli.main(["--debug", "ensemble", *runs, "--fit", "--out", str(work / "fit.toml")]) == 0
    said_of_it = capsys.readouterr().out
    assert "2 scalars fitted to 60 rows of 12 soundscapes" in said_of_it and "surely better" in said_of_it
    fitted, equal = read_ensemble(work / "fit.toml"), read_ensemble(work / "fit_equal.toml")
    assert fitted.members[0].weight > 0.7 and [one.weight for one in equal.members] == [1.0, 1.0]
    assert equal.members[1].path == "round0_split1/best.safetensors" and equal.postprocess == ()
    assert equal.members[0].postprocess == (Member("pull_to_file_max"),)
    rows = np.split(np.arange(apart.shape[1]), 2)
    expected = np.mean([np.concatenate([apply(one[part], [Member("pull_to_file_max")]) for part in rows])
                        for one in apart[:2]], axis=0)
    np.testing.assert_allclose(predicted(places, work / "fit_equal.toml")[list(classes)], expected, atol=2e-6)
    assert cli.main(["ensemble", *runs, "--blend", "rank", "--out", str(work / "plain.toml")]) == 0
    assert read_ensemble(work / "plain.toml").postprocess is None
    assert cli.main(["ensemble", runs[0], runs[0], "--out", str(work / "plain.toml")]) == 1
    assert "named twice" in capsys.readouterr().err
