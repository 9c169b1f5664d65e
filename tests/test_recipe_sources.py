"""What a recipe mixes in is what there is: found where it lies, or taken out with a word; the config stays true."""
from __future__ import annotations

from pathlib import Path

import pytest

from birdkit import kaggle, recipes, synthesis
from birdkit.augmentations import build_augmentations
from birdkit.config import UNLABELLED, Member, RunConfig, SourceConfig
from birdkit.kaggle import MissingInputError
from birdkit.recipes import for_competition
from birdkit.settings import replace

NOCALL, RAIN = SourceConfig("nocall", path="birdkit-nocall"), SourceConfig("rain", path="birdkit-rain/wet/season")


def over(source: str) -> Member:
    return Member("background", {"source": source})


@pytest.fixture
def competition(tmp_path: Path) -> Path:
    """The tables of a competition."""
    folder = tmp_path / "competition"
    folder.mkdir()
    (folder / "train.csv").touch()
    (folder / "taxonomy.csv").write_text("primary_label,class_name\nowl,Aves\nfrog,Amphibia\n")
    (folder / "sample_submission.csv").write_text("row_id,owl,frog\n")
    return folder


@pytest.fixture
def run() -> RunConfig:
    """A config with two noises, one of them inside a repeated augmentation."""
    nested = Member("repeat", {"counts": [0, 1], "member": {"name": "background", "options": {"source": "rain"}}})
    return replace(RunConfig(), data__sources=(NOCALL, RAIN), augment__wave=(
        over("soundscapes"), over("nocall"), nested, Member("gain")))


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where Kaggle would mount what is attached."""
    folder = tmp_path / "input"
    folder.mkdir()
    monkeypatch.setattr(kaggle.find_dataset, "__kwdefaults__",
                        {**kaggle.find_dataset.__kwdefaults__, "roots": (folder,)})
    return folder


@pytest.mark.parametrize("layout", ["birdkit-nocall", "datasets/someone/birdkit-nocall"])
def test_an_attached_dataset_is_found_and_what_is_missing_is_taken_out(
        run: RunConfig, competition: Path, inputs: Path, layout: str, caplog: pytest.LogCaptureFixture) -> None:
    """A checkpoint whose config names a noise that was never heard tells a story that is not true."""
    (inputs / layout).mkdir(parents=True)
    config = for_competition(run, competition)
    assert [(source.name, source.path) for source in config.data.sources] == [("nocall", str(inputs / layout))]
    assert config.augment.wave == (over("soundscapes"), over("nocall"), Member("gain"))
    needed = {name for one in build_augmentations(config.augment.wave) for name in one.sources}
    assert needed == {"soundscapes", "nocall"}
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1 and all(word in warnings[0] for word in ("rain", "(repeat)", "birdkit-rain", "Attach"))


def test_given_folders_and_paths_of_the_config_come_first(run: RunConfig, competition: Path, inputs: Path,
                                                          tmp_path: Path) -> None:
    """NOISE in the notebook wins; a path that is a folder needs no dataset."""
    for name in ("input/birdkit-nocall", "input/birdkit-rain", "own", "mine"):
        (tmp_path / name).mkdir()
    local = replace(run, data__sources=(replace(NOCALL, path=str(tmp_path / "own")), RAIN))
    config = for_competition(local, competition, folders={"rain": tmp_path / "mine"})
    assert [source.path for source in config.data.sources] == [str(tmp_path / "own"), str(tmp_path / "mine")]
    assert config.augment == run.augment
    with pytest.raises(MissingInputError, match="nothing_here"):
        for_competition(run, competition, folders={"rain": tmp_path / "nothing_here"})
    with pytest.raises(ValueError, match=r"folders are given for snow, .* are: nocall, rain"):
        for_competition(run, competition, folders={"snow": tmp_path / "mine"})


def test_the_scored_classes_of_a_source_come_from_the_competition(run: RunConfig, competition: Path) -> None:
    """The second loader of selective mixup is of the classes that count, which only the competition's files know."""
    named = SourceConfig("second", kind="recordings", classes=("owl",))
    scored = replace(named, classes=("scored",))
    (competition / "scored_birds.json").write_text('["frog"]')
    for source, classes in ((scored, ("frog",)), (named, ("owl",)), (replace(named, classes=()), ())):
        config = for_competition(replace(run, data__sources=(source,), augment__wave=()), competition)
        assert [one.classes for one in config.data.sources] == [classes]


def test_a_recipe_without_sources_is_left_as_it_is(competition: Path) -> None:
    """Nothing to find, nothing to warn of."""
    tiny = recipes.get("tiny").run(0, 0)
    assert for_competition(tiny, competition) == tiny


def test_a_year_without_soundscapes_has_no_quiet_ones(run: RunConfig, competition: Path, tmp_path: Path,
                                                      caplog: pytest.LogCaptureFixture) -> None:
    """What is mixed in under another name is taken out with a word, too."""
    config = replace(run, data__sources=(SourceConfig("air", UNLABELLED),), augment__wave=(over("air"), Member("gain")))
    assert for_competition(config, competition).augment.wave == (over("air"), Member("gain"))
    made = synthesis.generate(tmp_path / "birds", year=2023, **synthesis.TINY, progress=False).competition_dir
    without = for_competition(config, made)
    assert without.augment.wave == (Member("gain"),) and not without.data.sources
    assert "training without air" in caplog.text and "2023 has no unlabelled soundscapes" in caplog.text
