"""FDY-CRNN: convolutions whose kernels depend on the frequency, then a recurrent network over segments."""
from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from birdkit.config import OWN, FrontEndConfig, ModelConfig
from birdkit.folding import unfold
from birdkit.models.backbones import BackboneMap
from birdkit.models.base import MODELS, Model
from birdkit.output import SEDOutput, pool_probabilities

ATTENTIONS = ("class", "time")  # the axis of the softmax that weighs segments
FILTERS = (32, 64, 128, 256, 256, 256, 256)
POOLS = ((2, 2), (2, 2), (2, 1), (2, 1), (2, 1), (2, 1), (2, 1))  # (frequency, time)
AUTHORS_CNN = re.compile(r"cnn\.cnn\.(conv|batchnorm|cg)(\d+)\.(.+)")
AUTHORS_LAYERS = {"attention.conv1d1.": "squeeze.", "attention.bn.": "norm.", "attention.conv1d2.": "mix."}
AUTHORS_HEADS = {"rnn.rnn.": "rnn.", "dense.": "strong.", "dense_softmax.": "attend."}


class FrequencyDynamicConv(nn.Module):
    """A 3 x 3 convolution with another kernel at every frequency: y(f) = sum over k of a_k(f) (x * basis kernel k)(f).

    An ordinary convolution treats a pattern the same at every pitch; a call does not mean the same an octave higher.
    The shares a(f) are a softmax over the basis kernels, made of the clip's mean over time around that frequency.
    After Nam et al. 2022 (Interspeech, arXiv:2203.15296).

    Shape: (B, C_in, F, T) -> (B, C_out, F, T).

    n_kernels    basis kernels; all run as one convolution
    temperature  of the softmax: a high one lets every kernel learn before some of them win
    """

    def __init__(self, n_in: int, n_out: int, *, n_kernels: int = 4, temperature: float = 31.0) -> None:
        super().__init__()
        self.n_kernels = n_kernels
        self.temperature = temperature
        hidden = max(n_in // 4, 4)
        self.basis = nn.Conv2d(n_in, n_kernels * n_out, 3, padding=1, bias=False)
        self.squeeze = nn.Conv1d(n_in, hidden, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm1d(hidden)
        self.mix = nn.Conv1d(hidden, n_kernels, 1)
        nn.init.kaiming_normal_(self.basis.weight)
        for layer in (self.squeeze, self.mix):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.mix.bias)  # type: ignore[arg-type]

    def shares(self, features: Tensor) -> Tensor:
        """(B, C_in, F, T) -> float32 shares of the basis kernels, (B, n_kernels, F), sum to one over the kernels."""
        hidden = torch.relu(self.norm(self.squeeze(features.mean(3))))
        return torch.softmax(self.mix(hidden).float() / self.temperature, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C_in, F, T) -> (B, C_out, F, T)."""
        maps = self.basis(features).chunk(self.n_kernels, 1)
        shares = self.shares(features).to(maps[0].dtype)[:, :, None, :, None].unbind(1)  # n_kernels of (B, 1, F, 1)
        # One map at a time: a product of all maps would be as large again as the largest tensor there is.
        mixed = maps[0] * shares[0]
        for one, share in zip(maps[1:], shares[1:], strict=True):
            mixed = torch.addcmul(mixed, one, share)
        return mixed


class FrequencyDynamicBlock(nn.Module):
    """Convolution, batch norm, context gating, dropout, average pool: (B, C_in, F, T) -> (B, C_out, F / p, T / q).

    Context gating (Miech et al. 2017, arXiv:1706.06905) scales a cell by the sigmoid of a linear map of its channels.

    convolution  of n_out channels
    pool         (p, q), over frequency and time
    """

    def __init__(self, convolution: nn.Module, n_out: int, pool: tuple[int, int], dropout: float) -> None:
        super().__init__()
        self.convolution = convolution
        # The authors' momentum of 0.99 is Keras's meaning of it: here it would keep little but the last batch.
        self.norm = nn.BatchNorm2d(n_out, eps=1e-3)
        self.gate = nn.Conv2d(n_out, n_out, 1)
        self.dropout = nn.Dropout(dropout)
        self.pool = nn.AvgPool2d(pool)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C_in, F, T) -> (B, C_out, F / p, T / q)."""
        normed = self.norm(self.convolution(features))
        return self.pool(self.dropout(normed * torch.sigmoid(self.gate(normed))))


class FrequencyDynamicCNN(nn.Module):
    """The CNN of FDY-CRNN on an unfolded spectrogram: (B, C, strips * F, T / strips) -> (B, n_features, n_bands, S).

    filters, pools, dynamic_from, n_kernels, temperature, dropout  see FDYCRNN

    Raises ValueError where the pools leave no band or no segment, or do not go with the filters.
    """

    def __init__(self, frontend: FrontEndConfig, *, filters: Sequence[int], pools: Sequence[Sequence[int]],
                 dynamic_from: int, n_kernels: int, temperature: float, dropout: float) -> None:
        super().__init__()
        if len(filters) != len(pools) or not filters:
            raise ValueError(f"{len(filters)} filters and {len(pools)} pools: there must be one of each per block")
        if n_kernels < 1 or temperature <= 0 or dynamic_from < 0:
            raise ValueError(f"n_kernels = {n_kernels} must be at least 1, temperature = {temperature:g} above 0, "
                             f"dynamic_from = {dynamic_from} at least 0")
        self.strips = frontend.strips
        self.n_features = filters[-1]
        self.n_bands = frontend.n_mels // math.prod(pool[0] for pool in pools)
        self.n_segments = frontend.n_frames // math.prod(pool[1] for pool in pools)
        if not self.n_bands or not self.n_segments:
            raise ValueError(f"pools {[tuple(pool) for pool in pools]} divide {frontend.n_mels} mels and "
                             f"{frontend.n_frames} frames by more than there are: set the option `pools`")
        blocks = []
        for index, (n_in, n_out, pool) in enumerate(zip((frontend.n_channels, *filters), filters, pools, strict=False)):
            convolution = (FrequencyDynamicConv(n_in, n_out, n_kernels=n_kernels, temperature=temperature)
                           if index >= dynamic_from else nn.Conv2d(n_in, n_out, 3, padding=1))
            blocks.append(FrequencyDynamicBlock(convolution, n_out, (pool[0], pool[1]), dropout))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, strips * F, T / strips) -> (B, n_features, n_bands, S)."""
        return self.blocks(unfold(image, self.strips))


@MODELS.register("fdy_crnn")
class FDYCRNN(Model):
    """A CNN with frequency-dynamic convolutions, bands averaged, a bidirectional GRU over segments, weighted pooling.

    After Nam et al. 2022 (Interspeech, arXiv:2203.15296); 11,061,468 parameters with the published sizes and 10
    classes, 4,427,956 with plain convolutions, exactly the authors'. Every segment has a logit and a positive weight
    per class; the probability of the clip is the weighted mean of its segments' probabilities. With a backbone other
    than "own", that CNN on the folded image takes the place of theirs.

    The authors scale each band between its extremes over the whole batch; here the front end scales each clip by
    itself, so no prediction depends on what else is in the batch.

    filters       channels of each convolution block
    pools         (frequency, time) of each block's average pool; bands that are left are averaged
    dynamic_from  the first frequency-dynamic block, counted from 0; len(filters) for plain convolutions only
    n_kernels     basis kernels of a frequency-dynamic convolution
    temperature   of the softmax over them
    rnn_width     of the GRU in each direction
    rnn_layers    of the GRU
    rnn_dropout   between the GRU's layers; config.dropout is that of the CNN and of the GRU's output
    attention     segments are weighed by a softmax over "class" (the published one: a segment speaks for the class
                  it resembles most) or over "time"

    Raises ValueError for sizes that do not fit the front end.
    """

    published: ClassVar[ModelConfig] = ModelConfig(name="fdy_crnn", backbone=OWN, dropout=0.5)
    published_frontend: ClassVar[str] = "fdy_crnn"
    small: ClassVar[ModelConfig] = ModelConfig(name="fdy_crnn", backbone=OWN, dropout=0.1, options={
        "filters": [16, 32, 64, 96, 96], "pools": [[2, 2], [2, 2], [2, 1], [2, 1], [4, 1]], "rnn_width": 64,
        "rnn_layers": 1})
    small_frontend: ClassVar[FrontEndConfig] = FrontEndConfig(clip_s=5.0, hop_samples=800, n_mels=64, strips=1)
    class_free: ClassVar[tuple[str, ...]] = ("backbone", "input_norm", "rnn")
    unread: ClassVar[tuple[str, ...]] = ("head", "head_axis", "head_options", "pooling", "smoothing", "neck", "hidden")
    pooled: str = "probabilities"

    def __init__(self, config: ModelConfig, frontend: FrontEndConfig, n_classes: int, *,
                 filters: Sequence[int] = FILTERS, pools: Sequence[Sequence[int]] = POOLS, dynamic_from: int = 1,
                 n_kernels: int = 4, temperature: float = 31.0, rnn_width: int = 256, rnn_layers: int = 2,
                 rnn_dropout: float = 0.0, attention: str = "class") -> None:
        super().__init__(config, frontend, n_classes)
        if attention not in ATTENTIONS:
            raise ValueError(f"attention = {attention!r}; it must be one of {', '.join(ATTENTIONS)}")
        self.backbone = BackboneMap(config, frontend) if config.backbone != OWN else FrequencyDynamicCNN(
            frontend, filters=filters, pools=pools, dynamic_from=dynamic_from, n_kernels=n_kernels,
            temperature=temperature, dropout=config.dropout)
        self.n_segments = self.backbone.n_segments
        self.rnn = nn.GRU(self.backbone.n_features, rnn_width, rnn_layers, batch_first=True, bidirectional=True,
                          dropout=rnn_dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.strong = nn.Linear(2 * rnn_width, n_classes)
        self.attend = nn.Linear(2 * rnn_width, n_classes)
        self.attention = attention
        nn.init.constant_(self.strong.bias, -4.0)  # a class is absent from most clips

    def features(self, image: Tensor) -> Tensor:
        """(B, C, strips * n_mels, T / strips) -> (B, D, S)."""
        return self.backbone(image).mean(2)

    def decide(self, features: Tensor) -> SEDOutput:
        """(B, D, any S) -> SEDOutput. In float32 throughout: a recurrent state is rounded again at every segment."""
        with torch.autocast(features.device.type, enabled=False):
            hidden = self.dropout(self.rnn(features.float().transpose(1, 2))[0])  # (B, S, 2 * rnn_width)
            logits = self.strong(hidden)
            weights = torch.softmax(self.attend(hidden), 2 if self.attention == "class" else 1).clamp_min(1e-7)
            attention = weights / weights.sum(1, keepdim=True)
            return SEDOutput(pool_probabilities(logits, attention), logits, attention, self.pooled)

    @classmethod
    def translate(cls, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The authors' checkpoint (`best_student.pt` of FDY-SED) by our names; other names stay as they are.

        Their images lie with time before frequency, ours the other way round: kernels are transposed. Their basis
        kernels (n_kernels, C_out, C_in, 3, 3) become one convolution, their linear gates 1 x 1 convolutions.
        """
        return dict(_translated(name.removeprefix("module."), value) for name, value in weights.items())


def _translated(name: str, value: Tensor) -> tuple[str, Tensor]:
    """One entry of the authors' checkpoint by our name and in our shape."""
    for theirs, ours in AUTHORS_HEADS.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs), value
    found = AUTHORS_CNN.fullmatch(name)
    if found is None:
        return name, value
    layer, index, rest = found.groups()
    block = f"backbone.blocks.{index}."
    if layer == "batchnorm":
        return f"{block}norm.{rest}", value
    if layer == "cg":
        return f"{block}gate.{rest.removeprefix('linear.')}", value[..., None, None] if value.ndim == 2 else value
    for theirs, ours in AUTHORS_LAYERS.items():
        if rest.startswith(theirs):
            return f"{block}convolution.{ours}{rest.removeprefix(theirs)}", value
    if value.ndim == 5:
        return f"{block}convolution.basis.{rest}", value.flatten(0, 1).transpose(2, 3).contiguous()
    return f"{block}convolution.{rest}", value.transpose(2, 3).contiguous() if value.ndim == 4 else value
