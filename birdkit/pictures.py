"""What every page and picture is made of: colours, a figure that needs no closing, a spectrogram, the html around."""
from __future__ import annotations

import base64
import dataclasses
import html
import io
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from birdkit import audio
from birdkit.config import FrontEndConfig
from birdkit.frontend import FrontEnd

INK, CALL, SOFT, PALE = "#1b2a38", "#c8502d", "#7fa8c9", "#d3dbe2"
STYLE = ("body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;color:#1b2a38}img{max-width:100%}"
         "td,th{padding:.2em 1em .2em 0;text-align:left;vertical-align:top}")
GENERATED_MARK = "GENERATED.txt"


class Picture(Figure):
    """A figure outside pyplot's state: nothing to close, and a notebook shows it as the value of a cell."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def figure_of(width: float, height: float) -> Picture:
    """An empty figure of that many inches, whose parts keep clear of each other."""
    return Picture(figsize=(width, height), layout="constrained")


def class_ticks(axes: Axes, names: Iterable[str]) -> None:
    """The names of classes below bars at 0, 1, 2 and so on."""
    names = list(names)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=max(4, 8 - len(names) // 60))
    axes.set_xlim(-0.7, len(names) - 0.3)


def draw_spectrogram(axes: Axes, path: Path, end_s: float, *, start_s: float = 0.0) -> None:
    """The house front end's image of a stretch of a file, unfolded, over seconds of the file and mel bands."""
    length_s = end_s - start_s
    config = dataclasses.replace(FrontEndConfig(), strips=1, n_mels=128, clip_s=float(max(1, math.ceil(length_s))))
    wave = audio.load(path, config.sample_rate_hz, start_s=start_s, duration_s=length_s)
    padded = np.zeros(config.n_samples, np.float32)
    padded[:min(len(wave), config.n_samples)] = wave[:config.n_samples]
    with torch.inference_mode():
        spectrogram = FrontEnd(config)(torch.from_numpy(padded).unsqueeze(0))[0, 0].numpy()
    axes.imshow(spectrogram, origin="lower", aspect="auto", cmap="magma",
                extent=(start_s, start_s + config.clip_s, 0, config.n_mels),
                vmin=np.quantile(spectrogram, 0.05), vmax=np.quantile(spectrogram, 0.998))
    axes.set_xlim(start_s, end_s)
    axes.set_ylabel(f"mel band ({config.fmin_hz:g} to {config.fmax_hz:g} Hz)", fontsize=8)


def origin_of(competition: Path) -> str:
    """One sentence on whether a competition's audio is real."""
    if (competition / GENERATED_MARK).is_file():
        return "Generated audio: every sound was synthesised, no animal was recorded. Scores say nothing of real birds."
    return f"Competition files of {competition.name}."


def paragraph(text: str) -> str:
    """Text as html."""
    return f"<p>{html.escape(text)}</p>"


def image_tag(picture: Picture) -> str:
    """A picture inside the page itself."""
    return f'<img src="data:image/png;base64,{base64.b64encode(picture._repr_png_()).decode()}">'


def write_html(path: Path, title: str, parts: Iterable[str]) -> Path:
    """Write a page that needs no other file, and return its path."""
    path.write_text(f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>"
                    f"{''.join(parts)}", encoding="utf-8")
    return path
