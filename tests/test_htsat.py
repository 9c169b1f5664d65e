"""HTS-AT: the authors' numbers from the authors' weights, segments along true time, images that do not fit refused."""
from __future__ import annotations

import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RATE, click, noise
from torch import Tensor
from torch.nn import functional

from birdkit.backends import has_openvino
from birdkit.config import FrontEndConfig
from birdkit.export import export
from birdkit.models import build_model
from birdkit.models.htsat import HTSAT
from birdkit.output import probabilities
from birdkit.recipes.presets import FRONT_ENDS
from birdkit.settings import replace

N_AUDIOSET = 527
# What the authors' code (RetroCirce/HTS-Audio-Transformer, its forward pass in float64) says of `hashed_wave` with the
# weights of `author_weights`: class -> probability of the clip, (class, segment) -> framewise output in that segment.
CLIPWISE = {0: 0.8036702, 1: 0.5784463, 7: 0.3643832, 74: 0.7097433, 137: 0.7033345, 300: 0.9645197, 369: 0.3498641,
            441: 0.4478542, 500: 0.3609100, 526: 0.2467444}
FRAMEWISE = {(74, 0): 0.6611478, (74, 5): 0.6959604, (74, 13): 0.7271298, (74, 20): 0.7214846, (74, 31): 0.6686532,
             (300, 0): 0.9144864, (300, 5): 0.9746275, (300, 13): 0.9727971, (300, 20): 0.9631274,
             (300, 31): 0.7345181, (526, 0): 0.4273093, (526, 5): 0.2128919, (526, 13): 0.2408242,
             (526, 20): 0.2582763, (526, 31): 0.2597182}


def hashed(name: str, count: int) -> np.ndarray:
    """`count` numbers in [-1, 1) that depend on the name and the index alone: integer arithmetic, equal everywhere."""
    low = np.uint64(0xFFFFFFFF)
    value = np.arange(count, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(zlib.crc32(name.encode()))
    value = (value ^ (value >> np.uint64(15))) * np.uint64(2246822519) & low
    value = (value ^ (value >> np.uint64(13))) * np.uint64(3266489917) & low
    return (value ^ (value >> np.uint64(16))).astype(np.float64) / 2**31 - 1


def hashed_weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor that keeps activations sane: decibels for bn0, unit gain for norms and matrices, sharper attention."""
    value = torch.from_numpy(hashed(name, math.prod(shape))).reshape(shape)
    if name.endswith("running_var"):
        value = 200 + 100 * value
    elif name.endswith("running_mean"):
        value = -30 + 10 * value
    elif name.endswith("bias"):
        value = 0.2 * value
    elif len(shape) == 1:
        value = 1 + 0.3 * value
    elif not name.endswith("bias_table"):
        value = value * math.sqrt((12 if "qkv" in name else 3) / math.prod(shape[1:]))
    return value.float()


def author_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the learned tensors in an AudioSet checkpoint of the authors."""
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (96, 1, 4, 4), "patch_embed.proj.bias": (96,), "norm.weight": (768,),
        "norm.bias": (768,), "tscam_conv.weight": (527, 768, 2, 3), "tscam_conv.bias": (527,),
        "head.weight": (527, 527), "head.bias": (527,)}
    shapes |= {f"patch_embed.norm.{part}": (96,) for part in ("weight", "bias")}
    shapes |= {f"bn0.{part}": (64,) for part in ("weight", "bias", "running_mean", "running_var")}
    for stage, (width, heads, depth) in enumerate(zip((96, 192, 384, 768), (4, 8, 16, 32), (2, 2, 6, 2), strict=True)):
        matrices = {"attn.qkv": (3 * width, width), "attn.proj": (width, width), "mlp.fc1": (4 * width, width),
                    "mlp.fc2": (width, 4 * width)}
        for block in (f"layers.{stage}.blocks.{index}" for index in range(depth)):
            shapes[f"{block}.attn.relative_position_bias_table"] = (225, heads)
            shapes |= {f"{block}.{norm}.{part}": (width,) for norm in ("norm1", "norm2") for part in ("weight", "bias")}
            shapes |= {f"{block}.{name}.weight": shape for name, shape in matrices.items()}
            shapes |= {f"{block}.{name}.bias": shape[:1] for name, shape in matrices.items()}
        if stage < 3:
            shapes[f"layers.{stage}.downsample.reduction.weight"] = (2 * width, 4 * width)
            shapes |= {f"layers.{stage}.downsample.norm.{part}": (4 * width,) for part in ("weight", "bias")}
    return shapes


def author_weights() -> dict[str, Tensor]:
    """A checkpoint as the authors' trainer writes it: learned tensors by a closed formula, and what rides along."""
    weights = {name: hashed_weight(name, shape) for name, shape in author_shapes().items()}
    weights["bn0.num_batches_tracked"] = torch.tensor(7)
    weights["spectrogram_extractor.stft.conv_real.weight"] = torch.zeros(513, 1, 1024)
    weights["logmel_extractor.melW"] = torch.zeros(513, 64)
    weights["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 64, 64)
    weights["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(64, 64, dtype=torch.int64)
    return {f"sed_model.{name}": value for name, value in weights.items()}


def hashed_wave() -> Tensor:
    """10 s: a rising tone that swells and fades, over noise."""
    t = np.arange(320_000) / RATE
    tone = np.sin(2 * np.pi * (500 * t + 150 * t**2)) * np.sin(2 * np.pi * 0.35 * t) ** 2
    return torch.from_numpy((0.3 * tone + 0.02 * hashed("noise", len(t))).astype(np.float32)).unsqueeze(0)


def small_model(n_classes: int = 5, **frontend: object) -> HTSAT:
    torch.manual_seed(0)
    model = build_model(HTSAT.small, replace(HTSAT.small_frontend, **frontend), n_classes)
    assert isinstance(model, HTSAT)
    return model.eval()


def test_the_authors_checkpoint_gives_the_authors_numbers(tmp_path: Path) -> None:
    """Every name, axis and order of the network, the fold, the mel bank, the pooling: a wrong one moves these by .01.

    The count is the 30.24 M of the authors' model with 527 classes less its `head` of 527 * 528 that it never calls:
    what trains, so not their frozen spectrogram matrices (1.08 M) either.
    """
    torch.save({"epoch": 3, "state_dict": author_weights()}, tmp_path / "audioset.ckpt")
    config = replace(HTSAT.published, weights=str(tmp_path / "audioset.ckpt"))
    model = build_model(config, FRONT_ENDS[HTSAT.published_frontend], N_AUDIOSET).eval()
    assert sum(p.numel() for p in model.parameters()) == 30_241_687 - 527 * 528
    assert model.weights_report is not None and not model.weights_report.left_out
    with torch.inference_mode():
        output = model(hashed_wave())
    clip, segments = probabilities(output)[0], output.segment_logits.sigmoid()[0]
    assert clip[list(CLIPWISE)].tolist() == pytest.approx(list(CLIPWISE.values()), abs=1e-4)
    assert [float(segments[s, k]) for k, s in FRAMEWISE] == pytest.approx(list(FRAMEWISE.values()), abs=1e-4)


def test_translation_takes_ours_as_they_are_and_leaves_strangers_to_the_report() -> None:
    """A name that was dropped for being unknown would make a wrong file look complete."""
    own = small_model().state_dict()
    assert HTSAT.translate(own).keys() == own.keys()
    assert HTSAT.translate({"fusion_model.weight": torch.zeros(1)}).keys() == {"fusion_model.weight"}


@pytest.mark.parametrize("at_s", [0.8, 1.7, 2.6, 3.3, 4.5])
def test_a_click_changes_the_segment_it_is_in_most(at_s: float) -> None:
    """Segments run along true time through fold, patches, shifted windows and regrouping: 5 s are 16 of 0.3125 s."""
    model = small_model()
    assert model.n_segments == 16
    waves = torch.from_numpy(np.stack([click(at_s, 5.0), noise(5.0, amplitude=1e-3)]))
    with torch.inference_mode():
        features = model.features(model.input_norm(model.frontend(waves)))
        logits = model(waves).segment_logits
    assert int((features[0] - features[1]).norm(dim=0).argmax()) == int(at_s / 0.3125)
    # Random kernels three segments wide may put the largest change of the logits one segment beside.
    assert abs(int((logits[0] - logits[1]).norm(dim=1).argmax()) - int(at_s / 0.3125)) <= 1


@pytest.mark.parametrize("strips", [1, 2, 4])
def test_the_rows_of_a_strip_are_regrouped_into_its_time(strips: int) -> None:
    """A patch in strip i, column j of the image is segment i * width + j, for any number of strips."""
    model = small_model(strips=strips)
    image = torch.zeros(1, 1, 64 * strips, 256 // strips)
    width = 16 // strips
    for strip in range(strips):
        patch = image.clone()
        patch[:, :, 64 * strip + 20:64 * strip + 24, 16 * (width - 1) + 4:16 * (width - 1) + 8] = 5.0
        with torch.inference_mode():
            change = model.features(patch) - model.features(image)
        assert int(change[0].norm(dim=0).argmax()) == strip * width + width - 1


@pytest.mark.parametrize(("frontend", "options", "bands", "segments"), [
    ({"n_mels": 128, "strips": 1}, {}, 8, 16),
    ({"n_mels": 32, "strips": 4}, {}, 2, 16),
    ({"n_mels": 16, "strips": 1, "channels": "delta"}, {}, 1, 16),  # grids of 4, 2 and 1 rows: windows shrink
    ({"n_mels": 96, "strips": 1, "clip_s": 6.0, "hop_samples": 1000},  # grids of 12 x 24 and 6 x 12
     {"window": 6, "patch": 8, "depths": [2, 2], "heads": [2, 4]}, 6, 12),
])
def test_other_images_whose_tokens_fit(frontend: dict[str, object], options: dict[str, object], bands: int,
                                       segments: int) -> None:
    """Bands, strips and shape of the image are the front end's: 256 x 256 is nowhere in the network."""
    config = replace(HTSAT.small, options=HTSAT.small.options | options)
    model = build_model(config, replace(HTSAT.small_frontend, **frontend), 3).eval()
    with torch.inference_mode():
        output = model(torch.randn(2, model.frontend.config.n_samples))
    assert model.backbone.n_bands == bands and model.n_segments == segments
    assert output.segment_logits.shape == (2, segments, 3) and bool(output.clip_logits.isfinite().all())


@pytest.mark.parametrize(("frontend", "options", "message"), [
    ({"n_mels": 72}, {}, r"72 mels / 16 = 4\.5 tokens"),
    ({"strips": 1, "frames": 248}, {}, r"248 frames / 1 strips = 248 columns; 248 / 16 = 15\.5 tokens"),
    ({"n_mels": 96}, {}, r"windows of 8 x 8 tokens do not tile the 12 x 8 tokens of stage 3 of 3"),
    ({}, {"heads": [5, 4, 8]}, r"48 channels / 5 heads = 9\.600"),
    ({}, {"depths": [2, 2]}, r"depths \[2, 2\] and heads \[2, 4, 8\]"),
])
def test_images_and_sizes_that_do_not_fit_are_refused(frontend: dict[str, object], options: dict[str, object],
                                                      message: str) -> None:
    """timm would pad silently: zeros inside windows, a seam of two strips inside a token."""
    config = replace(HTSAT.small, options=HTSAT.small.options | options)
    with pytest.raises(ValueError, match=message):
        build_model(config, replace(HTSAT.small_frontend, **frontend), 3)


def test_parts_are_joined_before_the_token_semantic_convolution() -> None:
    """Two parts give twice the segments; only the two at the seam see the other part, and the clip is their mean."""
    model = small_model()
    image = torch.randn(2, 2, 1, 128, 128)
    with torch.inference_mode():
        joined, alone = model.classify(image), model.classify(image.flatten(0, 1)).segment_logits.reshape(2, 32, 5)
    same = (joined.segment_logits - alone).abs().amax((0, 2)) < 1e-4
    assert same.tolist() == [True] * 15 + [False] * 2 + [True] * 15
    assert torch.allclose(joined.clip_logits, joined.segment_logits.mean(1), atol=1e-6)
    assert torch.allclose((joined.attention * joined.segment_logits).sum(1), joined.clip_logits, atol=1e-5)


def test_it_overfits_32_clips_of_eight_tones() -> None:
    """Learns at all, at the rate and with the warm-up and clipping that a transformer needs."""
    torch.manual_seed(0)
    frontend, labels = HTSAT.small_frontend, torch.arange(32) % 8
    t = torch.arange(frontend.n_samples) / frontend.sample_rate_hz
    tones = torch.sin(2 * math.pi * 500 * 2 ** (labels / 2)[:, None] * t + torch.arange(32)[:, None])
    model = build_model(HTSAT.small, frontend, 8)
    images = model.frontend(tones + 0.3 * torch.randn_like(tones))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    target = functional.one_hot(labels, 8).float()
    batches = [some for _ in range(5) for some in torch.randperm(32).split(8)]
    for step, some in enumerate(batches):
        optimiser.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 4)
        loss = functional.binary_cross_entropy_with_logits(model.classify(images[some]).clip_logits, target[some])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    with torch.inference_mode():
        output = model.eval().classify(images)
    assert output.clip_logits.argmax(1).tolist() == labels.tolist()
    assert float(functional.binary_cross_entropy_with_logits(output.clip_logits, target)) < 0.05


def test_half_precision_gives_finite_float32_logits_and_gradients() -> None:
    """Silence and a full-scale tone in one batch, raw decibels: what exploded in the first seed."""
    model = small_model(level="none", scaling="none", floor=1e-10).train()
    waves = torch.stack([torch.zeros(160_000), torch.sin(torch.arange(160_000) * 0.3)])
    with torch.autocast("cpu", torch.bfloat16):
        output = model(waves)
    assert output.clip_logits.dtype == output.segment_logits.dtype == torch.float32
    output.clip_logits.sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) == len(list(model.parameters()))
    assert all(bool(g.isfinite().all()) for g in (*gradients, output.clip_logits, output.segment_logits))


@pytest.mark.skipif(not has_openvino(), reason="openvino is not installed")
def test_the_exported_network_is_the_model() -> None:
    """Shifted windows, their masks and the regrouping survive tracing; export itself compares and raises."""
    # Half the blocks, still two kinds of windows and both mergings: openvino takes a second for each block.
    config = replace(HTSAT.small, options=HTSAT.small.options | {"depths": [2, 1, 1]})
    model = build_model(config, HTSAT.small_frontend, 5).eval()
    export(model, torch.from_numpy(np.stack([noise(5.0), click(3.0, 5.0)])), threads=1)


def test_drop_path_rises_to_the_last_block() -> None:
    """0 in the first of six blocks, the config's rate in the last: a flat rate would drop the first too."""
    model = build_model(replace(HTSAT.small, drop_path=HTSAT.published.drop_path), HTSAT.small_frontend, 2)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for stage in model.backbone.stages for block in stage.blocks]
    assert rates == pytest.approx(np.linspace(0, 0.1, 6))


def test_a_cnn_takes_the_place_of_the_transformer_and_a_head_does_not() -> None:
    """A backbone by name stands in front of the same convolution; settings that nothing would read are refused."""
    config = replace(HTSAT.small, backbone="scratch_resnet_s2", options={})
    model = build_model(config, HTSAT.small_frontend, 3).eval()
    with torch.inference_mode():
        output = model(torch.randn(1, 160_000))
    assert output.segment_logits.shape == (1, 16, 3) and model.token_semantic.kernel_size == (4, 3)
    with pytest.raises(ValueError, match=r"model\.head_axis = 'frequency'"):
        build_model(replace(HTSAT.small, head_axis="frequency"), FrontEndConfig(), 3)
