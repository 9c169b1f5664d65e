"""Convolutions that standardise their own filters, as NFNet's do: what they come to, without the standardising."""
from __future__ import annotations

import torch
from timm.layers import Conv2dSame, ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, nn
from torch.nn import functional

STANDARDISED = (ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame)


def fold_weight_standardisation(module: nn.Module) -> nn.Module:
    """The module with a plain convolution for every standardised one, in place, for inference alone.

    Such a convolution brings each of its filters to zero mean and unit deviation whenever it is used, and the scaled
    kind multiplies it by a learned gain (Qiao et al. 2019, arXiv:1903.10520; NFNet: Brock et al. 2021,
    arXiv:2101.08692). Once trained, a filter never changes, so this is done once; the outputs are the same bit by bit.

    timm writes it as a batch norm in training mode, which an exporter may take for one of the image. OpenVINO 2025.0
    and 2026.4 do not: they compute the filters while converting, and eca_nfnet_l0 agreed with torch to 5e-6 sigma
    either way. But converting it took 5.4 s of processor time, and 2.1 s with its filters folded before.
    """
    if isinstance(module, STANDARDISED):
        return _plain(module)
    for name, child in module.named_children():
        setattr(module, name, fold_weight_standardisation(child))
    return module


def filter_norm(weight: Tensor, eps: float) -> Tensor:
    """What a scaled standardised convolution divides each of its filters by, (D, C, h, w) -> (D, 1, 1, 1)."""
    size = weight[0].numel()
    return ((weight.var((1, 2, 3), correction=0, keepdim=True) + eps) * size).sqrt()


def _plain(conv: nn.Conv2d) -> nn.Conv2d:
    kind = Conv2dSame if getattr(conv, "same_pad", False) else nn.Conv2d  # padded by the size of what comes in
    plain = kind(conv.in_channels, conv.out_channels, conv.kernel_size, stride=conv.stride,  # type: ignore[arg-type]
                 padding=conv.padding, dilation=conv.dilation, groups=conv.groups,  # type: ignore[arg-type]
                 bias=False, device="meta")
    scaled = isinstance(conv, (ScaledStdConv2d, ScaledStdConv2dSame))
    with torch.no_grad():
        gain = (conv.gain * conv.scale).view(-1) if scaled else None  # type: ignore[operator]
        weight = functional.batch_norm(conv.weight.reshape(1, conv.out_channels, -1), None, None, weight=gain,
                                       training=True, momentum=0.0, eps=conv.eps)  # type: ignore[arg-type]
    plain.weight = nn.Parameter(weight.reshape_as(conv.weight), requires_grad=False)
    plain.bias = conv.bias
    return plain.train(conv.training)
