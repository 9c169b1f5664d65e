"""Another microphone, another place: random gains along the frequency axis."""
from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from birdkit.augmentations.base import AUGMENTATIONS
from birdkit.augmentations.drawing import check_range, integer, uniform
from birdkit.augmentations.filtering import Filter, frequencies_hz, multiply, octave_place
from birdkit.batch import Batch

# Points at which a curve with places of its own for each example is computed before it is stretched to all columns.
POINTS = 256


@AUGMENTATIONS.register("random_eq")
class RandomEQ(Filter):
    """A random gain for each band, one curve for each example.

    As RandomFiltering, BirdCLEF 2023 first and 2025 second place: bands 4, min_db -20, max_db 0, spacing "hertz".
    As FilterAugment (Nam et al. 2022, arXiv:2110.03282), which filters mel spectrograms: places "random" and shape
    "step" with 2 to 4 bands or "linear" with 4 to 6, -6 to 6 dB; there one set of places serves the whole batch. A
    front end that scales decibels would undo or distort a gain given to its image, so waves are filtered here.

    min_db, max_db  range of the gains, uniform in decibels
    bands           gains that are drawn for an example
    min_bands       for each batch `bands` is drawn anew from this to `bands`; None for no less
    shape           "linear" joins the gains by straight lines in decibels, "step" gives each band one gain
    places          "even", or "random": bands begin and end, or lines meet, anywhere at least `min_width` apart
    min_width       least width of a random band, as a share of the axis
    spacing         the axis: "octaves" from `lowest_hz` to half the sample rate, or "hertz" from 0
    """

    neutral: ClassVar[dict[str, float]] = {"gains_db": 0.0}

    def __init__(self, p: float = 1.0, min_db: float = -6.0, *, max_db: float = 6.0, bands: int = 8,
                 min_bands: int | None = None, shape: str = "linear", places: str = "even", min_width: float = 0.05,
                 spacing: str = "octaves", lowest_hz: float = 200.0, sample_rate_hz: int = 32_000) -> None:
        super().__init__(p, sample_rate_hz)
        check_range("gains_db", min_db, max_db)
        check_range("bands", 2, bands)
        check_range("min_bands", 2, bands if min_bands is None else min_bands, most=bands)
        check_range("min_width", min_width, min_width, least=0.0, most=1 / bands)
        check_range("lowest_hz", lowest_hz, sample_rate_hz / 2, least=1.0)
        for name, value, known in (("shape", shape, ("linear", "step")), ("places", places, ("even", "random")),
                                   ("spacing", spacing, ("octaves", "hertz"))):
            if value not in known:
                raise ValueError(f"{name} = {value!r}; it must be one of {', '.join(known)}")
        self.min_db, self.max_db, self.bands, self.lowest_hz = min_db, max_db, bands, lowest_hz
        self.min_bands = bands if min_bands is None else min_bands
        self.shape, self.places, self.min_width, self.spacing = shape, places, min_width, spacing

    def sample(self, batch: Batch, generator: Generator) -> dict[str, Any]:
        """gains_db (B, bands) and edges (B, E), where the bands meet, from 0 to 1 along the axis, ascending.

        Steps meet in bands - 1 edges, lines in bands - 2 besides both ends.
        """
        n = len(batch)
        bands = self.min_bands + integer(self.bands - self.min_bands + 1, generator=generator)
        gains_db = uniform(n * bands, self.min_db, self.max_db, generator=generator).view(n, bands)
        spans = bands if self.shape == "step" else bands - 1
        inner = torch.arange(1, spans)
        if self.places == "even":
            return {"gains_db": gains_db, "edges": (inner / spans).repeat(n, 1)}
        free = torch.rand(n, spans - 1, generator=generator).sort(1).values
        return {"gains_db": gains_db, "edges": free * (1 - spans * self.min_width) + inner * self.min_width}

    def change(self, spectrum: Tensor, n_samples: int, **drawn: Any) -> None:
        """Multiply by the curve."""
        curve = self._curve(drawn["gains_db"].to(spectrum.device), drawn["edges"].to(spectrum.device))
        if self.spacing == "octaves":
            place = octave_place(n_samples, self.lowest_hz, self.sample_rate_hz, device=spectrum.device)
        else:
            place = frequencies_hz(n_samples, self.sample_rate_hz, device=spectrum.device) / (self.sample_rate_hz / 2)
        place = place * (curve.shape[1] - 1)
        below = place.long().clamp_max(curve.shape[1] - 2)
        log_gains = curve * (math.log(10) / 20)
        # Not a product of matrices, which autocast would round to half precision.
        between = log_gains.index_select(1, below).lerp_(log_gains.index_select(1, below + 1), place - below)
        multiply(spectrum, between.exp_())

    def _curve(self, gains_db: Tensor, edges: Tensor) -> Tensor:
        """Decibels at evenly spaced places from 0 to 1, (B, P), that straight lines join."""
        if self.shape == "linear" and self.places == "even":
            return gains_db
        at = torch.linspace(0, 1, POINTS, device=edges.device).repeat(len(edges), 1)
        span = (at[:, None, :] >= edges[:, :, None]).sum(1)  # (B, P), which band, or which line
        if self.shape == "step":
            return gains_db.gather(1, span)
        ends = torch.nn.functional.pad(torch.nn.functional.pad(edges, (1, 0)), (0, 1), value=1.0)
        start, stop = ends.gather(1, span), ends.gather(1, span + 1)
        along = (at - start) / (stop - start).clamp_min(1e-6)
        return torch.lerp(gains_db.gather(1, span), gains_db.gather(1, span + 1), along)
