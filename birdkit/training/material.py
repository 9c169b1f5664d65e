"""What a run learns from: recordings, soundscapes with labels of several kinds, and teachers; never what validates."""
from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from birdkit import checkpoint
from birdkit.config import LABELLED, RunConfig
from birdkit.data import AudioStore, ClipDataset, choose_sources
from birdkit.data.recording_labels import RecordingLabels, choose_recording_labels
from birdkit.data.tables import contents_of, keep_rated, table_hash
from birdkit.data.teacher_table import TeacherTable
from birdkit.splits import check_splits
from birdkit.training.distillation import Teacher, choose_teacher


@dataclass(frozen=True)
class Material:
    """The tables of a run without the rows of its validating split.

    recordings     rated high enough
    soundscapes    unlabelled
    pseudo_labels  of those
    windows        labelled windows of other soundscapes, None where nothing asks for them
    heard          what teachers heard in the recordings, None where nothing asks for it
    teacher        what config.distil names
    seen           files whose labels are learnt from
    seen_content   what they hold, as far as tables say it
    pseudo         names and contents of those whose labels are pseudo-labels alone
    hashes         of each kind of label and of the teacher, "" where there is none: what tells this run from another
    """

    config: RunConfig
    classes: tuple[str, ...]
    recordings: pd.DataFrame
    soundscapes: pd.DataFrame | None
    pseudo_labels: pd.DataFrame | None
    windows: pd.DataFrame | None
    heard: RecordingLabels | None
    teacher: Teacher | None
    seen: frozenset[str]
    seen_content: frozenset[str]
    pseudo: frozenset[str]
    hashes: Mapping[str, str]

    @classmethod
    def choose(cls, config: RunConfig, recordings: pd.DataFrame, classes: Sequence[str], *,
               soundscapes: pd.DataFrame | None, labels: Mapping[str, pd.DataFrame | None]) -> Material:
        """From the tables as birdkit.training.fit takes them; `labels` has the names of `LABEL_TABLES`.

        Raises birdkit.data.DataError for tables that do not fit; ValueError where recordings that belong together, as
        far as the table says so, are in several splits, or the teacher is a table that does not know all examples;
        FileNotFoundError where that is not there, ImportError where nothing can read it.
        """
        check_splits(recordings)  # again: the table may have been changed since the audit, or be of one's own
        trained, mixed, pseudo_labels = recordings, soundscapes, labels["pseudo_labels"]
        if config.split >= 0:
            trained = recordings[recordings["split"] != config.split]
            if soundscapes is not None:
                mixed = soundscapes[soundscapes["split"] != config.split]
                if pseudo_labels is not None:
                    pseudo_labels = pseudo_labels[pseudo_labels["file"].isin(mixed["file"])]
        trained = keep_rated(trained, config.data)
        windows = _labelled_windows(config, labels["labelled_soundscapes"])
        heard = choose_recording_labels(config.distil, config.round, labels["recording_labels"], trained["file"],
                                        classes)
        teacher = choose_teacher(config, classes, trained["file"])
        if isinstance(teacher, TeacherTable) and config.data.labelled_soundscapes and windows is not None:
            raise ValueError(f"distil.teacher = {config.distil.teacher!r} is a table, which knows recordings alone, "
                             f"but data.labelled_soundscapes makes {len(windows)} windows of soundscapes examples, too")
        by_people = {file for table in (trained, windows) if table is not None for file in table["file"]}
        seen = by_people | set([] if pseudo_labels is None else pseudo_labels["file"])
        contents = contents_of(seen, recordings, soundscapes)
        known = by_people | {contents[file] for file in by_people if file in contents}
        return cls(config, tuple(classes), trained, mixed, pseudo_labels, windows, heard, teacher, frozenset(seen),
                   frozenset(contents.values()), frozenset({*seen, *contents.values()} - known),
                   learnt(config, classes, labels))

    @property
    def examples(self) -> pd.DataFrame | None:
        """The labelled windows that are training examples themselves."""
        return self.windows if self.config.data.labelled_soundscapes else None

    @property
    def table_hash(self) -> str:
        """birdkit.data.tables.table_hash of the recordings."""
        return table_hash(self.recordings)

    def __len__(self) -> int:
        return len(self.recordings) + (0 if self.examples is None else len(self.examples))

    def dataset(self, shares: Mapping[str, float], store: AudioStore) -> ClipDataset:
        """The training examples, with clips of the sources that augmentations need, for these shares of them."""
        sources = choose_sources(self.config, shares, self.classes, recordings=self.recordings,
                                 soundscapes=self.soundscapes, pseudo_labels=self.pseudo_labels,
                                 labelled_soundscapes=self.windows)
        return ClipDataset(self.recordings, self.classes, self.config, store=store, sources=sources, shares=shares,
                           labelled=self.examples, recording_labels=self.heard,
                           teacher=self.teacher if isinstance(self.teacher, TeacherTable) else None)


LABEL_TABLES = ("pseudo_labels", "labelled_soundscapes", "recording_labels")


def learnt(config: RunConfig, classes: Sequence[str], labels: Mapping[str, pd.DataFrame | None]) -> dict[str, str]:
    """sha256 of each table of labels that a run was given and of its teacher, by what they are; "" where there is none.

    Of a table, the windows and what it says of them, whatever else is in it.
    """
    hashes = {name.replace("pseudo_labels", "pseudo-labels").replace("_", " "): _hash(labels[name], classes)
              for name in LABEL_TABLES}
    return {**hashes, "teacher": checkpoint.file_hash(config.distil.teacher) if config.distil.teacher else ""}


def _hash(table: pd.DataFrame | None, classes: Sequence[str]) -> str:
    if table is None:
        return ""
    columns = [name for name in ("file", "start_s", "end_s", "labels", *classes) if name in table.columns]
    return hashlib.sha256(pd.util.hash_pandas_object(table[columns], index=False).to_numpy().tobytes()).hexdigest()


def _labelled_windows(config: RunConfig, table: pd.DataFrame | None) -> pd.DataFrame | None:
    """The labelled windows that the run is to learn from: None where there are none, or nothing asks for them."""
    asked = config.data.labelled_soundscapes or any(source.kind == LABELLED for source in config.data.sources)
    if table is None or not asked:
        return None
    table = table[table["split"] != config.split] if config.split >= 0 else table
    return table.reset_index(drop=True) if len(table) else None
