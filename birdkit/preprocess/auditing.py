"""Audit a competition's files: which recordings can be used, which cannot and why, and who validates what.

Every file is decoded whole, on threads, since libsndfile lets go of Python's lock: once to check it, and once at a low
rate to find near-duplicates. What was found is kept by file, size and time of change, so that a second audit decodes
only what is new. Nothing is converted or copied.
"""
from __future__ import annotations

import ast
import dataclasses
import json
import logging
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import sklearn
import soundfile as sf

import birdkit
from birdkit import audio, splits
from birdkit.config import SplitConfig
from birdkit.data.filecache import FileCache
from birdkit.data.labelled_soundscapes import audit_windows
from birdkit.kaggle.disk import require_room
from birdkit.pace import one_thread
from birdkit.preprocess import fingerprint
from birdkit.preprocess.fingerprint import Fingerprint, Fingerprinter, find_overlaps
from birdkit.preprocess.marks import centres_of, read_marks
from birdkit.profiles import Competition, read_classes, read_scored, recognise
from birdkit.settings import to_dict
from birdkit.splits import STRATIFIED

log = logging.getLogger(__name__)

RECORDING_COLUMNS = ("file", "label", "secondary", "duration_s", "sample_rate_hz", "channels", "rating", "author",
                     "collection", "latitude", "longitude", "group", "content", "near_duplicate", "split")
ROW_BYTES = 4096  # of a file in all tables and the report together, at most
PRINT_SHARE = 0.02  # of a file that its fingerprint may take: 24 peaks a second at most, of audio of 64 kbit/s
SOUNDSCAPE_COLUMNS = ("file", "duration_s", "sample_rate_hz", "content", "split")


@dataclass(frozen=True)
class Audit:
    """Where an audit wrote what it found, and how much it found.

    recordings   parquet, a row per usable recording: file relative to the competition folder, label, secondary
                 (labels joined by a space), duration_s, sample_rate_hz, channels, rating (0: nobody rated it), author,
                 collection, latitude and longitude as the host wrote them ("" where it did not), group, content
                 (sha256 of the decoded samples), near_duplicate (the first file of the set, "" for none), split
                 (-1: always in training); and centre_s, NaN where there is none, if marks were given
    soundscapes  parquet, a row per usable unlabelled soundscape: file, duration_s, sample_rate_hz, content, split
    labelled     parquet, a row per labelled window of a soundscape: file, start_s, end_s, labels (joined by a space,
                 "" where nothing calls), split; None where the competition has none. Its files are not among the
                 unlabelled ones
    excluded     csv, a row per file that cannot be used: file, reason
    report       json: settings, versions, counts, the split of every class, and what the counts count
    classes      in the order of the submission's columns
    counts       by name, the same as in the report
    """

    recordings: Path
    soundscapes: Path
    excluded: Path
    report: Path
    classes: tuple[str, ...]
    counts: dict[str, int]
    labelled: Path | None = None


@dataclass
class _Findings:
    """What the steps of one audit have to say: files excluded, by kind of reason, and lists of things worth knowing."""

    excluded: list[tuple[str, str, str]] = field(default_factory=list)  # kind, file, reason
    lists: dict[str, list] = field(default_factory=dict)

    def exclude(self, kind: str, files: Iterable[str], reasons: Iterable[str]) -> None:
        """Enter files that cannot be used, with their reasons."""
        self.excluded += [(kind, file, reason) for file, reason in zip(files, reasons, strict=True)]

    def table(self) -> pd.DataFrame:
        """The excluded table: file, reason."""
        return pd.DataFrame([row[1:] for row in self.excluded], columns=["file", "reason"]).sort_values("file")

    def counts(self) -> dict[str, int]:
        """How many files were excluded for each kind of reason, and how long each list is."""
        kinds = Counter(kind for kind, _, _ in self.excluded)
        return {"excluded": len(self.excluded), **{f"excluded_{kind}": n for kind, n in sorted(kinds.items())},
                **{name: len(items) for name, items in self.lists.items()}}


def audit(competition_dir: Path | str, work_dir: Path | str, *, n_splits: int = 5, seed: int = 0,
          splitting: SplitConfig = STRATIFIED, near_duplicates: bool = True, marks: Path | str | None = None,
          workers: int = 2, year: int = 0) -> Audit:
    """Read a competition's tables, decode its audio, and write the tables that everything else reads.

    Excluded with a reason are recordings under a label that is no class, listed under several labels, absent,
    refused by birdkit.audio, digitally silent, or equal in content to another of the same label; and audio that no
    row lists. Equal audio under different labels is kept under each, the other labels secondary, in one group.
    Rows that repeat a file under one label become one row with all their secondary labels. Recordings that share a
    stretch of sound are kept and listed, and are of one group.

    n_splits         parts of the cross-validation
    splitting        which recordings validate which part
    near_duplicates  False does not look for them, which takes as long as everything else together
    marks            csv of clip centres that people marked, with the columns filename, as in the train table, and
                     centre_s, in seconds from the start; at most one of each recording
    workers          threads that decode
    year             of the competition, stated; 0 to recognise it, see birdkit.profiles.recognise

    Raises ProfileError or ValueError, naming the file, where the tables lack columns, disagree on the classes, cannot
    be parsed, or leave no usable recording, or a mark is of no recording or outside of it;
    birdkit.kaggle.DiskSpaceError, before anything is decoded, where the disk has no room for what is written. Can be
    stopped and started again.
    """
    folder, work = Path(competition_dir), Path(work_dir)
    work.mkdir(parents=True, exist_ok=True)
    competition, findings = recognise(folder, year=year), _Findings()
    classes = read_classes(folder, competition)
    table = _read_rows(folder / competition.train_table, competition, findings)
    centres = None if marks is None else read_marks(marks, listed=set(table["file"]), folder=competition.audio)
    table = _keep_known(table, folder, classes, competition, findings)
    places = dict.fromkeys(name for name in (competition.unlabelled, competition.labelled_in) if name)
    unlabelled = [file for name in places for file in _files(folder, name)]
    _require_room(work, [folder / file for file in (*table["file"], *unlabelled)], near_duplicates=near_duplicates)
    table = _with_info(table, _decode(folder, table["file"], work, workers), findings, "")
    table = _keep_distinct(table, findings)
    soundscapes = pd.DataFrame({"file": pd.Series(unlabelled, dtype=str)})
    soundscapes = _with_info(soundscapes, _decode(folder, soundscapes["file"], work, workers), findings, "soundscape_")
    _replace(work / "excluded.csv", lambda path: findings.table().to_csv(path, index=False))
    if table.empty:
        raise ValueError(f"{folder / competition.train_table}: none of its recordings can be used; "
                         f"{work / 'excluded.csv'} says why")
    if centres is not None:
        table["centre_s"] = centres_of(table, centres)
    table["near_duplicate"] = (_near_duplicates(table, soundscapes, folder, work, workers, findings)
                               if near_duplicates else "")
    scored = read_scored(folder, competition) if splitting.scored_only else None
    table["group"] = splits.group_recordings(table, n_splits, config=splitting, scored=scored)
    table["split"] = splits.assign_splits(table, n_splits, seed=seed, config=splitting, scored=scored)
    splits.check_splits(table)
    soundscapes["split"] = splits.assign_soundscapes(soundscapes["file"].tolist(), n_splits, seed=seed)
    labelled = None
    if competition.labelled:
        labelled, lists = audit_windows(folder / competition.labelled, soundscapes, classes, recorded=table["label"],
                                        folder=competition.labelled_in, window_s=competition.window_s)
        findings.lists |= lists
        soundscapes = soundscapes[~soundscapes["file"].isin(labelled["file"])]
    settings = {"competition_dir": str(folder), "year": competition.year, "guessed": list(competition.guessed),
                "n_splits": n_splits, "seed": seed,
                "splitting": to_dict(splitting), "near_duplicates": near_duplicates,
                "marks": None if marks is None else str(marks)}
    return _write(table, soundscapes, labelled, work, classes, findings, settings)


def parse_secondary(text: str) -> list[str]:
    """The labels in a secondary_labels cell, which holds a Python list; ValueError for anything else.

    >>> parse_secondary("['rebwoo', 'houspa']"), parse_secondary("['']"), parse_secondary("")
    (['rebwoo', 'houspa'], [], [])
    """
    try:
        labels = ast.literal_eval(text.strip() or "[]")
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"{text!r} is not a list of labels") from error
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{text!r} is not a list of labels")
    return [label.strip() for label in labels if label.strip()]


def _read_rows(path: Path, competition: Competition, findings: _Findings) -> pd.DataFrame:
    """The train table, a row for each file and label: text, but for rating and the list of secondary labels."""
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    missing = [name for name in competition.columns if name not in rows]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}; it has: {', '.join(rows.columns)}")
    blank = pd.Series("", index=rows.index)
    secondary = []
    for line, (file, text) in enumerate(zip(rows["filename"], rows.get("secondary_labels", blank), strict=True),
                                         start=2):
        try:
            secondary.append(parse_secondary(text))
        except ValueError as error:
            raise ValueError(f"{path}, line {line}, {file}: secondary_labels {error}") from error
    names = [competition.recording.format(filename=name, primary_label=label.strip())
             for name, label in zip(rows["filename"], rows["primary_label"], strict=True)]
    table = pd.DataFrame({
        "file": [f"{competition.audio}/{name}" for name in names], "label": rows["primary_label"].str.strip(),
        "secondary": secondary, "rating": pd.to_numeric(rows.get("rating", blank), errors="coerce"),
        "author": rows.get("author", blank),
        "collection": rows.get("collection", blank),
        "latitude": rows.get("latitude", blank), "longitude": rows.get("longitude", blank)})
    findings.lists["rating_missing"] = table.loc[table["rating"].isna(), "file"].tolist()
    table["rating"] = table["rating"].fillna(0.0).astype(float)
    same = rows.duplicated()
    findings.lists["rows_repeated"] = table.loc[same, "file"].tolist()
    findings.lists["rows_merged"] = table.loc[~same & table.duplicated(["file", "label"]), "file"].tolist()
    return _merge(table.sort_values("file", kind="stable"), ["file", "label"])


def _keep_known(table: pd.DataFrame, folder: Path, classes: Iterable[str], competition: Competition,
                findings: _Findings) -> pd.DataFrame:
    """The rows whose file is there under one label that is a class; other secondary labels are dropped."""
    known, labels, audio_dir = set(classes), table.groupby("file")["label"].agg(list), competition.audio
    if not table["label"].isin(known).any():
        raise ValueError(f"{folder / competition.train_table}: no primary_label is a class of "
                         f"{competition.class_table}; the first are {', '.join(table['label'].unique()[:5])}")

    def fault(file: str, label: str) -> tuple[str, str] | None:
        if len(labels[file]) > 1:
            return "several_labels", f"listed under several labels: {', '.join(labels[file])}"
        if label not in known:
            return "no_class", f"its label {label!r} is not a class"
        if file == f"{audio_dir}/" or "//" in file or ".." in PurePosixPath(file).parts:
            return "no_path", f"not a file inside {audio_dir}"
        return None if (folder / file).is_file() else ("absent", "listed, but there is no such file")

    faults = {file: fault(file, label) for file, label in zip(table["file"], table["label"], strict=True)}
    for file, found in faults.items():
        if found is not None:
            findings.exclude(found[0], [file], [found[1]])
    unlisted = [file for file in _files(folder, audio_dir) if file not in faults]
    findings.exclude("not_listed", unlisted, [f"on disk, but not in {competition.train_table}"] * len(unlisted))
    table = table[[faults[file] is None for file in table["file"]]].copy()
    foreign = Counter(name for names in table["secondary"] for name in names if name not in known)
    findings.lists["secondary_dropped"] = sorted(foreign.elements())
    table["secondary"] = table["secondary"].map(lambda names: [name for name in names if name in known])
    return table


def _with_info(table: pd.DataFrame, outcomes: dict[str, audio.AudioInfo | str], findings: _Findings,
               kind: str) -> pd.DataFrame:
    """The rows whose file decodes, with the fields of AudioInfo."""
    refused = table["file"].map(lambda file: isinstance(outcomes[file], str)).astype(bool)
    for file in table.loc[refused, "file"]:
        findings.exclude(f"{kind}refused", [file], [str(outcomes[file])])
    table = table[~refused].copy()
    for name in (entry.name for entry in dataclasses.fields(audio.AudioInfo)):
        table[name] = [getattr(outcomes[file], name) for file in table["file"]]
    return table


def _keep_distinct(table: pd.DataFrame, findings: _Findings) -> pd.DataFrame:
    """The rows that are not silent, one of those with equal audio and label; equal audio shares its labels."""
    silent = table["peak"] == 0
    findings.exclude("silent", table.loc[silent, "file"], ["every sample is zero"] * int(silent.sum()))
    table = table[~silent]
    first = table.groupby(["content", "label"])["file"].transform("first")
    again = first != table["file"]
    findings.exclude("same_audio", table.loc[again, "file"], "the same audio as " + first[again])
    table = _merge(table, ["content", "label"])
    files, labels = (table.groupby("content")[name].agg(list) for name in ("file", "label"))
    findings.lists["audio_under_several_labels"] = [", ".join(names) for names in files if len(names) > 1]
    table["secondary"] = [" ".join(sorted({*names, *labels[content]} - {label})) for names, content, label in
                          zip(table["secondary"], table["content"], table["label"], strict=True)]
    return table


def _merge(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The first row of those with equal keys, with the secondary labels of all of them."""
    gathered: dict[tuple, list[str]] = {}
    for key, names in zip(zip(*(table[name] for name in keys), strict=True), table["secondary"], strict=True):
        gathered[key] = [*gathered.get(key, []), *names]
    merged = table.drop_duplicates(keys).reset_index(drop=True)
    merged["secondary"] = list(gathered.values())  # in order of first appearance, as the rows are
    return merged


def _files(folder: Path, name: str) -> list[str]:
    """The files under a folder of the competition, relative to the competition, sorted; [] where there is none."""
    return sorted(path.relative_to(folder).as_posix() for path in (folder / name).rglob("*")
                  if path.is_file() and not path.name.startswith("."))


def _require_room(work: Path, files: Sequence[Path], *, near_duplicates: bool) -> None:
    """Raise DiskSpaceError where the tables of these files do not fit on the disk."""
    parts = {"tables": len(files) * ROW_BYTES}
    if near_duplicates:
        parts["fingerprints"] = int(PRINT_SHARE * sum(path.stat().st_size for path in files))
    there = sum(path.stat().st_size for path in work.glob("*.jsonl"))
    require_room(work, parts, what=f"auditing {len(files)} files", there=there)


def _decode(folder: Path, files: Iterable[str], work: Path, workers: int) -> dict[str, audio.AudioInfo | str]:
    """What each file holds, or why it is refused."""
    cache = FileCache(_outcome, work / "decoded.jsonl", version=sf.__libsndfile_version__,
                      write=lambda value: value if isinstance(value, str) else dataclasses.asdict(value),
                      read=lambda value: value if isinstance(value, str) else audio.AudioInfo(**value))
    return cache.get(folder, files, label="decoding", workers=workers)


def _outcome(path: Path) -> audio.AudioInfo | str:
    try:
        return audio.check(path)
    except audio.AudioError as error:
        return error.reason


def _near_duplicates(table: pd.DataFrame, soundscapes: pd.DataFrame, folder: Path, work: Path, workers: int,
                     findings: _Findings) -> list[str]:
    """For each recording the set of those that share a stretch of sound, "" for none; what was found is listed."""
    maker = Fingerprinter()
    cache = FileCache(lambda path: maker(audio.load(path, fingerprint.FRONT_END.sample_rate_hz)),
                      work / "fingerprints.jsonl", version=f"{sf.__libsndfile_version__}, {fingerprint.VERSION}",
                      write=Fingerprint.to_text, read=Fingerprint.from_text)
    with one_thread():  # of torch in each of the workers
        prints = cache.get(folder, table["file"], label="fingerprints of recordings", workers=workers)
        heard = cache.get(folder, soundscapes["file"], label="fingerprints of soundscapes", workers=workers)
    label, content = (dict(zip(table["file"], table[name], strict=True)) for name in ("label", "content"))
    # Recordings of equal content are tied by that, and listed where their labels differ.
    pairs = [pair for pair in find_overlaps(prints) if content[pair.first] != content[pair.second]]
    several = [pair for pair in pairs if label[pair.first] != label[pair.second]]
    lists = {"near_duplicates": pairs, "near_duplicates_under_several_labels": several,
             "soundscapes_with_recordings": find_overlaps(prints, heard)}
    findings.lists |= {name: [dataclasses.asdict(pair) for pair in found] for name, found in lists.items()}
    return splits.join_pairs(table["file"].tolist(), [(pair.first, pair.second) for pair in pairs])


def _write(table: pd.DataFrame, soundscapes: pd.DataFrame, labelled: pd.DataFrame | None, work: Path,
           classes: tuple[str, ...], findings: _Findings, settings: dict[str, object]) -> Audit:
    """The tables and the report."""
    per_class, n_splits = {}, int(table["split"].max()) + 1
    for name, rows in table.groupby("label"):
        levels = rows["group"].str.split(":").str[0].value_counts()
        per_class[str(name)] = {"recordings": len(rows), "groups": rows["group"].nunique(),
                                "grouped_by": dict(zip(levels.index.tolist(), levels.tolist(), strict=True)),
                                "splits": [int((rows["split"] == split).sum()) for split in range(-1, n_splits)]}
    findings.lists["classes_without_recordings"] = [name for name in classes if name not in per_class]
    validated = set(table.loc[table["split"] >= 0, "label"])
    findings.lists["classes_always_in_training"] = [name for name in per_class if name not in validated]
    counts = {"classes": len(classes), "recordings": len(table), "minutes": round(table["duration_s"].sum() / 60),
              "groups": int(table["group"].nunique()), "soundscapes": len(soundscapes)}
    if labelled is not None:
        counts |= {"labelled_soundscapes": int(labelled["file"].nunique()), "labelled_windows": len(labelled)}
    counts |= findings.counts()
    versions = {"birdkit": birdkit.__version__, "python": platform.python_version(), "numpy": np.__version__,
                "pandas": pd.__version__, "scikit-learn": sklearn.__version__, "soundfile": sf.__version__,
                "libsndfile": sf.__libsndfile_version__}
    report = {"settings": settings, "versions": versions, "counts": counts, "classes": classes,
              "per_class": per_class, **findings.lists}
    result = Audit(work / "recordings.parquet", work / "soundscapes.parquet", work / "excluded.csv",
                   work / "audit.json", classes, counts,
                   None if labelled is None else work / "labelled_soundscapes.parquet")
    columns = [*RECORDING_COLUMNS, *(["centre_s"] if "centre_s" in table else [])]
    _replace(result.recordings, table[columns].to_parquet)
    _replace(result.soundscapes, soundscapes[list(SOUNDSCAPE_COLUMNS)].to_parquet)
    if labelled is not None and result.labelled is not None:
        _replace(result.labelled, labelled.to_parquet)
    _replace(result.report, lambda path: path.write_text(json.dumps(report, indent=1, ensure_ascii=False),
                                                         encoding="utf-8"))
    log.info("%s: %s", work, ", ".join(f"{name} {n}" for name, n in counts.items()))
    return result


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all, so that a run that dies leaves no half of one."""
    part = path.with_name(path.name + ".part")
    write(part)
    part.replace(path)
