"""The four notebooks stay thin, alike and able to run on Kaggle: held from their JSON."""
from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from birdkit import reports
from birdkit.pipeline import find_notebooks, steps
from birdkit.runs import labelling, submitting, training

BOOKS = sorted(find_notebooks().glob("*.ipynb"))
MAX_CELLS, MAX_LINES = 10, 60
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
LOOPS = (ast.For, ast.While, ast.AsyncFor, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)

each_book = pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(path: Path, *, without: tuple[str, ...] = ()) -> list[str]:
    """The sources of the code cells, but for those with one of the tags."""
    cells = [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    return ["".join(cell["source"]) for cell in cells if not set(without) & set(cell["metadata"].get("tags", []))]


def tagged(path: Path, tag: str) -> list[str]:
    """The sources of the cells with a tag."""
    return ["".join(cell["source"]) for cell in read(path)["cells"] if tag in cell["metadata"].get("tags", [])]


def nodes(path: Path, *, without: tuple[str, ...] = ()) -> list[ast.AST]:
    """The syntax of the code; a magic or a shell escape is a SyntaxError."""
    return [node for source in code_cells(path, without=without) for node in ast.walk(ast.parse(source))]


def parameters(path: Path) -> dict[str, Any]:
    """Names and values of the parameters cell."""
    tree = ast.parse(tagged(path, "parameters")[0])
    assert all(isinstance(node, ast.Assign) for node in tree.body), "a parameters cell only assigns"
    return {node.targets[0].id: ast.literal_eval(node.value) for node in tree.body}


def test_there_are_four() -> None:
    """The names are the order in which a person reads them."""
    assert [path.stem for path in BOOKS] == ["01_preprocess", "02_pseudolabel", "03_train_fold", "04_ensemble_infer"]


@each_book
def test_a_notebook_keeps_its_budget(path: Path) -> None:
    """What does not fit belongs into the package, where it is tested: the second seed's had 628 lines."""
    lines = [line.strip() for source in code_cells(path) for line in source.splitlines()]
    assert len(code_cells(path)) <= MAX_CELLS
    assert sum(bool(line) and not line.startswith("#") for line in lines) <= MAX_LINES


@each_book
def test_nothing_is_defined_and_nothing_loops(path: Path) -> None:
    """A definition in a notebook is code without a test; a worker process cannot even import it."""
    assert not [ast.dump(node) for node in nodes(path) if isinstance(node, DEFINITIONS)]
    assert not [ast.dump(node) for node in nodes(path, without=("install",)) if isinstance(node, LOOPS)]


@each_book
def test_settings_live_in_the_parameters_cell_only(path: Path) -> None:
    """A number further down is one that papermill cannot set and nobody finds. Installing comes before birdkit."""
    literals = [node for node in nodes(path, without=("parameters", "install"))
                if isinstance(node, (ast.Constant, ast.JoinedStr, ast.List, ast.Dict, ast.Set))
                and not (isinstance(node, ast.Constant) and node.value is None)]
    assert not [ast.dump(node) for node in literals]
    assert len(tagged(path, "parameters")) == 1 and parameters(path)


@each_book
def test_every_setting_is_used(path: Path) -> None:
    """A setting that changes nothing is a lie."""
    used = {node.id for node in nodes(path, without=("parameters",)) if isinstance(node, ast.Name)}
    assert not parameters(path).keys() - used - {"COMPETITION"} and "COMPETITION" in used


@each_book
def test_the_pipeline_sets_only_what_the_notebook_has(path: Path) -> None:
    """papermill injects an unknown name with no more than a warning, and the notebook goes on with its default."""
    for step in steps("tiny", [0], rounds=1, every_round=True):
        if step.notebook == path.stem:
            assert {*step.parameters, "COMPETITION_DIR", "WORK_DIR"} <= parameters(path).keys()


@each_book
def test_defaults_are_kaggles(path: Path) -> None:
    """Unchanged on Kaggle: inputs are looked for where it mounts them, outputs are kept where it keeps them."""
    settings = parameters(path)
    assert settings["COMPETITION"] and settings["COMPETITION_DIR"] == settings["WORK_DIR"] == ""
    outside = [node.value for node in nodes(path, without=("install",))
               if isinstance(node, ast.Constant) and "/kaggle" in str(node.value)]
    assert not outside


@each_book
def test_nothing_of_a_run_is_stored(path: Path) -> None:
    """Outputs in git are noise in every diff, and may show what should not be shown."""
    for cell in read(path)["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


@each_book
def test_kaggle_can_run_the_file(path: Path) -> None:
    """papermill refuses a notebook without a kernel name, nbformat 4.5 one whose cells have no id of their own."""
    book = read(path)
    assert book["nbformat"] == 4 and book["metadata"]["kernelspec"]["name"] == "python3"
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    assert book["cells"][0]["cell_type"] == "markdown" and "on Kaggle" in "".join(book["cells"][0]["source"])


def test_the_install_cell_is_the_same_everywhere() -> None:
    """It is the one piece of code that must live in every notebook: mended in one, it is mended in all."""
    assert len({tuple(tagged(path, "install")) for path in BOOKS}) == 1


def run_install(source: str, *, root: Path, installed: bool) -> subprocess.CompletedProcess[str]:
    """Run the install cell in a fresh Python in which birdkit is installed or is not; `root` stands for /kaggle."""
    stub = f"import importlib.util\nimportlib.util.find_spec = lambda name: {installed or None}\n"
    environment = {**os.environ, "BIRDKIT_KAGGLE_ROOT": str(root)}
    return subprocess.run([sys.executable, "-c", stub + source], capture_output=True, text=True, check=False,
                          env=environment, cwd=root)


@pytest.mark.parametrize("layout", ["birdkit-wheels", "datasets/someone/birdkit-wheels", "notebooks/someone/build"])
def test_the_install_cell_hands_over_to_the_newest_wheel(tmp_path: Path, layout: str) -> None:
    """In both mount layouts; what it says is seen in the notebook, and what fails there fails here."""
    folder = tmp_path / "input" / layout
    folder.mkdir(parents=True)
    for version, status in (("0.1.0", 3), ("0.2.0", 0)):
        with zipfile.ZipFile(folder / f"birdkit-{version}-py3-none-any.whl", "w") as wheel:
            said = f"import sys; print('{version}', *sys.argv[1:]); sys.exit({status})"
            for module, source in (("__init__", ""), ("kaggle/__init__", ""), ("kaggle/offline", said)):
                wheel.writestr(f"birdkit/{module}.py", source)
    source = tagged(BOOKS[0], "install")[0]
    done = run_install(source, root=tmp_path, installed=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.2.0", str(tmp_path / "input")]
    (folder / "birdkit-0.2.0-py3-none-any.whl").unlink()
    failed = run_install(source, root=tmp_path, installed=False)
    assert failed.returncode == 1 and "0.1.0" in failed.stdout and "could not be installed" in failed.stderr


def test_the_install_cell_says_what_is_missing_and_leaves_an_installed_package_alone(tmp_path: Path) -> None:
    """Without the dataset the first thing a person reads must be what to attach."""
    source = tagged(BOOKS[0], "install")[0]
    missing = run_install(source, root=tmp_path, installed=False)
    assert missing.returncode == 1 and f"nothing under {tmp_path / 'input'}" in missing.stderr
    assert "attach the wheels" in missing.stderr
    there = run_install(source, root=tmp_path, installed=True)
    assert there.returncode == 0 and there.stdout == ""


@each_book
def test_the_head_says_what_to_attach_and_to_switch_on(path: Path) -> None:
    """Inputs, accelerator and internet are set on Kaggle's page, where nothing else says what a notebook needs."""
    rows = {line.split("|")[1].strip(): line.split("|")[2] for line in read(path)["cells"][0]["source"] if "|" in line}
    assert "the competition" in rows["on Kaggle"] and "`birdkit-wheels`" in rows["on Kaggle"]
    assert rows["accelerator, internet"].strip().startswith(("none (CPU)", "GPU T4 x2"))
    assert "; off" in rows["accelerator, internet"]
    for needed in {"01": (), "02": ("output of 01", "outputs of 03"), "03": ("output of 01", "output of 02"),
                   "04": ("outputs of 03",)}[path.stem[:2]]:
        assert needed in rows["on Kaggle"]


def test_notebook_03_hands_every_setting_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session's limit that gets lost between the first cell and the training is missed after eleven hours."""
    seen: list[Any] = []
    drawn: list[Any] = []
    history = pd.DataFrame({"epoch": [1], "loss": [0.5], "lr": [1e-3], "score": [0.8], "low": [0.7], "high": [0.9],
                            "weights": ["ema"]})
    monkeypatch.setattr(training, "train_splits", lambda *given, **named: seen.append((*given, named)) or [history] * 2)
    settings = {"COMPETITION_DIR": str(tmp_path), "WORK_DIR": str(tmp_path / "work"), "RECIPE": "tiny", "ROUND": 2,
                "FOLD": [0, 1], "CHANGES": {"seed": 3}, "NOISE": {"nocall": "/noise"}, "SESSION_HOURS": 11,
                "RESUME_FROM": "/earlier", "COMPETITION_YEAR": 2025, "LABELLED": {"ff.csv": "/ff"}}
    book = next(path for path in BOOKS if path.stem == "03_train_fold")
    assert settings.keys() | {"COMPETITION"} == parameters(book).keys()
    names: dict[str, Any] = {**parameters(book), **settings, "display": lambda *shown: drawn.extend(shown)}
    for source in code_cells(book, without=("parameters", "install")):
        exec(source, names)
    assert seen == [(training.Run(tmp_path, tmp_path / "work", "tiny", 2, changes={"seed": 3},
                                  noise={"nocall": "/noise"}, resume_from="/earlier", year=2025,
                                  labelled={"ff.csv": "/ff"}),
                     [0, 1], {"session_h": 11})]
    assert len(drawn) == 2 and all(picture._repr_png_() for picture in drawn)


def test_notebook_02_hands_every_setting_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe or a change that gets lost labels with other settings than the training that follows believes."""
    seen: list[Any] = []
    drawn: list[Any] = []
    outcome = SimpleNamespace(pictures={"one": 1, "two": 2})
    monkeypatch.setattr(labelling, "label_round", lambda run: seen.append(run) or outcome)
    settings = {"COMPETITION_DIR": str(tmp_path), "WORK_DIR": str(tmp_path / "work"), "RECIPE": "tiny", "ROUND": 2,
                "CHANGES": {"labelling__stride_s": 2.5}, "TEACHERS": ["a.safetensors"], "ENSEMBLE": "best.toml",
                "COMPETITION_YEAR": 2024}
    book = next(path for path in BOOKS if path.stem == "02_pseudolabel")
    assert settings.keys() | {"COMPETITION"} == parameters(book).keys()
    names: dict[str, Any] = {**parameters(book), **settings, "display": lambda *shown: drawn.extend(shown)}
    for source in code_cells(book, without=("parameters", "install")):
        exec(source, names)
    assert seen == [labelling.LabelRun(tmp_path, tmp_path / "work", "tiny", 2, changes={"labelling__stride_s": 2.5},
                                       teachers=["a.safetensors"], ensemble="best.toml", year=2024)]
    assert drawn == [1, 2]


def test_notebook_04_hands_every_setting_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time share or an ensemble that gets lost is a submission that nobody meant."""
    seen: list[Any] = []
    outcome = SimpleNamespace(table="table")
    monkeypatch.setattr(submitting, "submit", lambda run: seen.append(run) or outcome)
    monkeypatch.setattr(reports, "soundscape", lambda table, root: seen.append((table, root)))
    settings = {"COMPETITION_DIR": str(tmp_path), "COMPETITION_YEAR": 2024, "WORK_DIR": str(tmp_path / "work"),
                "ROUND": 2, "EARLIER": 1, "BUNDLE": "openvino_f32", "ENSEMBLE": "best.toml", "GATE": "multiply",
                "CHANGES": {"window_shift": 2}, "SUBMISSION": "mine.csv", "TIME_SHARE": 0.5}
    book = next(path for path in BOOKS if path.stem == "04_ensemble_infer")
    assert settings.keys() | {"COMPETITION"} == parameters(book).keys()
    names: dict[str, Any] = {**parameters(book), **settings}
    for source in code_cells(book, without=("parameters", "install")):
        exec(source, names)
    wanted = submitting.SubmitRun(tmp_path, str(tmp_path / "work"), 2, 1, "openvino_f32", "best.toml", "multiply",
                                  {"window_shift": 2}, "mine.csv", 0.5, 2024)
    assert seen == [wanted, ("table", tmp_path)]
