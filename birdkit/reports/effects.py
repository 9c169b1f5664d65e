"""Measured effects for people: tables as text or markdown, and as CSV."""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from birdkit.effects import ALPHA, Effect, Measured
from birdkit.effects.measuring import Compared
from birdkit.metrics import Interval
from birdkit.reports.comparison import markdown_table


def effects_text(measured: Measured, *, markdown: bool = False) -> str:
    """Scores without anything, a table of post-processing, one of ways to blend, and what the verdicts mean."""
    n, show = len(measured.names), markdown_table if markdown else _plain_text
    score = f"{measured.alone} alone" + (f", {measured.together} together" if n > 1 else "")
    lines = [f"{measured.metric} on {measured.n_soundscapes} soundscapes, {n} model{'s' if n > 1 else ''}, nothing "
             f"done to them: {score}", "",
             show(_effects(measured, together=n > 1))]
    if measured.blends:
        lines += ["", "blended otherwise than by the mean of probabilities, nothing done to the result:", "",
                  show(_blends(measured.blends))]
    tries = sum(one.together is not None for one in measured.effects)
    lines += ["", "differences to nothing done, paired bootstrap over soundscapes, 95 %; verdicts after Holm over "
              f"{tries} and {len(measured.blends)} tries at {ALPHA:g}"]
    return "\n".join(lines)


def compared_text(compared: Compared, changes: Mapping[str, Any], against: Mapping[str, Any]) -> str:
    """What further changes of how models predict score beside those that are made anyway, in words."""
    said, other = (", ".join(f"{name} = {json.dumps(value)}" for name, value in one.items())
                   for one in (changes, {**changes, **against}))
    return "\n".join([f"{compared.metric} on {compared.n_soundscapes} soundscapes, as submitted",
                      f"{said or 'as the models say'}: {compared.as_is}", f"{other}: {compared.changed}",
                      f"difference: {_difference_text(compared.difference)}, {compared.verdict} (paired bootstrap over "
                      "soundscapes, 95 %)"])


def write_effects(measured: Measured, path: Path | str) -> None:
    """Write both tables as one CSV file."""
    rows = [{"what": what, "name": one.label, "source": one.source, "said": one.said,
             **_bounds("alone", one.alone), **_bounds("together", one.together), "p_holm": one.p_holm,
             "verdict": one.verdict}
            for what, effects in (("post-processing", measured.effects), ("blend", measured.blends)) for one in effects]
    pd.DataFrame(rows).to_csv(path, index=False)


def _bounds(name: str, interval: Interval | None) -> dict[str, float | None]:
    return {name: interval.value if interval else None, f"{name}_low": interval.low if interval else None,
            f"{name}_high": interval.high if interval else None}


def _effects(measured: Measured, *, together: bool) -> pd.DataFrame:
    table = pd.DataFrame({"post-processing": [one.label for one in measured.effects],
                          "source": [one.source for one in measured.effects],
                          "published gain": [one.said for one in measured.effects],
                          "models alone": [_difference_text(one.alone) for one in measured.effects],
                          "together": [_difference_text(one.together) for one in measured.effects],
                          "verdict": [one.verdict for one in measured.effects]})
    return table if together else table.drop(columns="together")


def _blends(effects: Sequence[Effect]) -> pd.DataFrame:
    return pd.DataFrame({"blend": [one.label for one in effects],
                         "difference": [_difference_text(one.together) for one in effects],
                         "verdict": [one.verdict for one in effects]})


def _difference_text(interval: Interval | None) -> str:
    return f"{interval.value:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]" if interval else ""


def _plain_text(table: pd.DataFrame) -> str:
    return table.to_string(index=False)
