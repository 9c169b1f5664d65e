"""Named recipes: what the notebooks train when they are told a name. A recipe is a delta from the defaults."""
from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from birdkit.config import OWN, Member, ModelConfig, RunConfig
from birdkit.presets import FRONT_ENDS
from birdkit.profiles import read_groups, recognise
from birdkit.settings import replace, to_dict


@dataclass(frozen=True)
class Recipe:
    """A named run config, and what a whole run of it trains.

    config   of round 0
    splits   the splits that are trained, each one a member of the ensemble
    rounds   of pseudo-labelling after round 0
    earlier  rounds before the last whose checkpoints join the ensemble
    members  changes that make the models of the splits unlike each other, taken in turn: split 0 the first, and so on
    later    changes to the config from round 1 on; all changes are as for birdkit.settings.replace
    """

    config: RunConfig
    splits: tuple[int, ...] = (0,)
    rounds: int = 1
    earlier: int = 0
    members: tuple[Mapping[str, Any], ...] = ({},)
    later: Mapping[str, Any] = field(default_factory=dict)

    def run(self, round: int, split: int) -> RunConfig:
        """The config of one run of notebook 03, before `for_competition`.

        >>> get("tiny").run(1, 0).round
        1
        """
        config = replace(self.config, **self.members[max(split, 0) % len(self.members)])
        if round > 0:
            config = replace(config, **self.later)
        # Splits are members of one ensemble: another seed makes them differ in more than their recordings.
        return replace(config, round=round, split=split, seed=self.config.seed + 100 * round + max(split, 0))


def for_competition(config: RunConfig, competition_dir: str | Path) -> RunConfig:
    """The config with what only the competition's files know: its year, and the groups of its classes.

    A "grouped" head's groups may be the name of a column of the class table, such as "class_name"; they become the
    group of each class. Raises birdkit.profiles.ProfileError where the files do not fit.
    """
    config = replace(config, year=recognise(competition_dir).year)
    column = config.model.head_options.get("groups")
    if config.model.head != "grouped" or not isinstance(column, str):
        return config
    options = {**config.model.head_options, "groups": list(read_groups(competition_dir, column))}
    return replace(config, model__head_options=options)


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
    KeyError: "no recipe named 'huge'; there is: call_detector, conformer, ..."
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
    # Two unlike networks err in different places: on split 0 each alone had .917 and .932, together .938.
    members: tuple[dict[str, Any], ...] = ({}, {"model": _small_conformer(), "train__warmup_epochs": 2.0})
    # Teachers are unsure of animals they have met only alone: a power below 1 lifts what they only suspect.
    return Recipe(config, splits=(0, 1), earlier=1, members=members,
                  later={"train__epochs": 13, "data__pseudo_power": 0.6})


def _demo() -> Recipe:
    """`small` on a generated competition, which is smaller: a few minutes on two CPU cores."""
    small = _small()
    config = replace(small.config, name="demo", data__samples_per_epoch=1920,
                     train__epochs=5, train__validate_every=1, train__ema_decay=0.98, validation__n_soundscapes=8)
    return Recipe(config, later={"data__pseudo_power": 0.6})


def _call_detector() -> Recipe:
    """Call or no call, from scratch on two CPU cores: for a table of birdkit.call_sources and the class "call".

    Its images are those of `small` and `demo`, so as their gate it costs its own small network and no spectrogram.
    The 2021 second place's detector is CallDetector.published on the front end "henkel2021-call", trained with Adam at
    1e-4 in batches of 32 for 15 to 20 epochs, and mixup on every example.
    """
    small = _small().config
    config = replace(
        small, name="call_detector",
        model=ModelConfig(name="call_detector", backbone="scratch_resnet_s2", input_norm="instance",
                          options={"attention_hidden": 128}),
        augment__wave=(_distance(), member("or_mixup", p=0.5, level="rms"),
                       member("noise", p=0.3, min_snr_db=-3.0, max_snr_db=20.0)),
        validation__kind="recordings", inference__pool="segments", inference__postprocess=())
    return Recipe(config, rounds=0)


def _like_small(name: str, model: ModelConfig, **changes: Any) -> Recipe:
    """`small` with another model: the same examples, mixing and number of steps, so that their scores compare."""
    small = _small()
    return dataclasses.replace(small, config=replace(small.config, name=name, model=model, **changes), members=({},))


def _parts() -> Recipe:
    """`small` in three parts of 5 s, a third as many of them, so that the backbone sees as many images.

    GeM over the bands and over all segments of the joined parts, as the 2021 second place.
    """
    model = replace(_small().config.model, parts=3, pooling="gem", head="gem")
    return _like_small("parts", model, train__batch_size=16, data__samples_per_epoch=1600)


def _grouped() -> Recipe:
    """`small` with a head for each group of the competition's class table: birds, frogs, insects, mammals."""
    options = {"groups": "class_name", "hidden": 64}
    return _like_small("grouped", replace(_small().config.model, head="grouped", head_options=options))


def _conformer() -> Recipe:
    """A small Conformer SED from scratch, where the first seed's "didn't work": it reads all segments, it warms up.

    40 segments of 1/8 s from images of 96 x 160; no mean over classes, a peak rate of its own, gradients clipped.
    """
    return _like_small("conformer", _small_conformer(), train__warmup_epochs=2.0)


def _small_conformer() -> ModelConfig:
    return ModelConfig(name="conformer", backbone=OWN, dropout=0.1, options={
        "dim": 96, "blocks": 2, "pooling": "attention", "filters": [16, 32, 64, 96, 128],
        "pool_bands": [2, 2, 2, 2, 2], "pool_time": [2, 2, 1, 1, 1]})


def _fdy_crnn() -> Recipe:
    """A small FDY-CRNN from scratch: each clip scaled by itself, kernels that differ by band, a GRU over time."""
    model = ModelConfig(name="fdy_crnn", backbone=OWN, dropout=0.1, options={
        "filters": [16, 32, 64, 96, 96], "pools": [[2, 2], [2, 2], [2, 1], [2, 1], [6, 1]], "rnn_width": 64,
        "rnn_layers": 1})
    return _like_small("fdy_crnn", model, train__peak_lr=5e-3)


def _htsat() -> Recipe:
    """A small HTS-AT from scratch, with the warm-up and the clipped gradients that a transformer needs.

    5 s * 32,000 Hz / 625 = 256 frames; 2 strips of 64 mels: an image of 128 x 128, as many tokens as 32 x 32 patches.
    """
    model = ModelConfig(name="htsat", backbone=OWN, dropout=0.0, drop_path=0.05, options={
        "embed_dim": 48, "depths": [2, 2, 2], "heads": [2, 4, 8]})
    return _like_small("htsat", model, frontend__hop_samples=625, frontend__n_mels=64, frontend__strips=2,
                       train__peak_lr=2e-3, train__warmup_epochs=2.0, train__weight_decay=0.05)


def _seed2022() -> Recipe:
    """The first seed's parts model (BirdCLEF 2022, 18th place), for one GPU, without its defects.

    Six parts of 5 s: 1 + 5 s * 32,000 Hz / 512 = 313 frames of 128 mels, each through the backbone alone; a batch norm
    per mel band. Its mixing is of spectrograms, once for all six parts. Short recordings are repeated instead of
    padded, so no silent part carries a label; crops move by more than whole seconds; attention runs over time, which
    the committed models did over frequency without meaning to (model__head_axis = "frequency" is what they did).
    """
    config = replace(
        RunConfig(), name="seed2022", n_splits=5, frontend=FRONT_ENDS["seed2022"],
        model__weights="hub", model__input_norm="band", model__parts=6, model__smoothing=True, model__dropout=0.5,
        data__secondary_target=1.0, data__rating_weights=True, data__unrated_weight=0.1, data__label_smoothing=0.01,
        data__balance=0.0,
        augment__wave=(member("background", p=0.719, min_snr_db=0.0, max_snr_db=3.0),),
        augment__spectrogram=(member("mixup", p=0.5), member("time_mask", p=0.25), member("frequency_mask", p=0.25)),
        loss=Member("focal", {"alpha": 0.25, "gamma": 2.0}),
        train__epochs=20, train__batch_size=36, train__peak_lr=1e-3, train__final_lr=1e-6, train__weight_decay=1e-6,
        train__warmup_epochs=0.0, train__clip_grad_norm=0.0, train__workers=4)
    return Recipe(config, splits=(0, 1, 2, 3, 4), later={"augment__wave": (member("soundscape_mix", p=0.5),)})


def _henkel2021() -> Recipe:
    """The 2021 second place's cfg_ps_12_v21 (Henkel et al., arXiv:2107.07728), which the first seed reproduced.

    Six parts of 5 s: 1 + 5 s * 32,000 Hz / 320 = 501 frames of 128 mels; GeM over all of the joined map; mixup twice on
    the 30 s spectrogram. Predicted at 5, 10 and 20 s. Its threshold and its call detector belong to the submission.
    """
    mixup = member("mixup", p=0.5)
    config = replace(
        RunConfig(), name="henkel2021", n_splits=5, frontend=FRONT_ENDS["henkel2021"],
        model__backbone="eca_nfnet_l0", model__weights="hub", model__parts=6, model__pooling="gem",
        model__neck="none", model__dropout=0.0, model__head="gem",
        data__secondary_target=1.0, data__rating_weights=True, data__unrated_weight=0.1, data__balance=0.0,
        augment__wave=(member("background", p=0.719, min_snr_db=0.0, max_snr_db=3.0),),
        augment__spectrogram=(mixup, mixup),
        train__epochs=11, train__batch_size=16, train__optimiser="adam", train__peak_lr=1e-3, train__final_lr=1e-6,
        train__weight_decay=0.0, train__warmup_epochs=1.0, train__clip_grad_norm=0.0, train__workers=4,
        inference__scales=(1, 2, 4), inference__pool="clips")
    return Recipe(config, splits=(0, 1, 2, 3, 4), later={"augment__wave": (member("soundscape_mix", p=0.5),)})


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


RECIPES: Mapping[str, Recipe] = {
    # tests, the demo, two CPU cores
    "tiny": _tiny(), "demo": _demo(), "small": _small(),
    # the same budget as "small" with another model
    "parts": _parts(), "grouped": _grouped(), "conformer": _conformer(), "fdy_crnn": _fdy_crnn(), "htsat": _htsat(),
    # published, for a GPU and pretrained weights
    "henkel2021": _henkel2021(), "seed2022": _seed2022(), "seed2025": _seed2025(), "t4": _t4(),
    "call_detector": _call_detector()}
