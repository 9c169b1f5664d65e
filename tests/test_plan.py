"""A table of runs is read strictly: what is wrong with it is said before hours are spent on it."""
from __future__ import annotations

from pathlib import Path

import pytest

from birdkit import recipes
from birdkit.experiments import Table, read_table, trials

MIXING = """
question = "Does mixing help?"
recipe = "tiny"
baseline = "as_is"
splits = [0, 1]
seeds = [0, 2]

[changes]
train__epochs = 3

[runs.as_is]

[runs.no_mixing]
augment__wave = [{name = "gain", options = {max_db = 6.0}}]

[runs.later]
round = 1
pseudo_labels = "labels.parquet"
recipe = "small"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mixing.toml"
    path.write_text(text)
    return path


def test_a_table_is_read_as_it_is_written(tmp_path: Path) -> None:
    """Its name is the file's, unless it has one of its own; settings are those of `birdkit pipeline --set`."""
    table = read_table(write(tmp_path, MIXING))
    assert (table.name, table.recipe, table.baseline, table.round) == ("mixing", "tiny", "as_is", 0)
    assert (table.splits, table.seeds, table.question) == ((0, 1), (0, 2), "Does mixing help?")
    assert table.runs["no_mixing"] == {"augment__wave": [{"name": "gain", "options": {"max_db": 6.0}}]}
    named = MIXING.replace("splits = [0, 1]\nseeds = [0, 2]", 'name = "other"\nsplit = 1')
    other = read_table(write(tmp_path, named))
    assert (other.name, other.splits, other.seeds) == ("other", (1,), (0, 1, 2))


@pytest.mark.parametrize(("old", "new", "message"), [
    ("seeds =", "seed =", "unknown: seed"),
    ('recipe = "tiny"', "", "missing: recipe"),
    ('"as_is"', '"as_was"', "baseline = 'as_was' is none of the runs: as_is, no_mixing, later"),
    ("splits = [0, 1]", "splits = [0, 1]\nsplit = 0", "only one of split and splits"),
    ("splits = [0, 1]", "splits = 0", "splits = 0 must be list"),
    ("splits = [0, 1]", "splits = []", r"splits = \[\] must be"),
    ("splits = [0, 1]", "splits = [-1]", r"splits = \[-1\] must be"),
    ("seeds = [0, 2]", "seeds = [1, 1]", r"seeds = \[1, 1\] must be different"),
    ("seeds = [0, 2]", "seeds = [0, 0.5]", "seeds: 1 = 0.5 must be int"),
    ("seeds = [0, 2]", "seeds = [true]", "seeds: 0 = True must be int"),
    ("round = 1", 'round = "1"', "runs.later: round = '1' must be int"),
    ("[runs.as_is]", "[runs]\nas_is = 3", "runs: as_is = 3 must be dict"),
    ("train__epochs = 3", "train__epochs = 3\nseed = 4", "changes: seed is set by the table's seeds"),
    ("round = 1", "round = 1\nsplit = 4", "later: split is set by the table's splits"),
    ("[runs.as_is]", '[runs."../as is"]\n[runs.as_is]', r"run '\.\./as is' must be letters"),
    ("train__epochs = 3", "train__epochs = ", "mixing.toml: Invalid value"),
])
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    """A misspelt key that is ignored would compare a run with itself."""
    assert old in MIXING
    with pytest.raises(ValueError, match=f"mixing.toml: .*{message.removeprefix('mixing.toml: ')}"):
        read_table(write(tmp_path, MIXING.replace(old, new)))


def test_the_trainings_of_a_table(tmp_path: Path) -> None:
    """One folder each, seed by seed, so that a table that is stopped half-way can be read; settings over changes."""
    wanted = trials(read_table(write(tmp_path, MIXING)), Path("in"), Path("work"))
    assert [str(trial) for trial in wanted[:4]] == ["as_is/split0_seed0", "no_mixing/split0_seed0",
                                                    "later/split0_seed0", "as_is/split1_seed0"]
    assert len(wanted) == 12 and wanted[6].seed == 2 and len({trial.run.folder for trial in wanted}) == 12
    assert wanted[1].run.folder == Path("work/compare/mixing/no_mixing/split0_seed0")
    assert wanted[1].predictions == wanted[1].run.folder / "predictions.npz"
    assert wanted[1].run.changes["train__epochs"] == 3 and "augment__wave" in wanted[1].run.changes
    assert "augment__wave" not in wanted[0].run.changes
    later = wanted[2].run
    assert (later.recipe, later.round, later.pseudo_labels) == ("small", 1, Path("work/labels.parquet"))
    assert not {"recipe", "round", "pseudo_labels"} & set(later.changes)


def test_seed_0_is_the_notebooks_run_and_no_two_seeds_meet() -> None:
    """A recipe gives each round and split a seed of its own; those of a table must lie between none of them."""
    table = Table("t", "small", "a", {"a": {}, "b": {"round": 1}}, splits=(0, 1), seeds=(0, 1, 2))
    wanted = trials(table, Path("in"), Path("work"))
    for trial in wanted:
        if trial.seed == 0:
            assert trial.run.changes["seed"] == recipes.get("small").run(trial.run.round, trial.split).seed
    assert len({trial.run.changes["seed"] for trial in wanted}) == len(wanted)


def test_a_table_over_rounds_labels_with_its_own_students(tmp_path: Path) -> None:
    """Round 1 learns from the baseline of the same seed and every later one from the round before, never from another
    seed's: else the seeds would not be three proofs but one."""
    table = Table("t", "tiny", "a", {"a": {}, "b": {"round": 1, "train__epochs": 3}}, seeds=(0, 2), splits=(0, 1),
                  rounds=2, year=2024)
    wanted = {str(trial): trial for trial in trials(table, Path("in"), Path("work"))}
    assert [name for name in wanted if "seed2" in name] == [
        f"{name}/split{split}_seed2" for split in (0, 1) for name in ("a", "b_r1", "b_r2")]
    last = wanted["b_r2/split1_seed2"]
    assert (last.asked, last.depth, last.run.round) == ("b", 2, 2) and wanted["a/split0_seed0"].labels is None
    assert last.labels is not None and last.labels.table == last.run.pseudo_labels
    assert last.labels.table == Path("work/compare/t/b_seed2/pseudo_labels_r2.parquet")
    assert last.labels.teachers == [Path(f"work/compare/t/b_r1/split{split}_seed2/best.safetensors")
                                    for split in (0, 1)]
    first = wanted["b_r1/split0_seed0"].labels
    assert first is not None and first.teachers[0] == Path("work/compare/t/a/split0_seed0/best.safetensors")
    assert last.labels.changes["train__epochs"] == 3 and last.run.changes["train__epochs"] == 3
    command = last.labels.command()
    assert command[3:6] == ["label", "in", "work"] and command[command.index("--round") + 1] == "2"
    assert command[command.index("--out") + 1] == str(last.labels.table)
    assert all(one[one.index("--year") + 1] == "2024" for one in (command, last.run.command()))
    assert len({trial.run.changes["seed"] for trial in wanted.values()}) == len(wanted)


@pytest.mark.parametrize("runs", [{"a": {"round": 1}, "b": {}}, {"a": {}, "b": {"round": 2}},
                                  {"a": {}, "b": {"round": 1, "pseudo_labels": "x.parquet"}}])
def test_rounds_that_could_not_begin_are_refused(runs: dict[str, dict[str, object]]) -> None:
    """A baseline with pseudo-labels, a run that skips a round, and labels from elsewhere would compare something
    else."""
    with pytest.raises(ValueError, match="rounds = 3 asks for a baseline of round 0"):
        Table("t", "tiny", "a", runs, rounds=3)
