"""Distillation: a student comes nearer to its teacher, whatever else stays as it is."""
import copy
import dataclasses
import importlib.util
import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import RATE, noise
from onnx_file import write_teacher
from tiny_run import (
    CLASSES,
    assert_same_history,
    assert_same_weights,
    killed_at,
    make_batch,
    make_trainer,
    run,
    tiny_config,
    weights,
    write_tones,
)
from torch.nn import functional

from birdkit import checkpoint, recipes
from birdkit.batch import Batch
from birdkit.config import DistilConfig, Member, RunConfig, SourceConfig
from birdkit.data.teacher_table import TeacherTable
from birdkit.data.window_index import WindowIndex
from birdkit.models import MODELS, build_model
from birdkit.output import SEDOutput
from birdkit.recipes import for_competition
from birdkit.settings import replace
from birdkit.training.distillation import (
    Distiller,
    choose_teacher,
    cosine_distance,
    divergence,
    refuse_unheard,
    strength,
)
from birdkit.training.trainer import Trainer

NOTHING = WindowIndex(np.array(["a"]), np.zeros(1), np.ones(1))


def table(width: int = 5, known: list[int] | None = None) -> TeacherTable:
    """A teacher of that width; what it says is put into batches by hand."""
    return TeacherTable(NOTHING, np.zeros((1, width), np.float32), None if known is None else np.array(known))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def output_of(logits: torch.Tensor) -> SEDOutput:
    return SEDOutput(logits, logits[:, None], torch.ones_like(logits)[:, None])


def plain(**changes) -> RunConfig:
    """No mixing; a teacher's path, which nothing here opens."""
    return tiny_config(**{"augment__wave": (), "distil__teacher": "t.npz", "distil__width": 5} | changes)


# Arithmetic -----------------------------------------------------------------------------------------------------------

def test_distances_are_torchs() -> None:
    """A cosine or a divergence of one's own that is nearly the published one is another experiment."""
    student, teacher = 3 * random(6, 5), random(6, 5, seed=1)
    expected = functional.cosine_embedding_loss(student, teacher, torch.ones(6))
    assert torch.allclose(cosine_distance(student, teacher).mean(), expected)
    for temperature in (1.0, 20.0):
        expected = functional.kl_div((student / temperature).log_softmax(1), (teacher / temperature).softmax(1),
                                     reduction="batchmean") * temperature**2
        assert torch.allclose(divergence(student, teacher, temperature).mean(), expected, rtol=1e-4)
    assert divergence(student, student + 3, 2.0).abs().max() < 1e-5  # a softmax does not see a constant


@pytest.mark.parametrize("kind", ["embedding", "logits"])
def test_examples_count_by_their_weight_and_only_where_they_were_heard(kind: str) -> None:
    """A recording that is not in the table must not pull the student towards zero, nor a NaN end the run."""
    known = [1, 0] if kind == "logits" else None
    config = plain(distil__kind=kind)
    distiller = Distiller(config, table(2 if known else 5, known), make_trainer(plain()).model)
    logits, projected = random(4, 2), None if known else random(4, 5).requires_grad_()
    teacher, weight = random(4, 2 if known else 5, seed=1), torch.tensor([1.0, 0.5, 0.0, 2.0])
    each = divergence(logits[:, [1, 0]], teacher, 20.0) if known else cosine_distance(projected, teacher)
    expected = (weight * each)[:3].sum() / 1.5
    teacher[3] = math.nan
    found = distiller.distance(output_of(logits), projected, teacher, weight)
    assert torch.allclose(found, expected)
    if projected is not None:
        found.backward()
        assert projected.grad is not None and projected.grad.isfinite().all() and not projected.grad[2:].any()


def test_the_strength_goes_to_zero_as_asked() -> None:
    """The 2026 first place switched the teacher off for its second phase: from there on labels alone."""
    at = (0.0, 0.25, 0.49, 0.5, 0.9)
    assert [strength(p, DistilConfig(until=0.5)) for p in at] == [1, 1, 1, 0, 0]
    assert [strength(p, DistilConfig(schedule="cosine", until=0.5)) for p in at[:2]] == pytest.approx([1, 0.5])
    assert strength(0.99, DistilConfig()) == 1.0 and strength(0.75, DistilConfig(schedule="linear")) == 0.25


@pytest.mark.parametrize(("settings", "progress", "labels", "teacher"), [
    ({}, 0.3, 1.0, 10.0), ({"weight": 0.9, "label_weight": 0.1}, 0.3, 0.1, 0.9),
    ({"weight": 0.9, "label_weight": 0.1, "schedule": "linear"}, 0.5, 0.55, 0.45)])
def test_the_loss_is_the_formula_of_the_settings(settings: dict, progress: float, labels: float,
                                                 teacher: float) -> None:
    """0.1 * BCE + 0.9 * KL of 2023, and ten times the cosine of 2026; as the teacher goes, the labels come back."""
    config = replace(plain(), distil=DistilConfig(teacher="t.npz", width=5, **settings))
    distiller = Distiller(config, table(), make_trainer(plain()).model)
    batch = Batch(random(2, 8), torch.eye(2), torch.ones(2), progress=progress, teacher=random(2, 5))
    projected = random(2, 5, seed=3)
    loss, distance = distiller.join(torch.tensor(2.0), output_of(random(2, 2)), projected, batch, gather=lambda x: x,
                                    untouched=torch.ones(2, dtype=torch.bool))
    assert torch.allclose(distance, cosine_distance(projected, batch.teacher).mean())
    assert torch.allclose(loss, labels * 2.0 + teacher * distance)


# Training -------------------------------------------------------------------------------------------------------------

def taught(value: torch.Tensor, **changes) -> Batch:
    return make_batch(noise(2)).replace(teacher=value, **changes)


def test_without_weight_the_model_is_the_one_without_a_teacher() -> None:
    """The projection draws no random number of the model's, and changes no gradient; nor once the teacher is off."""
    trainers = [make_trainer(replace(plain(), distil=DistilConfig())),
                make_trainer(plain(distil__weight=0.0), teacher=table()),
                make_trainer(plain(distil__until=1e-9), teacher=table())]
    for step in range(3):
        for trainer in trainers:
            trainer.step = step + 1
            trainer.train_step(taught(random(4, 5)))
    alone, *others = (weights(trainer.model) for trainer in trainers)
    assert all(torch.equal(value, other[name]) for other in others for name, value in alone.items())
    assert math.isnan(trainers[0].distance) and trainers[1].distance > 0 and math.isnan(trainers[2].distance)
    # Other processes wait for the gradient of every weight.
    assert all(p.grad is not None for p in trainers[2].projection.parameters())


@pytest.mark.parametrize("hidden", [0, 7])
def test_the_projection_learns_and_goes_on(hidden: int) -> None:
    """After a restart, a projection that began anew would pull the features elsewhere."""
    config = plain(distil__hidden=hidden)
    trainer, other = (make_trainer(config, teacher=table()) for _ in range(2))
    before = weights(trainer.projection)
    trainer.train_step(taught(random(4, 5)))
    assert any(not torch.equal(value, before[name]) for name, value in trainer.projection.state_dict().items())
    assert len(before) == (4 if hidden else 2)
    other.load_state_dict(copy.deepcopy(trainer.state_dict()))
    for one in (trainer, other):
        one.train_step(taught(random(4, 5, seed=1)))
    for a, b in ((trainer.model, other.model), (trainer.projection, other.projection)):
        assert all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


@pytest.mark.parametrize("name", MODELS.names())
def test_every_model_can_be_taught(name: str) -> None:
    """Its features reach a teacher's width, and their gradient the first layer, in one clip or in parts."""
    kind = MODELS.get(name)
    config = tiny_config(model=kind.small, frontend=kind.small_frontend, augment__wave=(), distil__teacher="t.npz")
    trainer = Trainer(config, build_model(kind.small, kind.small_frontend, 2), total_steps=10, per_epoch=10,
                      device="cpu", teacher=table(3))
    image = torch.randn(2, kind.small_frontend.n_channels, *kind.small_frontend.image_size)
    _, projected = trainer.network(image)
    assert projected.shape == (2, 3)
    functional.cosine_embedding_loss(projected, random(2, 3), torch.ones(2)).backward()
    reached = [p for _, p in trainer.model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert next(iter(reached), None) is not None and trainer.projection.layers[-1].weight.grad.abs().max() > 0


def test_a_batch_without_the_table_is_refused() -> None:
    """A loader that forgets the teacher would make a run without one, under the name of a run with one."""
    with pytest.raises(ValueError, match="made without the teacher's table"):
        make_trainer(plain(), teacher=table()).train_step(make_batch(noise(2)))


# What the teacher hears -----------------------------------------------------------------------------------------------

def member(name: str, **options) -> dict:
    return {"name": name, "options": options}


@pytest.mark.parametrize(("wave", "spectrogram", "named"), [
    ([member("or_mixup")], [], "or_mixup"),
    ([member("gain"), member("soundscape_mix")], [], "soundscape_mix"),
    ([member("background", source="rain"), member("background", source="birds")], [], "background"),
    ([member("source_only", p=1.0, source="rain")], [], "source_only"),
    ([member("repeat", counts=[1, 2], member=member("sumix"))], [], "repeat"),
    ([member("during", member=member("repeat", counts=[1], member=member("background")))], [], "during"),
    ([], [member("cutmix"), member("time_mask")], "cutmix"),
])
def test_what_a_table_has_heard_nowhere_is_refused(wave: list, spectrogram: list, named: str) -> None:
    """The embedding of a mix is no mix of embeddings: the student would be told of one bird and hear two."""
    config = replace(plain(), data__sources=(SourceConfig("rain", path="rain"), SourceConfig("birds", "recordings")),
                     augment__wave=tuple(Member(**one) for one in wave),
                     augment__spectrogram=tuple(Member(**one) for one in spectrogram))
    with pytest.raises(ValueError, match=rf"t\.npz hears the recordings alone, but {named} would mix .* into every"):
        refuse_unheard(config)
    network = replace(config, distil__teacher="t.onnx")
    if spectrogram:
        with pytest.raises(ValueError, match=rf"before spectrograms are mixed, but {named} would"):
            refuse_unheard(network)
    else:
        assert refuse_unheard(network) == 1


@pytest.mark.parametrize(("recipe", "share"), [("small", 0.4 * 0.4), ("t4", 0.5 * 0.5), ("demo", 0.4 * 0.4)])
def test_a_table_teaches_with_the_recipes_as_they_are(recipe: str, share: float) -> None:
    """All of them mix sounds: what is not mixed learns from the teacher, and the log says how much that is."""
    config = replace(recipes.get(recipe).run(0, 0), distil__teacher="t.npz")
    assert refuse_unheard(config) == pytest.approx(share)
    assert refuse_unheard(replace(config, distil__teacher="t.onnx")) == 1


def test_a_round_in_which_everything_is_mixed_goes_on_without_its_teacher(caplog: pytest.LogCaptureFixture) -> None:
    """Every example of t4's students is half soundscape: to end there would waste the round before."""
    config = replace(recipes.get("t4").run(1, 0), distil__teacher="t.npz")
    assert refuse_unheard(config) == 0 and "soundscape_mix would mix" in caplog.text
    assert "Round 1 learns from labels alone" in caplog.text


@pytest.mark.parametrize(("wave", "share"), [
    (member("or_mixup", p=0.25), 0.75),
    (member("during", end=0.5, member=member("or_mixup")), 0.5),
    (member("one_of", members=[{**member(name, p=0.5), "share": 0.5} for name in ("or_mixup", "gain")]), 0.5)])
def test_the_share_that_a_teacher_has_heard_is_what_training_counts(wave: dict, share: float) -> None:
    """Else the figure that a person decides by would be another one than the run's."""
    config = tiny_config(augment__wave=(Member(**wave),), distil__teacher="t.npz", distil__width=5)
    assert refuse_unheard(config) == pytest.approx(share)
    trainer = make_trainer(config, teacher=table())
    for step in range(30):
        trainer.step = step * trainer.total_steps // 30
        waves = torch.from_numpy(np.stack([noise(2, seed=seed) for seed in range(16)]))
        trainer.train_step(make_batch(noise(2), 16).replace(signal=waves, teacher=random(16, 5)))
    counted, shown = trainer.distiller.take_counted()
    assert shown == 480 and abs(counted / shown - share) < 0.1 and trainer.distiller.take_counted() == (0, 0)


def test_a_mixed_example_does_not_learn_from_the_teacher() -> None:
    """Of two examples, the mixed one has no distance; where all are mixed, the labels count in full."""
    config = plain(distil__label_weight=0.1)
    distiller = Distiller(config, table(), make_trainer(plain()).model)
    batch = Batch(random(2, 8), torch.eye(2), torch.ones(2), teacher=random(2, 5))
    projected = random(2, 5, seed=3)
    how = {"gather": lambda x: x}
    _, distance = distiller.join(torch.tensor(2.0), output_of(random(2, 2)), projected, batch,
                                 untouched=torch.tensor([False, True]), **how)
    assert torch.allclose(distance, cosine_distance(projected, batch.teacher)[1])
    loss, distance = distiller.join(torch.tensor(2.0), output_of(random(2, 2)), projected, batch,
                                    untouched=torch.zeros(2, dtype=torch.bool), **how)
    assert loss == 2.0 and math.isnan(distance) and distiller.take_counted() == (1, 4)


def test_what_leaves_the_animals_as_they_are_is_allowed() -> None:
    """Filters, masks, and backgrounds from a folder: the student learns to hear through them."""
    rain = {"member": member("background", source="rain"), "counts": [0, 1]}
    refuse_unheard(replace(plain(), data__sources=(SourceConfig("rain", path="rain"),),
                           augment__wave=(Member("low_pass"), Member("repeat", rain), Member("time_shift")),
                           augment__spectrogram=(Member("time_mask"),)))


needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")


def correlations(width: int = 4) -> np.ndarray:
    t = np.arange(2 * RATE) / RATE
    return np.stack([np.sin(2 * np.pi * (1000 + 500 * k) * t) for k in range(width)], 1).astype(np.float32) / 100


@needs_openvino
def test_a_network_hears_the_mixed_wave(tmp_path) -> None:
    """What the student hears, not what the recording was: else it is told of birds that are not in the mix any more."""
    path = write_teacher(tmp_path / "t.onnx", correlations())
    mixing = (Member("or_mixup", {"p": 1.0, "level": "none"}),)
    config = tiny_config(augment__wave=mixing, distil__teacher=str(path), distil__width=4)
    trainer = make_trainer(config, teacher=choose_teacher(config, CLASSES, []))
    signal = torch.from_numpy(np.stack([noise(2, seed=seed) for seed in range(8)]))
    heard = []
    real = trainer.distiller.teacher
    trainer.distiller.listen = lambda batch: (heard.append(batch.signal), batch.replace(teacher=real(batch.signal)))[1]
    trainer.train_step(Batch(signal, torch.eye(2).repeat(4, 1), torch.ones(8)))
    assert not torch.equal(heard[0], signal) and 0 < trainer.distance < 2
    listened = Distiller(config, real, trainer.model).listen(Batch(signal, torch.eye(2).repeat(4, 1), torch.ones(8)))
    assert torch.allclose(listened.teacher, real(signal)) and listened.teacher.shape == (8, 4)


@needs_openvino
def test_a_network_that_says_nan_skips_the_step(tmp_path) -> None:
    """As any loss that is not finite: the weights stay, and the log says so."""
    path = write_teacher(tmp_path / "t.onnx", correlations() * np.float32("nan"))
    config = plain(distil__teacher=str(path), distil__width=4)
    trainer = make_trainer(config, teacher=choose_teacher(config, CLASSES, []))
    before = weights(trainer.model)
    assert not math.isfinite(trainer.train_step(make_batch(noise(2)))) and trainer.skipped == 1
    assert all(torch.equal(value, before[name]) for name, value in weights(trainer.model).items())


# Whole runs -----------------------------------------------------------------------------------------------------------

RUN = {"augment__wave": (), "split": -1, "train__epochs": 6, "train__ema_decay": 0.0, "distil__width": 3}


def write_table(folder, recordings: pd.DataFrame, name: str = "t.parquet"):
    """What a teacher that tells the tones apart says of the first 2 s of each recording, and the last second."""
    high = (recordings["label"] == "high").to_numpy(float)
    rows = [pd.DataFrame({"file": recordings["file"], "start_s": start_s, "end_s": start_s + 2 - start_s / 2,
                          "x": 1.0, "y": 3 * high - 1, "z": 2 - 5 * high}) for start_s in (0.0, 2.0)]
    pd.concat(rows).to_parquet(folder / name)
    return str(folder / name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with recordings and a run with a teacher's table that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("distilled")
    recordings = write_tones(folder)
    config = tiny_config(**RUN, distil__teacher=write_table(folder, recordings))
    return folder, recordings, config, run(config, recordings, folder, "whole")


def test_a_student_comes_nearer_to_its_teacher(whole) -> None:
    """The history shows it; what is deployed has no projection, and predicts as any other model."""
    folder, _, config, result = whole
    distance = result.history["distance"]
    assert distance.notna().all() and distance.iloc[-1] < 0.5 * distance.iloc[0]
    assert pd.read_csv(folder / "whole" / "history.csv")["distance"].to_numpy() == pytest.approx(distance.to_numpy())
    loaded = checkpoint.load(result.best)
    model = build_model(config.model, config.frontend, 2)
    assert loaded.model.state_dict().keys() == model.state_dict().keys()
    assert not [name for name in checkpoint.load(result.best).model.state_dict() if "projection" in name]


def test_a_killed_run_goes_on_with_its_teacher(whole, monkeypatch) -> None:
    """Projection, its optimiser's state and the distances so far: bit by bit those of the run that lived."""
    folder, recordings, config, result = whole
    with killed_at(monkeypatch, 5):
        run(replace(config, train__save_every_s=0.0), recordings, folder, "cut")
    again = run(config, recordings, folder, "cut")
    assert_same_weights(again.last, result.last)
    assert_same_history(again.history, result.history)


def test_another_teacher_is_another_run(whole) -> None:
    """Also under the same name: the file's content counts."""
    folder, recordings, config, _ = whole
    said = pd.read_parquet(config.distil.teacher)
    said.assign(x=2.0).to_parquet(config.distil.teacher)
    with pytest.raises(ValueError, match="belongs to a run with another teacher"):
        run(config, recordings, folder, "whole")
    said.to_parquet(config.distil.teacher)
    with pytest.raises(FileNotFoundError, match="there is no table"):
        run(replace(config, distil__teacher="absent.npz"), recordings, folder, "absent")


# Settings -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("change", "message"), [
    ({"kind": "logit"}, r"distil\.kind = 'logit'; it must be one of embedding, logits"),
    ({"self_share": 1.5}, r"distil\.self_share = 1\.5 is not in \[0, 1\]"),
    ({"until": 0.0}, r"distil\.until = 0\.0 must be above 0"),
    ({"weight": -1.0}, r"distil\.weight = -1\.0 must be >= 0"),
    ({"temperature": 0.0}, r"distil\.temperature = 0\.0 must be above 0"),
    ({"teacher": "perch.pt"}, r"'perch\.pt' must end with one of \.parquet, \.npz, \.onnx"),
    ({"teacher": "t.npz", "output": "embedding"}, r"distil\.output = 'embedding', but a teacher 't\.npz'"),
    ({"teacher": "t.npz", "class_column": "name"}, "distil.class_column = 'name', but .* would not read it"),
    ({"teacher": "t.onnx", "kind": "logits"}, r"distil\.labels must name their classes"),
])
def test_settings_that_say_nothing_or_too_much_are_refused(change: dict, message: str) -> None:
    """A setting that nothing reads is an experiment that was never run."""
    with pytest.raises(ValueError, match=message):
        DistilConfig(**change)


def test_the_classes_names_for_a_teacher_come_from_the_competition(tmp_path) -> None:
    """Perch calls them by scientific names, the competition by codes: by hand, 206 names are 206 chances to slip."""
    (tmp_path / "train.csv").touch()
    (tmp_path / "taxonomy.csv").write_text("primary_label,scientific_name,class_name\nowl,Strix aluco,Aves\n"
                                           "frog,Rana temporaria,Amphibia\n")
    (tmp_path / "sample_submission.csv").write_text("row_id,frog,owl\n")
    config = replace(RunConfig(), distil=DistilConfig(teacher="t.npz", kind="logits", class_column="scientific_name"))
    assert for_competition(config, tmp_path).distil.class_names == ("Rana temporaria", "Strix aluco")
    assert for_competition(dataclasses.replace(config, distil=DistilConfig()), tmp_path).distil.class_names == ()
