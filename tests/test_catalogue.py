"""The list of what there is: sizes one can check by hand, times that are times, parity on audio files."""
import pytest
import soundfile as sf
import torch
from conftest import RATE, noise, tone

from birdkit import catalogue
from birdkit.catalogue import Choice
from birdkit.cli import main
from birdkit.config import FrontEndConfig, ModelConfig
from birdkit.models import MODELS
from birdkit.recipes.presets import FRONT_ENDS

SMALL = FrontEndConfig(clip_s=2.0, hop_samples=1000, n_mels=32, strips=1)


def choice(name: str = "sed", **changes: object) -> Choice:
    return Choice(name, ModelConfig(name=name, backbone="scratch_resnet_s2", **changes), "small", SMALL)  # type: ignore[arg-type]


def test_every_registered_model_and_front_end_is_listed() -> None:
    """A new model is one file and one import line: the list must find it by itself."""
    assert [one.name for one in catalogue.choices()] == MODELS.names()
    assert list(catalogue.list_front_ends(timing=False)["front end"]) == list(FRONT_ENDS)
    with pytest.raises(KeyError, match=r"there is: .*seed2022"):
        catalogue.choices(frontend="seed2023")
    with pytest.raises(KeyError, match=r"there is: .*sed"):
        catalogue.choices(names=["set"])


def test_sizes_are_those_of_the_model() -> None:
    """Parameters, segments and multiply-adds are counted, not typed in."""
    row = catalogue.list_models([choice()], n_classes=3, timing=False).iloc[0]
    model = choice().build(3)
    assert row["parameters M"] == round(sum(p.numel() for p in model.parameters()) / 1e6, 2)
    assert row["segments"] == model.n_segments == 4


def test_multiply_adds_of_a_layer_are_those_of_a_pencil() -> None:
    """A 3 x 3 convolution from 2 to 16 channels over 16 x 32 places: 2 * 9 * 16 * 16 * 32 = 147,456."""
    class Stem(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = torch.nn.Conv2d(2, 16, 3, stride=2, padding=1)

        def classify(self, image: torch.Tensor) -> torch.Tensor:
            return self.convolution(image)

    assert catalogue.multiply_adds(Stem(), torch.zeros(1, 2, 32, 64)) == 147_456  # type: ignore[arg-type]


def test_a_model_that_does_not_fit_says_why_and_costs_nothing_else() -> None:
    """One refusal must not end the list of the others."""
    folded = FrontEndConfig(clip_s=4.0, hop_samples=1000, n_mels=40)
    odd = Choice("sed", ModelConfig(backbone="scratch_resnet_s2"), "odd", folded)
    table = catalogue.list_models([odd, choice()], n_classes=3, timing=False)
    assert "seam" in table.loc[0, "does not fit"] and table.loc[1, "segments"] == 4


def test_times_are_measured() -> None:
    """A larger image takes longer; a list of equal or zero times would be invented."""
    large = Choice("sed", ModelConfig(backbone="scratch_resnet_s2"), "large",
                   FrontEndConfig(clip_s=8.0, hop_samples=250, n_mels=128, strips=1))
    times = catalogue.list_models([choice(), large], n_classes=3)["ms per clip"]
    assert 0 < times[0] < times[1]


def test_parity_is_measured_on_the_audio_of_a_folder(tmp_path) -> None:
    """Random images give false alarms; and a folder without audio must not pass as agreement."""
    pytest.importorskip("openvino")
    with pytest.raises(FileNotFoundError, match="no audio files"):
        catalogue.export_parity([choice()], tmp_path)
    for index in range(3):
        sf.write(tmp_path / f"{index}.wav", noise(3, seed=index) + tone(1000 * (index + 1), 3), RATE)
    table = catalogue.export_parity([choice(), choice(head_options={"pool": "probabilities"})], tmp_path, n_classes=4)
    assert (table["max difference / sigma"] < 1e-4).all() and (table["sigma"] > 0.5).all()
    assert (table["rank agreement"] > 0.999).all()


def test_the_command_prints_both_lists(capsys: pytest.CaptureFixture[str]) -> None:
    """What a person sees first when choosing."""
    assert main(["models", "--no-timing", "sed", "--front-end", "fold-8s-256", "--backbone", "scratch_resnet"]) == 0
    assert "256 x 256" in capsys.readouterr().out
    assert main(["models", "--no-timing", "nothing"]) == 1
    assert "there is:" in capsys.readouterr().err
