"""What is installed of attached wheels: what is missing, for this Python, and nothing that Kaggle has."""
from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.tags import Tag

from birdkit.kaggle import offline
from birdkit.kaggle.offline import OfflineError, Wheel, choose, find_wheels

TAGS = frozenset({Tag("cp312", "cp312", "manylinux_2_28_x86_64"), Tag("py3", "none", "any")})
OPENVINO = "openvino-2026.4.1-22982-{0}-{0}-manylinux_2_28_x86_64.whl"


def put(folder: Path, *names: str, content: str = "same") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(content)
    return [folder / name for name in names]


def birdkit(version: str) -> str:
    return f"birdkit-{version}-py3-none-any.whl"


def wheels(folder: Path, *names: str) -> list[Wheel]:
    return [Wheel.read(path) for path in put(folder, *names)]


def empty_wheel(folder: Path, version: str = "0.1.0") -> Path:
    """A wheel of birdkit that pip can install."""
    path, info = folder / birdkit(version), f"birdkit-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("birdkit/__init__.py", f"__version__ = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: birdkit\nVersion: {version}\n"
                                             "Requires-Dist: torch>=999\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_wheels_are_found_in_both_mount_layouts(tmp_path: Path) -> None:
    """Kaggle moved its mounts in 2026; OpenVINO may come in a dataset of its own, which changes rarely."""
    expected = [*put(tmp_path / "birdkit-wheels", birdkit("0.1.0")),
                *put(tmp_path / "datasets" / "me" / "wheelhouse", OPENVINO.format("cp312"),
                     "openvino_telemetry-2025.2.0-py3-none-any.whl"),
                *put(tmp_path / "notebooks" / "me" / "build", birdkit("0.2.0"))]
    put(tmp_path / "datasets" / "other" / "llm", "vllm-1.0-py3-none-any.whl")
    assert [wheel.path for wheel in find_wheels(tmp_path)] == expected


def test_of_two_versions_the_newest_is_taken_and_said(tmp_path: Path) -> None:
    """Last week's wheel in an attached output must not win over today's, and 0.10 is newer than 0.9."""
    choice = choose(wheels(tmp_path, birdkit("0.9.0"), birdkit("0.10.0")), installed={"openvino": "1"}, tags=TAGS)
    assert [str(wheel.version) for wheel in choice.wheels] == ["0.10.0"]
    assert len(choice.notes) == 1 and "0.10.0 is taken, not birdkit 0.9.0 from" in choice.notes[0]


def test_two_wheels_of_one_version_that_differ_are_refused(tmp_path: Path) -> None:
    """Which of them is newer nobody knows: half of the people would run last week's code without a word."""
    both = [path for name in ("a", "b") for path in put(tmp_path / name, birdkit("0.1.0"), content=name)]
    with pytest.raises(OfflineError, match=r"two wheels are birdkit 0\.1\.0 and differ: .*/a/birdkit.*/b/birdkit"):
        choose(map(Wheel.read, both), installed={}, tags=TAGS)
    for path in both:
        path.write_text("same")
    assert len(choose(map(Wheel.read, both), installed={}, tags=TAGS).wheels) == 1


def test_what_kaggle_has_is_left_alone(tmp_path: Path) -> None:
    """A newer numpy breaks everything in the image that was built for the old one."""
    attached = wheels(tmp_path, birdkit("0.1.0"), "numpy-2.9.0-cp312-cp312-manylinux_2_28_x86_64.whl")
    choice = choose(attached, installed={"numpy": "2.0.2", "openvino": "1"}, tags=TAGS)
    assert [wheel.name for wheel in choice.wheels] == ["birdkit"]
    assert choice.notes == ("numpy 2.0.2 is installed already and left alone",)


def test_openvino_for_another_python_is_left_out_with_a_word(tmp_path: Path) -> None:
    """The day Kaggle's Python changes, a submission becomes slower and does not fail."""
    attached = wheels(tmp_path, birdkit("0.1.0"), OPENVINO.format("cp313"), OPENVINO.format("cp314"))
    choice = choose(attached, installed={}, tags=TAGS)
    assert [wheel.name for wheel in choice.wheels] == ["birdkit"]
    assert len(choice.notes) == 2 and "openvino is here for cp313, cp314 alone" in choice.notes[0]
    assert choice.notes[1] == "no wheel of openvino fits: notebook 04 predicts with torch, several times slower"
    with_own = choose([*attached, *wheels(tmp_path, OPENVINO.format("cp312"))], installed={}, tags=TAGS)
    assert [wheel.name for wheel in with_own.wheels] == ["birdkit", "openvino"] and not with_own.notes


def test_without_openvino_a_person_is_told(tmp_path: Path) -> None:
    """A submission that takes four times as long must not be a surprise of the scored run."""
    choice = choose(wheels(tmp_path, birdkit("0.1.0")), installed={}, tags=TAGS)
    assert choice.notes == ("no wheel of openvino is attached: notebook 04 predicts with torch, several times slower",)
    other = wheels(tmp_path, birdkit("0.1.0"), OPENVINO.replace("openvino", "onnxruntime").format("cp312"))
    assert not choose(other, installed={}, tags=TAGS).notes


def test_without_birdkit_nothing_is_installed(tmp_path: Path) -> None:
    """The first thing to read must be what to attach."""
    with pytest.raises(OfflineError, match="attach the dataset of wheels"):
        choose(wheels(tmp_path, OPENVINO.format("cp312")), installed={}, tags=TAGS)


def test_pip_gets_these_very_files_and_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With dependencies it would look for torch; with PYTHONPATH it takes birdkit in its wheel for installed."""
    seen: list = []
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / birdkit("0.1.0")))
    monkeypatch.setattr(subprocess, "run", lambda command, **options: seen.append((command, options["env"])) or
                        subprocess.CompletedProcess(command, 0))
    offline.install(wheels(tmp_path, birdkit("0.1.0")))
    command, environment = seen[0]
    assert command[1:4] == ["-m", "pip", "install"] and {"--no-index", "--no-deps"} <= set(command)
    assert command[-1] == str(tmp_path / birdkit("0.1.0")) and "PYTHONPATH" not in environment


def test_the_module_runs_out_of_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture) -> None:
    """From the mounted dataset to an importable package, and what was installed from where is said."""
    (tmp_path / "input" / "wheels").mkdir(parents=True)
    wheel = empty_wheel(tmp_path / "input" / "wheels")
    monkeypatch.setattr(offline, "installed_versions", dict)
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "site"))
    monkeypatch.setattr(offline.logging, "basicConfig", lambda **_: None)
    with monkeypatch.context() as patch:
        said: list[str] = []
        patch.setattr(offline.log, "info", lambda text, *values: said.append(text % values))
        assert offline.run_offline([str(tmp_path / "input")]) == 0
    assert said == [f"installed birdkit 0.1.0 from {wheel}"]
    assert (tmp_path / "site" / "birdkit" / "__init__.py").is_file()


def test_a_wheel_that_pip_refuses_is_named(tmp_path: Path) -> None:
    """An upload that broke off leaves half a file; only pip knows why, and it must be heard."""
    put(tmp_path / "wheels", birdkit("0.1.0"), content="half")
    with pytest.raises(OfflineError, match=r"pip cannot install birdkit 0\.1\.0 from .*(?s:.)*(invalid|[Ww]heel)"):
        offline.install(find_wheels(tmp_path))
    code = ("import sys; from birdkit.kaggle import offline; "
            f"sys.exit(offline.run_offline([{str(tmp_path / 'nothing')!r}]))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "attach the dataset of wheels" in done.stdout


def test_a_wheel_on_the_path_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This module runs out of birdkit's wheel; taken for installed, birdkit would never be."""
    monkeypatch.setattr(sys, "path", [str(empty_wheel(tmp_path))])
    assert offline.installed_versions() == {}
