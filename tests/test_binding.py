"""What post-processing needs of a competition's files, in the order in which a config names it."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from birdkit import postprocess
from birdkit.config import Member, RunConfig
from birdkit.ensembles import bind
from birdkit.profiles import ProfileError
from birdkit.runs.training import Run
from birdkit.settings import from_dict, to_dict

CLASSES = ("owl1", "frog", "owl2")


@pytest.fixture
def competition(tmp_path: Path) -> Path:
    """The tables of 2026: two owls of a genus and a frog; what was heard where, every row twice."""
    (tmp_path / "train.csv").write_text("primary_label,filename\nowl1,a.ogg\nowl1,b.ogg\nowl1,c.ogg\nfrog,d.ogg\n")
    (tmp_path / "taxonomy.csv").write_text("primary_label,inat_taxon_id,scientific_name,common_name,class_name\n"
                                           "owl2,1,Strix b,B,Aves\nowl1,2,Strix a,A,Aves\nfrog,3,Rana c,C,Amphibia\n")
    (tmp_path / "sample_submission.csv").write_text("row_id,owl1,frog,owl2\n")
    row = "BC2026_Train_0001_S22_20250114_060000.ogg,{},{},{}\n"
    rows = row.format("00:00:00", "00:00:10", "frog;stranger") + row.format("00:00:05", "00:00:10", "owl1")
    (tmp_path / "train_soundscapes_labels.csv").write_text("filename,start,end,primary_label\n" + rows + rows)
    return tmp_path


def test_groups_and_genera_are_read_by_class_name(competition: Path) -> None:
    """The table stands in another order than the columns: by position the frog would be an owl."""
    bound = bind([Member("smooth_by_group"), Member("smooth_relatives", {"weight": 0.1})], competition)
    assert bound[0].options == {"groups": {"owl1": "Aves", "frog": "Amphibia", "owl2": "Aves"}}
    assert bound[1].options == {"groups": {"owl1": "Strix", "frog": "Rana", "owl2": "Strix"}, "weight": 0.1}


def test_counts_are_those_of_the_recordings_of_scored_classes(competition: Path) -> None:
    """A class without a recording has none; in 2022 only scored birds count, as in the first seed."""
    member = [Member("frequency_penalty", {"weight": 0.4})]
    assert bind(member, competition)[0].options == {"weight": 0.4, "counts": {"owl1": 3, "frog": 1, "owl2": 0}}
    (competition / "scored_birds.json").write_text('["owl1", "owl2"]')
    assert bind(member, competition)[0].options["counts"] == {"owl1": 3, "owl2": 0}


def test_a_prior_counts_every_labelled_window_once(competition: Path) -> None:
    """The host's rows came twice; a label that is no class is nobody's prior."""
    options = bind([Member("site_hour_prior")], competition)[0].options
    assert options["prior"] == {"cells": [{"site": "S22", "hour": "06", "windows": 2, "heard": {"frog": 2, "owl1": 1}}]}


def test_without_labelled_soundscapes_a_prior_is_left_out_and_said(competition: Path, caplog) -> None:
    """A recipe is made for several years; that something was left out is not found in a log by who does not look."""
    (competition / "train_soundscapes_labels.csv").unlink()
    members = (Member("smooth"), Member("site_hour_prior"))
    assert bind(members, competition) == (Member("smooth"),)
    assert "site_hour_prior is left out" in caplog.text


def test_what_is_bound_stays_and_what_there_is_not_is_an_error(competition: Path) -> None:
    """Bound once, a checkpoint's data are not exchanged for those of another competition."""
    bound = bind([Member("frequency_penalty", {"counts": {"yak": 1}}), Member("smooth")], competition)
    assert bound == (Member("frequency_penalty", {"counts": {"yak": 1}}), Member("smooth"))
    with pytest.raises(ValueError, match="counts = 'soundscapes'; it must be 'recordings'"):
        bind([Member("frequency_penalty", {"counts": "soundscapes"})], competition)
    with pytest.raises(ProfileError, match="no column 'family'"):
        bind([Member("smooth_relatives", {"groups": "family"})], competition)


def test_a_run_carries_its_data_into_its_checkpoint_and_applies_them(competition: Path) -> None:
    """Validation, pseudo-labels and submission read the config of the checkpoint alone: all must be in it."""
    asked = [{"name": "smooth_relatives", "options": {}}, {"name": "site_hour_prior", "options": {}}]
    config = Run(competition, competition, "tiny", changes={"inference__postprocess": asked}).config()
    again = from_dict(RunConfig, to_dict(config)).inference.postprocess
    vague = np.full((2, 3), 0.3)
    vague[0, 0] = 0.5
    after = postprocess.apply(vague, again, classes=CLASSES, file="BC2026_Test_0002_S22_20250301_060000.ogg")
    assert after[0, 2] > after[1, 2] + 0.01  # its sister is heard
    assert after[1, 1] > 0.3 > after[1, 2]  # the frog calls there in the morning, nobody has ever heard that owl
