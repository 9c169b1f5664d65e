"""Named recipes: what the notebooks train when they are told a name. A recipe is a delta from the defaults.

Named front ends are in birdkit.recipes.presets.
"""
from __future__ import annotations

from collections.abc import Mapping

from birdkit.recipes.base import Recipe
from birdkit.recipes.competition import for_competition, with_shares
from birdkit.recipes.models import conformer, fdy_crnn, grouped, htsat, parts
from birdkit.recipes.published import henkel2021, seed2022, seed2025, t4
from birdkit.recipes.small import call_detector, demo, small, tiny
from birdkit.recipes.winners import babych2025, babych2026, sydorskyi2025

__all__ = ["RECIPES", "Recipe", "for_competition", "get", "with_shares"]

RECIPES: Mapping[str, Recipe] = {
    # tests, the demo, two CPU cores
    "tiny": tiny(), "demo": demo(), "small": small(),
    # the same budget as "small" with another model
    "parts": parts(), "grouped": grouped(), "conformer": conformer(), "fdy_crnn": fdy_crnn(), "htsat": htsat(),
    # published, for a GPU and pretrained weights
    "henkel2021": henkel2021(), "seed2022": seed2022(), "seed2025": seed2025(), "t4": t4(),
    "babych2025": babych2025(), "sydorskyi2025": sydorskyi2025(), "babych2026": babych2026(),
    "call_detector": call_detector()}


def get(name: str) -> Recipe:
    """The recipe of this name; KeyError lists those there are.

    >>> get("huge")
    Traceback (most recent call last):
    KeyError: "no recipe named 'huge'; there is: babych2025, babych2026, ..."
    """
    if name not in RECIPES:
        raise KeyError(f"no recipe named {name!r}; there is: {', '.join(sorted(RECIPES))}")
    return RECIPES[name]
