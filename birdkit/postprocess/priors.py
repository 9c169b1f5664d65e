"""What the place and the hour of a recording say of it: a name such as "BC2026_Test_0001_S22_20250114_060000.ogg"."""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from birdkit.postprocess.base import checked_data, checked_probabilities, register

# A number alone is no site: it counts files.
_PLACE = re.compile(r"(?:^|_)(?P<site>(?=[0-9-]*[A-Za-z])[A-Za-z0-9][A-Za-z0-9-]*)_(?P<date>(?:19|20)\d{6})"
                    r"(?:_(?P<hour>[01]\d|2[0-3])[0-5]\d(?:[0-5]\d)?(?P<utc>Z?))?Z?$")
USED = ("site", "hour")


@dataclass(frozen=True)
class RecorderName:
    """What a soundscape's file name says: site of the recorder and hour of its beginning; "" where unknown.

    The hour is that of the recorder's clock; with a Z, which says UTC, it keeps that letter and is another hour than
    the local one of the same number.
    """

    site: str = ""
    hour: str = ""

    @classmethod
    def read(cls, file: str) -> RecorderName:
        """From <anything>_<site>_<YYYYMMDD>[_<HHMMSS>[Z]], as in BirdCLEF 2021, 2025 and 2026.

        >>> RecorderName.read("test_soundscapes/BC2026_Test_0001_S22_20250114_060000.ogg")
        RecorderName(site='S22', hour='06')
        >>> RecorderName.read("10534_SSW_20170429.ogg"), RecorderName.read("soundscape_1446779.ogg")
        (RecorderName(site='SSW', hour=''), RecorderName(site='', hour=''))
        >>> RecorderName.read("2MA01_20230420_060000Z.flac")
        RecorderName(site='2MA01', hour='06Z')
        """
        found = _PLACE.search(PurePosixPath(file).stem)
        return cls(found["site"], (found["hour"] or "") + (found["utc"] or "")) if found else cls()


def count_places(windows: Iterable[tuple[str, Sequence[str]]]) -> dict[str, Any]:
    """How often each class was heard at each site and hour, as plain tables: what `site_hour_prior` needs.

    windows  file name and labels of each labelled window; files whose names say neither site nor hour are left out

    >>> count_places([("H02_20230420_060000.ogg", ["owl"]), ("H02_20230420_060000.ogg", [])])
    {'cells': [{'site': 'H02', 'hour': '06', 'windows': 2, 'heard': {'owl': 1}}]}
    """
    cells: dict[RecorderName, dict[str, Any]] = {}
    for file, labels in windows:
        place = RecorderName.read(file)
        if place == RecorderName():
            continue
        cell = cells.setdefault(place, {"site": place.site, "hour": place.hour, "windows": 0, "heard": {}})
        cell["windows"] += 1
        for name in labels:
            cell["heard"][name] = cell["heard"].get(name, 0) + 1
    return {"cells": [cells[place] for place in sorted(cells, key=lambda one: (one.site, one.hour))]}


@register
def site_hour_prior(probabilities: np.ndarray, *, classes: Sequence[str], file: str,
                    prior: str | Mapping[str, Any] = "labelled_soundscapes", weight: float = 0.2,
                    use: Sequence[str] = USED, k_site: float = 8.0, k_hour: float = 8.0,
                    k_both: float = 4.0) -> np.ndarray:
    """logit(p) + weight * (logit(prior) - logit(mean)): what is often heard at this site and hour is likelier there.

    The prior of a site is the share of its labelled windows in which the class was heard, shrunk to that of all
    windows: n / (n + k_site) of its own. So that of an hour; that of both together is shrunk to what site and hour
    say apart, their deviations added. A class that was never heard counts as heard in half a window of all.
    A place and hour of which nothing is known changes nothing, nor does a file whose name says neither.

    The BirdCLEF 2026 third place had weight 0.2 and k = 8, 8, 4, the first place 0.5 for the site alone
    (use = ["site"]); both added logit(prior), which differs by the same number for every row of a class. A prior by
    the hour cost the second place 0.006.

    prior   as `count_places` has it, or "labelled_soundscapes": those of the competition
    weight  at least 0, which changes nothing
    use     "site", "hour" or both
    k_*     labelled windows from which on what is known here counts more than what is known in general, above 0

    >>> heard = count_places([("H02_20230420_060000.ogg", ["owl"])] * 8 + [("H11_20230420_060000.ogg", [])] * 8)
    >>> site_hour_prior(np.array([[0.5]]), classes=["owl"], file="H02_20230501_180000.ogg", prior=heard).round(3)
    array([[0.555]])
    """
    values = checked_probabilities(probabilities)
    if not weight >= 0 or not set(use) <= set(USED) or not min(k_site, k_hour, k_both) > 0:
        raise ValueError(f"weight = {weight} must be at least 0, use = {list(use)} of {', '.join(USED)}, and "
                         f"k = {k_site}, {k_hour}, {k_both} above 0")
    cells, place = checked_data("prior", prior)["cells"], RecorderName.read(file)
    n_all, heard_all = _context_counts(cells, classes)
    if not n_all or not weight:
        return values
    mean = (heard_all + 0.5) / (n_all + 1)
    shift, known = np.zeros(len(classes)), {name: getattr(place, name) for name in use if getattr(place, name)}
    for name, k in (("site", k_site), ("hour", k_hour)):
        if name in known:
            n, heard = _context_counts([cell for cell in cells if cell[name] == known[name]], classes)
            shift += _logit((heard + k * mean) / (n + k)) - _logit(mean)
    if len(known) == len(USED):
        n, heard = _context_counts([cell for cell in cells if known.items() <= cell.items()], classes)
        apart = _sigmoid(_logit(mean) + shift)
        shift = _logit((heard + k_both * apart) / (n + k_both)) - _logit(mean)
    odds = np.exp(weight * shift)  # added to a logit is multiplied to odds, which needs no end for 0 and 1
    return values * odds / (1 - values + values * odds)


def _context_counts(cells: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> tuple[int, np.ndarray]:
    """Labelled windows of some cells, and in how many of them each class was heard, (K,)."""
    heard = np.array([sum(cell["heard"].get(name, 0) for cell in cells) for name in classes], dtype=float)
    return sum(cell["windows"] for cell in cells), heard


def _logit(shares: np.ndarray) -> np.ndarray:
    """Of shares that half a window or a prior keeps inside (0, 1)."""
    return np.log(shares) - np.log1p(-shares)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))
