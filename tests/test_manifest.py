"""What a notebook ran with: the same for a wheel and what is installed from it, one entry per notebook."""
from __future__ import annotations

import json
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

import birdkit
from birdkit.kaggle import Workspace, manifest

PACKAGE = Path(birdkit.__file__).parent


def wheel_of(package: Path, path: Path) -> Path:
    """A wheel as pip would find it: the package, its metadata and the notebooks."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(package.rglob("*.py"), reverse=True):
            archive.write(file, f"birdkit/{file.relative_to(package).as_posix()}")
        archive.writestr("birdkit-0.1.0.dist-info/RECORD", "anything")
        archive.writestr("birdkit-0.1.0.data/data/share/birdkit/other.py", "anything")
    return path


def test_a_wheel_and_the_package_in_it_have_one_hash(tmp_path: Path) -> None:
    """Otherwise every right run would be refused."""
    copy = shutil.copytree(PACKAGE, tmp_path / "birdkit")
    wheel = wheel_of(copy, tmp_path / "birdkit-0.1.0-py3-none-any.whl")
    assert manifest.package_sha256() == manifest.package_sha256(copy) == manifest.package_sha256(wheel)


@pytest.mark.parametrize("change", ["content", "name", "absence"])
def test_another_package_has_another_hash(tmp_path: Path, change: str) -> None:
    """One changed byte, name or file, under the same version number, is other code."""
    copy = shutil.copytree(PACKAGE, tmp_path / "birdkit")
    module = copy / "folding.py"
    if change == "content":
        module.write_bytes(module.read_bytes() + b"\n")
    if change == "name":
        module.rename(copy / "folding2.py")  # in the same place of the order
    if change == "absence":
        module.unlink()
    assert manifest.package_sha256(copy) != manifest.package_sha256()


def test_a_package_that_is_imported_from_its_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pip fails on Kaggle, the wheel is put on sys.path."""
    wheel = wheel_of(PACKAGE, tmp_path / "birdkit-0.1.0-py3-none-any.whl")
    before = manifest.package_sha256()
    monkeypatch.setattr(birdkit, "__file__", str(wheel / "birdkit" / "__init__.py"))
    assert manifest.package_sha256() == before


def test_every_notebook_keeps_its_own_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several share a work folder; the last one must not wipe out what the others ran with, and repeats replace."""
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    work = Workspace(tmp_path)
    names = {"ROUND": 1, "CHANGES": {"seed": 3}, "work": work, "_HIDDEN": 1, "PLACE": tmp_path}
    manifest.write_manifest(work, manifest.TRAIN, names)
    manifest.write_manifest(work, manifest.INFER, {})
    path = manifest.write_manifest(work, manifest.TRAIN, {**names, "ROUND": 2})
    assert path == tmp_path / "run_manifest.json" and json.loads(path.read_text()).keys() == {
        manifest.TRAIN, manifest.INFER}
    entry = manifest.read_manifest(path, manifest.TRAIN)
    assert entry["parameters"] == {"ROUND": 2, "CHANGES": {"seed": 3}, "PLACE": repr(tmp_path)}
    assert entry["package_sha256"] == manifest.package_sha256() and entry["birdkit"] == birdkit.__version__
    assert entry["run_type"] == "Batch" and entry["rerun"] is False
    assert entry["python"] == ".".join(map(str, sys.version_info[:3])) and entry["packages"]["torch"]
    assert list(tmp_path.iterdir()) == [path], "something half written was left"


def test_a_manifest_that_does_not_say_it_is_refused(tmp_path: Path) -> None:
    """An error's page that was downloaded in its place must not pass for a manifest."""
    path = tmp_path / "run_manifest.json"
    with pytest.raises(manifest.ManifestError, match="is none of 01_preprocess"):
        manifest.write_manifest(Workspace(tmp_path), "05_more", {})
    path.write_text("<html>404</html>")
    with pytest.raises(manifest.ManifestError, match="is no manifest"):
        manifest.read_manifest(path, manifest.INFER)
    path.write_text(json.dumps({manifest.TRAIN: {}}))
    with pytest.raises(manifest.ManifestError, match="says nothing of 04_ensemble_infer"):
        manifest.read_manifest(path, manifest.INFER)
    with pytest.raises(manifest.ManifestError, match="holds no"):
        manifest.package_sha256(tmp_path)
