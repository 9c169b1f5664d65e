"""Named recipes: what the notebooks train when they are told a name. A recipe is a delta from the defaults."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from birdkit.config import Member, RunConfig, replace


@dataclass(frozen=True)
class Recipe:
    """A named run config, and what a whole run of it trains.

    config  of round 0
    splits  the splits that are trained, each one a member of the ensemble
    rounds  of pseudo-labelling after round 0
    later   changes to the config from round 1 on, as for birdkit.config.replace
    """

    config: RunConfig
    splits: tuple[int, ...] = (0,)
    rounds: int = 1
    later: Mapping[str, Any] = field(default_factory=dict)

    def run(self, round: int, split: int, *, year: int = 2025) -> RunConfig:
        """The config of one run of notebook 03.

        >>> get("tiny").run(1, 0).round
        1
        """
        config = replace(self.config, **self.later) if round > 0 else self.config
        # Splits are members of one ensemble: another seed makes them differ in more than their recordings.
        return replace(config, round=round, split=split, year=year, seed=self.config.seed + 100 * round + max(split, 0))


def member(name: str, **options: Any) -> Member:
    """A registry member with its options.

    >>> member("gain", max_db=6.0)
    Member(name='gain', options={'max_db': 6.0})
    """
    return Member(name, options)


def get(name: str) -> Recipe:
    """The recipe of this name; KeyError lists those there are.

    >>> get("huge")
    Traceback (most recent call last):
    KeyError: "no recipe named 'huge'; there is: small, tiny"
    """
    if name not in RECIPES:
        raise KeyError(f"no recipe named {name!r}; there is: {', '.join(sorted(RECIPES))}")
    return RECIPES[name]


def _tiny() -> Recipe:
    """For tests: seconds on one core; it learns little.

    2 s * 32,000 Hz / 1000 = 64 frames; one strip of 32 mels: an image of 32 x 64.
    """
    config = replace(
        RunConfig(), name="tiny", n_splits=2,
        frontend__clip_s=2.0, frontend__hop_samples=1000, frontend__n_mels=32, frontend__strips=1,
        model__backbone="test_resnet", model__hidden=32,
        data__samples_per_epoch=32, data__cache_gib=0.5,
        augment__wave=(member("or_mixup", p=0.5), member("background", p=0.5)),
        train__epochs=2, train__batch_size=8, train__workers=0, train__peak_lr=2e-3, train__ema_decay=0.9)
    return Recipe(config, later={"augment__wave": (member("or_mixup", p=0.5), member("soundscape_mix", p=0.5))})


def _small() -> Recipe:
    """Two CPU cores, minutes, from scratch.

    5 s * 32,000 Hz / 1000 = 160 frames; one strip of 96 mels: an image of 96 x 160.
    """
    filters = member("filter_chain", members=[{"name": "low_pass", "options": {"p": 0.5}},
                                              {"name": "random_eq", "options": {"p": 0.5}},
                                              {"name": "reverb", "options": {"p": 0.5}}])
    config = replace(
        RunConfig(), name="small", n_splits=5,
        frontend__clip_s=5.0, frontend__hop_samples=1000, frontend__n_mels=96, frontend__strips=1,
        frontend__fmin_hz=50.0, frontend__floor=1e-5,
        model__backbone="resnet10t", model__hidden=256, model__dropout=0.3,
        data__crop="rms", data__balance=1.0, data__samples_per_epoch=2560, data__cache_gib=4.0,
        augment__wave=(filters, member("or_mixup", p=0.5), member("background", p=0.6, min_snr_db=-8.0, max_snr_db=16.0)),
        augment__spectrogram=(member("time_mask", p=0.5), member("frequency_mask", p=0.5)),
        train__epochs=20, train__batch_size=64, train__workers=0, train__peak_lr=2e-3, train__weight_decay=0.02,
        train__ema_decay=0.998, train__validate_every=5,
        validation__kind="composed", inference__clip_step_s=1.25,
        inference__postprocess=(member("smooth"),))
    return Recipe(config, splits=(0, 1))


RECIPES: Mapping[str, Recipe] = {"tiny": _tiny(), "small": _small()}
