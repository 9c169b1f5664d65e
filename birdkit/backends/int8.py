"""Eight bits by NNCF: the ranges of weights and activations, measured on real clips after training."""
from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any

from torch import Tensor

log = logging.getLogger(__name__)

MULTIPLIES = ("Convolution", "GroupConvolution", "MatMul")


def quantise(graph: Any, images: Tensor | None, *, spare: bool) -> Any:
    """An openvino.Model in int8, weights per channel, by NNCF's post-training quantisation with its bias correction.

    graph   with the features that are decided on as its fourth output, which the result does not have
    images  (N, C, H, W) of real clips: all of them are used
    spare   True leaves the first convolution and everything behind the features as they are. The 2024 fourth place
            left its head out and lost nothing

    Raises ValueError without images, ImportError without nncf.
    """
    if images is None or not len(images):
        raise ValueError("int8 needs images of real clips to measure its ranges on, and none are given; "
                         "`birdkit export --precision int8` takes them from audio files")
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for results, and nncf draws bars on it
        import nncf

        left_out = _head(graph) | _first_convolution(graph) if spare else set()
        graph.remove_result(graph.results[3])
        logging.getLogger("nncf").setLevel(logging.ERROR)
        log.info("int8: measuring ranges on %d clips%s", len(images),
                 ", without the head and the first convolution" if spare else "")
        return nncf.quantize(graph, nncf.Dataset([image[None].numpy() for image in images]), subset_size=len(images),
                             preset=nncf.QuantizationPreset.MIXED,
                             ignored_scope=nncf.IgnoredScope(names=sorted(left_out), validate=False))


def _head(graph: Any) -> set[str]:
    """The names of all operations that work on the features, the fourth output."""
    ahead, found = [graph.results[3].input_value(0)], set()
    while ahead:
        for place in ahead.pop().get_target_inputs():
            node = place.get_node()
            if node.get_type_name() != "Result" and node.get_friendly_name() not in found:
                found.add(node.get_friendly_name())
                ahead += node.outputs()
    return found


def _first_convolution(graph: Any) -> set[str]:
    """The name of the first operation that multiplies with weights."""
    return {next(node.get_friendly_name() for node in graph.get_ordered_ops() if node.get_type_name() in MULTIPLIES)}
