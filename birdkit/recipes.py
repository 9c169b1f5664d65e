"""Named recipes: what the notebooks train when they are told a name. A recipe is a delta from the defaults."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from birdkit.config import Member, RunConfig, replace, to_dict
from birdkit.presets import FRONT_ENDS


@dataclass(frozen=True)
class Recipe:
    """A named run config, and what a whole run of it trains.

    config   of round 0
    splits   the splits that are trained, each one a member of the ensemble
    rounds   of pseudo-labelling after round 0
    earlier  rounds before the last whose checkpoints join the ensemble
    later    changes to the config from round 1 on, as for birdkit.config.replace
    """

    config: RunConfig
    splits: tuple[int, ...] = (0,)
    rounds: int = 1
    earlier: int = 0
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
    KeyError: "no recipe named 'huge'; there is: demo, seed2025, small, t4, tiny"
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
    """Two CPU cores, half an hour, from scratch: chosen by cross-validation on real recordings (README, "Results").

    5 s * 32,000 Hz / 1000 = 160 frames; one strip of 96 mels: an image of 96 x 160.
    Batches of 48 clips keep each tensor under 32 MiB, above which the C library gives memory back after every use.
    """
    config = replace(
        RunConfig(), name="small", n_splits=5,
        frontend__clip_s=5.0, frontend__hop_samples=1000, frontend__n_mels=96, frontend__strips=1,
        frontend__fmin_hz=50.0, frontend__floor=1e-5,
        model__backbone="scratch_resnet", model__pooling="mean_max", model__hidden=256, model__dropout=0.3,
        data__crop="rms", data__balance=1.0, data__samples_per_epoch=4800, data__cache_gib=4.0, data__pseudo_floor=0.03,
        augment__wave=(_distance(), _company(), *_place()),
        augment__spectrogram=(member("time_mask", p=0.5), member("frequency_mask", p=0.5)),
        train__epochs=10, train__batch_size=48, train__workers=0, train__peak_lr=2e-3, train__weight_decay=0.02,
        train__ema_decay=0.998, train__validate_every=5,
        validation__kind="composed", inference__clip_step_s=1.25, inference__pool="clips",
        inference__postprocess=(member("scale_by_file_top", k=2, power=0.5),))
    # Teachers are unsure of animals they have met only alone: a power below 1 lifts what they only suspect.
    return Recipe(config, splits=(0, 1), earlier=1, later={"train__epochs": 13, "data__pseudo_power": 0.6})


def _demo() -> Recipe:
    """`small` on a generated competition, which is smaller: a few minutes on two CPU cores."""
    small = _small()
    config = replace(small.config, name="demo", data__samples_per_epoch=1920,
                     train__epochs=5, train__validate_every=1, train__ema_decay=0.98, validation__n_soundscapes=8)
    return Recipe(config, later={"data__pseudo_power": 0.6})


def _seed2025() -> Recipe:
    """The second seed's experiment 93 (BirdCLEF 2025, 56th place), for one GPU, without its defects.

    12 s * 32,000 Hz / 500 = 768 frames; 2 strips of 192 mels: an image of 384 x 384 in three channels (x and its
    slopes), min-max scaled after 80 dB of dynamic range, then ImageNet's mean and deviation. SUMIX 0, 1, 1 or 2 times,
    soundscapes added to 8 of 32 rows with their labels. Crops move, secondary labels count, and weight decay is passed
    on, which the original meant and did not do.
    """
    config = replace(
        RunConfig(), name="seed2025", n_splits=10,
        frontend=FRONT_ENDS["seed2025-384"],
        model__weights="hub", model__input_norm="channel", model__head_options={"kernel": 3}, model__dropout=0.3,
        data__secondary_target=0.3, data__balance=0.5, data__pseudo_floor=0.5,
        augment__wave=(member("repeat", counts=[0, 1, 1, 2], member={"name": "sumix", "options": {}},
                              by_count={"2": {"min_gain": 0.5}}),),
        augment__spectrogram=(member("time_mask", p=0.25), member("frequency_mask", p=0.25),
                              member("coarse_dropout", p=0.4)),
        loss=Member("two_way", {"base": "focal", "options": {"alpha": 0.8, "gamma": 2.0}, "pooling": "mean"}),
        train__epochs=24, train__batch_size=32, train__peak_lr=1e-3, train__final_lr=5e-5, train__weight_decay=0.01,
        train__warmup_epochs=2.0, train__workers=4)
    return Recipe(config, later={"augment__wave": (*config.augment.wave, member("added_background", p=0.25))})


def _t4() -> Recipe:
    """One Kaggle T4 and pretrained weights: the mixing and pseudo-labels of the 2025 winners on a folded image.

    10 s * 32,000 Hz / 625 = 512 frames; 2 strips of 128 mels: an image of 256 x 256.
    """
    config = replace(
        RunConfig(), name="t4", n_splits=5,
        frontend__clip_s=10.0, frontend__hop_samples=625, frontend__n_mels=128, frontend__channels="repeat",
        model__backbone="tf_efficientnetv2_s.in21k", model__weights="hub", model__pooling="mean_max",
        data__crop="rms", data__balance=0.5, data__pseudo_floor=0.1,
        augment__wave=(member("or_mixup", p=0.5), member("background", p=0.5)),
        augment__spectrogram=(member("time_mask", p=0.3), member("frequency_mask", p=0.3)),
        train__epochs=30, train__batch_size=64, train__peak_lr=5e-4, train__weight_decay=1e-2, train__workers=4,
        train__ema_decay=0.999, train__validate_every=5, validation__kind="composed",
        inference__clip_step_s=5.0, inference__postprocess=(member("smooth"),))
    # The 2025 first place: every example half soundscape, and stochastic depth, which helps students only.
    return Recipe(config, splits=(0, 1, 2, 3, 4), rounds=2, later={
        "augment__wave": (member("soundscape_mix", p=1.0),), "model__drop_path": 0.15, "data__pseudo_power": 1 / 0.65})


def _distance() -> Member:
    """What lies between an animal and the recorder, drawn for each clip: air, leaves, another microphone, an echo."""
    filters = [member(name, p=0.5) for name in ("low_pass", "random_eq", "reverb")]
    return member("filter_chain", members=[to_dict(one) for one in filters])


def _company() -> Member:
    """None, one or two other clips on top, each sound at a level of its own: nearer and further animals."""
    sumix = member("sumix", min_gain=0.1, level="rms", renormalise="none")
    return member("repeat", counts=[0, 0, 1, 1, 2], member=to_dict(sumix))


def _place() -> tuple[Member, ...]:
    """The soundscape around the animals, or coloured noise, from 8 dB louder than they are to 16 dB quieter."""
    return (member("background", p=0.6, min_snr_db=-8.0, max_snr_db=16.0),
            member("noise", p=0.3, min_snr_db=-8.0, max_snr_db=16.0))


RECIPES: Mapping[str, Recipe] = {"tiny": _tiny(), "demo": _demo(), "small": _small(), "seed2025": _seed2025(),
                                 "t4": _t4()}
