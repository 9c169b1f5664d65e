"""What a table of recordings says: which rows are used, their targets, weights and known labels, and spans of files."""
from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from birdkit.config import DataConfig, SourceConfig
from birdkit.sampling import limit_classes

log = logging.getLogger(__name__)

TABLE_COLUMNS = ("file", "label", "secondary", "duration_s", "rating", "split")
SPAN_COLUMNS = ("start_s", "end_s")  # a table may have them, see `spans`
CENTRE = "centre_s"  # a table may have it, see `marked_centres`
COLLECTION = "collection"  # a table may have it, see `make_weights`
CONTENT = "content"  # a table may have it: sha256 of what decodes, see birdkit.audio.check
CALL, NOCALL = "call", "nocall"  # the class of a call detector, and the label that means none of the classes


class DataError(ValueError):
    """A table that does not fit the classes or its files; the message names the values."""


def check_columns(table: pd.DataFrame) -> None:
    """Raise DataError where a recordings table lacks a column that training needs."""
    missing = [name for name in TABLE_COLUMNS if name not in table.columns]
    if missing:
        raise DataError(f"the recordings table has no column {', '.join(missing)}")


def table_hash(table: pd.DataFrame) -> str:
    """sha256 over files, spans and labels, whatever the order of the rows: what a checkpoint was trained on."""
    columns = ["file", "label", "secondary", *(name for name in SPAN_COLUMNS if name in table.columns)]
    rows = sorted(zip(*(table[name].tolist() for name in columns), strict=True))
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def contents_of(files: Collection[str], *tables: pd.DataFrame | None) -> dict[str, str]:
    """What files hold, by name, as far as tables of recordings or soundscapes say it in their column "content".

    >>> contents_of(["a.ogg"], pd.DataFrame({"file": ["a.ogg", "b.ogg"], "content": ["9f", "c1"]}), None)
    {'a.ogg': '9f'}
    """
    known = [table[table["file"].isin(files)] for table in tables if table is not None and CONTENT in table.columns]
    return {file: content for rows in known for file, content in zip(rows["file"], rows[CONTENT], strict=True)}


def low_rated(table: pd.DataFrame, config: DataConfig) -> np.ndarray:
    """Which rows `min_rating` leaves out, (R,) bool.

    Those rated lower; rating 0 means that nobody rated the recording, and leaves it in. A class of which nothing
    would be left keeps its best-rated recordings: a rating is an opinion about the sound, not about the label, and a
    class without a recording is lost from the score for certain.
    """
    rating = table["rating"].to_numpy(float)
    low = (rating > 0) & (rating < config.min_rating)
    of_class = table["label"].to_numpy(str)
    for name in np.setdiff1d(of_class, of_class[~low]):
        rows = np.flatnonzero(of_class == name)
        low[rows[rating[rows] == rating[rows].max()]] = False
    return low


def keep_rated(table: pd.DataFrame, config: DataConfig) -> pd.DataFrame:
    """The table without the rows that `min_rating` leaves out, numbered anew; what was left out is logged."""
    low = low_rated(table, config)
    kept = table[~low].reset_index(drop=True)
    if config.min_rating > 0:
        rating = kept["rating"]
        spared = sorted(set(kept.loc[(rating > 0) & (rating < config.min_rating), "label"]))
        log.info("%d of %d recordings are rated below %g and left out", int(low.sum()), len(table), config.min_rating)
        if spared:
            log.warning("nothing of %d classes is rated %g or higher, or not rated; their best-rated recordings stay: "
                        "%s", len(spared), config.min_rating, ", ".join(spared))
    return kept


def refuse_low_rated(table: pd.DataFrame, config: DataConfig) -> None:
    """Raise DataError where a table still holds rows that `keep_rated` would leave out."""
    low = low_rated(table, config)
    if low.any():
        raise DataError(f"{table['file'][low].iloc[0]}: rated below min_rating = {config.min_rating:g}, as are "
                        f"{int(low.sum())} of {len(table)} rows; birdkit.data.tables.keep_rated takes them out")


def choose_recordings(table: pd.DataFrame, source: SourceConfig, classes: Sequence[str], *, seed: int) -> pd.DataFrame:
    """The rows of a source of kind "recordings": those with one of its classes as primary or secondary label.

    Of each of its classes `most_per_class` at most, a random choice; a row counts for its primary label where that is
    one of them, else for the first of its secondary labels that is.

    Raises DataError where one of `source.classes` is not among `classes`, or no row is chosen.
    """
    wanted = set(source.classes or classes)
    unknown = sorted(wanted - set(classes))
    if unknown:
        raise DataError(f"source {source.name!r}: {', '.join(unknown[:5])} is not one of the {len(classes)} classes")
    names = [next((name for name in (label, *secondary.split()) if name in wanted), "")
             for label, secondary in zip(table["label"], table["secondary"], strict=True)]
    rows = np.flatnonzero(np.array(names, str) != "")
    if not len(rows):
        raise DataError(f"source {source.name!r}: none of {len(table)} recordings has a label among "
                        f"{', '.join(sorted(wanted)[:10])}")
    kept = limit_classes([names[row] for row in rows], most=source.most_per_class or None, seed=seed)
    return table.iloc[rows[kept]].reset_index(drop=True)


def label_cells(table: pd.DataFrame, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Which classes are a recording's primary and secondary labels, twice (R, K) bool; never both.

    Columns follow `classes` by name. The label "nocall" means none of the classes, unless it is one of them. Raises
    DataError for any other label that is not a class.
    """
    columns = {name: k for k, name in enumerate(classes)}
    primary = np.zeros((len(table), len(classes)), bool)
    secondary = np.zeros_like(primary)
    for row, (label, others) in enumerate(zip(table["label"], table["secondary"], strict=True)):
        names = [name for name in (*others.split(), label) if name != NOCALL or name in columns]
        unknown = [name for name in names if name not in columns]
        if unknown:
            raise DataError(f"{table['file'].iloc[row]}: label {unknown[0]!r} is not one of the {len(classes)} classes")
        for name in names:
            (primary if name == label else secondary)[row, columns[name]] = True
    return primary, secondary


def make_targets(table: pd.DataFrame, classes: Sequence[str], config: DataConfig) -> np.ndarray:
    """Targets of recordings, (R, K) float32: 1 for the primary label, `secondary_target` for secondary labels.

    Columns follow `classes` by name, see `label_cells`. All are then multiplied by `recording_target`, and at last
    `label_smoothing` is added to everything and clipped at 1, as the 2021 second place did: positives stay 1 where
    recording_target is 1. Secondary labels that are masked have target 0, see `make_cell_weights`.
    """
    primary, secondary = label_cells(table, classes)
    soft = config.secondary_target if config.secondary == "label" else 0.0
    targets = np.where(secondary, soft, primary.astype(float)) * config.recording_target
    targets = np.minimum(targets + config.label_smoothing, 1.0)
    return np.where(secondary & (config.secondary == "mask"), 0.0, targets).astype(np.float32)


def make_cell_weights(table: pd.DataFrame, classes: Sequence[str], config: DataConfig) -> np.ndarray:
    """Importance of each label of each recording, (R, K) float32: 0 for a secondary label that is masked, else 1.

    Nobody knows where in a recording a secondary species is heard, so a clip of it may hold it or not: left out of the
    loss it teaches neither (BirdCLEF 2024 third place, +0.01).
    """
    if config.secondary == "label":
        return np.ones((len(table), len(classes)), np.float32)
    return (~label_cells(table, classes)[1]).astype(np.float32)


def make_weights(table: pd.DataFrame, config: DataConfig) -> np.ndarray:
    """Weights of recordings, (R,) float32: the rating's times the collection's, 1 each where they are not asked for.

    By rating: clip(rating / 5, 0.1, 1), and `unrated_weight` for rating 0, which on Xeno-canto means that nobody rated
    the recording; the first seed weighed those 0.1 unnoticed. By collection: `collection_weights`, 1 for a collection
    that it does not name. Raises DataError where it names any and the table has no column "collection".
    """
    weights = np.ones(len(table))
    if config.rating_weights:
        rating = table["rating"].to_numpy(float)
        weights = np.where(rating > 0, np.clip(rating / 5, 0.1, 1.0), config.unrated_weight)
    if config.collection_weights:
        if COLLECTION not in table.columns:
            raise DataError(f"collection_weights = {config.collection_weights} need a column {COLLECTION!r} in the "
                            f"recordings table, which has {', '.join(table.columns)}")
        absent = sorted(set(config.collection_weights) - set(table[COLLECTION]))
        if absent:
            log.warning("collection_weights of %s: no recording is from there", ", ".join(absent))
        weights = weights * table[COLLECTION].map(config.collection_weights).fillna(1.0).to_numpy(float)
    return weights.astype(np.float32)


def spans(table: pd.DataFrame) -> np.ndarray:
    """Where in its file each recording begins and ends, (R, 2) seconds; NaN twice where it is the whole file.

    For tables whose rows are labelled spans of longer files, in the columns start_s and end_s; duration_s is the
    file's. Raises DataError where there is one of the columns without the other, or a span that is not inside its file.
    """
    known = [name for name in SPAN_COLUMNS if name in table.columns]
    if not known:
        return np.full((len(table), 2), np.nan)
    if len(known) == 1:
        raise DataError(f"the recordings table has a column {known[0]}, but a span needs {' and '.join(SPAN_COLUMNS)}")
    values = table[list(SPAN_COLUMNS)].to_numpy(float)
    start_s, end_s = values.T
    inside = (start_s >= 0) & (end_s > start_s) & (end_s <= table["duration_s"].to_numpy(float) + 1e-3)
    for row in np.flatnonzero(~inside & ~np.isnan(values).all(1))[:1]:
        raise DataError(f"{table['file'].iloc[row]}: {start_s[row]:g} to {end_s[row]:g} s is no span of a file of "
                        f"{table['duration_s'].iloc[row]:g} s")
    return values


def marked_centres(table: pd.DataFrame, config: DataConfig) -> np.ndarray:
    """Where people marked the call, (R,) seconds from the start of the file; NaN where nobody did, or it is not asked.

    Raises DataError where `crop` is "marked" and the table has no column centre_s, or a mark is not inside its
    recording.
    """
    if config.crop != "marked":
        return np.full(len(table), np.nan)
    if CENTRE not in table.columns:
        raise DataError(f"crop = 'marked' needs a column {CENTRE!r} in the recordings table, which has "
                        f"{', '.join(table.columns)}")
    centre_s, duration_s = table[CENTRE].to_numpy(float), table["duration_s"].to_numpy(float)
    first_s, end_s = spans(table).T
    outside = (centre_s < np.where(np.isnan(first_s), 0.0, first_s)) | (
        centre_s > np.where(np.isnan(end_s), duration_s, end_s) + 1e-3)
    for row in np.flatnonzero(outside)[:1]:
        raise DataError(f"{table['file'].iloc[row]}: {CENTRE} = {centre_s[row]:g} s is not inside the recording of "
                        f"{duration_s[row]:g} s")
    return centre_s
