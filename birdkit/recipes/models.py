"""The recipe `small` with other models."""
from __future__ import annotations

import dataclasses
from typing import Any

from birdkit.config import OWN, ModelConfig
from birdkit.recipes.base import Recipe
from birdkit.recipes.small import small, small_conformer
from birdkit.settings import replace


def _like_small(name: str, model: ModelConfig, **changes: Any) -> Recipe:
    """`small` with another model: the same examples, mixing and number of steps, so that their scores compare."""
    base = small()
    return dataclasses.replace(base, config=replace(base.config, name=name, model=model, **changes), members=({},),
                               unread={})


def parts() -> Recipe:
    """`small` in three parts of 5 s, a third as many of them, so that the backbone sees as many images.

    GeM over the bands and over all segments of the joined parts, as the 2021 second place.
    """
    model = replace(small().config.model, parts=3, pooling="gem", head="gem")
    return _like_small("parts", model, train__batch_size=16, data__samples_per_epoch=1600)


def grouped() -> Recipe:
    """`small` with a head for each group of the competition's class table: birds, frogs, insects, mammals."""
    options = {"groups": "class_name", "hidden": 64}
    return _like_small("grouped", replace(small().config.model, head="grouped", head_options=options))


def conformer() -> Recipe:
    """A small Conformer SED from scratch, where the first seed's "didn't work": it reads all segments, it warms up.

    40 segments of 1/8 s from images of 96 x 160; no mean over classes, a peak rate of its own, gradients clipped.
    """
    return _like_small("conformer", small_conformer(), train__warmup_epochs=2.0)


def fdy_crnn() -> Recipe:
    """A small FDY-CRNN from scratch: each clip scaled by itself, kernels that differ by band, a GRU over time."""
    model = ModelConfig(name="fdy_crnn", backbone=OWN, dropout=0.1, options={
        "filters": [16, 32, 64, 96, 96], "pools": [[2, 2], [2, 2], [2, 1], [2, 1], [6, 1]], "rnn_width": 64,
        "rnn_layers": 1})
    return _like_small("fdy_crnn", model, train__peak_lr=5e-3)


def htsat() -> Recipe:
    """A small HTS-AT from scratch, with the warm-up and the clipped gradients that a transformer needs.

    5 s * 32,000 Hz / 625 = 256 frames; 2 strips of 64 mels: an image of 128 x 128, as many tokens as 32 x 32 patches.
    """
    model = ModelConfig(name="htsat", backbone=OWN, dropout=0.0, drop_path=0.05, options={
        "embed_dim": 48, "depths": [2, 2, 2], "heads": [2, 4, 8]})
    return _like_small("htsat", model, frontend__hop_samples=625, frontend__n_mels=64, frontend__strips=2,
                       train__peak_lr=2e-3, train__warmup_epochs=2.0, train__weight_decay=0.05)
