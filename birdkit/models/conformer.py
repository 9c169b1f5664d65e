"""ConformerSED: a small CNN, or any backbone, and a Conformer encoder over all segments of what is decided on."""
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
from birdkit.models.conformer_encoder import ConformerEncoder
from birdkit.models.heads import START_LOGIT
from birdkit.models.pooling import AxisPool
from birdkit.output import SEDOutput, pool_probabilities

CLIP_POOLING = ("token", "attention")

# Constants that the authors' files store and the encoder makes anew for every length.
POSITION_TABLES = re.compile(r"encoder\.input_layer\.4\.pe|.*\.pos_emb\.inv_freq")
AUTHORS_NAMES = tuple((re.compile(theirs), ours) for theirs, ours in (
    (r"^cnn\.cnn\.conv(\d+)\.", r"backbone.blocks.\1.0."),
    (r"^cnn\.cnn\.batchnorm(\d+)\.", r"backbone.blocks.\1.1."),
    (r"^encoder\.input_layer\.", "encoder.project."),
    (r"^encoder\.conformer_blocks\.", "encoder.blocks."),
    (r"^linear_emb\.", "token."),
    (r"^dense\.", "attention."),
    (r"\.ffn1\.feed_forward_module\.", ".before."),
    (r"\.ffn2\.feed_forward_module\.", ".after."),
    (r"\.mhsa\.r_w_bias$", ".attention.content_bias"),
    (r"\.mhsa\.r_r_bias$", ".attention.distance_bias"),
    (r"\.mhsa\.r_net\.", ".attention.distance."),
    (r"\.mhsa\.qkv_net\.", ".attention.qkv."),
    (r"\.mhsa\.o_net\.", ".attention.out."),
    (r"\.mhsa\.layer_norm\.", ".attention.norm."),
    (r"\.conv\.conv\.0\.", ".convolution.norm."),
    (r"\.conv\.conv\.1\.conv\.", ".convolution.widen."),
    (r"\.conv\.conv\.3\.conv\.", ".convolution.depthwise."),
    (r"\.conv\.conv\.5\.", ".convolution.batch_norm."),
    (r"\.conv\.conv\.8\.conv\.", ".convolution.out.")))


class ConformerCNN(nn.Module):
    """Blocks of 3 x 3 convolution, batch norm, ReLU, dropout, average: one feature vector per band and segment.

    Shape: (B, C, strips * F, T / strips) -> (B, filters[-1], n_bands, n_segments). It runs on the unfolded spectrogram:
    its averages would otherwise reach over the seam between two strips.

    filters     channels of each block
    pool_bands  mel bands that each block averages, pool_time the frames

    Raises ValueError where the three are not of one length, or nothing of the spectrogram is left.
    """

    def __init__(self, frontend: FrontEndConfig, *, filters: Sequence[int], pool_bands: Sequence[int],
                 pool_time: Sequence[int], dropout: float) -> None:
        super().__init__()
        if not len(filters) == len(pool_bands) == len(pool_time) > 0:
            raise ValueError(f"{len(filters)} filters, {len(pool_bands)} pool_bands and {len(pool_time)} pool_time "
                             "must be one of each per block")
        self.strips = frontend.strips
        self.n_features = filters[-1]
        self.n_bands = frontend.n_mels // math.prod(pool_bands)
        self.n_segments = frontend.n_frames // math.prod(pool_time)
        if not self.n_bands or not self.n_segments:
            raise ValueError(f"{frontend.n_mels} mels / {math.prod(pool_bands)} and {frontend.n_frames} frames / "
                             f"{math.prod(pool_time)} leave {self.n_bands} bands and {self.n_segments} segments")
        widths = [frontend.n_channels, *filters]
        # The authors' momentum of .99 means "forget nearly everything" in PyTorch: the statistics of one last batch.
        self.blocks = nn.Sequential(*[
            nn.Sequential(nn.Conv2d(widths[i], filters[i], 3, padding=1), nn.BatchNorm2d(filters[i], eps=1e-3),
                          nn.ReLU(), nn.Dropout(dropout), nn.AvgPool2d((pool_bands[i], pool_time[i])))
            for i in range(len(filters))])

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, strips * F, T / strips) -> (B, D, n_bands, n_segments)."""
        return self.blocks(unfold(image, self.strips))


@MODELS.register("conformer")
class Conformer(Model):
    """The ConformerSED of Miyazaki et al., first in DCASE 2020 task 4: 2,069,834 parameters at 10 classes.

    A CNN gives features along time, a Conformer encoder lets all segments hear each other, one linear layer decides on
    each. Parts are joined before the encoder, so it reads all of them. The constructor's sizes are the paper's;
    `config.dropout` is that of the CNN and the encoder, `config.pooling` that of the bands a CNN leaves.

    pooling    "token": a learned token is put before the segments and its logits are the clip's, beside the segments
               "attention": the clip's probability is a weighted mean of its segments'; a segment's weight for a class
               is the share of the class among all classes there (a softmax over classes, as the authors have it)
    dim, blocks, heads, kernel, expansion, relative  of the encoder, see ConformerEncoder. `published` keeps the
               authors' attention for their weights; "signed", the default, is for training
    filters, pool_bands, pool_time                   of the paper's CNN, see ConformerCNN

    Raises ValueError for sizes that do not fit, and for settings of a head or of stochastic depth that it does not
    read.
    """

    published: ClassVar[ModelConfig] = ModelConfig(name="conformer", backbone=OWN, input_norm="band", dropout=0.1,
                                                   options={"relative": "published"})
    published_frontend: ClassVar[str] = "conformer"
    # Without dropout: on a CPU its random numbers are over a quarter of a training step.
    small: ClassVar[ModelConfig] = ModelConfig(name="conformer", backbone=OWN, dropout=0.0, options={
        "dim": 96, "blocks": 2, "filters": [16, 32, 64, 96, 128], "pool_bands": [2, 2, 2, 2, 2],
        "pool_time": [2, 2, 2, 1, 1]})
    # 5 s * 32,000 Hz / 625 = 256 frames of 64 mels, 32 segments of 0.16 s.
    small_frontend: ClassVar[FrontEndConfig] = FrontEndConfig(clip_s=5.0, hop_samples=625, n_mels=64, strips=1)
    class_free: ClassVar[tuple[str, ...]] = ("backbone", "input_norm", "encoder", "token")
    unread: ClassVar[tuple[str, ...]] = ("head", "head_axis", "head_options", "smoothing", "neck", "hidden")

    def __init__(self, config: ModelConfig, frontend: FrontEndConfig, n_classes: int, *, pooling: str = "token",
                 dim: int = 144, blocks: int = 3, heads: int = 4, kernel: int = 7, expansion: int = 4,
                 relative: str = "signed", filters: Sequence[int] = (16, 32, 64, 128, 128, 128, 128),
                 pool_bands: Sequence[int] = (2, 2, 2, 2, 2, 2, 1),
                 pool_time: Sequence[int] = (2, 2, 2, 1, 1, 1, 1)) -> None:
        super().__init__(config, frontend, n_classes)
        if pooling not in CLIP_POOLING:
            raise ValueError(f"pooling = {pooling!r}; it must be one of {', '.join(CLIP_POOLING)}")
        if config.backbone == OWN and config.drop_path:
            raise ValueError(f"model.drop_path = {config.drop_path}, but conformer's own CNN has no stochastic depth")
        self.backbone: ConformerCNN | BackboneMap
        if config.backbone == OWN:
            self.backbone = ConformerCNN(frontend, filters=filters, pool_bands=pool_bands, pool_time=pool_time,
                                         dropout=config.dropout)
        else:
            self.backbone = BackboneMap(config, frontend)
        width = self.backbone.n_features
        self.n_segments = self.backbone.n_segments
        self.band_pooling = AxisPool(config.pooling)
        self.encoder = ConformerEncoder(width, dim=dim, blocks=blocks, heads=heads, kernel=kernel, expansion=expansion,
                                        dropout=config.dropout, relative=relative)
        self.classifier = nn.Linear(dim, n_classes)
        nn.init.constant_(self.classifier.bias, START_LOGIT)
        self.pooled = "free" if pooling == "token" else "probabilities"
        if pooling == "token":
            self.token = nn.Linear(1, width)  # of a constant one, as the authors have it
        else:
            self.attention = nn.Linear(dim, n_classes)
            nn.init.zeros_(self.attention.weight)
            nn.init.zeros_(self.attention.bias)

    def features(self, image: Tensor) -> Tensor:
        """(B, C, strips * n_mels, T / strips) -> (B, D, S)."""
        return self.band_pooling(self.backbone(image), 2)

    def decide(self, features: Tensor) -> SEDOutput:
        """(B, D, S) of any S -> SEDOutput."""
        segments = features.transpose(1, 2)  # (B, S, D)
        if self.pooled == "free":
            token = self.token(segments.new_ones(len(segments), 1, 1))
            logits = self.classifier(self.encoder(torch.cat([token, segments], 1))).float()
            strong = logits[:, 1:]
            return SEDOutput(logits[:, 0], strong, torch.full_like(strong, 1 / strong.shape[1]), self.pooled)
        encoded = self.encoder(segments)
        strong = self.classifier(encoded).float()
        share = self.attention(encoded).float().softmax(-1).clamp(1e-7, 1)  # over classes
        attention = share / share.sum(1, keepdim=True)
        return SEDOutput(pool_probabilities(strong, attention), strong, attention, self.pooled)

    @classmethod
    def translate(cls, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The authors' checkpoint by our names; names that are neither theirs nor ours stay, for the report to show.

        They normalise each mel band by a mean and a deviation of the data set, which lie in a file of their own
        (stats.npz). Put into the checkpoint as "mean" and "std", these become the input norm's; without them the
        weights fit only a model with another `input_norm`, or in part.
        """
        ours = {}
        for name, value in weights.items():
            if POSITION_TABLES.fullmatch(name):
                continue
            if re.fullmatch(r"cnn\.cnn\.conv\d+\.weight", name):
                value = value.transpose(2, 3)  # their images are (time, band)
            for theirs, replacement in AUTHORS_NAMES:
                name = theirs.sub(replacement, name)
            ours[name] = value
        if {"mean", "std"} <= ours.keys():
            # Their files peak at -3 dB, the clips of our front end at 0 dB.
            mean, std = ours.pop("mean").float() + 3.0, ours.pop("std").float()
            ours |= {"input_norm.norm.weight": torch.ones_like(mean), "input_norm.norm.bias": torch.zeros_like(mean),
                     "input_norm.norm.running_mean": mean, "input_norm.norm.running_var": std.square()}
        return ours
