"""HTS-AT: a Swin transformer on the folded spectrogram, and a head that decides on every token of time."""
from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

import torch
from timm.layers import PatchEmbed
from timm.models.swin_transformer import SwinTransformerStage
from torch import Tensor, nn

from birdkit.config import OWN, FrontEndConfig, ModelConfig
from birdkit.folding import unfold
from birdkit.models.backbones import BackboneMap
from birdkit.models.base import MODELS, Model
from birdkit.output import SEDOutput

# Of the authors' files: constants of their spectrogram and of their windows, which are made anew here, and a linear
# layer that their token-semantic model holds and never calls.
UNNEEDED = re.compile(r"(spectrogram_extractor|logmel_extractor|head)\.|.*\.(attn_mask|relative_position_index)$")
# Whole modules by another name. They merge at the end of a stage, timm at the start of the next: see `translate`.
RENAMED = {"bn0.": "input_norm.norm.", "patch_embed.": "backbone.patch_embed.", "norm.": "backbone.norm.",
           "tscam_conv.": "token_semantic."}
STAGE = re.compile(r"layers\.(\d+)\.(blocks|downsample)\.")


class SwinMap(nn.Module):
    """A Swin transformer (Liu et al. 2021, arXiv:2103.14030) and its feature map along true time.

    Patches of the image become tokens; each stage after the first merges 2 x 2 of them and doubles their width. Blocks
    attend inside windows, every second one inside windows shifted by half. A window that is larger than the grid of
    tokens shrinks to it, along each axis, and does not shift there.

    embed_dim  width of the first stage's tokens
    depths     blocks of each stage
    heads      attention heads of each stage
    window     side of a window, in tokens
    patch      side of a patch, in cells of the image
    mlp_ratio  width of the blocks' hidden layer, relative to their own
    drop_path  of the last block, rising linearly from 0 in the first

    Shape: (B, C, strips * n_mels, T / strips) -> (B, n_features, n_bands, n_segments), for images of `frontend` alone.

    Raises ValueError, with the arithmetic, where the image is not whole tokens, a seam between two strips would fall
    inside a token, windows do not tile a grid, or heads do not divide a width.
    """

    def __init__(self, frontend: FrontEndConfig, *, embed_dim: int, depths: Sequence[int], heads: Sequence[int],
                 window: int, patch: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        if not depths or len(depths) != len(heads):
            raise ValueError(f"depths {list(depths)} and heads {list(heads)} must name the same stages")
        widths = [embed_dim * 2**stage for stage in range(len(depths))]
        for width, count in zip(widths, heads, strict=True):
            if width % count:
                raise ValueError(f"{width} channels / {count} heads = {width / count:.3f}, not a whole number")
        grids = _grids(frontend, patch, len(depths), window)
        self.strips = frontend.strips
        self.n_features = widths[-1]
        self.n_bands, self.n_segments = grids[-1][0] // self.strips, grids[-1][1] * self.strips
        self.patch_embed = PatchEmbed(frontend.image_size, patch, frontend.n_channels, embed_dim,
                                      norm_layer=nn.LayerNorm, output_fmt="NHWC")
        rates = torch.linspace(0, drop_path, sum(depths)).split(list(depths))
        self.stages = nn.Sequential(*[
            SwinTransformerStage(widths[max(stage - 1, 0)], widths[stage], grids[max(stage - 1, 0)], depths[stage],
                                 downsample=stage > 0, num_heads=heads[stage], window_size=window, mlp_ratio=mlp_ratio,
                                 drop_path=rates[stage].tolist())
            for stage in range(len(depths))])
        self.norm = nn.LayerNorm(self.n_features)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, strips * n_mels, T / strips) -> (B, D, bands, S)."""
        tokens = self.norm(self.stages(self.patch_embed(image)))  # (B, h, w, D)
        return unfold(tokens.permute(0, 3, 1, 2), self.strips)


@MODELS.register("htsat")
class HTSAT(Model):
    """The hierarchical token-semantic audio transformer (Chen et al. 2022, arXiv:2202.00874).

    The folded image goes through a Swin transformer, its last map is laid out along true time again, and one
    convolution over all bands and three steps of time gives every step the logits of the K classes. The clip's logits
    are the plain mean of the segments' logits, one sigmoid after it, as the authors compute it; their framewise
    output is the sigmoid of the segment logits, each repeated for the frames it covers.

    A backbone other than "own" puts the same token-semantic convolution behind a CNN; the sizes below are then unused.
    What the head of a ModelConfig would decide is fixed here. `dropout` acts on the features before the convolution
    (the authors have none), `drop_path` is the Swin transformer's.

    It wants a warm-up and clipped gradients, and at the published size a peak learning rate of 1e-4: that is the
    authors' true peak, 0.1 of the 1e-3 in their settings.

    embed_dim, depths, heads, window, patch, mlp_ratio  sizes of the Swin transformer, see SwinMap

    Raises ValueError for images or sizes that do not fit, see SwinMap, and for settings of a head.
    """

    published: ClassVar[ModelConfig] = ModelConfig(name="htsat", backbone=OWN, input_norm="band", dropout=0.0,
                                                   drop_path=0.1)
    published_frontend: ClassVar[str] = "htsat"
    unread: ClassVar[tuple[str, ...]] = ("head", "head_axis", "head_options", "pooling", "smoothing", "neck", "hidden")
    small: ClassVar[ModelConfig] = ModelConfig(name="htsat", backbone=OWN, input_norm="band", dropout=0.0, options={
        "embed_dim": 48, "depths": [2, 2, 2], "heads": [2, 4, 8]})
    # 5 s * 32,000 Hz / 625 = 256 frames; 2 strips of 64 mels: an image of 128 x 128, 16 segments of 0.31 s.
    small_frontend: ClassVar[FrontEndConfig] = FrontEndConfig(clip_s=5.0, hop_samples=625, n_mels=64)

    def __init__(self, config: ModelConfig, frontend: FrontEndConfig, n_classes: int, *, embed_dim: int = 96,
                 depths: Sequence[int] = (2, 2, 6, 2), heads: Sequence[int] = (4, 8, 16, 32), window: int = 8,
                 patch: int = 4, mlp_ratio: float = 4.0) -> None:
        super().__init__(config, frontend, n_classes)
        self.backbone: SwinMap | BackboneMap
        if config.backbone == OWN:
            self.backbone = SwinMap(frontend, embed_dim=embed_dim, depths=depths, heads=heads, window=window,
                                    patch=patch, mlp_ratio=mlp_ratio, drop_path=config.drop_path)
        else:
            self.backbone = BackboneMap(config, frontend)
        self.n_segments = self.backbone.n_segments
        self.dropout = nn.Dropout(config.dropout)
        self.token_semantic = nn.Conv2d(self.backbone.n_features, n_classes, (self.backbone.n_bands, 3), padding=(0, 1))
        # A class is absent from most clips: starting near that share spares the first epoch from learning it.
        nn.init.constant_(self.token_semantic.bias, -4.0)  # type: ignore[arg-type]

    def features(self, image: Tensor) -> Tensor:
        """(B, C, strips * n_mels, T / strips) -> (B, D, S); D is every channel of the map in every band."""
        return self.backbone(image).flatten(1, 2)

    def decide(self, features: Tensor) -> SEDOutput:
        """(B, D, S) -> SEDOutput with uniform attention."""
        tokens = self.dropout(features).unflatten(1, (-1, self.backbone.n_bands))  # (B, channels, bands, S)
        logits = self.token_semantic(tokens).squeeze(2).float().transpose(1, 2)  # (B, S, K)
        return SEDOutput(logits.mean(1), logits, torch.full_like(logits, 1 / logits.shape[1]))

    @classmethod
    def translate(cls, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The authors' checkpoints (AudioSet, ESC-50, Speech Commands) by our names.

        Left out, as not needed: their spectrogram and mel matrices, masks and indices of windows, the `head` that
        their model holds but never calls. Names that are neither theirs nor ours stay, for the report to show.
        """
        ours = {}
        for name, value in weights.items():
            stage, whole = STAGE.match(name), next((old for old in RENAMED if name.startswith(old)), None)
            if stage:
                index = int(stage[1]) + (stage[2] == "downsample")
                name = f"backbone.stages.{index}.{name[stage.start(2):]}"
            elif whole:
                name = RENAMED[whole] + name.removeprefix(whole)
            if not UNNEEDED.match(name):
                ours[name] = value
        return ours


def _grids(frontend: FrontEndConfig, patch: int, n_stages: int, window: int) -> list[tuple[int, int]]:
    """The grid of tokens, rows and columns, of each stage; ValueError where an image does not give whole ones."""
    cells = patch * 2 ** (n_stages - 1)
    rows, columns = frontend.image_size
    merging = f"patches of {patch} merged {n_stages - 1} times: {cells} x {cells} cells to a last token"
    if frontend.n_mels % cells:
        raise ValueError(f"a strip of {frontend.n_mels} mels / {cells} = {frontend.n_mels / cells:g} tokens, not a "
                         f"whole number, so a seam would fall inside a token ({merging})")
    if columns % cells:
        raise ValueError(f"{frontend.n_frames} frames / {frontend.strips} strips = {columns} columns; {columns} / "
                         f"{cells} = {columns / cells:g} tokens, not a whole number ({merging})")
    grids = [(rows // (patch * 2**stage), columns // (patch * 2**stage)) for stage in range(n_stages)]
    for stage, grid in enumerate(grids):
        if not _tiles(grid, window):
            fitting = [side for side in range(2, max(grids[0]) + 1) if all(_tiles(other, side) for other in grids)]
            raise ValueError(f"windows of {window} x {window} tokens do not tile the {grid[0]} x {grid[1]} tokens of "
                             f"stage {stage + 1} of {n_stages}; windows that tile every stage: "
                             f"{', '.join(map(str, fitting))}")
    return grids


def _tiles(grid: tuple[int, int], window: int) -> bool:
    return all(side <= window or side % window == 0 for side in grid)
