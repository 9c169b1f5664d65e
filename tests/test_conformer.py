"""ConformerSED: the authors' numbers, ears for the whole clip, and a size that learns."""
from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from birdkit.backends import has_openvino
from birdkit.config import FrontEndConfig, ModelConfig
from birdkit.export import export
from birdkit.folding import fold
from birdkit.models.base import Model, build_model
from birdkit.models.conformer import Conformer
from birdkit.models.conformer_encoder import RelativeAttention, relative_shift
from birdkit.models.weights import WeightsError
from birdkit.recipes.presets import FRONT_ENDS
from birdkit.settings import replace

FILTERS = (1, 16, 32, 64, 128, 128, 128, 128)
PAPER = FRONT_ENDS[Conformer.published_frontend]
SHORT = replace(Conformer.small_frontend, clip_s=2.0, hop_samples=500)  # 128 frames, 16 segments

# What the authors' code (commit d66dbc1) gives for `authors_weights` and `authors_image`, in float64: clip logits of
# the second image, segments 0, 12, ... of class 0 of the first, segments 5, 19, ... of class 7 of the second.
RECORDED = {
    "token": ((-2.721079, -0.149429, -1.306374, -0.111534, -0.083704, -1.580353, 0.829991, -1.073797, -1.638356,
               -0.588246),
              (-2.165519, -2.683651, -2.53237, -2.729945, -2.679982, -3.043573),
              (-0.666036, -0.635343, -0.609526, -1.043312, -0.788864)),
    "attention": ((-3.136788, -0.444649, -1.04107, 0.124026, -0.791082, -1.735534, 0.68671, -0.40803, -1.599288,
                   0.01305),
                  (-2.804671, -2.895751, -2.95691, -3.057374, -2.977718, -3.108604),
                  (-0.403289, -0.392402, -0.291323, -0.532716, -0.536205))}


def authors_shapes(pooling: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the authors' checkpoint at 10 classes, without its counters."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, width: int, batch: bool = False) -> None:
        for part in ("weight", "bias", "running_mean", "running_var")[:4 if batch else 2]:
            shapes[f"{name}.{part}"] = (width,)

    def layer(name: str, *shape: int) -> None:
        shapes.update({f"{name}.weight": shape, f"{name}.bias": shape[:1]})

    for i in range(7):
        layer(f"cnn.cnn.conv{i}", FILTERS[i + 1], FILTERS[i], 3, 3)
        norm(f"cnn.cnn.batchnorm{i}", FILTERS[i + 1], batch=True)
    layer("encoder.input_layer.0", 144, 128)
    norm("encoder.input_layer.1", 144)
    shapes["encoder.input_layer.4.pe"] = (1, 5000, 144)
    for i in range(3):
        block = f"encoder.conformer_blocks.{i}"
        for half in ("ffn1", "ffn2"):
            norm(f"{block}.{half}.feed_forward_module.0", 144)
            layer(f"{block}.{half}.feed_forward_module.1", 576, 144)
            layer(f"{block}.{half}.feed_forward_module.4", 144, 576)
        shapes |= {f"{block}.mhsa.r_w_bias": (4, 36), f"{block}.mhsa.r_r_bias": (4, 36),
                   f"{block}.mhsa.qkv_net.weight": (432, 144), f"{block}.mhsa.o_net.weight": (144, 144),
                   f"{block}.mhsa.r_net.weight": (144, 144), f"{block}.mhsa.pos_emb.inv_freq": (72,)}
        norm(f"{block}.mhsa.layer_norm", 144)
        norm(f"{block}.conv.conv.0", 144)
        layer(f"{block}.conv.conv.1.conv", 288, 144, 1)
        layer(f"{block}.conv.conv.3.conv", 144, 1, 7)
        norm(f"{block}.conv.conv.5", 144, batch=True)
        layer(f"{block}.conv.conv.8.conv", 144, 144, 1)
        norm(f"{block}.norm", 144)
    layer("classifier", 10, 144)
    if pooling == "token":
        layer("linear_emb", 128, 1)
    else:
        layer("dense", 10, 144)
    return shapes


def closed_formula(name: str, shape: tuple[int, ...]) -> Tensor:
    """A chirp that starts where the name says, at a scale that keeps the signal alive."""
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    wave = torch.sin(1e-3 * i * i + i + zlib.crc32(name.encode()) % 1000).reshape(shape)
    if name.endswith(("running_mean", "bias")):
        return (0.3 * wave).float()
    if len(shape) == 1:
        return (1 + 0.3 * wave).float()
    return ((4 if len(shape) == 4 else 2) * wave / math.prod(shape[1:]) ** 0.5).float()


def authors_weights(pooling: str) -> dict[str, Tensor]:
    return {name: closed_formula(name, shape) for name, shape in authors_shapes(pooling).items()}


def authors_image() -> Tensor:
    """Two normalised images, (2, 1, 64, 496)."""
    b, f, t = (torch.arange(n, dtype=torch.float64) for n in (2, 64, 496))
    b, f = b.view(-1, 1, 1, 1), f.view(1, 1, -1, 1)
    return (3 * torch.sin(0.03 * t * (1 + b) + 0.2 * f) * torch.cos(1e-4 * t * t + 0.5 * f * b)).float()


def small(frontend: FrontEndConfig = Conformer.small_frontend, classes: int = 3, backbone: str = "own",
          **options: Any) -> Model:
    """The small model in eval mode, always the same one."""
    torch.manual_seed(0)
    config = replace(Conformer.small, backbone=backbone, options={**Conformer.small.options, **options})
    return build_model(config, frontend, classes).eval()


@pytest.mark.parametrize("pooling", ["token", "attention"])
def test_the_authors_weights_give_the_authors_numbers(pooling: str, tmp_path: Path) -> None:
    """A name translated to its neighbour, a transposed axis, another epsilon or activation: each shows here alone."""
    mean, std = torch.linspace(-60, -20, 64), torch.linspace(8, 16, 64)
    weights = {**authors_weights(pooling), "mean": mean, "std": std}
    safetensors.torch.save_file(weights, tmp_path / "authors.safetensors")
    config = replace(Conformer.published, weights=str(tmp_path / "authors.safetensors"),
                     options={**Conformer.published.options, "pooling": pooling})
    model = build_model(config, PAPER, 10).eval()
    assert model.weights_report is not None and not model.weights_report.left_out
    decibels = authors_image() * std.view(-1, 1) + mean.view(-1, 1) + 3.0  # the same sound, 3 dB louder than theirs
    with torch.inference_mode():
        output = model.classify(decibels)
    assert output.segment_logits.shape == (2, 62, 10) and model.n_segments == 62
    got = (output.clip_logits[1], output.segment_logits[0, ::12, 0], output.segment_logits[1, 5::14, 7])
    for numbers, recorded in zip(got, RECORDED[pooling], strict=True):
        assert numbers.tolist() == pytest.approx(recorded, abs=1e-4)


def test_the_published_sizes_have_the_published_number_of_parameters() -> None:
    """One layer too many or too wide is a different network by the same name."""
    count = {}
    for pooling in ("token", "attention"):
        model = build_model(replace(Conformer.published, options={"pooling": pooling}), PAPER, 10)
        parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
        count[pooling] = sum(parts.values()) - parts["input_norm"]  # the authors' lies in a file beside the network
        assert (parts["backbone"], parts["encoder"], parts["input_norm"]) == (541_152, 1_526_976, 128)
    assert count == {"token": 2_069_834, "attention": 2_071_028}


def test_weights_without_their_normalisation_are_refused(tmp_path: Path) -> None:
    """The network would read decibels as standard deviations, without a word."""
    safetensors.torch.save_file(authors_weights("token"), tmp_path / "w.safetensors")
    config = replace(Conformer.published, weights=str(tmp_path / "w.safetensors"))
    with pytest.raises(WeightsError, match=r"missing: input_norm"):
        build_model(config, PAPER, 10)
    build_model(replace(config, input_norm="none"), PAPER, 10)


def test_names_of_neither_side_are_reported() -> None:
    """Dropping what one does not know hides that the file is of another network."""
    values = torch.ones(3)
    strange = Conformer.translate({"encoder.after_norm.weight": values, "encoder.input_layer.4.pe": values})
    assert list(strange) == ["encoder.after_norm.weight"]


@pytest.mark.parametrize("length", [9, 5])
def test_the_relative_shift_is_what_two_loops_say(length: int) -> None:
    """Off by one, every segment would take its neighbour for itself."""
    n = 5
    scores = torch.randn(2, 3, n, length)
    shifted = relative_shift(scores)
    for i in range(n):
        for j in range(n):
            if length == 2 * n - 1 or j <= i:
                expected = scores[:, :, i, n - 1 - (i - j)]
            elif j == i + 1:
                expected = torch.zeros(2, 3)
            else:
                expected = scores[:, :, i + 1, j - i - 2]
            assert torch.equal(shifted[:, :, i, j], expected)


def test_signed_attention_scores_by_distance() -> None:
    """Against a double loop over queries and keys that makes the sinusoid of each distance by itself."""
    torch.manual_seed(1)
    dim, heads, n = 8, 2, 6
    layer = RelativeAttention(dim, heads, 0.0, "signed").eval()
    nn.init.normal_(layer.content_bias)
    nn.init.normal_(layer.distance_bias)
    segments = torch.randn(1, n, dim)
    query, key, value = layer.qkv(layer.norm(segments[0])).chunk(3, 1)
    heard = torch.zeros(n, dim)
    for head in range(heads):
        part = slice(head * 4, head * 4 + 4)
        for i in range(n):
            scores = []
            for j in range(n):
                angles = [(i - j) / 10_000 ** (2 * k / dim) for k in range(dim // 2)]
                sinusoid = torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
                scores.append((query[i, part] + layer.content_bias[head]) @ key[j, part]
                              + (query[i, part] + layer.distance_bias[head]) @ layer.distance(sinusoid)[part])
            heard[i, part] = torch.softmax(torch.stack(scores) / 2.0, 0) @ value[:, part]
    assert torch.allclose(layer(segments)[0], segments[0] + layer.out(heard), atol=1e-5)


@pytest.mark.parametrize("part", range(6))
def test_a_click_is_heard_in_its_part_and_by_the_clip(part: int) -> None:
    """The first seed's port joined the parts after the encoder and read token 0: five of six parts were never heard."""
    model = small()
    silent = torch.zeros(1, 6, 1, *Conformer.small_frontend.image_size)
    clicked = silent.clone()
    clicked[:, part, :, :, 120:136] = 5.0
    with torch.inference_mode():
        before, after = model.classify(silent), model.classify(clicked)
    assert after.segment_logits.shape == (1, 6 * model.n_segments, 3)
    changes = (after.segment_logits - before.segment_logits).abs().sum(2).view(6, model.n_segments).amax(1)
    assert int(changes.argmax()) == part
    assert float((after.clip_logits - before.clip_logits).abs().max()) > 1e-4


@pytest.mark.parametrize("pooling", ["token", "attention"])
@pytest.mark.parametrize("n", [1, 2, 31, 200])
def test_any_number_of_segments_is_decided_on(n: int, pooling: str) -> None:
    """A length fixed at construction would tie the model to its training clips."""
    model = small(pooling=pooling)
    with torch.inference_mode():
        output = model.decide(torch.randn(2, 128, n))
    assert output.clip_logits.shape == (2, 3)
    assert output.segment_logits.shape == output.attention.shape == (2, n, 3)
    assert torch.allclose(output.attention.sum(1), torch.ones(2, 3), atol=1e-5)


def test_attention_pools_probabilities_by_the_share_of_a_class() -> None:
    """Windows are pooled by what SEDOutput says, so it must be what made the clip."""
    model = small(pooling="attention", classes=4)
    nn.init.normal_(model.attention.weight, std=0.3)  # type: ignore[arg-type]
    with torch.inference_mode():
        output = model.decide(torch.randn(2, 128, 9))
    assert output.pooled == model.pooled == "probabilities"
    pooled = (output.attention * output.segment_logits.sigmoid()).sum(1)
    assert torch.allclose(output.clip_logits.sigmoid(), pooled, atol=1e-6)
    assert output.attention.std(1).min() > 1e-3
    assert small().pooled == "free"


def test_a_folded_front_end_changes_nothing() -> None:
    """The CNN must not average over the seam between two strips, nor take the second half for higher bands."""
    spectrogram = torch.randn(2, 1, 64, 128)
    with torch.inference_mode():
        flat, folded = (small(replace(SHORT, strips=strips)).classify(fold(spectrogram, strips)) for strips in (1, 2))
    assert torch.allclose(flat.segment_logits, folded.segment_logits, atol=1e-5)
    assert torch.allclose(flat.clip_logits, folded.clip_logits, atol=1e-5)


@pytest.mark.parametrize("at", [20, 230])
def test_a_pretrained_cnn_may_stand_in_front(at: int) -> None:
    """Behind a timm backbone the folded map must be laid out along true time before the encoder reads it."""
    frontend = replace(Conformer.small_frontend, strips=2)
    model = small(frontend, backbone="resnet10t")
    assert model.n_segments == 8
    silent = torch.zeros(1, 1, 64, 256)
    clicked = silent.clone()
    clicked[..., at:at + 6] = 5.0
    with torch.inference_mode():
        change = (model.features(fold(clicked, 2)) - model.features(fold(silent, 2))).abs().sum(1)[0]
    assert change.shape == (8,) and int(change.argmax()) == at // 32


def test_batch_statistics_are_averages_over_many_batches() -> None:
    """The authors' momentum of .99 keeps the statistics of the last batch, which an evaluation then depends on."""
    norms = [m for m in small().modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 5 + 2 and all(norm.momentum is not None and norm.momentum <= 0.1 for norm in norms)


def test_it_learns_32_clips_by_heart() -> None:
    """Tones of one second somewhere in two: a network that cannot learn these by heart does not learn at all."""
    model = small(SHORT, classes=8)
    generator = torch.Generator().manual_seed(0)
    t = torch.arange(SHORT.n_samples) / SHORT.sample_rate_hz
    label = torch.arange(32) % 8
    starts = torch.rand(32, 1, generator=generator)
    waves = torch.sin(2 * math.pi * 500 * 2 ** (label.view(-1, 1) / 2) * t) * ((t > starts) & (t < starts + 1))
    with torch.no_grad():
        images = model.frontend(waves + 0.02 * torch.randn(waves.shape, generator=generator))
    target = nn.functional.one_hot(label, 8).float()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(30):
        optimiser.param_groups[0]["lr"] = 3e-3 * min(1, (step + 1) / 5)
        output = model.train().classify(images)
        optimiser.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(output.clip_logits, target).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    with torch.inference_mode():
        output = model.eval().classify(images)
    assert bool(((output.clip_logits > 0) == (target > 0)).all())


@pytest.mark.parametrize("pooling", ["token", "attention"])
def test_half_precision_gives_whole_numbers(pooling: str) -> None:
    """A sigmoid or a softmax in bfloat16 keeps two digits; logits must leave in float32, with finite gradients."""
    model = small(SHORT, pooling=pooling).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model.classify(torch.randn(2, 1, 64, 128))
    for values in (output.clip_logits, output.segment_logits, output.attention):
        assert values.dtype == torch.float32 and bool(values.isfinite().all())
    output.clip_logits.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.skipif(not has_openvino(), reason="openvino is not installed")
@pytest.mark.parametrize(("backbone", "pooling", "relative"), [
    ("own", "token", "signed"), ("resnet10t", "attention", "published")])
def test_the_export_is_the_model(backbone: str, pooling: str, relative: str) -> None:
    """`export` raises where the graph and the model differ by more than 1e-4 of the logits' sigma."""
    model = small(SHORT, backbone=backbone, pooling=pooling, relative=relative)
    for name, parameter in model.named_parameters():
        if name.startswith("attention.") or name.endswith("_bias"):
            nn.init.normal_(parameter, std=0.3)
    export(model, torch.randn(2, SHORT.n_samples))


@pytest.mark.parametrize(("options", "message"), [
    ({"pooling": "mean"}, "pooling = 'mean'"), ({"relative": "absolute"}, "relative = 'absolute'"),
    ({"kernel": 4}, "kernel = 4 must be odd"), ({"heads": 5}, "multiple of 5 heads"),
    ({"filters": [8, 8]}, "2 filters, 5 pool_bands"), ({"pool_bands": [4, 4, 4, 4, 4]}, "leave 0 bands")])
def test_sizes_that_do_not_fit_are_named(options: dict[str, Any], message: str) -> None:
    """Better than a shape error from inside the network."""
    with pytest.raises(ValueError, match=message):
        small(**options)


@pytest.mark.parametrize("setting", [{"head": "mean"}, {"head_axis": "frequency"}, {"neck": "none"}, {"hidden": 64},
                                     {"smoothing": True}, {"drop_path": 0.1}])
def test_a_setting_that_nothing_reads_is_refused(setting: dict[str, Any]) -> None:
    """An experiment with a setting that does nothing is a result about nothing."""
    with pytest.raises(ValueError, match=r"would not read it|no stochastic depth"):
        build_model(replace(Conformer.small, **setting), Conformer.small_frontend, 3)


def test_an_unknown_option_lists_the_known_ones() -> None:
    """The message is the documentation."""
    with pytest.raises(TypeError, match=r"no option depth; it takes: pooling, dim, blocks"):
        small(depth=3)
    with pytest.raises(ValueError, match="head_axis"):
        build_model(ModelConfig(name="conformer", backbone="own", head_axis="frequency"), SHORT, 3)
