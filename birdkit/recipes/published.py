"""Recipes of published entries, for a GPU and pretrained weights, without their defects."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from birdkit.config import Member, RunConfig, SourceConfig
from birdkit.recipes.base import Recipe, member
from birdkit.recipes.presets import FRONT_ENDS
from birdkit.recipes.winners import POWERS
from birdkit.settings import replace

# The recordings without birds that both used, from the Kaggle dataset christofhenkel/birdclef2021-background-noise.
NOISES = (("ff1010bird_nocall", 0.5), ("train_soundscapes", 0.25), ("aicrowd2020_noise_30sec", 0.25))

# Rounds of our own for both: a soundscape under half of the clips, as loud as they are. Not "soundscape_mix", which
# brings waves to peak 1: their front ends keep how loud a clip is.
LATER: Mapping[str, Any] = {
    "augment__wave": (member("background", p=0.5, min_snr_db=0.0, max_snr_db=0.0, weight_share=0.5),)}


def seed2022() -> Recipe:
    """The first seed's parts model (BirdCLEF 2022, 18th place), for one GPU, without its defects.

    Six parts of 5 s: 1 + 5 s * 32,000 Hz / 512 = 313 frames of 128 mels, each through the backbone alone; a batch norm
    per mel band. Its mixing is of spectrograms, once for all six parts. Short recordings are repeated instead of
    padded, so no silent part carries a label; crops move by more than whole seconds; attention runs over time, which
    the committed models did over frequency without meaning to (model__head_axis = "frequency" is what they did).
    Only recordings of scored classes validate. A second loader of recordings that hold scored classes is mixed into
    80 % of the batches; its author's next step, at most so many of a class, is the source's `most_per_class`.
    SpecAugment covers two stretches of up to 64 of 313 frames and two bands of up to 8 of 128 mels in each part, in a
    quarter of the batches; both are drawn for themselves here, where the original had both or none. Its text adds 0.01
    to every label, as here, its configs 0.1.
    A bird is heard where its probability, less 0.4 of its share of the recordings of scored birds, is among the highest
    15 % of all of them.
    """
    config = replace(
        RunConfig(), name="seed2022", n_splits=5, frontend=FRONT_ENDS["seed2022"],
        model__weights="hub", model__input_norm="band", model__parts=6, model__smoothing=True, model__dropout=0.5,
        data__secondary_target=1.0, data__rating_weights=True, data__unrated_weight=0.1, data__label_smoothing=0.01,
        data__balance=0.0, splitting__scored_only=True,
        data__sources=(SourceConfig("selected", "recordings", classes=("scored",)), *_noises()),
        augment__wave=_loud_noise(),
        augment__spectrogram=(member("selective_mixup", p=0.8), member("mixup", p=0.5, per="batch"),
                              *_quarter_of_batches()),
        loss=Member("focal", {"alpha": 0.25, "gamma": 2.0}),
        train__epochs=20, train__batch_size=36, train__peak_lr=1e-3, train__final_lr=1e-6, train__weight_decay=1e-6,
        train__warmup_epochs=0.0, train__clip_grad_norm=0.0, train__workers=4,
        inference__decision=member("quantile", q=0.85, penalty=0.4))
    return Recipe(config, splits=(0, 1, 2, 3, 4), rounds=0, later=LATER)


def henkel2021() -> Recipe:
    """The 2021 second place's cfg_ps_12_v21 (Henkel et al., arXiv:2107.07728), which the first seed reproduced.

    Six parts of 5 s: 1 + 5 s * 32,000 Hz / 320 = 501 frames of 128 mels; GeM over all of the joined map; mixup twice on
    the 30 s spectrogram. Predicted at 5, 10 and 20 s. A bird is heard where its probability is among the highest
    0.13 % of all rows and birds, half a bird a row. Its call detector is the recipe `call_detector`, and notebook
    04's GATE says what it does, which was only in a notebook of theirs that is not public.
    """
    mixup = member("mixup", p=0.5, per="batch")
    config = replace(
        RunConfig(), name="henkel2021", n_splits=5, frontend=FRONT_ENDS["henkel2021"],
        model__backbone="eca_nfnet_l0", model__weights="hub", model__parts=6, model__pooling="gem",
        model__neck="none", model__dropout=0.0, model__head="gem",
        data__secondary_target=1.0, data__rating_weights=True, data__unrated_weight=0.1, data__balance=0.0,
        data__sources=_noises(), augment__wave=_loud_noise(),
        augment__spectrogram=(mixup, mixup),
        train__epochs=11, train__batch_size=16, train__optimiser="adam", train__peak_lr=1e-3, train__final_lr=1e-6,
        train__weight_decay=0.0, train__warmup_epochs=1.0, train__clip_grad_norm=0.0, train__workers=4,
        inference__scales=(1, 2, 4), inference__pool="clips",
        inference__decision=member("quantile", q=0.9987))
    return Recipe(config, splits=(0, 1, 2, 3, 4), rounds=0, later=LATER)


def seed2025() -> Recipe:
    """The second seed's experiment 93 (BirdCLEF 2025, 56th place), for one GPU, without its defects.

    12 s * 32,000 Hz / 500 = 768 frames; 2 strips of 192 mels: an image of 384 x 384 in three channels (x and its
    slopes), min-max scaled after 80 dB of dynamic range, then ImageNet's mean and deviation. SUMIX 0, 1, 1 or 2 times,
    hard pseudo-labels of soundscapes in windows of 6 s, with higher thresholds for four common classes, added to 8 of
    32 rows. Its cap of 500 or 100 windows of a class, pseudo__most_per_class, is of its second round, whose labels were
    broken: this is the first. Classes below 20 recordings are repeated up to that, and those up to 20 always train.
    Three cosines, each half as high, and no limit to the gradient. Crops move, secondary labels count, and weight decay
    is passed on, which the original meant and did not do. Its accident, recordings' labels at 0.8 in all rows, is
    data__recording_target = 0.8. It validated on 300 recordings of a class at most; here on all of the split's.
    """
    config = replace(
        RunConfig(), name="seed2025", n_splits=10,
        frontend=FRONT_ENDS["seed2025-384"],
        model__weights="hub", model__input_norm="channel", model__head_options={"kernel": 3}, model__dropout=0.3,
        data__secondary_target=0.3, data__balance=0.0, data__least_per_class=20, splitting__min_per_class=21,
        pseudo__hard=0.5, pseudo__thresholds={"compot1": 0.7, "52884": 0.7, "pavpig2": 0.6, "65448": 0.65},
        pseudo__keep_empty=False, labelling__window_s=6.0,
        augment__wave=(member("repeat", counts=[0, 1, 1, 2], member={"name": "sumix", "options": {}},
                              by_count={"2": {"min_gain": 0.5}}),),
        augment__spectrogram=(_first_third("time_mask"), _first_third("frequency_mask"),
                              member("coarse_dropout", p=0.4, min_share=0.1)),
        loss=Member("two_way", {"base": "focal", "options": {"alpha": 0.8, "gamma": 2.0}, "pooling": "mean"}),
        train__epochs=24, train__batch_size=32, train__peak_lr=1e-3, train__final_lr=1e-5, train__weight_decay=0.01,
        train__warmup_epochs=2.0, train__warmup_start=0.1, train__schedule="restarts", train__restart_epochs=8.0,
        train__restart_decay=0.5, train__clip_grad_norm=0.0, train__workers=4)
    return Recipe(config, later={"augment__wave": (*config.augment.wave, member("added_background", p=0.25))})


def t4() -> Recipe:
    """One Kaggle T4 and pretrained weights: the mixing and pseudo-labels of the 2025 winners on a folded image.

    10 s * 32,000 Hz / 625 = 512 frames; 2 strips of 128 mels: an image of 256 x 256.
    """
    config = replace(
        RunConfig(), name="t4", n_splits=5,
        frontend__clip_s=10.0, frontend__hop_samples=625, frontend__n_mels=128, frontend__channels="repeat",
        model__backbone="tf_efficientnetv2_s.in21k", model__weights="hub", model__pooling="mean_max",
        data__crop="rms", data__balance=0.5, pseudo__floor=0.1,
        augment__wave=(member("or_mixup", p=0.5), member("background", p=0.5)),
        augment__spectrogram=(member("time_mask", p=0.3), member("frequency_mask", p=0.3)),
        train__epochs=30, train__batch_size=64, train__peak_lr=5e-4, train__weight_decay=1e-2, train__workers=4,
        train__ema_decay=0.999, train__validate_every=5, validation__kind="composed",
        inference__clip_step_s=5.0, inference__postprocess=(member("smooth"),))
    # The 2025 first place: every example half soundscape, a power for each round, and stochastic depth, which helps
    # students only.
    return Recipe(config, splits=(0, 1, 2, 3, 4), rounds=2, by_round=POWERS, later={
        "augment__wave": (member("soundscape_mix", p=1.0),), "model__drop_path": 0.15, "pseudo__sampler": "sum"})


def _noises() -> tuple[SourceConfig, ...]:
    """The three sources of noise; those that are not attached are left out, with a warning."""
    return tuple(SourceConfig(name, path=f"birdclef2021-background-noise/{name}") for name, _ in NOISES)


def _loud_noise() -> tuple[Member, ...]:
    """Each noise with its own probability, so that 72 % of the clips get one at least, at 0.7 to 1 of their RMS."""
    return tuple(member("background", p=p, min_snr_db=0.0, max_snr_db=3.0, source=name) for name, p in NOISES)


def _quarter_of_batches() -> tuple[Member, ...]:
    """SpecAugment as the first seed had it: two stripes of each kind in every part of a batch, or in none of it."""
    widest = {"time_mask": 64 / 313, "frequency_mask": 8 / 128}
    return tuple(member("repeat", counts=[0, 0, 0, 1], member={"name": name, "options": {
        "min_masks": 2, "max_masks": 2, "max_share": share, "parts": 6}}) for name, share in widest.items())


def _first_third(name: str) -> Member:
    """SpecAugment as the second seed had it: up to three masks, and none after the first of the three cosines."""
    return member("during", end=1 / 3, member={"name": name, "options": {"p": 0.25, "max_masks": 3}})
