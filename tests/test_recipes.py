"""Recipes: every name builds, and nothing in it is a setting that nobody reads."""
from pathlib import Path

import pytest
import torch

from birdkit import recipes
from birdkit.augmentations import build_augmentations
from birdkit.batch import Batch
from birdkit.config import Member, RunConfig
from birdkit.losses import LOSSES
from birdkit.models import build_model
from birdkit.settings import from_dict, replace, to_dict

CASES = [(name, round) for name in sorted(recipes.RECIPES) for round in (0, 1)]


@pytest.mark.parametrize(("name", "round"), CASES)
def test_every_recipe_builds_what_it_names(name: str, round: int, tmp_path: Path) -> None:
    """A typo in a recipe should not wait for a card to be free."""
    recipe = recipes.get(name)
    config = recipes.for_competition(recipe.run(round, recipe.splits[0]), competition_of(tmp_path, 2025))
    build_augmentations(config.augment.wave)
    build_augmentations(config.augment.spectrogram)
    LOSSES.build(config.loss.name, **config.loss.options)
    # Hub weights cannot be had without the internet.
    model = build_model(replace(config, model__weights="none").model, config.frontend, 3).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, config.frontend.n_samples)).clip_logits.shape == (1, 3)


@pytest.mark.parametrize(("name", "round"), CASES)
def test_every_recipe_survives_its_checkpoint(name: str, round: int) -> None:
    """The config is stored as JSON and read strictly."""
    config = recipes.get(name).run(round, 0)
    assert from_dict(RunConfig, to_dict(config)) == config


@pytest.mark.parametrize(("name", "round"), CASES)
def test_no_recipe_sets_levels_that_its_front_end_keeps(name: str, round: int) -> None:
    """Half of a batch would be at peak 1, and the soundscapes to be predicted are not."""
    config = recipes.get(name).run(round, 0)
    assert config.frontend.level != "none" or not any(
        member.sets_level for member in build_augmentations(config.augment.wave, "wave"))


def test_members_of_an_ensemble_differ_in_split_and_seed() -> None:
    """Two runs with one seed are nearly one model."""
    recipe = recipes.get("small")
    runs = [recipe.run(round, split) for round in (0, 1) for split in (-1, 0, 1)]
    assert len({(run.seed, run.split) for run in runs}) == len(runs)
    assert {run.round for run in runs} == {0, 1}


def test_splits_take_the_members_in_turn() -> None:
    """An ensemble of one network five times errs five times in the same place."""
    recipe = recipes.Recipe(RunConfig(), members=({"seed": 7}, {"model__backbone": "resnet34", "seed": 7}),
                            later={"train__epochs": 3})
    backbones = [recipe.run(0, split).model.backbone for split in (-1, 0, 1, 2, 3)]
    first, second = RunConfig().model.backbone, "resnet34"
    assert backbones == [first, first, second, first, second]
    late = recipe.run(1, 3)
    assert (late.model.backbone, late.train.epochs) == (second, 3)


def test_rounds_have_changes_of_their_own_over_those_of_all_later_rounds() -> None:
    """The 2025 winner's exponents differ by round: one power for all of them is another recipe."""
    recipe = recipes.Recipe(RunConfig(), later={"pseudo__power": 9.0, "train__epochs": 3},
                            by_round=({"pseudo__power": 1.0}, {"pseudo__power": 2.0, "model__backbone": "resnet34"}))
    powers = [recipe.run(round, 0).pseudo.power for round in range(4)]
    assert powers == [1.0, 1.0, 2.0, 2.0] and recipe.run(1, 0).train.epochs == 3
    assert [recipe.run(round, 0).model.backbone == "resnet34" for round in range(4)] == [False, False, True, True]


def test_a_change_of_a_mixed_recipe_passes_by_the_model_that_has_none_of_it(caplog: pytest.LogCaptureFixture) -> None:
    """Stochastic depth for the students of `small`: its Conformer has none, which is no reason to train neither. A
    recipe of that model alone says that it cannot."""
    caplog.set_level("INFO")
    configs = [recipes.get("small").changed(1, split, {"model__drop_path": 0.15, "train__epochs": 2})
               for split in (0, 1)]
    assert [config.model.drop_path for config in configs] == [0.15, 0.0] and configs[1].train.epochs == 2
    assert [len(build_model(config.model, config.frontend, 2).state_dict()) > 0 for config in configs] == [True] * 2
    assert caplog.messages == ["split 1: the model conformer has no model__drop_path, which stays as it is"]
    alone = recipes.get("conformer").changed(1, 0, {"model__drop_path": 0.15})
    with pytest.raises(ValueError, match="no stochastic depth"):
        build_model(alone.model, alone.frontend, 2)


def test_the_winners_rounds_are_as_they_published_them() -> None:
    """Exponents above 1, which lower the unsure labels; shares and caps of the injectors; the rate of substitution."""
    first = [recipes.get("babych2025").run(round, 0) for round in range(5)]
    assert [run.pseudo.power for run in first[1:]] == pytest.approx([1, 1 / 0.65, 1 / 0.55, 1 / 0.6])
    assert [run.model.drop_path for run in first] == [0, 0.15, 0.15, 0.15, 0.15]
    assert first[1].pseudo.sampler == "sum" and first[1].augment.wave[-1].options == {"p": 1.0}
    assert recipes.get("t4").run(2, 0).pseudo.power == pytest.approx(1 / 0.65)
    second = recipes.get("sydorskyi2025").run(1, 0)
    folds = [recipes.get("sydorskyi2025").run(round, 0).labelling.out_of_fold for round in (1, 2, 3)]
    assert folds == ["people", "people", "all"]
    assert {recipes.get(name).run(1, 0).labelling.teachers for name in ("babych2025", "sydorskyi2025", "babych2026")
            } == {"all"} and recipes.get("small").run(1, 0).labelling.teachers == "same_split"
    assert second.augment.wave[0].options == {"p": 0.4} and (second.pseudo.least_peak, second.pseudo.floor) == (.5, .1)
    third = recipes.get("babych2026").run(1, 0)
    shares = [entry["share"] for entry in third.augment.wave[1].options["members"]]
    caps = third.pseudo.label_sum, third.data.sources[0].label_sum
    assert shares == [0.75, 0.1875] and caps == (0.75, 0.5)


def test_the_first_seeds_masks_are_its_own() -> None:
    """Two stripes of up to 64 of 313 frames and of 8 of 128 mels in each of six parts, for a quarter of the batches."""
    config = recipes.get("seed2022").config
    members = build_augmentations(config.augment.spectrogram, "spectrogram")[2:]
    batch = Batch(torch.randn(4, 1, 128, 6 * 313), torch.zeros(4, 2), torch.ones(4))
    generator, masked = torch.Generator().manual_seed(0), [0, 0]
    for _ in range(80):
        for kind, member in enumerate(members):
            covered = (member(batch, generator).signal != batch.signal).view(4, 128, 6, 313).transpose(1, 2)
            if not covered.any():
                continue
            masked[kind] += 1
            lines = covered.any(3) if kind else covered.any(2)  # of each part, (4, 6, 128 bands or 313 frames)
            assert torch.equal(covered, lines.unsqueeze(3 if kind else 2).expand_as(covered))
            assert int(lines.sum(2).max()) <= 2 * (8 if kind else 64)
            stripes = (lines.int().diff(dim=2) == 1).sum(2) + lines[..., 0].int()
            assert int(stripes.max()) == 2 and len({tuple(row) for row in lines.flatten(0, 1).int().tolist()}) > 12
    assert all(10 <= n <= 30 for n in masked)


def test_what_the_second_seed_never_validated_on_always_trains() -> None:
    """Classes of up to 20 recordings went wholly into training; at 5e-5 its cosines would have ended too high."""
    config = recipes.get("seed2025").config
    assert config.splitting.min_per_class == 21 and config.data.least_per_class == 20
    assert config.train.final_lr == 1e-5 and config.train.clip_grad_norm == 0


def competition_of(folder: Path, year: int) -> Path:
    """The tables of a competition with a bird, a frog and another bird."""
    (folder / "train.csv").write_text("primary_label,filename\n")
    (folder / "taxonomy.csv").write_text("primary_label,inat_taxon_id,scientific_name,common_name,class_name\n"
                                         "b2,1,A a,A,Aves\nb1,2,B b,B,Aves\nfrog,3,C c,C,Amphibia\n")
    (folder / "sample_submission.csv").write_text("row_id,b1,frog,b2\n")
    if year == 2026:
        (folder / "train_soundscapes_labels.csv").touch()
    return folder


def test_the_two_tracks_of_the_first_seed_decide_as_they_did(tmp_path: Path) -> None:
    """Penalty and quantiles were half of both entries; the shares come from the recordings of the scored birds."""
    (tmp_path / "train_metadata.csv").write_text("primary_label\nowl\nfrog\nowl\nwren\nowl\n")
    (tmp_path / "scored_birds.json").write_text('["owl", "wren"]')
    (tmp_path / "sample_submission.csv").write_text("row_id,target\n")
    config = recipes.for_competition(recipes.get("seed2022").run(0, 0), tmp_path)
    assert config.year == 2022 and config.task.scored == ("owl", "wren")
    assert config.inference.decision == Member("quantile", {"q": 0.85, "penalty": 0.4, "shares": {
        "owl": 0.75, "wren": 0.25}})
    assert config.competition.metric == "balanced_accuracy"
    assert from_dict(RunConfig, to_dict(config)) == config
    assert recipes.get("henkel2021").config.inference.decision == Member("quantile", {"q": 0.9987})


def test_without_unlabelled_soundscapes_nothing_of_them_is_mixed_in(tmp_path: Path,
                                                                    caplog: pytest.LogCaptureFixture) -> None:
    """2021 to 2023 had none: every recipe with a background would end in an error, or say what is not true."""
    (tmp_path / "train_metadata.csv").write_text("primary_label\nowl\n")
    (tmp_path / "eBird_Taxonomy_v2021.csv").touch()
    (tmp_path / "sample_submission.csv").write_text("row_id,owl\n")
    config = recipes.for_competition(recipes.get("tiny").run(0, 0), tmp_path)
    assert config.year == 2023 and [one.name for one in config.augment.wave] == ["or_mixup"]
    assert "without soundscapes" in caplog.text and "(background)" in caplog.text
    assert recipes.for_competition(recipes.get("tiny").run(0, 0), tmp_path, year=2024).year == 2024


@pytest.mark.parametrize("year", [2025, 2026])
def test_the_year_comes_from_the_competition(tmp_path: Path, year: int) -> None:
    """It decides the metric and the windows of the validation."""
    assert recipes.for_competition(recipes.get("tiny").run(0, 0), competition_of(tmp_path, year)).year == year


def test_the_groups_of_the_classes_come_from_the_competition(tmp_path: Path) -> None:
    """In the order of the submission's columns, not of the table's rows: b1, frog, b2."""
    run = replace(recipes.get("tiny").run(0, 0), model__head="grouped", model__head_options={"groups": "class_name"})
    with pytest.raises(ValueError, match="for_competition"):
        build_model(run.model, run.frontend, 3)
    run = recipes.for_competition(run, competition_of(tmp_path, 2025))
    assert run.model.head_options["groups"] == ["Aves", "Amphibia", "Aves"]
    assert len(build_model(run.model, run.frontend, 3).head.heads) == 2  # type: ignore[union-attr, arg-type]
    assert recipes.for_competition(recipes.get("tiny").config, tmp_path).model == recipes.get("tiny").config.model
