"""Where things lie and how long there is: Kaggle's mounts, its scored rerun, the work folder, the deadline.

The same calls work elsewhere, where a notebook gets its folders as parameters. Not for talking to Kaggle's servers:
that is `kaggle_submit.sh`. Mount layouts and environment variables as seen in public notebooks up to 2026.

To try notebooks as Kaggle runs them, BIRDKIT_KAGGLE_ROOT names a folder that stands for /kaggle, with input/ and
working/; it is read when birdkit is imported, and by the install cell of the notebooks.
"""
from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

ROOT = Path(os.environ.get("BIRDKIT_KAGGLE_ROOT", "/kaggle"))
INPUT_ROOTS = (ROOT / "input",)
SAMPLE = "sample_submission.csv"
TABLES = ("taxonomy.csv", "train.csv", "train_metadata.csv")  # of which every competition since 2021 has one
SOUNDSCAPE_FOLDERS = ("train_soundscapes", "unlabeled_soundscapes")
RECORDING_FOLDERS = ("train_audio", "train_short_audio")
SESSION_H = 11.5  # of the 12 hours after which Kaggle ends a session and drops what it has written; the rest is room
AUDIO_SUFFIXES = (".ogg", ".flac", ".wav", ".mp3", ".opus")


class MissingInputError(FileNotFoundError):
    """An input is not where it is looked for; the message lists every place that was looked at."""


def is_kaggle() -> bool:
    """True inside a Kaggle notebook."""
    return bool(run_type())


def run_type() -> str:
    """Kaggle's name for the kind of run: "Interactive" (editor), "Batch" (saved version), "" anywhere else."""
    return os.environ.get("KAGGLE_KERNEL_RUN_TYPE", "")


def is_rerun() -> bool:
    """True in the run that is scored, the only one that sees the hidden test files."""
    return bool(os.environ.get("KAGGLE_IS_COMPETITION_RERUN", ""))


def working_dir() -> Path:
    """The folder whose files are kept: /kaggle/working on Kaggle, the current folder elsewhere."""
    return ROOT / "working" if is_kaggle() else Path.cwd()


def find_competition(slug: str, *, given: str | Path = "", roots: Sequence[str | Path] = INPUT_ROOTS,
                     depth: int = 3) -> Path:
    """The folder of a competition's files.

    A path that is `given` wins. Otherwise <root>/<slug> (Kaggle until 2025), <root>/competitions/<slug> (2026), and
    then, at most `depth` levels down, the only folder with a sample submission and one of `TABLES`. Raises
    MissingInputError where there is none, and where several folders have them and none has the name.
    """
    if given:
        return _existing(given)
    named = [Path(root) / middle / slug for root in roots for middle in ("", "competitions") if slug]
    for folder in named:
        if folder.is_dir():
            return folder
    signed = [folder for root in roots for folder in _folders(Path(root), depth) if _is_competition(folder)]
    if len(signed) == 1:
        return signed[0]
    found = f"; {len(signed)} folders have them: {_listed(signed)}" if signed else ""
    raise MissingInputError(f"no competition {slug!r}: looked at {_listed(named)}, and {depth} levels down in "
                        f"{_listed(roots)} for a folder with {SAMPLE} and one of {', '.join(TABLES)}{found}. "
                        "Attach the competition to the notebook, or give the path of its files")


def find_dataset(slug: str, owner: str | None = None, *, given: str | Path = "",
                 roots: Sequence[str | Path] = INPUT_ROOTS) -> Path:
    """The folder of an attached dataset or of another notebook's output.

    A path that is `given` wins. Otherwise <root>/<slug>, <root>/datasets/<owner>/<slug> and
    <root>/notebooks/<owner>/<slug>; without `owner`, under any. Raises MissingInputError where there is none, and where
    several owners have one.
    """
    if given:
        return _existing(given)
    if not slug or "/" in slug:
        raise ValueError(f"slug = {slug!r} must be a name without its owner, such as 'birdkit-wheels'")
    for root in roots:
        if (Path(root) / slug).is_dir():
            return Path(root) / slug
    patterns = [f"{kind}/{owner or '*'}/{slug}" for kind in ("datasets", "notebooks")]
    found = sorted(folder for root in roots for pattern in patterns for folder in Path(root).glob(pattern))
    if len(found) > 1:
        raise MissingInputError(f"{len(found)} inputs are named {slug!r}: {_listed(found)}; give the owner")
    if not found:
        looked = [Path(root) / pattern for root in roots for pattern in (slug, *patterns)]
        raise MissingInputError(f"no dataset or notebook output {slug!r}: looked at {_listed(looked)}")
    return found[0]


def find_test_audio(competition_dir: str | Path, *, rehearsal_files: int = 4) -> tuple[list[Path], bool]:
    """The test soundscapes, sorted by name, and whether this is only a rehearsal.

    Kaggle fills test_soundscapes/ only in the scored rerun. When a version is saved it is empty: then the first
    `rehearsal_files` training soundscapes stand in, or where a year has none (2022, 2023) recordings, so that the
    whole way is run and timed before it counts.
    An empty folder in the rerun raises MissingInputError: going on would submit invented rows.
    """
    folder = Path(competition_dir)
    files = _audio(folder / "test_soundscapes")
    if files:
        return files, False
    if is_rerun():
        raise MissingInputError(f"this is the scored rerun, but {folder / 'test_soundscapes'} holds no audio "
                            f"({', '.join(AUDIO_SUFFIXES)})")
    places = [folder / name for name in (*SOUNDSCAPE_FOLDERS, *RECORDING_FOLDERS)]
    audio = (path for place in places for inside in (place, *_subfolders(place)) for path in _audio(inside))
    stand_ins = list(itertools.islice(audio, rehearsal_files))
    if not stand_ins:
        raise MissingInputError(f"no audio in {folder / 'test_soundscapes'}, nor, to rehearse with, in "
                                f"{_listed(places)}")
    return stand_ins, True


class Workspace:
    """The files that the notebooks hand to each other, by what they are.

    Everything is written to `folder` (empty: `working_dir()`). What an earlier notebook wrote is read from there or,
    on Kaggle, where every notebook has a folder of its own, from an attached output at most `depth` levels below
    `roots`. Rounds count from 0, which has no pseudo-labels; the teachers of round r were trained in round r - 1.
    """

    def __init__(self, folder: str | Path = "", *, roots: Sequence[str | Path] = INPUT_ROOTS, depth: int = 4) -> None:
        self.folder = Path(folder).absolute() if folder else working_dir()
        self.roots = roots
        self.depth = depth
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """Where a file of that name is written."""
        return self.folder / name

    def run_dir(self, round: int, split: int) -> Path:
        """The folder of one training run."""
        return self.folder / f"round{round}_split{split}"

    def call_dir(self, split: int) -> Path:
        """The folder of one training run of a call detector."""
        return self.folder / f"call_split{split}"

    def pseudo_labels_path(self, round: int) -> Path:
        """Where the pseudo-labels that round `round` trains on are written, those of all its teachers."""
        return self.folder / pseudo_labels_name(round)

    def recording_labels_path(self, round: int) -> Path:
        """Where what round `round`'s teachers say of the train recordings is written."""
        return self.folder / f"recording_labels_r{round}.parquet"

    def recordings(self) -> Path:
        """The table of recordings; MissingInputError before notebook 01."""
        return self._find("recordings.parquet")[0]

    def soundscapes(self) -> Path:
        """The table of unlabelled soundscapes; MissingInputError before notebook 01."""
        return self._find("soundscapes.parquet")[0]

    def labelled_soundscapes(self) -> Path | None:
        """The table of labelled windows of soundscapes, None where the competition has none."""
        found = self.look("labelled_soundscapes.parquet")
        return found[0] if found else None

    def pseudo_labels(self, round: int) -> Path | None:
        """The pseudo-labels that round `round` trains on: None in round 0, MissingInputError before notebook 02."""
        return self._find(self.pseudo_labels_path(round).name)[0] if round > 0 else None

    def recording_labels(self, round: int) -> Path | None:
        """What the round's teachers say of the train recordings: None in round 0, and where nobody asked them."""
        found = self.look(self.recording_labels_path(round).name) if round > 0 else []
        return found[0] if found else None

    def checkpoints(self, round: int, *, earlier: int = 0, bundle: str = "") -> list[Path]:
        """The best checkpoint of every run of a round, and of as many `earlier` rounds: an ensemble.

        The newest round comes first, and in it splits in the order of their numbers: what is last is left out first
        when time is short, and the first one's post-processing and decision hold for all. Those of `folder`, or where
        it has none of all attached outputs. MissingInputError if a round has none.

        bundle  name of the folder that `birdkit export` wrote beside each checkpoint, such as "openvino_int8": these
                bundles instead. MissingInputError where a checkpoint that is there has none
        """
        rounds = range(round, max(round - earlier, 0) - 1, -1)
        runs = [f"round{number}_split*" for number in rounds]
        if not bundle:
            return [path for run in runs for path in _by_number(self._find(f"{run}/best.safetensors"))]
        found = [path.parent for run in runs for path in _by_number(self._find(f"{run}/{bundle}/bundle.json"))]
        trained = {path.parent.name for run in runs for path in self.look(f"{run}/best.safetensors")}
        without = sorted(trained - {path.parent.name for path in found})
        if without:
            raise MissingInputError(f"no {bundle} in {', '.join(without)}, but in {len(found)} other runs: export all "
                                    "of them, or none")
        return found

    def packed_dir(self) -> Path:
        """Where a packing of the audio is written."""
        return self.folder / "packed"

    def packed(self) -> Path | None:
        """The folder of a packing, None where there is none: audio is then decoded from its own files."""
        found = self.look("packed/packing.json")
        return found[0].parent if found else None

    def call_detectors(self) -> list[Path]:
        """The best checkpoint of every call detector, from where `checkpoints` looks; none is no error."""
        return _by_number(self.look("call_split*/best.safetensors"))

    def teachers(self, round: int) -> list[Path]:
        """The checkpoints that label soundscapes for round `round`: none in round 0."""
        return self.checkpoints(round - 1) if round > 0 else []

    def look(self, pattern: str) -> list[Path]:
        """The files of that name in `folder`, or where it has none in all attached outputs."""
        attached = (folder for root in self.roots for folder in _folders(Path(root), self.depth))
        return sorted(self.folder.glob(pattern)) or [path for one in attached for path in sorted(one.glob(pattern))]

    def _find(self, pattern: str) -> list[Path]:
        found = self.look(pattern)
        if found:
            return found
        raise MissingInputError(f"no {pattern}: looked in {self.folder} and {self.depth} levels down in "
                            f"{_listed(self.roots)}. Run the notebook that writes it first, or attach its output")


class Deadline:
    """Seconds left of a time budget, counted from creation.

    >>> Deadline(60).exceeded()
    False
    """

    def __init__(self, budget_s: float) -> None:
        if not budget_s > 0:
            raise ValueError(f"budget_s = {budget_s} must be above 0")
        self.budget_s = budget_s
        self._start_s = time.monotonic()

    def __repr__(self) -> str:
        return f"{self.remaining() / 60:.1f} of {self.budget_s / 60:.1f} minutes left"

    def remaining(self) -> float:
        """Seconds until the deadline, negative after it."""
        return self.budget_s - (time.monotonic() - self._start_s)

    def exceeded(self) -> bool:
        """True from the deadline on."""
        return self.remaining() <= 0


def pseudo_labels_name(round: int) -> str:
    """The name of a round's table of pseudo-labels.

    >>> pseudo_labels_name(2)
    'pseudo_labels_r2.parquet'
    """
    return f"pseudo_labels_r{round}.parquet"


def _existing(folder: str | Path) -> Path:
    if not Path(folder).is_dir():
        raise MissingInputError(f"{folder} is not a folder")
    return Path(folder).absolute()


def _is_competition(folder: Path) -> bool:
    return (folder / SAMPLE).is_file() and any((folder / name).is_file() for name in TABLES)


def _folders(root: Path, depth: int) -> Iterator[Path]:
    """`root` and the folders below it, level by level; a competition is not entered, it can hold 40,000 files."""
    level = [root] if root.is_dir() else []
    for _ in range(depth + 1):
        yield from level
        level = [child for folder in level if not _is_competition(folder)
                 for child in sorted(folder.iterdir()) if child.is_dir()]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _audio(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in AUDIO_SUFFIXES)


def _by_number(paths: Iterable[Path]) -> list[Path]:
    """Files in the folders of runs, in the order of the numbers in their names: split 2 before split 10."""
    def key(path: Path) -> list[tuple[int, str]]:
        run = next(part for part in reversed(path.parts) if "_split" in part)
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", run)]

    return sorted(paths, key=key)


def _listed(paths: Iterable[str | Path]) -> str:
    return ", ".join(str(path) for path in paths) or "nothing"
