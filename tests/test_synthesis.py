"""The generated competition has the layout of the real one, a truth that fits it, and says that it is generated."""
from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from scipy.signal import stft

from birdkit.profiles import form_of, profile, recognise
from birdkit.synthesis import MARKER, TINY, Generated, generate
from birdkit.synthesis.calls import SPECIES
from birdkit.synthesis.generating import SITES as PLACES
from birdkit.synthesis.generating import draw_recordings, render_focal, render_soundscape

TRAIN_COLUMNS = ["primary_label", "secondary_labels", "type", "filename", "collection", "rating", "url", "latitude",
                 "longitude", "scientific_name", "common_name", "author", "license"]
LEAST = {**TINY, "n_classes": 2, "n_recordings": 4, "n_test_soundscapes": 1, "soundscape_s": 5.0}
TAXONOMY_COLUMNS = ["primary_label", "inat_taxon_id", "scientific_name", "common_name", "class_name"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    return generate(tmp_path_factory.mktemp("generated") / "tiny", seed=1, progress=False, **TINY)


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def test_tables_have_the_columns_of_2025_in_their_order(tiny: Generated) -> None:
    """What works on the demo must work on the competition's own files."""
    assert list(read(tiny.competition_dir / "train.csv").columns) == TRAIN_COLUMNS
    assert list(read(tiny.competition_dir / "taxonomy.csv").columns) == TAXONOMY_COLUMNS
    assert {path.name for path in tiny.competition_dir.iterdir()} == {
        "train.csv", "taxonomy.csv", "sample_submission.csv", "recording_location.txt", MARKER, "train_audio",
        "train_soundscapes", "test_soundscapes"}


def test_every_recording_is_listed_and_decodes_at_32_khz_mono(tiny: Generated) -> None:
    """Ogg Vorbis, as the hosts ship it, and nothing that is too short or clipped."""
    table = read(tiny.competition_dir / "train.csv")
    folder = tiny.competition_dir / "train_audio"
    assert sorted(table["filename"]) == sorted(str(path.relative_to(folder)) for path in folder.rglob("*.ogg"))
    assert len(table) == TINY["n_recordings"] == table["filename"].nunique()
    for label, name in zip(table["primary_label"], table["filename"], strict=True):
        info = soundfile.info(folder / name)
        assert (info.samplerate, info.channels, info.format, info.subtype) == (32_000, 1, "OGG", "VORBIS")
        wave, _ = soundfile.read(folder / name)
        assert 2.9 <= len(wave) / 32_000 <= TINY["longest_s"] + 0.1 and 0.03 < np.abs(wave).max() < 1.2
        assert name.startswith(f"{label}/")


def test_soundscapes_have_their_names_and_lengths(tiny: Generated) -> None:
    """Site, date and time for the unlabelled, a number for the test, as in 2025."""
    for kind, pattern in (("train", r"H\d\d_2023\d{4}_\d{6}\.ogg"), ("test", r"soundscape_\d{7}\.ogg")):
        paths = sorted((tiny.competition_dir / f"{kind}_soundscapes").iterdir())
        assert len(paths) == 2 and all(pd.Series([path.name for path in paths]).str.fullmatch(pattern))
        assert all(soundfile.info(path).frames == 20 * 32_000 for path in paths)


def test_truth_and_sample_submission_have_the_same_rows_and_classes_as_the_test_files(tiny: Generated) -> None:
    """A truth of other rows would score nothing, one inside the competition's folder would be found by a model."""
    sample, truth = read(tiny.competition_dir / "sample_submission.csv"), read(tiny.truth_path)
    stems = sorted(path.stem for path in (tiny.competition_dir / "test_soundscapes").iterdir())
    assert truth["row_id"].tolist() == [f"{stem}_{end}" for stem in stems for end in (5, 10, 15, 20)]
    assert sample["row_id"].tolist() == truth["row_id"].tolist() and list(sample) == list(truth)
    assert list(truth.columns[1:]) == sorted(read(tiny.competition_dir / "taxonomy.csv")["primary_label"])
    np.testing.assert_allclose(sample.iloc[:, 1:].astype(float), 0.25)
    values = truth.iloc[:, 1:].astype(int).to_numpy()
    assert set(values.ravel()) == {0, 1}
    assert tiny.competition_dir not in tiny.truth_path.parents
    hidden = read(tiny.hidden_path)
    assert {row.rsplit("_", 1)[0] for row in hidden["row_id"]} == {
        path.stem for path in (tiny.competition_dir / "train_soundscapes").iterdir()}
    assert set(read(tiny.events_path)["label"]) <= set(truth.columns)


def test_nobody_can_take_it_for_real_data(tiny: Generated) -> None:
    """Names, authors, links and a file of its own say so."""
    assert "not real data" in (tiny.competition_dir / MARKER).read_text()
    table = read(tiny.competition_dir / "train.csv")
    assert table["author"].str.startswith("Generated").all() and table["url"].str.contains("generated").all()
    assert "no animal in it exists" in (tiny.competition_dir / "recording_location.txt").read_text()


def test_the_same_seed_gives_the_same_competition_and_another_seed_another(tiny: Generated, tmp_path: Path) -> None:
    """A figure in the README must be the figure on another machine."""
    again = generate(tmp_path / "again", seed=1, progress=False, **TINY)
    for name in ("train.csv", "taxonomy.csv", "sample_submission.csv"):
        assert (again.competition_dir / name).read_bytes() == (tiny.competition_dir / name).read_bytes()
    assert again.truth_path.read_bytes() == tiny.truth_path.read_bytes()
    for path in sorted(tiny.competition_dir.rglob("*.ogg")):
        same = again.competition_dir / path.relative_to(tiny.competition_dir)
        np.testing.assert_array_equal(soundfile.read(path)[0], soundfile.read(same)[0])
    other = next(draw_recordings(SPECIES[:4], 20, 2, 6.0))
    assert other != next(draw_recordings(SPECIES[:4], 20, 1, 6.0))


def test_a_finished_folder_is_left_alone_and_a_broken_one_finished(tmp_path: Path) -> None:
    """A demo that is started again goes on where it was."""
    made = generate(tmp_path / "demo", progress=False, **LEAST)
    before = {path: path.stat().st_mtime_ns for path in made.competition_dir.rglob("*.*")}
    assert generate(tmp_path / "demo", progress=False, **LEAST) == made
    assert before == {path: path.stat().st_mtime_ns for path in made.competition_dir.rglob("*.*")}
    lost = next((made.competition_dir / "test_soundscapes").iterdir())
    lost.unlink()
    made.truth_path.unlink()
    generate(tmp_path / "demo", progress=False, **LEAST)
    assert lost.exists() and made.truth_path.exists()


def test_nothing_is_written_over_what_is_not_the_same(tmp_path: Path, tiny: Generated) -> None:
    """A folder of real data given by mistake must survive."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.csv").write_text("precious")
    with pytest.raises(FileExistsError, match="not empty"):
        generate(tmp_path / "mine", progress=False, **TINY)
    with pytest.raises(FileExistsError, match=r'"seed": 1.*"seed": 2'):
        generate(tiny.competition_dir, seed=2, progress=False, **TINY)


@pytest.mark.parametrize("change", [{"n_classes": 17}, {"n_recordings": 7}, {"soundscape_s": 12.0}, {"longest_s": 1.0},
                                    {"n_test_soundscapes": 0}])
def test_sizes_that_do_not_fit_are_refused_before_anything_is_written(tmp_path: Path, change: dict[str, float]) -> None:
    """Not after half a minute."""
    with pytest.raises(ValueError, match=next(iter(change))):
        generate(tmp_path / "wrong", progress=False, **{**TINY, **change})
    assert not (tmp_path / "wrong").exists()


def test_the_draw_of_a_full_size_competition_is_like_the_real_thing() -> None:
    """Long-tailed classes, some unrated, some with secondary labels that are in the taxonomy, several authors each."""
    drawn = list(draw_recordings(SPECIES[:14], 150, 0, 30.0))
    table = pd.DataFrame([focal.row for focal in drawn])
    counts = table["primary_label"].value_counts()
    assert len(table) == 150 and len(counts) == 14
    assert counts.max() >= 6 * counts.min() and counts.min() >= 3
    assert table["rating"].between(0, 5).all() and 0.2 < (table["rating"] == 0).mean() < 0.8
    assert (table.loc[table["collection"] != "XC", "rating"] == 0).all()
    noted = [ast.literal_eval(text) for text in table["secondary_labels"]]
    assert 0.08 < np.mean([names != [""] for names in noted]) < 0.35
    assert all(set(names) <= {*counts.index, ""} - {own}
               for names, own in zip(noted, table["primary_label"], strict=True))
    sung = [{label for label, *_ in focal.singers[1:]} - {""} for focal in drawn]
    assert sum(set(names) - {""} < heard for names, heard in zip(noted, sung, strict=True)) > 0
    assert not any(set(names) - {""} > heard for names, heard in zip(noted, sung, strict=True))
    assert table["author"].nunique() > 10 and table["filename"].is_unique
    assert 3 <= min(focal.duration_s for focal in drawn) < 6 < 12 < max(focal.duration_s for focal in drawn) <= 30


def test_a_focal_clip_is_loud_where_its_species_sings() -> None:
    """The label of a recording is true: its band holds far more than the recorder's noise."""
    crickets = [focal for focal in draw_recordings(SPECIES[:4], 60, 0, 8.0) if focal.row["primary_label"] == "9900201"]
    lifts = []
    for focal in crickets:
        hz, _, amplitude = stft(render_focal(focal), 32_000, nperseg=512)
        power = np.quantile(np.abs(amplitude) ** 2, 0.98, axis=1)
        lifts.append(power[(hz > 3900) & (hz < 5600)].max() / power[(hz > 9000) & (hz < 14000)].mean())
    assert np.median(lifts) > 100


def test_soundscapes_are_quieter_and_duller_than_focal_clips() -> None:
    """The domain shift is what pseudo-labels are for: without it a demo would promise too little of them."""
    rng = np.random.default_rng(0)
    focal = [level for one in draw_recordings(SPECIES[:14], 100, 0, 30.0) for _, _, level, _ in one.singers[:1]]
    far = [bout.snr_db for _ in range(4)
           for bout in render_soundscape(["fabwar1", "9900101"], SPECIES, PLACES["H02"], 20.0, rng).bouts]
    assert np.median(focal) > np.median(far) + 10


def test_unlisted_animals_are_heard_but_not_in_the_truth() -> None:
    """A minute of only strangers is a minute of nothing."""
    empty = render_soundscape([], SPECIES, PLACES["H11"], 10.0, np.random.default_rng(4))
    assert not empty.bouts and not empty.truth(["fabwar1"]).any() and np.std(empty.wave) > 0


@pytest.mark.parametrize("year", [2021, 2022, 2023, 2024, 2026])
def test_other_years_have_the_same_sounds_in_their_own_files_and_forms(tmp_path: Path, tiny: Generated,
                                                                       year: int) -> None:
    """What works on a generated 2022 must work on the real one: its columns, folders, file names and rows."""
    sizes = {**TINY, "n_recordings": 8, "soundscape_s": 5.0, "longest_s": 3.0, "n_test_soundscapes": 1}
    made = generate(tmp_path / "made", year=year, seed=1, progress=False, **sizes)
    folder, known = made.competition_dir, profile(year)
    assert recognise(folder) is known and set(known.columns) <= set(read(folder / known.train_table))
    audio = [folder / known.audio / known.recording.format(**row) for row in
             read(folder / known.train_table).to_dict("records")]
    assert len(audio) == 8 and all(path.is_file() for path in audio)
    names = {2021: r"\d{7}_H\d\d_2023\d{4}", 2026: r"BC2026_Test_\d{7}_H\d\d_2023\d{4}_\d{6}"}
    stem = next((folder / "test_soundscapes").iterdir()).stem
    assert re.fullmatch(names.get(year, r"soundscape_\d{7}"), stem)
    assert read(folder / "sample_submission.csv")["row_id"].tolist() == read(made.truth_path)["row_id"].tolist()
    assert form_of(list(read(made.truth_path))) == known.row_format
    train = [path.name for name in ("train_soundscapes", "unlabeled_soundscapes") if (folder / name).is_dir()
             for path in (folder / name).iterdir()]
    assert len(train) == (0 if year in (2022, 2023) else 2)
    assert (folder / "test.csv").exists() == (year in (2021, 2022))


def test_labelled_soundscapes_say_what_is_in_them(tmp_path: Path) -> None:
    """2021's rows are complete, silence included; 2026's are of half of the files, each twice, as the host's were."""
    sizes = {**TINY, "n_recordings": 8, "longest_s": 3.0, "n_test_soundscapes": 1}
    for year in (2021, 2026):
        made = generate(tmp_path / str(year), year=year, seed=2, progress=False, **sizes)
        labels, truth = read(made.competition_dir / profile(year).labelled), read(made.hidden_path)
        heard = {row["row_id"]: {name for name in truth.columns[1:] if row[name] == "1"}
                 for row in truth.to_dict("records")}
        if year == 2021:
            said = {row["row_id"]: set(row["birds"].split()) for row in labels.to_dict("records")}
            assert said == {f"{row.rsplit('_', 2)[0]}_{row.rsplit('_', 2)[2]}": names or {"nocall"}
                            for row, names in heard.items()}
        else:
            assert labels.duplicated().sum() == len(labels) / 2 and labels["filename"].nunique() == 1
            said = {f"{Path(row['filename']).stem}_{int(row['end'][-5:-3]) * 60 + int(row['end'][-2:])}":
                    set(row["primary_label"].split(";")) for row in labels.to_dict("records")}
            assert said == {row: names for row, names in heard.items()
                            if names and row.startswith(Path(labels["filename"][0]).stem)}
