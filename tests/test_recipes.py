"""Recipes: every name builds, and nothing in it is a setting that nobody reads."""
import pytest
import torch

from birdkit import recipes
from birdkit.augmentations import build_augmentations
from birdkit.config import RunConfig, from_dict, replace, to_dict
from birdkit.losses import LOSSES
from birdkit.models import build_model

CASES = [(name, round) for name in sorted(recipes.RECIPES) for round in (0, 1)]


@pytest.mark.parametrize(("name", "round"), CASES)
def test_every_recipe_builds_what_it_names(name: str, round: int) -> None:
    """A typo in a recipe should not wait for a card to be free."""
    recipe = recipes.get(name)
    config = recipe.run(round, recipe.splits[0])
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


def test_members_of_an_ensemble_differ_in_split_and_seed() -> None:
    """Two runs with one seed are nearly one model."""
    recipe = recipes.get("small")
    runs = [recipe.run(round, split) for round in (0, 1) for split in (-1, 0, 1)]
    assert len({(run.seed, run.split) for run in runs}) == len(runs)
    assert {run.round for run in runs} == {0, 1}


def test_the_year_reaches_the_run() -> None:
    """It decides the metric and the windows of the validation."""
    assert recipes.get("tiny").run(0, 0, year=2026).year == 2026
