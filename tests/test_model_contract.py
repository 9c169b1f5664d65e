"""What every registered model keeps, whoever wrote it: the tests find a new member by themselves."""
import functools

import pytest
import torch
from conftest import RATE

from birdkit import checkpoint
from birdkit.config import OWN, ModelConfig, RunConfig
from birdkit.models import MODELS, build_model
from birdkit.models.base import Model
from birdkit.recipes.presets import FRONT_ENDS
from birdkit.settings import replace

K = 4
every = pytest.mark.parametrize("name", MODELS.names())


@functools.lru_cache
def small(name: str) -> Model:
    """The small version of a model in eval mode, its batch norms used to noise; tests leave it as it is."""
    torch.manual_seed(0)
    kind = MODELS.get(name)
    model = build_model(kind.small, kind.small_frontend, K).train()
    with torch.no_grad():
        for _ in range(2):
            model(waves(model, 4))
    return model.eval()


def waves(model: Model, n: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(n, model.frontend.config.n_samples, generator=torch.Generator().manual_seed(seed))


@every
def test_outputs_have_the_shapes_that_everyone_counts_on(name: str) -> None:
    """Curves, windows and losses read them without asking which model it was."""
    model = small(name)
    with torch.inference_mode():
        output = model(waves(model, 3))
    assert output.clip_logits.shape == (3, K)
    assert output.segment_logits.shape == output.attention.shape == (3, model.n_segments, K)
    assert output.pooled == model.pooled and model.n_segments > 1
    for value in (output.clip_logits, output.segment_logits, output.attention):
        assert value.dtype == torch.float32 and bool(value.isfinite().all())
    assert bool((output.attention >= 0).all())
    assert torch.allclose(output.attention.sum(1), torch.ones(3, K), atol=1e-4)


@every
def test_the_clip_is_made_of_its_segments_as_the_model_says(name: str) -> None:
    """Windows are pooled by the rule that `pooled` names; a model that pools otherwise would submit something else."""
    model = small(name)
    with torch.inference_mode():
        output = model(waves(model, 3))
    attention, logits = output.attention, output.segment_logits
    made = {"logits": (attention * logits).sum(1), "max": logits.amax(1), "free": output.clip_logits,
            "probabilities": torch.logit((attention * logits.sigmoid()).sum(1))}[output.pooled]
    assert torch.allclose(made, output.clip_logits, atol=1e-3)


@every
def test_a_prediction_does_not_depend_on_the_batch(name: str) -> None:
    """FDY-SED's published scaler took its extremes over the batch: each clip's prediction hung on its neighbours."""
    model = small(name)
    batch = waves(model, 4)
    batch[1] *= 0
    with torch.inference_mode():
        together, alone = model(batch).segment_logits[2:3], model(batch[2:3]).segment_logits
    assert torch.allclose(together, alone, atol=1e-4)


@every
def test_parts_are_joined_along_time_and_all_of_them_are_read(name: str) -> None:
    """The first seed's Conformer classified 30 s by its first 5: another last part must change the clip."""
    model = small(name)
    one, two, three = waves(model, 3)
    with torch.inference_mode():
        output, other = (model(torch.cat(parts)[None]) for parts in ((one, two, three), (one, two, two)))
    assert output.segment_logits.shape == (1, 3 * model.n_segments, K)
    assert (output.clip_logits - other.clip_logits).abs().max() > 1e-5


@every
def test_a_click_moves_the_segments_where_it_is(name: str) -> None:
    """Segments run along true time, whatever the fold, the patches and the pooling do in between."""
    model = small(name)
    clip_s, n = model.frontend.config.clip_s, model.n_segments
    quiet = 0.05 * waves(model, 1)
    for share in (0.3, 0.8):
        loud = quiet.clone()
        at = int(share * clip_s * RATE)
        loud[0, at:at + RATE // 20] += torch.randn(RATE // 20, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            moved = (model(loud).segment_logits - model(quiet).segment_logits).abs().mean(2)[0]
        # A front end with a level for the clip moves everything a little; the click's own segments most.
        assert abs(int(moved.argmax()) - share * n) <= max(2, n / 8), moved


@every
def test_every_weight_learns(name: str) -> None:
    """A weight without a gradient is dead: HTS-AT carries 278,000 of them in a head it never calls."""
    kind = MODELS.get(name)
    torch.manual_seed(0)
    model = build_model(kind.small, kind.small_frontend, K).train()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.1) if not bool(parameter.any()) else None
    output = model(waves(model, 4))
    (output.clip_logits.square().mean() + output.segment_logits.square().mean()).backward()
    dead = [key for key, value in model.named_parameters() if value.grad is None or not bool(value.grad.any())]
    assert not dead


@every
def test_a_checkpoint_of_it_proves_itself(name: str, tmp_path) -> None:
    """Constructor arguments, weights and golden sample: whatever a model needs to be built again is in the file."""
    model, kind = small(name), MODELS.get(name)
    config = RunConfig(frontend=kind.small_frontend, model=kind.small)
    checkpoint.save(tmp_path / "m.safetensors", model, config=config, classes="abcd", table_hash="", seen=[])
    loaded = checkpoint.load(tmp_path / "m.safetensors").model
    with torch.inference_mode():
        assert torch.equal(loaded(waves(model, 1)).clip_logits, model(waves(model, 1)).clip_logits)


@every
def test_a_warm_start_takes_what_does_not_depend_on_the_classes(name: str, tmp_path) -> None:
    """Pretrained on other species, a model brings its backbone; its old classes must not be taken for the new ones."""
    model, kind = small(name), MODELS.get(name)
    config = RunConfig(frontend=kind.small_frontend, model=kind.small)
    checkpoint.save(tmp_path / "m.safetensors", model, config=config, classes="abcd", table_hash="", seen=[])
    torch.manual_seed(1)
    other = build_model(replace(kind.small, weights=str(tmp_path / "m.safetensors")), kind.small_frontend, K + 7)
    report = other.weights_report
    assert report is not None and not report.left_out and report.loaded
    taken = set(report.loaded)
    for key, value in other.state_dict().items():
        if key in taken:
            assert torch.equal(value, model.state_dict()[key])
            assert key.split(".")[0] in kind.class_free
    assert not {key for key in taken if K + 7 in other.state_dict()[key].shape}


@every
def test_weights_that_exist_nowhere_are_not_ignored(name: str) -> None:
    """Asked for pretrained weights, a network of its paper's own would start from nothing without a word."""
    kind = MODELS.get(name)
    if kind.small.backbone == OWN:
        with pytest.raises(ValueError, match="no weights on timm's hub"):
            build_model(replace(kind.small, weights="hub"), kind.small_frontend, K)


@every
def test_the_published_sizes_are_there_by_name(name: str) -> None:
    """A person who wants the paper's network should not have to look its numbers up."""
    kind = MODELS.get(name)
    assert kind.published.name == name == kind.small.name
    frontend = FRONT_ENDS[kind.published_frontend]
    model = build_model(replace(kind.published, weights="none"), frontend, K)
    count = sum(value.numel() for value in model.parameters())
    assert count > sum(value.numel() for value in small(name).parameters())


@every
def test_a_setting_that_the_model_does_not_read_is_refused(name: str) -> None:
    """An experiment with a setting that nothing reads was never run."""
    kind = MODELS.get(name)
    other = {"head": "mean", "head_axis": "frequency", "head_options": {"a": 1}, "pooling": "max", "smoothing": True,
             "neck": "none", "hidden": 7, "dropout": 0.123, "drop_path": 0.123}
    for setting in kind.unread:
        with pytest.raises(ValueError, match=f"model.{setting} = .* {name} would not read it"):
            build_model(replace(kind.small, **{setting: other[setting]}), kind.small_frontend, K)
    with pytest.raises(TypeError, match="takes no option sizes"):
        build_model(replace(kind.small, options={"sizes": 3}), kind.small_frontend, K)
    assert set(kind.unread) <= set(ModelConfig.__dataclass_fields__)
