"""FDY-CRNN: the authors' numbers, kernels that know the frequency, segments that stay in their place."""
import dataclasses
import math
import zlib

import numpy as np
import pytest
import torch
from conftest import click, noise, tone
from torch import Tensor, nn

from birdkit.config import FrontEndConfig, ModelConfig
from birdkit.export import export
from birdkit.folding import fold
from birdkit.models.base import build_model
from birdkit.models.fdy_crnn import FDYCRNN, FrequencyDynamicConv
from birdkit.settings import from_dict, replace, to_dict

# The authors' image but for its length, 120 frames instead of 626: four times faster, and the same network.
AUTHORS_FRONTEND = FrontEndConfig(sample_rate_hz=16_000, clip_s=1.92, hop_samples=256, n_mels=128, fmin_hz=0.0,
                                  fmax_hz=8000.0, mel_scale="htk", mel_norm="none", strips=1)
# What the authors' code says of `closed_image(2, 128, 120)` with `authors_weights()`: probabilities of both clips, and
# of the second clip's first four classes in segments 0, 7, 15, 22 and 29.
AUTHORS_WEAK = [[0.526095, 0.647100, 0.563154, 0.422012, 0.168697, 0.708201, 0.423089, 0.697385, 0.620439, 0.469396],
                [0.547273, 0.693933, 0.576188, 0.507071, 0.119703, 0.623958, 0.448791, 0.723927, 0.596047, 0.426396]]
AUTHORS_STRONG = [[0.449790, 0.617287, 0.585954, 0.562764, 0.408426],
                  [0.500811, 0.800504, 0.640756, 0.698273, 0.664250],
                  [0.595437, 0.700104, 0.709683, 0.591859, 0.341236],
                  [0.490184, 0.555208, 0.510266, 0.457708, 0.477745]]


def authors_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of every tensor in the authors' checkpoint."""
    filters = (32, 64, 128, 256, 256, 256, 256)
    shapes: dict[str, tuple[int, ...]] = {"cnn.cnn.conv0.weight": (32, 1, 3, 3), "cnn.cnn.conv0.bias": (32,)}
    norms = {f"cnn.cnn.batchnorm{i}": n for i, n in enumerate(filters)}
    for i, n in enumerate(filters):
        shapes |= {f"cnn.cnn.cg{i}.linear.weight": (n, n), f"cnn.cnn.cg{i}.linear.bias": (n,)}
        if i:
            name, n_in = f"cnn.cnn.conv{i}", filters[i - 1]
            shapes |= {f"{name}.weight": (4, n, n_in, 3, 3), f"{name}.attention.conv1d1.weight": (n_in // 4, n_in, 3),
                       f"{name}.attention.conv1d2.weight": (4, n_in // 4, 1), f"{name}.attention.conv1d2.bias": (4,)}
            norms[f"{name}.attention.bn"] = n_in // 4
    for name, n in norms.items():
        shapes |= {f"{name}.{part}": (n,) for part in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{name}.num_batches_tracked"] = ()
    for layer, n_in in enumerate((256, 512)):
        for end in (f"l{layer}", f"l{layer}_reverse"):
            shapes |= {f"rnn.rnn.weight_ih_{end}": (768, n_in), f"rnn.rnn.weight_hh_{end}": (768, 256),
                       f"rnn.rnn.bias_ih_{end}": (768,), f"rnn.rnn.bias_hh_{end}": (768,)}
    for name in ("dense", "dense_softmax"):
        shapes |= {f"{name}.weight": (10, 512), f"{name}.bias": (10,)}
    return shapes


def closed_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor by a closed formula: the same numbers here and where the authors' code was run."""
    if not shape:
        return torch.tensor(0)
    wild = np.sin(np.arange(math.prod(shape)) * 12.9898 + zlib.crc32(name.encode()) % 1000) * 43758.5453
    values = 2 * (wild - np.floor(wild)) - 1  # in [-1, 1)
    if name.endswith("running_var"):
        values = 1 + 0.5 * values
    elif len(shape) == 1:
        values = name.endswith("weight") + 0.3 * values
    else:
        gains = {"attention": 11.0, "conv": 5.0, "cg": 2.0, "rnn": 2.0, "dense": 4.0}
        gain = next(gain for part, gain in gains.items() if part in name)
        values = values * gain / math.sqrt(math.prod(shape[2:] if len(shape) == 5 else shape[1:]))
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def authors_weights() -> dict[str, Tensor]:
    return {name: closed_tensor(name, shape) for name, shape in authors_shapes().items()}


def closed_image(n: int, bands: int, frames: int) -> Tensor:
    """(n, 1, bands, frames)"""
    b, f, t = np.ogrid[:n, :bands, :frames]
    waves = 0.5 + 0.25 * np.sin(0.11 * f * (1 + b) + 0.07 * t) + 0.25 * np.sin(0.003 * f * t + b)
    return torch.from_numpy(waves.astype(np.float32)).unsqueeze(1)


def small_model(n_classes: int = 4, frontend: FrontEndConfig = FDYCRNN.small_frontend, **changes: object) -> FDYCRNN:
    """The small model in eval mode, some options changed, its batch norms having seen images of unit deviation."""
    torch.manual_seed(0)
    config = dataclasses.replace(FDYCRNN.small, options={**FDYCRNN.small.options, **changes})
    model = build_model(config, frontend, n_classes)
    assert isinstance(model, FDYCRNN)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model.classify(torch.randn(2, 1, *frontend.image_size))
    return model.eval()


def test_the_authors_numbers_come_out_of_their_weights(tmp_path) -> None:
    """Any layer in another order, an axis swapped, a gate or a pool left out, or a tensor under a wrong name."""
    torch.save({f"module.{name}": value for name, value in authors_weights().items()}, tmp_path / "best_student.pt")
    config = dataclasses.replace(FDYCRNN.published, weights=str(tmp_path / "best_student.pt"))
    model = build_model(config, AUTHORS_FRONTEND, 10).eval()
    with torch.inference_mode():
        output = model.classify(closed_image(2, 128, 120))
    assert model.n_segments == 30 and output.segment_logits.shape == (2, 30, 10)
    assert torch.allclose(output.clip_logits.sigmoid(), torch.tensor(AUTHORS_WEAK), atol=1e-4)
    strong = output.segment_logits[1, [0, 7, 15, 22, 29], :4].sigmoid().T
    assert torch.allclose(strong, torch.tensor(AUTHORS_STRONG), atol=1e-4)


def test_our_own_names_pass_translation_unchanged() -> None:
    """A second translation, of weights saved by us, would transpose kernels or lose names."""
    own = small_model().state_dict()
    translated = FDYCRNN.translate(own)
    assert translated.keys() == own.keys() and all(translated[name] is own[name] for name in own)


@pytest.mark.parametrize(("dynamic_from", "parameters"), [(1, 11_061_468), (7, 4_427_956)])
def test_the_published_size_is_the_authors(dynamic_from: int, parameters: int) -> None:
    """The paper's 11.06 M and 4.43 M: a bias too many or a GRU too narrow."""
    model = FDYCRNN(FDYCRNN.published, AUTHORS_FRONTEND, 10, dynamic_from=dynamic_from)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_equal_shares_give_the_mean_of_the_basis_convolutions() -> None:
    """Kernels cut out of the one convolution in the wrong order, or shares that do not sum to one."""
    torch.manual_seed(0)
    layer = FrequencyDynamicConv(3, 5, n_kernels=4).eval()
    nn.init.zeros_(layer.mix.weight)
    x = torch.randn(2, 3, 8, 10)
    each = [nn.functional.conv2d(x, kernel, padding=1) for kernel in layer.basis.weight.unflatten(0, (4, 5))]
    assert torch.allclose(layer(x), torch.stack(each).mean(0), atol=1e-5)


def test_shares_depend_on_the_frequency_and_on_nothing_else() -> None:
    """Shares over time, or one set for all frequencies, are other networks of the same size."""
    torch.manual_seed(0)
    layer = FrequencyDynamicConv(3, 5, temperature=1.0).eval()
    x = torch.ones(1, 3, 16, 10)
    x[:, :, 9] = 5.0
    shares = layer.shares(x)
    assert shares.shape == (1, 4, 16) and torch.allclose(shares.sum(1), torch.ones(1, 16))
    quiet = shares[0, :, 3]
    assert torch.allclose(shares[0, :, 4], quiet) and not torch.allclose(shares[0, :, 9], quiet, atol=0.02)
    later = x[..., torch.randperm(10)]  # another order of the same frames
    assert torch.allclose(layer.shares(later), shares, atol=1e-6)


def test_a_kernel_made_for_each_frequency_alone_agrees() -> None:
    """The fast form sums maps; the paper's sums kernels. Both must be the same convolution."""
    torch.manual_seed(0)
    layer = FrequencyDynamicConv(8, 5, n_kernels=3, temperature=0.7)
    layer(torch.randn(4, 8, 7, 9) * 2 + 1)  # batch norm has seen something
    layer.eval()
    x = torch.randn(2, 8, 7, 9)
    mean = nn.functional.pad(x.mean(3), (1, 1))  # (B, C, F + 2)
    wanted = torch.zeros(2, 5, 7, 9)
    for b in range(2):
        for f in range(7):
            hidden = torch.einsum("hcw,cw->h", layer.squeeze.weight, mean[b, :, f:f + 3])
            normed = (hidden - layer.norm.running_mean) / torch.sqrt(layer.norm.running_var + 1e-5)
            normed = torch.clamp(normed * layer.norm.weight + layer.norm.bias, min=0)
            scores = torch.exp((layer.mix.weight[:, :, 0] @ normed + layer.mix.bias) / 0.7)
            kernel = torch.einsum("k,koihw->oihw", scores / scores.sum(), layer.basis.weight.unflatten(0, (3, 5)))
            wanted[b, :, f] = nn.functional.conv2d(x[b:b + 1], kernel, padding=1)[0, :, f]
    assert torch.allclose(layer(x), wanted, atol=1e-5)


@pytest.mark.parametrize("attention", ["class", "time"])
def test_segments_make_the_clip_by_their_probabilities(attention: str) -> None:
    """Pooled logits, or a softmax over the wrong axis, would give windows another probability than clips."""
    model = small_model(attention=attention)
    nn.init.normal_(model.attend.weight)
    features = model.features(torch.randn(2, 1, 64, 200))
    with torch.inference_mode():
        output = model.decide(features)
        scores = model.attend(model.rnn(features.transpose(1, 2))[0])
    weights = torch.softmax(scores, {"class": 2, "time": 1}[attention])
    assert output.pooled == "probabilities" and output.segment_logits.shape == (2, model.n_segments, 4)
    assert torch.allclose(output.attention.sum(1), torch.ones(2, 4), atol=1e-5)
    assert torch.allclose(output.attention, weights / weights.sum(1, keepdim=True), atol=1e-6)
    pooled = (output.attention * output.segment_logits.sigmoid()).sum(1)
    assert torch.allclose(output.clip_logits.sigmoid(), pooled, atol=1e-5)


def test_a_click_in_part_4_of_6_moves_the_segments_of_part_4() -> None:
    """Parts joined along the wrong axis, or a GRU that runs over the batch, move other segments."""
    model = small_model()
    n = model.frontend.config.n_samples
    quiet = torch.from_numpy(noise(30.0, amplitude=1e-3)).unsqueeze(0)
    loud = torch.from_numpy(click(17.5, 30.0)).unsqueeze(0)
    with torch.inference_mode():
        before, after = model(quiet).segment_logits, model(loud).segment_logits
    assert quiet.shape[1] == 6 * n and before.shape == (1, 6 * model.n_segments, 4)
    moved = (after - before).abs().unflatten(1, (6, model.n_segments)).mean((0, 2, 3))
    assert int(moved.argmax()) == 3 and moved[3] > 3 * moved[[0, 1, 2, 4, 5]].max()


def test_predictions_do_not_depend_on_batch_mates() -> None:
    """The authors scale over the batch: a clip's score changed with its neighbours, at test time too."""
    model = small_model()
    waves = torch.stack([torch.from_numpy(tone(2000.0, 5.0)), torch.from_numpy(noise(5.0)), torch.zeros(160_000)])
    with torch.inference_mode():
        together = model(waves).segment_logits
        for alone, wave in zip(together, waves, strict=True):
            assert torch.allclose(model(wave.unsqueeze(0)).segment_logits[0], alone, atol=1e-5)


def test_batch_norms_remember_more_than_the_last_batch() -> None:
    """The authors' momentum of .99 keeps 1 % of what was before."""
    norms = [m for m in small_model().modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    assert len(norms) == 5 + 4 and all(norm.momentum <= 0.1 for norm in norms)


@pytest.mark.parametrize("segments", [1, 7, 300])
def test_any_number_of_segments_is_decided_on(segments: int) -> None:
    """A length built in would break soundscapes of other lengths than the training clips'."""
    with torch.inference_mode():
        output = small_model().decide(torch.randn(2, 96, segments))
    assert output.segment_logits.shape == output.attention.shape == (2, segments, 4)
    assert torch.allclose(output.attention.sum(1), torch.ones(2, 4), atol=1e-4)


def test_a_folded_image_is_heard_as_the_unfolded() -> None:
    """A network of this kind on the folded image would mix the top of one strip with the bottom of the next."""
    plain = small_model()
    folded = small_model(frontend=dataclasses.replace(FDYCRNN.small_frontend, strips=2))
    folded.load_state_dict(plain.state_dict())
    spectrogram = torch.randn(1, 1, 64, 200)
    with torch.inference_mode():
        one, other = plain.classify(spectrogram), folded.classify(fold(spectrogram, 2))
    assert torch.equal(one.segment_logits, other.segment_logits)


def test_bands_that_the_pools_leave_are_averaged() -> None:
    """The authors' code crashes where more than one band is left."""
    model = small_model(frontend=dataclasses.replace(FDYCRNN.small_frontend, n_mels=128))
    with torch.inference_mode():
        features = model.backbone(torch.randn(1, 1, 128, 200))
    assert features.shape == (1, 96, 2, 50) and model.n_segments == 50
    assert small_model(n_classes=3).features(torch.randn(2, 1, 64, 200)).shape == (2, 96, 50)


def test_every_parameter_learns() -> None:
    """A layer that is built but not called, or cut off from the loss."""
    model = small_model().train()
    model.classify(torch.randn(2, 1, 64, 200)).clip_logits.square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert not idle


def test_tones_are_learnt_by_heart() -> None:
    """A network that cannot tell 32 clips of four pitches apart will not tell birds."""
    torch.manual_seed(0)
    frontend = dataclasses.replace(FDYCRNN.small_frontend, clip_s=2.5)
    model = build_model(FDYCRNN.small, frontend, 4)
    part = np.arange(80_000) // 16_000
    waves = [tone(700.0 * 2 ** (i % 4), 2.5) * (part == i % 5) + noise(2.5, amplitude=0.02, seed=i) for i in range(32)]
    image = model.frontend(torch.from_numpy(np.stack(waves).astype(np.float32)))
    target = nn.functional.one_hot(torch.arange(32) % 4, 4).float()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
    for step in range(20):
        optimiser.param_groups[0]["lr"] = 1e-2 * min(1, (step + 1) / 5)
        rows = (torch.arange(8) + 8 * step) % 32
        loss = nn.functional.binary_cross_entropy_with_logits(model.classify(image[rows]).clip_logits, target[rows])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    with torch.inference_mode():
        logits = model.eval().classify(image).clip_logits
    assert torch.equal(logits.argmax(1), target.argmax(1))
    assert nn.functional.binary_cross_entropy_with_logits(logits, target) < 0.25


def test_bf16_gives_finite_float32_logits() -> None:
    """Half precision in the recurrent state or in the pooling of probabilities."""
    model = small_model()
    image = torch.randn(2, 1, 64, 200)
    with torch.inference_mode():
        full = model.classify(image)
        with torch.autocast("cpu", torch.bfloat16):
            half = model.classify(image)
    for one, other in zip(dataclasses.astuple(full)[:3], dataclasses.astuple(half)[:3], strict=True):
        assert other.dtype == torch.float32 and bool(other.isfinite().all())
        assert (one - other).abs().max() < 0.1 * max(1.0, float(one.std()))


@pytest.mark.parametrize("backbone", ["own", "resnet10t"])
def test_the_exported_network_is_the_model(backbone: str, small_frontend: FrontEndConfig) -> None:
    """OpenVINO's GRU, and a CNN on the folded image in front of it; `export` compares with torch and raises."""
    pytest.importorskip("openvino")
    torch.manual_seed(0)
    frontend = small_frontend if backbone == "resnet10t" else FDYCRNN.small_frontend
    model = build_model(dataclasses.replace(FDYCRNN.small, backbone=backbone), frontend, 5).eval()
    waves = torch.randn(2, frontend.n_samples)
    assert export(model, waves, threads=1)(model.frontend(waves)).clip_logits.shape == (2, 5)


def test_a_timm_network_may_stand_in_front(small_frontend: FrontEndConfig) -> None:
    """Its map is unfolded before the bands are averaged: a click in the lower strip belongs to the second half."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(name="fdy_crnn", backbone="resnet10t"), small_frontend, 3).eval()
    quiet, loud = torch.zeros(1, 1, 64, 128), torch.zeros(1, 1, 64, 128)
    loud[..., 104:112] = 1.0
    with torch.inference_mode():
        moved = (model.features(fold(loud, 2)) - model.features(fold(quiet, 2))).abs().sum((0, 1))
    assert moved.shape == (model.n_segments,) == (4,) and int(moved.argmax()) == 3


def test_a_stored_config_builds_the_same_network() -> None:
    """Options become lists in JSON: a tuple in `small` would not come back from a checkpoint as itself."""
    assert from_dict(ModelConfig, to_dict(FDYCRNN.small)) == FDYCRNN.small
    assert replace(FDYCRNN.small, options=to_dict(FDYCRNN.small)["options"]) == FDYCRNN.small


@pytest.mark.parametrize(("options", "message"), [
    ({"pools": [[2, 2]] * 5}, "divide 64 mels and 20 frames"), ({"pools": [[2, 2]]}, "5 filters and 1 pools"),
    ({"attention": "band"}, "one of class, time"), ({"n_kernels": 0}, "at least 1")])
def test_sizes_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    """A division by nothing hours later, or a network that silently is another one."""
    frontend = dataclasses.replace(FDYCRNN.small_frontend, clip_s=0.5)
    with pytest.raises(ValueError, match=message):
        small_model(frontend=frontend, **options)


def test_an_unknown_option_is_named() -> None:
    """A misspelt size would silently be the default."""
    with pytest.raises(TypeError, match=r"kernel_count.*filters"):
        small_model(kernel_count=3)
