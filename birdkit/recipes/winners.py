"""Recipes of the winners of 2025 and 2026, for a GPU and pretrained weights: their ways with pseudo-labels.

Each has what its authors wrote of one model and its rounds. What they added to that is left out: other backbones,
pretraining on more species, distillation from another network, taxon specialists. Their students learn from all
teachers of the round before, so what a validating split says of their rounds is biased upwards, see LabelConfig.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from birdkit.config import ALL, LABELLED, PSEUDO, Member, RunConfig, SourceConfig
from birdkit.recipes.base import Recipe, member
from birdkit.recipes.presets import FRONT_ENDS
from birdkit.settings import replace, to_dict

# The 2025 first place's exponents of rounds 1 to 4, from .898 to .930 of public ROC-AUC; a fifth round gained nothing.
POWERS: tuple[Mapping[str, Any], ...] = tuple({"pseudo__power": power} for power in (1.0, 1 / 0.65, 1 / 0.55, 1 / 0.6))


def babych2025() -> Recipe:
    """The 2025 first place's noisy student (Babych, write-up "Multi-Iterative Noisy Student", 2025), of one backbone.

    20 s clips; cross-entropy of clip and loudest segment, half each, on targets that are not normalised. From round 1
    on every example is half soundscape, files are drawn by how much is heard in them, a power lowers the unsure labels,
    and 15 % stochastic depth helps where it did not before. Shorter recordings lie anywhere between zeros; theirs lay
    at the end in round 0.
    """
    config = replace(
        RunConfig(), name="babych2025", n_splits=5, frontend=FRONT_ENDS["babych2025"],
        model__weights="hub", model__pooling="gem", data__short="place", data__secondary_target=1.0,
        pseudo__floor=0.0, pseudo__sampler="sum", augment__wave=(member("or_mixup", p=0.5),),
        loss=Member("two_way", {"base": "cross_entropy", "pooling": "max", "clip_weight": 0.5, "weight": 0.5}),
        train__epochs=15, train__batch_size=64, train__peak_lr=5e-4, train__final_lr=1e-6, train__weight_decay=1e-4,
        train__warmup_epochs=0.0, train__schedule="restarts", train__restart_epochs=5.0, train__restart_decay=1.0,
        train__workers=4, inference__clip_step_s=10.0, inference__postprocess=(member("smooth"),))
    return Recipe(config, splits=(0, 1, 2, 3, 4), rounds=4, by_round=POWERS, later={
        "augment__wave": (member("or_mixup", p=0.5), member("soundscape_mix", p=1.0)), "model__drop_path": 0.15,
        "train__epochs": 30, "labelling__teachers": ALL})


def sydorskyi2025() -> Recipe:
    """The 2025 second place (Sydorskyi and vialactea, write-up and code, 2025), of one backbone.

    1 + 5 s * 32,000 Hz / 512 = 313 frames of 128 mels; classes drawn alike. From round 1 on 40 % of the examples are
    replaced by a soundscape window of their class, of windows above 0.5, with what is below 0.1 at zero. In the third
    round a soundscape is labelled out of fold. Its backgrounds without calls are ff1010bird's here.
    """
    masks = (member("time_mask", p=0.3, max_masks=3, max_share=20 / 313),
             member("frequency_mask", p=0.3, max_masks=3, max_share=10 / 128))
    eq = member("random_eq", min_db=-20.0, max_db=0.0, bands=4, spacing="hertz")
    nocall = SourceConfig("ff1010bird_nocall", path="birdclef2021-background-noise/ff1010bird_nocall")
    wave = (member("or_mixup", p=0.5), member("background", p=0.5, source=nocall.name), eq)
    config = replace(
        RunConfig(), name="sydorskyi2025", n_splits=5,
        frontend__clip_s=5.0, frontend__hop_samples=512, frontend__frames=313, frontend__n_mels=128,
        frontend__strips=1, model__backbone="tf_efficientnetv2_s.in21k", model__weights="hub",
        data__balance=1.0, data__label_smoothing=0.005, data__sources=(nocall,),
        pseudo__least_peak=0.5, pseudo__floor=0.1, augment__wave=wave, augment__spectrogram=masks,
        loss=Member("focal", {"alpha": 0.25, "gamma": 2.0}),
        train__epochs=50, train__batch_size=64, train__peak_lr=1e-4, train__final_lr=1e-6, train__warmup_epochs=0.0,
        train__precision="f32", train__workers=4, inference__clip_step_s=2.5,
        inference__postprocess=(member("scale_by_file_top"),))
    matched = SourceConfig("matched", PSEUDO, match=0.5)
    return Recipe(config, splits=(0, 1, 2, 3, 4), rounds=3, by_round=({}, {}, {"labelling__out_of_fold": ALL}), later={
        "data__sources": (nocall, matched), "augment__wave": (member("substitute", p=0.4), *wave),
        "labelling__teachers": ALL})


def babych2026() -> Recipe:
    """The 2026 first place's fine-tuning and self-training (Babych, write-up, 2026), of one backbone.

    5 s clips; cross-entropy on normalised targets. Labelled soundscapes are mixed into half of the examples (theirs: 25
    to 75 % of a batch), their labels scaled to a sum of 0.5 at most, and 2 in 64 examples are one of them as it is.
    From round 1 on 75 % of the examples get a pseudo-labelled soundscape, labels at most 0.75 in sum, and another
    18.75 % a labelled one. In a competition without labelled soundscapes what needs them is taken out.
    """
    labelled = SourceConfig("labelled", LABELLED, label_sum=0.5)
    clean = SourceConfig("labelled_clean", LABELLED)
    rows = member("source_only", p=2 / 64, source=clean.name)

    def mix(share: float, **options: Any) -> dict[str, Any]:
        return {**to_dict(member("soundscape_mix", p=1.0, **options)), "share": share}

    config = replace(
        RunConfig(), name="babych2026", n_splits=5, frontend=FRONT_ENDS["babych2026"],
        model__backbone="eca_nfnet_l0", model__weights="hub",
        data__labelled_soundscapes=False, data__sources=(labelled, clean),  # two in 64 take the place of those rows
        pseudo__floor=0.0, pseudo__label_sum=0.75,
        augment__wave=(member("or_mixup", p=0.5), member("one_of", members=[mix(0.5, source=labelled.name)]), rows),
        loss=Member("cross_entropy", {"normalise": True}),
        train__epochs=12, train__batch_size=64, train__peak_lr=2e-4, train__workers=4, inference__clip_step_s=2.5,
        inference__postprocess=(member("smooth", kernel=[0.2, 0.6, 0.2]),))
    later = member("one_of", members=[mix(0.75), mix(0.1875, source=labelled.name)])
    return Recipe(config, splits=(0, 1, 2, 3, 4), rounds=3, later={
        "augment__wave": (member("or_mixup", p=0.5), later, rows), "labelling__teachers": ALL})
