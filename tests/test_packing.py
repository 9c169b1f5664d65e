"""Packing: the same audio at its own time, a size that was said before, and nothing half done."""
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from conftest import RATE, click, noise, tone

from birdkit import audio
from birdkit.data import packing
from birdkit.data.packed import INDEX, SETTINGS, Packed, PackingError
from birdkit.data.packing import estimate, pack


@pytest.fixture
def root(tmp_path) -> Path:
    """Recordings of 8, 6 and 2 s in folders, one at another rate, one with a click at second 6."""
    folder = tmp_path / "competition"
    for name, wave, rate in (("x/a.ogg", click(6.0, 8) + tone(3000, 8, amplitude=0.1), RATE),
                             ("x/b.flac", noise(6), RATE), ("y/a.wav", 4 * noise(2, seed=3), 48_000)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        sf.write(folder / name, wave, rate, **({"subtype": "FLOAT"} if name.endswith("wav") else {}))
    return folder


@pytest.fixture
def table(root) -> pd.DataFrame:
    files = ["x/a.ogg", "x/b.flac", "y/a.wav"]
    return pd.DataFrame({"file": files, "duration_s": [audio.info(root / file).duration_s for file in files]})


def packed(table, root, out, **options) -> Packed:
    return pack(table, root, out, sample_rate_hz=options.pop("rate", RATE), progress=False, **options)


@pytest.mark.parametrize("format", ["flac", "int16"])
def test_what_is_packed_is_what_decodes(table, root, tmp_path, format: str) -> None:
    """Sixteen bits of each recording's own full scale, resampled once, peaks above 1 kept."""
    made = packed(table, root, tmp_path / "out", format=format, workers=3)
    assert len(made) == 3 and "x/a.ogg" in made and "x/c.ogg" not in made
    for file in table["file"]:
        wave = audio.load(root / file, RATE)
        read = made.read(file, 0, None)
        assert read.dtype == np.float32 and len(read) == len(wave)
        assert np.abs(read - wave).max() <= 0.51 * np.abs(wave).max() / 32767
        np.testing.assert_array_equal(made.read(file, 1234, 5000), read[1234:6234])
        assert made.extent(file) == (0.0, len(wave) / RATE)
    suffix = {"flac": "flac", "int16": "npy"}[format]
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*") if path.is_file()) == sorted(
        [f"a.ogg.{suffix}", f"a.wav.{suffix}", f"b.flac.{suffix}", INDEX, SETTINGS])


def test_the_first_seconds_or_the_loudest_are_packed_at_their_own_time(table, root, tmp_path) -> None:
    """Second 6 of a recording stays second 6: spans, marks and tables need no change."""
    first = packed(table, root, tmp_path / "first", seconds=3.0)
    loudest = packed(table, root, tmp_path / "loudest", seconds=3.0, part="loudest")
    assert first.extent("x/a.ogg") == (0.0, 3.0) and first.extent("y/a.wav")[1] < 3.0
    from_s, to_s = loudest.extent("x/a.ogg")
    assert from_s <= 6.0 <= to_s and to_s - from_s == 3.0
    wave = audio.load(root / "x/a.ogg", RATE)
    read = loudest.read("x/a.ogg", 5 * RATE, 2 * RATE)
    np.testing.assert_allclose(read, wave[5 * RATE:7 * RATE], atol=2e-5)
    with pytest.raises(PackingError, match=r"sample 160000 is asked for, but samples 0 to 96000 of x/a\.ogg"):
        first.read("x/a.ogg", 5 * RATE, RATE)


def test_the_estimate_is_near_what_is_written(table, root, tmp_path) -> None:
    """Whoever has 20 GB of disk decides by it; afterwards nothing is left to be packed."""
    for seconds in (None, 3.0):
        out = tmp_path / f"{seconds}"
        said = estimate(table, root, out, sample_rate_hz=RATE, seconds=seconds)
        for format, expected in (("flac", said.flac), ("int16", said.int16)):
            made = packed(table, root, out / format, format=format, seconds=seconds)
            size = sum(made.path(file).stat().st_size for file in table["file"])
            assert size == pytest.approx(expected, rel=0.02)
        assert said.files == 3 and said.flac_ratio == pytest.approx(said.flac / said.int16, abs=0.01)
        after = estimate(table, root, out / "int16", sample_rate_hz=RATE, seconds=seconds)
        assert (after.files, after.int16, after.packed) == (0, 0, size)


def test_what_would_not_fit_is_refused_before_anything_is_written(table, root, tmp_path, monkeypatch) -> None:
    """A Kaggle session that runs out of disk after two hours has lost two hours."""
    with pytest.raises(PackingError, match=r"3 files would take 0\.000914 GiB as int16.* limit of 0\.0005 GiB"):
        packed(table, root, tmp_path / "out", format="int16", limit_gib=0.0005)
    monkeypatch.setattr(packing, "free_bytes", lambda folder: 500_000)
    with pytest.raises(PackingError, match=r"with no limit and 0\.000466 GiB free on the disk"):
        packed(table, root, tmp_path / "out")
    with pytest.raises(PackingError, match=r"with a limit of 5 GiB and 0\.000466 GiB free on the disk"):
        packed(table, root, tmp_path / "out", limit_gib=5.0)
    assert not (tmp_path / "out").exists()


def test_an_estimate_that_was_too_low_does_not_break_the_limit(table, root, tmp_path, monkeypatch) -> None:
    """The sample may have been of quiet files; the limit still holds, and says so."""
    real = packing.estimate
    monkeypatch.setattr(packing, "estimate", lambda *args, **options: real(table.iloc[:0], *args[1:], **options))
    with pytest.raises(PackingError, match=r"has reached 0\.0004.* of 0\.0002 GiB before all of 3 files"):
        packed(table, root, tmp_path / "out", format="int16", limit_gib=0.0002)


def test_a_stopped_packing_goes_on_without_doing_anything_twice(table, root, tmp_path, monkeypatch) -> None:
    """Thirty thousand recordings take an hour; a session that ends in the middle must not cost it again."""
    out = tmp_path / "out"
    real, cut = packing._cut, []

    def stopped(path: Path, settings):
        if path.name == "b.flac":
            raise KeyboardInterrupt
        cut.append(path.name)
        return real(path, settings)

    monkeypatch.setattr(packing, "estimate", lambda *args, **options: packing.Estimate(3, 0, 0, 0, 1.0, 1))
    monkeypatch.setattr(packing, "_cut", stopped)
    with pytest.raises(KeyboardInterrupt):
        packed(table, root, out, workers=1)
    assert set(Packed(out).files) == {"x/a.ogg"} and cut[0] == "a.ogg"
    with (out / INDEX).open("a") as index:
        index.write('\n{"file": "x/b.flac", "first": 0, "sam')  # the line that was being written
    (out / "x" / "b.flac.flac.partial").write_bytes(b"fLaC, half of it")
    monkeypatch.setattr(packing, "_cut", lambda path, settings: cut.append(path.name) or real(path, settings))
    cut.clear()
    made = packed(table, root, out)
    assert set(cut) == {"b.flac", "a.wav"} and len(made) == 3
    assert not list(out.rglob("*.partial"))
    cut.clear()
    packed(table, root, out)
    assert cut == []


def test_a_changed_or_deleted_file_is_packed_again(table, root, tmp_path) -> None:
    """Otherwise a recording that was fetched anew would go on sounding like the old one."""
    made = packed(table, root, tmp_path / "out")
    sf.write(root / "x/b.flac", tone(2000, 3), RATE)
    made.path("y/a.wav").unlink()
    again = packed(table, root, tmp_path / "out")
    assert again.extent("x/b.flac") == (0.0, 3.0) and len(again.read("y/a.wav", 0, None)) > RATE
    (root / "x/a.ogg").unlink()  # an original that is not there any more is no change
    assert len(packed(table, root, tmp_path / "out")) == 3


def test_another_table_adds_and_other_settings_are_refused(table, root, tmp_path) -> None:
    """Recordings and soundscapes share a folder; half a folder cut to 3 s would be a trap."""
    packed(table.iloc[:1], root, tmp_path / "out")
    assert len(packed(table.iloc[1:], root, tmp_path / "out")) == 3
    for options in ({"format": "int16"}, {"seconds": 3.0}, {"rate": 16_000}):
        with pytest.raises(PackingError, match=r"holds a packing of other settings.*choose another folder"):
            packed(table, root, tmp_path / "out", **options)
    for options in ({"format": "mp3"}, {"part": "last"}, {"seconds": 0.0}, {"rate": 0}):
        with pytest.raises(PackingError, match=next(iter(options)).replace("rate", "sample_rate_hz")):
            packed(table, root, tmp_path / "new", **options)


def test_a_packed_file_that_reads_back_otherwise_is_an_error(table, root, tmp_path, monkeypatch) -> None:
    """A full or failing disk shows here, and not as a model that learnt noise."""
    real = packing._write_whole

    def failing(path: Path, content: bytes) -> None:
        real(path, content[:-2000] + bytes(2000) if path.suffix == ".npy" else content)

    monkeypatch.setattr(packing, "_write_whole", failing)
    with pytest.raises(PackingError, match=r"a\.ogg\.npy does not read back as it was packed"):
        packed(table, root, tmp_path / "out", format="int16")


def test_a_damaged_packing_is_named(table, root, tmp_path) -> None:
    """Files that were cut short in an upload."""
    made = packed(table, root, tmp_path / "out", format="int16")
    content = made.path("x/b.flac").read_bytes()
    made.path("x/b.flac").write_bytes(content[:1000])
    with pytest.raises(PackingError, match=r"b\.flac\.npy cannot be read"):
        made.read("x/b.flac", 0, 100)
    np.save(made.path("x/b.flac"), np.zeros(1000, np.int16))
    with pytest.raises(PackingError, match=r"b\.flac\.npy holds 1000 samples, the index says 192000"):
        made.read("x/b.flac", 0, 2000)
    (tmp_path / "out" / SETTINGS).write_text(json.dumps({"format": "int16"}))
    with pytest.raises(PackingError, match=r"packing\.json cannot be read: .*missing key"):
        Packed(tmp_path / "out")


def test_files_outside_the_root_and_files_that_are_no_audio_are_refused(table, root, tmp_path) -> None:
    """Under an absolute name nothing can be packed below a folder; and one bad file is named."""
    with pytest.raises(PackingError, match=r"\.\./a\.wav: not a file below"):
        packed(pd.DataFrame({"file": ["../a.wav"], "duration_s": [1.0]}), root, tmp_path / "out")
    (root / "x/bad.ogg").write_bytes(b"")
    with pytest.raises(audio.AudioError, match=r"bad\.ogg: the file is empty"):
        packed(pd.DataFrame({"file": ["x/bad.ogg"], "duration_s": [1.0]}), root, tmp_path / "out")
