"""The number by which tables and checkpoints know the front end's arithmetic."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from birdkit import checkpoint, frontend
from birdkit.config import FrontEndConfig
from birdkit.frontend import FrontEnd
from birdkit.recipes.presets import FRONT_ENDS

# Means over a grid of every named front end's image of the golden wave, and the version that they are of.
GOLDEN = json.loads(Path(__file__).with_name("golden_images.json").read_text(encoding="utf-8"))
GRID = 4

pytestmark = pytest.mark.filterwarnings("ignore:Empty filters")


def grid_means(config: FrontEndConfig) -> list[float]:
    """The mean of each field of a grid of GRID * GRID over each channel of the golden wave's image."""
    with torch.inference_mode():
        image = FrontEnd(config)(checkpoint.golden_wave(config.n_samples))
    fields = torch.nn.functional.adaptive_avg_pool2d(image, GRID)
    return [round(value, 5) for value in fields.flatten().tolist()]


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_images_change_only_with_the_version(name: str) -> None:
    """Labels and models of other images would be taken for ours. Where this fails and the change is meant, raise
    frontend.VERSION and write the new means, and the version, into golden_images.json."""
    assert GOLDEN["version"] == frontend.VERSION, "golden_images.json is of another version: write its means anew"
    assert np.allclose(grid_means(FRONT_ENDS[name]), GOLDEN["means"][name], rtol=1e-3, atol=3e-3), (
        f"{name}: {grid_means(FRONT_ENDS[name])}")


def test_the_version_stands_in_every_checkpoint() -> None:
    """And so in the message of a golden sample that comes out differently."""
    assert checkpoint.versions()["frontend"] == str(frontend.VERSION)
