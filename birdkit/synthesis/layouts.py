"""The tables and names of each year's competition, for a generated one: the layouts that birdkit.profiles knows.

What is not a layout, the sounds and what is drawn of them, is birdkit.synthesis. Columns as in the hosts' files; what
they hold says that it is generated.
"""
from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from birdkit.profiles import NAMES, PROBABILITIES, ROW_ID, SAMPLE, SCORED, TRUE_FALSE, Competition
from birdkit.submission import NOCALL, lay_out, row_ids, window_id
from birdkit.synthesis.calls import Species

_OLD = ["primary_label", "secondary_labels", "type", "latitude", "longitude", "scientific_name", "common_name",
        "author"]
_NEW = ["primary_label", "secondary_labels", "type", "filename", "collection", "rating", "url", "latitude", "longitude",
        "scientific_name", "common_name", "author", "license"]
COLUMNS: dict[int, list[str]] = {  # of the table of recordings
    2021: [*_OLD, "date", "filename", "license", "rating", "time", "url"],
    2022: [*_OLD, "license", "rating", "time", "url", "filename"],
    2023: [*_OLD, "license", "rating", "url", "filename"],
    2024: [*_OLD, "license", "rating", "url", "filename"],
    2025: _NEW, 2026: _NEW}
_LABELLED_SHARE = 0.5  # of 2026's soundscapes; all of 2021's
_SCORED_EVERY = 2  # 2022's scored birds: every other class


def soundscape_name(competition: Competition, kind: str, number: int, site: str, when: str) -> str:
    """The name of a soundscape file without its ending; `kind` is "train" or "test".

    number  seven figures; when  [date]_[time]

    >>> from birdkit.profiles import profile
    >>> soundscape_name(profile(2026), "test", 1234567, "H02", "20230214_053000")
    'BC2026_Test_1234567_H02_20230214_053000'
    """
    if competition.year == 2021:
        return f"{number}_{site}_{when.partition('_')[0]}"
    if kind == "train":
        return f"{site}_{when}" if competition.year >= 2025 else str(number)
    return f"BC2026_Test_{number}_{site}_{when}" if competition.year >= 2026 else f"soundscape_{number}"


def write_recordings(folder: Path, rows: Sequence[dict[str, Any]], competition: Competition) -> None:
    """The table of recordings with the year's columns."""
    table = pd.DataFrame(rows).sort_values("filename").assign(date="2023-02-01", time="06:00")
    if competition.year == 2021:  # its file names are without the folder of their class
        table["filename"] = table["filename"].str.rpartition("/")[2]
    if competition.year < 2025:  # no recording without a place, and no collections but Xeno-canto
        table = table.fillna({"latitude": 0.0, "longitude": 0.0})
    table[COLUMNS[competition.year]].to_csv(folder / competition.train_table, index=False)


def write_classes(folder: Path, species: Sequence[Species], competition: Competition) -> None:
    """The table of classes, where the year has one, and what lies beside it."""
    ordered = sorted(species, key=lambda one: one.label)
    rows: list[dict[str, Any]]
    if competition.year >= 2025:
        rows = [{"primary_label": one.label,
                 "inat_taxon_id": one.label if one.label.isdigit() else str(9900001 + number),
                 "scientific_name": one.scientific_name, "common_name": one.common_name, "class_name": one.class_name}
                for number, one in enumerate(species)]
        pd.DataFrame(rows).sort_values("primary_label").to_csv(folder / "taxonomy.csv", index=False)
        (folder / "recording_location.txt").write_text(
            "Location: nowhere. This competition is generated; no animal in it exists.\n", encoding="utf-8")
    elif competition.year >= 2022:
        rows = [{"TAXON_ORDER": number, "CATEGORY": "species", "SPECIES_CODE": one.label,
                 "PRIMARY_COM_NAME": one.common_name, "SCI_NAME": one.scientific_name, "ORDER1": "generated",
                 "FAMILY": "generated", "SPECIES_GROUP": "generated", "REPORT_AS": ""}
                for number, one in enumerate(ordered, start=1)]
        pd.DataFrame(rows).to_csv(folder / "eBird_Taxonomy_v2021.csv", index=False)
    if competition.year == 2022:
        (folder / SCORED).write_text(json.dumps(_scored(ordered)), encoding="utf-8")


def write_labelled(folder: Path, truth: pd.DataFrame, names: Sequence[str], competition: Competition,
                   window_s: float) -> None:
    """The host's labels of soundscapes, where the year has any: 2021 of all, 2026 of some, every row twice.

    truth  row_id and a column of 0 and 1 for each class, of the soundscapes of these names
    """
    if not competition.labelled:
        return
    known = names if competition.year == 2021 else names[:max(1, round(_LABELLED_SHARE * len(names)))]
    rows = []
    for row, *heard in truth.itertuples(index=False):
        stem, _, end = row.rpartition("_")
        said = [name for name, value in zip(truth.columns[1:], heard, strict=True) if value]
        if stem not in known:
            continue
        if competition.year == 2021:
            number, site, _ = stem.split("_")
            rows.append({"row_id": f"{number}_{site}_{end}", "site": site, "audio_id": number, "seconds": end,
                         "birds": " ".join(said) or NOCALL})
        else:
            span = [f"{round(s) // 60:02d}:{round(s) % 60:02d}" for s in (float(end) - window_s, float(end))]
            rows += [{"filename": f"{stem}.ogg", "start": f"00:{span[0]}", "end": f"00:{span[1]}",
                      "primary_label": ";".join(said)}] * (2 if said else 0)
    pd.DataFrame(rows).to_csv(folder / competition.labelled, index=False)


def truth_of(truth: pd.DataFrame, species: Sequence[Species], competition: Competition) -> pd.DataFrame:
    """A wide truth of windows, row_id first, as a submission of the year would hold it, row ids as index."""
    table = truth.set_index(ROW_ID)
    table.index = pd.Index([window_id(row.rpartition("_")[0], int(row.rpartition("_")[2]), competition)
                            for row in table.index], name=ROW_ID)
    scored = _scored(species) if competition.row_format == TRUE_FALSE else list(table.columns)
    return lay_out(table, row_ids(list(table.index), scored, competition), competition.row_format)


def write_sample(folder: Path, truth: pd.DataFrame, competition: Competition) -> None:
    """The sample submission with the rows of a truth, which says nothing of them; and in 2021 and 2022 test.csv."""
    rows = pd.Series(truth.index)
    said: Any = {PROBABILITIES: 1 / len(truth.columns), NAMES: NOCALL, TRUE_FALSE: False}[competition.row_format]
    truth.assign(**dict.fromkeys(truth.columns, said)).to_csv(folder / SAMPLE)
    parts = rows.str.rsplit("_", n=2, expand=True)
    if competition.row_format == NAMES:
        pd.DataFrame({ROW_ID: rows, "site": parts[1], "audio_id": parts[0], "seconds": parts[2]}).to_csv(
            folder / "test.csv", index=False)
    elif competition.row_format == TRUE_FALSE:
        pd.DataFrame({ROW_ID: rows, "file_id": parts[0], "bird": parts[1], "end_time": parts[2]}).to_csv(
            folder / "test.csv", index=False)


def _scored(species: Sequence[Species]) -> list[str]:
    """The scored classes of 2022, in alphabetical order."""
    return sorted(one.label for one in species)[::_SCORED_EVERY]
