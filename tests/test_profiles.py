"""What a year fixed, recognised from files alone."""
from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from birdkit import profiles
from birdkit.metrics import METRICS
from birdkit.profiles import PROFILES, ProfileError, read_classes, recognise

TAXONOMY = "primary_label,inat_taxon_id,scientific_name,common_name,class_name\n"


def year_2025(folder: Path, *, classes: tuple[str, ...] = ("1139490", "amakin1"),
              columns: tuple[str, ...] = ()) -> Path:
    """The three tables of 2025; the submission's columns are the classes unless told otherwise."""
    (folder / "train.csv").write_text("primary_label,filename\n")
    rows = "".join(f"{name},1,Genus species,Name,Aves\n" for name in classes)
    (folder / "taxonomy.csv").write_text(TAXONOMY + rows)
    (folder / "sample_submission.csv").write_text(",".join(("row_id", *(columns or classes))) + "\n")
    return folder


def year_2024(folder: Path) -> Path:
    (folder / "eBird_Taxonomy_v2021.csv").touch()
    (folder / "unlabeled_soundscapes").mkdir()
    (folder / "train_metadata.csv").write_text("primary_label,filename\nasbfly,a.ogg\nasbfly,b.ogg\nzitcis1,c.ogg\n")
    (folder / "sample_submission.csv").write_text("row_id,asbfly,zitcis1\n")
    return folder


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: str(profile.year))
def test_every_profile_is_consistent(profile: profiles.Competition) -> None:
    """A typing error in a declarative line would otherwise show in a submission that the host refuses."""
    assert PROFILES[profile.year] is profile
    assert profile.metric in METRICS
    assert profile.windows * profile.window_s == profile.soundscape_s
    assert profile.time_limit_s / 60 in (90, 120, 180, 540) and not profile.guessed
    assert profile.row_format in profiles.ROW_FORMATS
    assert METRICS[profile.metric].on_decisions == (profile.row_format != profiles.PROBABILITIES)
    assert str(profile.year) in profile.source and profile.source.startswith("https://")
    assert "primary_label" in profile.columns


def test_no_two_years_have_one_signature() -> None:
    """Otherwise the order of the file would decide the year."""
    assert len({profile.signature for profile in PROFILES.values()}) == len(PROFILES)


def test_each_year_is_recognised_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The year decides metric, window and time limit: a person must see which was taken, and why."""
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    with caplog.at_level(logging.INFO):
        assert recognise(year_2025(tmp_path / "a")).year == 2025
    assert "2025" in caplog.text and "taxonomy.csv:class_name" in caplog.text
    (tmp_path / "a" / "train_soundscapes_labels.csv").touch()
    assert recognise(tmp_path / "a").year == 2026
    assert recognise(year_2024(tmp_path / "b")).year == 2024


def test_every_class_has_its_group(tmp_path: Path) -> None:
    """A group by position would give frogs the birds' head."""
    folder = year_2025(tmp_path, classes=("frog", "bird"), columns=("bird", "frog"))
    rows = "frog,1,A a,A,Amphibia\nbird,2,B b,B,Aves\n"
    (folder / "taxonomy.csv").write_text(TAXONOMY + rows)
    assert profiles.read_groups(folder) == ("Aves", "Amphibia")
    with pytest.raises(ProfileError, match="no column 'genus'"):
        profiles.read_groups(folder, "genus")
    (folder / "taxonomy.csv").write_text(TAXONOMY + rows.replace("Aves", " "))
    with pytest.raises(ProfileError, match="class_name of bird is empty"):
        profiles.read_groups(folder)


def test_an_unknown_folder_is_told_what_every_year_lacks(tmp_path: Path) -> None:
    """Mostly the path is one level too high or low; the list of missing files shows it."""
    with pytest.raises(ProfileError, match=r"2024 lacks train_metadata.csv, .*; 2025 lacks train.csv, taxonomy.csv"):
        recognise(tmp_path)
    with pytest.raises(ProfileError, match="no profile for 1999; there is: 2021"):
        profiles.profile(1999)


def test_class_names_are_text_in_the_order_of_the_submission(tmp_path: Path) -> None:
    """2025 mixes names like 1139490 and amakin1: read as numbers they match nothing, and taxonomy has another order."""
    folder = year_2025(tmp_path, classes=("0041", "1139490", "amakin1"), columns=("amakin1", "0041", "1139490"))
    assert read_classes(folder) == ("amakin1", "0041", "1139490")


def test_without_a_taxonomy_the_training_table_lists_the_classes(tmp_path: Path) -> None:
    """2024 had no taxonomy of its own."""
    assert read_classes(year_2024(tmp_path)) == ("asbfly", "zitcis1")


def test_classes_that_disagree_are_named(tmp_path: Path) -> None:
    """A class that exists in one table only is a renamed or a broken download; going on would score 0.5 for it."""
    with pytest.raises(ProfileError, match=r"only in the submission: owl; only in the table: amakin1"):
        read_classes(year_2025(tmp_path, columns=("1139490", "owl")))


@pytest.mark.parametrize(("header", "message"), [
    ("row_id,a,b,a\n", "named twice: a"),
    ("a,b\n", "the first column must be row_id"),
    ("row_id\n", "followed by the classes"),
    ("", "not nothing"),
])
def test_a_broken_sample_submission_is_refused(tmp_path: Path, header: str, message: str) -> None:
    """Its columns decide the meaning of every number that is submitted."""
    (year_2025(tmp_path) / "sample_submission.csv").write_text(header)
    with pytest.raises(ProfileError, match=message):
        read_classes(tmp_path)


def test_a_missing_sample_submission_is_named(tmp_path: Path) -> None:
    """The path is in the message."""
    (year_2025(tmp_path) / "sample_submission.csv").unlink()
    with pytest.raises(ProfileError, match=r"sample_submission.csv does not exist"):
        read_classes(tmp_path)


def test_all_classes_are_scored_unless_the_host_lists_some(tmp_path: Path) -> None:
    """2022 scored 21 of 152 birds: whoever validates on the others tunes for nothing."""
    folder = year_2025(tmp_path, classes=("1139490", "amakin1", "owl"))
    assert profiles.read_scored(folder) == ("1139490", "amakin1", "owl")
    (folder / "scored_birds.json").write_text('["owl", "1139490"]')
    assert profiles.read_scored(folder) == ("1139490", "owl")


@pytest.mark.parametrize(("text", "message"), [
    ('["owl", "amakin2"]', "lists what is no class: amakin2, owl"),
    ('[1139490]', None), ('["amakin1", 7]', "no class: 7"),
    ("{}", "is not a list of classes"), ("[]", "is not a list"), ('["amakin1"', r"scored_birds\.json cannot be read"),
])
def test_a_list_of_scored_classes_must_fit_the_submission(tmp_path: Path, text: str, message: str | None) -> None:
    """A misspelt class would silently leave the validation; a number is the name it is written as."""
    (year_2025(tmp_path) / "scored_birds.json").write_text(text)
    if message is None:
        assert profiles.read_scored(tmp_path) == ("1139490",)
    else:
        with pytest.raises(ProfileError, match=message):
            profiles.read_scored(tmp_path)


@pytest.mark.parametrize("year", sorted(PROFILES))
def test_a_generated_competition_of_every_year_is_recognised(tmp_path: Path, year: int) -> None:
    """2023's files are a part of 2024's, 2025's of 2026's: the year that asks for most must win."""
    folder = layout(tmp_path, year)
    assert recognise(folder) is PROFILES[year] and not recognise(folder).guessed
    assert read_classes(folder) == ("frog", "owl")
    assert profiles.read_scored(folder) == (("owl",) if year == 2022 else ("frog", "owl"))


def layout(folder: Path, year: int) -> Path:
    """The tables of a year with three recordings of an owl and one of a frog, and no audio."""
    known = PROFILES[year]
    for sign in known.signature:
        name = sign.partition(":")[0]
        if "." not in name:
            (folder / name).mkdir()
        elif name.endswith(".csv"):
            (folder / name).touch()
    rows = "".join(f"{label},{label}/{number}.ogg\n" for number, label in enumerate(("owl", "frog", "owl", "owl")))
    (folder / known.train_table).write_text("primary_label,filename\n" + rows)
    if known.class_table == "taxonomy.csv":
        (folder / "taxonomy.csv").write_text("primary_label,class_name\nowl,Aves\nfrog,Amphibia\n")
    if year == 2022:
        (folder / "scored_birds.json").write_text('["owl"]')
    columns = {profiles.NAMES: "birds", profiles.TRUE_FALSE: "target"}.get(known.row_format, "frog,owl")
    (folder / "sample_submission.csv").write_text(f"row_id,{columns}\nsoundscape_1_5,\nsoundscape_1_10,\n")
    return folder


def test_the_shares_of_the_scored_classes_are_of_their_recordings_alone(tmp_path: Path) -> None:
    """The first seed's penalty is 0.4 of them: over all 152 classes it would be next to nothing."""
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    assert profiles.read_shares(layout(tmp_path / "a", 2022)) == {"owl": 1.0}
    assert profiles.read_shares(layout(tmp_path / "b", 2025)) == {"frog": 0.25, "owl": 0.75}
    (tmp_path / "b" / "train.csv").write_text("primary_label,filename\n")
    with pytest.raises(ProfileError, match="none of its recordings has a scored class"):
        profiles.read_shares(tmp_path / "b")


@pytest.mark.parametrize("slug", ["birdclef-2031", "birdclef-plus-2031", "BirdCLEF+2031", "birdclef2031"])
def test_a_folder_named_after_a_year_to_come_is_not_taken_for_a_known_one(tmp_path: Path, slug: str) -> None:
    """Next spring's files may look as this spring's do: its metric and its time limit are guesses all the same."""
    (tmp_path / slug).mkdir()
    folder = layout(tmp_path / slug, 2025)
    assert "the year 2031 is not known; 2025 is the nearest" in recognise(folder).guessed[0]
    assert recognise(folder.rename(tmp_path / "birdclef-plus-2025")) is PROFILES[2025]


def test_a_stated_year_is_taken_and_what_speaks_against_it_said(tmp_path: Path,
                                                                caplog: pytest.LogCaptureFixture) -> None:
    """Who knows better must win, and must hear what is not there."""
    folder = layout(tmp_path, 2024)
    assert recognise(folder, year=2023) is PROFILES[2023] and "lacks" not in caplog.text
    assert recognise(folder, year=2025) is PROFILES[2025]
    assert "stated to be of 2025, though it lacks train.csv, taxonomy.csv:class_name" in caplog.text


def test_next_springs_folder_is_read_from_its_files_and_the_guesses_are_said(
        tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On the first day nobody has a profile: what can be read is read, and no guess goes unsaid."""
    folder = tmp_path / "birdclef-2031"
    (folder / "recordings" / "owl").mkdir(parents=True), (folder / "train_soundscapes").mkdir()
    (folder / "recordings" / "owl" / "1.ogg").touch()
    (folder / "clips.csv").write_text("filename,primary_label\n1.ogg,owl\n")
    (folder / "names.csv").write_text("primary_label,order\nfrog,Anura\nowl,Strigiformes\n")
    (folder / "sample_submission.csv").write_text("row_id,owl,frog\n" + "".join(
        f"BC_1_{end},0.5,0.5\n" for end in (10, 20, 30)))
    sf.write(folder / "train_soundscapes" / "x.wav", np.zeros(16_000 * 42), 16_000)
    found = recognise(folder)
    assert (found.train_table, found.class_table, found.audio) == ("clips.csv", "names.csv", "recordings")
    assert (found.recording, found.unlabelled) == ("{primary_label}/{filename}", "train_soundscapes")
    assert (found.window_s, found.soundscape_s, found.windows) == (10.0, 40.0, 4)
    assert (found.n_classes, found.metric, found.row_format) == (2, "macro_roc_auc", "probabilities")
    assert read_classes(folder) == ("owl", "frog")
    assert profiles.read_groups(folder, "order") == ("Strigiformes", "Anura")
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1 + len(found.guessed) and "2031" in caplog.text
    for fact in ("window_s = 10.0", "soundscape_s = 40.0", "audio = 'recordings'", "metric macro_roc_auc", "clips.csv"):
        assert any(fact in line for line in found.guessed)
    (folder / "names.csv").unlink()
    assert recognise(folder).class_table == "" and read_classes(folder) == ("owl", "frog")
    (folder / "sample_submission.csv").write_text("row_id,owl,frog\nBC_1_15,0.5,0.5\n")
    assert recognise(folder).window_s == 15.0
    (folder / "clips.csv").write_text("file,label\n")
    with pytest.raises(ProfileError, match=r"no table has the columns primary_label and filename.*clips.csv"):
        recognise(folder)


def test_more_classes_than_a_year_had_are_another_year(tmp_path: Path) -> None:
    """The next competition will have the files of the last: its number of classes is what tells them apart."""
    names = [f"bird{number}" for number in range(235)]
    folder = year_2025(tmp_path, classes=tuple(names))
    assert recognise(folder).guessed and recognise(folder).n_classes == 235 and len(read_classes(folder)) == 235
    assert recognise(folder, year=2025) is PROFILES[2025]


def test_a_stated_year_that_nobody_knows_is_guessed_as_that_one(tmp_path: Path) -> None:
    """COMPETITION_YEAR = 2031 must not be an error on the first day, nor pass for a known year."""
    found = recognise(year_2025(tmp_path), year=2031)
    assert "the year 2031 is not known; 2025 is the nearest" in found.guessed[0] and found.year == 2025
