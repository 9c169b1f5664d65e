"""The settings at which others have published what post-processing brought them: what a table of effects measures."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PublishedStep:
    """One member of POSTPROCESS with options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Published:
    """Settings with who published them and the gain they said, of the year's metric unless it says otherwise."""

    label: str
    steps: tuple[PublishedStep, ...]
    source: str
    said: str = ""


def _one(label: str, source: str, said: str, name: str, **options: Any) -> Published:
    return Published(label, (PublishedStep(name, options),), source, said)


_BABYCH_2026 = (PublishedStep("pull_to_file_max", {"alpha": 0.2}), PublishedStep("smooth_by_group"),
                PublishedStep("smooth_relatives", {"groups": "genus", "weight": 0.15}),
                PublishedStep("smooth_relatives", {"groups": "class_name", "weight": 0.05}))

PUBLISHED: tuple[Published, ...] = (
    _one("smooth .1 .2 .4 .2 .1", "2024 3rd, 2025 1st", "+.005 to +.016", "smooth"),
    _one("smooth .2 .6 .2", "2025 9th", "+.005 to +.010", "smooth", kernel=[0.2, 0.6, 0.2]),
    _one("smooth by group of animals", "2026 1st", "", "smooth_by_group"),
    _one("delta shift .15", "2026 2nd", "+.003 to +.007", "delta_shift", alpha=0.15),
    _one("delta shift .2, adaptive", "2026 3rd", "", "delta_shift", alpha=0.2, adaptive=True),
    _one("× the file's best window", "2025 2nd", "+.005 to +.010", "scale_by_file_top", k=1),
    _one("× mean of the best two", "2026 2nd", "+.018 to +.027", "scale_by_file_top", k=2),
    _one("× best window to the power .4", "2026 2nd", "+.002 to +.017", "scale_by_file_top", k=1, power=0.4),
    _one("× mean of the best two to the power .4", "2026 3rd", "", "scale_by_file_top", k=2, power=0.4),
    _one("pull to the file's maximum .2", "2026 1st", "", "pull_to_file_max", alpha=0.2),
    _one("+ .2 of the file's mean", "2024 6th", "+.014 to +.016, with smoothing", "add_file_mean", weight=0.2),
    _one("power 2 of all but the top 30", "2025 5th", "left out", "power_of_low_ranked"),
    _one("power 2 of all but the top 10", "", "", "power_of_low_ranked", n_top=10),
    _one("genus .15", "2026 1st", "+.001 to +.002", "smooth_relatives", groups="genus", weight=0.15),
    _one("group of animals .05", "2026 1st", "", "smooth_relatives", groups="class_name", weight=0.05),
    _one("frequency penalty .4", "2022 18th", "", "frequency_penalty", weight=0.4),
    _one("site prior .5", "2026 1st", "", "site_hour_prior", weight=0.5, use=["site"]),
    _one("site and hour prior .2", "2026 3rd", "", "site_hour_prior", weight=0.2),
    Published("pull, by group, genus and group", _BABYCH_2026, "2026 1st"),
)
