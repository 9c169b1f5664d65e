"""What is sent to Kaggle: flat folders of wheels, folders of weights, a notebook with its settings, and their metadata.

The fields and their traps as of the clients of 2026: titles become slugs, internet is on unless it is switched off, a
new version of a dataset replaces all its files.
"""
from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from birdkit.kaggle import manifest

MANIFEST = "MANIFEST.json"
DATASET_METADATA, KERNEL_METADATA = "dataset-metadata.json", "kernel-metadata.json"
LICENCE = "apache-2.0"
WEIGHTS = ("round*_split*/best.safetensors", "call_split*/best.safetensors")  # in a work folder
BESIDE = ("*.toml", "round*_split*/*/bundle.json")  # an ensemble, and exported models with all that is in their folders
T4_X2 = "NvidiaTeslaT4"  # Kaggle has no single one
SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class StagingError(ValueError):
    """What is to be sent is not as Kaggle needs it; the message names the file or the name."""


@dataclass(frozen=True)
class Kernel:
    """One push of a notebook.

    owner        whose account, as in kaggle.com/OWNER
    slug         its name there; no underscore, which the server would turn into a hyphen
    competition  attached, by its slug
    datasets     attached, "owner/slug" each
    kernels      other notebooks whose latest output is attached, "owner/slug" each
    accelerator  "" for a CPU, `T4_X2`
    internet     for pretrained weights while training; a submission must do without
    """

    owner: str
    slug: str
    competition: str
    datasets: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ()
    accelerator: str = ""
    internet: bool = False

    def metadata(self, code_file: str) -> dict[str, Any]:
        """Every field that a push reads.

        >>> Kernel("ann", "birdkit-01", "birdclef-2026").metadata("01.ipynb")["enable_internet"]
        False
        """
        return {"id": f"{self.owner}/{check_slug(self.slug)}", "title": title(self.slug), "code_file": code_file,
                "language": "python", "kernel_type": "notebook", "is_private": True,
                "enable_gpu": bool(self.accelerator), "enable_tpu": False, "enable_internet": self.internet,
                "machine_shape": self.accelerator, "dataset_sources": list(self.datasets),
                "competition_sources": [self.competition], "kernel_sources": list(self.kernels),
                "model_sources": [], "keywords": []}


def check_slug(slug: str) -> str:
    """The slug as given; StagingError where Kaggle would make another one of it, or refuse it.

    >>> check_slug("04_ensemble_infer")
    Traceback (most recent call last):
    birdkit.sending.staging.StagingError: slug = '04_ensemble_infer' must be 6 to 50 lower-case letters, digits and
    single hyphens
    """
    if not SLUG.fullmatch(slug) or not 6 <= len(slug) <= 50:
        raise StagingError(f"slug = {slug!r} must be 6 to 50 lower-case letters, digits and single hyphens")
    return slug


def title(slug: str) -> str:
    """The title that Kaggle turns into the slug: with another one, the next push would make a second notebook.

    >>> title("birdkit-04-ensemble-infer")
    'birdkit 04 ensemble infer'
    """
    return slug.replace("-", " ")


def dataset_metadata(owner: str, slug: str) -> dict[str, Any]:
    """The metadata of a private dataset."""
    return {"id": f"{owner}/{check_slug(slug)}", "title": title(slug), "licenses": [{"name": LICENCE}]}


def stage_wheels(folder: str | Path, wheels: Sequence[str | Path], *, owner: str, slug: str, commit: str) -> str:
    """Lay wheels flat into a new folder, with their manifest and metadata; returns the SHA-256 of what is in it.

    Kaggle skips folders, so of two wheels with one name only the first counts. Exactly one of them must be birdkit's.
    """
    named = {Path(wheel).name: Path(wheel) for wheel in reversed(list(wheels))}
    own = [path for name, path in named.items() if name.startswith("birdkit-")]
    if len(own) != 1:
        raise StagingError(f"{len(own)} wheels of birdkit among {', '.join(sorted(named)) or 'none'}: one is needed")
    target = _new_folder(folder)
    for name, path in named.items():
        shutil.copyfile(path, target / name)
    return _finish(target, owner, slug, {"commit": commit, "package_sha256": manifest.package_sha256(own[0])})


def stage_weights(folder: str | Path, work_dir: str | Path, *, owner: str, slug: str, commit: str) -> str:
    """Lay the models of a work folder into a new one, each in the folder of its run; returns its SHA-256 as above.

    Those are the best checkpoints, the bundles that were exported from them, and what makes them an ensemble.
    """
    work = Path(work_dir)
    found, target = find_weights(work), _new_folder(folder)
    for path in found:
        place = target / path.relative_to(work)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    return _finish(target, owner, slug, {"commit": commit})


def find_weights(work_dir: str | Path) -> list[Path]:
    """The models of a work folder and what belongs to them; StagingError where there is none."""
    work = Path(work_dir)
    found = sorted(path for pattern in WEIGHTS for path in work.glob(pattern))
    if not found:
        raise StagingError(f"{work} holds no {' or '.join(WEIGHTS)}")
    beside = [path for pattern in BESIDE for path in work.glob(pattern)]
    bundles = [path.parent.iterdir() for path in beside if path.parent != work]
    return found + [path for path in chain(beside, *bundles) if path.is_file()]


def stage_kernel(folder: str | Path, notebook: str | Path, kernel: Kernel, settings: Mapping[str, Any],
                 stamp: str) -> str:
    """Write a notebook with its settings, and its metadata; returns the SHA-256 of both without the stamp.

    settings  of the notebook's first cell, by name; they go into a cell after it, as papermill does it
    stamp     a comment in that cell, by which this very push can be told from others
    """
    book = check_notebook(notebook)
    position, lines = _parameters(book, notebook)[0], injected(notebook, settings)
    metadata = kernel.metadata(Path(notebook).name)
    content = _sha256(json.dumps([book, lines, metadata], sort_keys=True).encode())
    book["cells"].insert(position + 1, {
        "cell_type": "code", "id": "injected", "metadata": {"tags": ["injected-parameters"]}, "execution_count": None,
        "outputs": [], "source": "\n".join([f"# {stamp}", *lines])})
    target = _new_folder(folder)
    _write_file(target / Path(notebook).name, book)
    _write_file(target / KERNEL_METADATA, metadata)
    return content


def injected(notebook: str | Path, settings: Mapping[str, Any]) -> list[str]:
    """The lines of the cell of settings; StagingError for one that the notebook does not have."""
    known = _parameters(check_notebook(notebook), notebook)[1]
    unknown = sorted(settings.keys() - known)
    if unknown:
        raise StagingError(f"{notebook} has no setting {', '.join(unknown)}; there is {', '.join(sorted(known))}")
    return [f"{name} = {value!r}" for name, value in sorted(settings.items())]


def check_notebook(path: str | Path) -> dict[str, Any]:
    """The notebook; StagingError where Kaggle could not run it, or where it holds outputs of an earlier run."""
    try:
        book = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise StagingError(f"{path} is no notebook: {error}") from error
    if not book.get("metadata", {}).get("kernelspec", {}).get("name"):
        raise StagingError(f"{path} names no kernel (metadata.kernelspec.name): Kaggle could not run it")
    with_outputs = [number for number, cell in enumerate(book["cells"]) if cell.get("outputs")]
    if with_outputs:
        raise StagingError(f"{path}: cells {with_outputs} hold outputs of an earlier run; clear them")
    return book


def _parameters(book: Mapping[str, Any], path: str | Path) -> tuple[int, set[str]]:
    """Where the cell of settings is, and their names."""
    for number, cell in enumerate(book["cells"]):
        if "parameters" in cell["metadata"].get("tags", []):
            body = ast.parse("".join(cell["source"])).body
            return number, {target.id for node in body if isinstance(node, ast.Assign) for target in node.targets
                            if isinstance(target, ast.Name)}
    raise StagingError(f"{path} has no cell tagged parameters")


def _finish(folder: Path, owner: str, slug: str, about: Mapping[str, str]) -> str:
    """Write manifest and metadata; the hash of all files' names and bytes, which is also in the manifest."""
    files = {path.relative_to(folder).as_posix(): {"sha256": _sha256(path.read_bytes()), "bytes": path.stat().st_size}
             for path in _files_to_send(folder)}
    content = _sha256(json.dumps(files, sort_keys=True).encode())
    _write_file(folder / MANIFEST, {**about, "content_sha256": content, "files": files})
    _write_file(folder / DATASET_METADATA, dataset_metadata(owner, slug))
    return content


def _files_to_send(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _new_folder(folder: str | Path) -> Path:
    target = Path(folder)
    target.mkdir(parents=True)
    return target


def _write_file(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
