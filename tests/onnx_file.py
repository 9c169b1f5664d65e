"""A teacher by a formula, as an ONNX file: written byte by byte, since nothing here needs the onnx package.

Field numbers and types as in onnx.proto (ONNX, IR version 8, operator set 13).
"""
from __future__ import annotations

from pathlib import Path

import numpy as np

FLOAT = 1  # TensorProto.DataType


def write_teacher(path: Path, weights: np.ndarray, *, classes: np.ndarray | None = None, samples: int | None = 0,
                  batch: int | None = None) -> Path:
    """embedding = tanh(waves @ weights), (B, N) and (N, W) -> (B, W), and with `classes` label = embedding @ classes.

    samples  that it says it takes; 0 for N, None for any number
    batch    waves at once, None for any number
    """
    n, width = weights.shape
    nodes = [_node("MatMul", ["inputs", "weights"], "sum"), _node("Tanh", ["sum"], "embedding")]
    tensors, outputs = [_tensor("weights", weights)], [_value("embedding", (batch, width))]
    if classes is not None:
        nodes.append(_node("MatMul", ["embedding", "classes"], "label"))
        tensors.append(_tensor("classes", classes))
        outputs.append(_value("label", (batch, classes.shape[1])))
    graph = b"".join([*(_field(1, node) for node in nodes), _field(2, b"teacher"), *(_field(5, one) for one in tensors),
                      _field(11, _value("inputs", (batch, n if samples == 0 else samples))),
                      *(_field(12, one) for one in outputs)])
    path.write_bytes(_number(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _number(2, 13)))
    return path


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _node(kind: str, inputs: list[str], output: str) -> bytes:
    return b"".join([*(_field(1, name.encode()) for name in inputs), _field(2, output.encode()),
                     _field(4, kind.encode())])


def _tensor(name: str, values: np.ndarray) -> bytes:
    return b"".join([*(_number(1, size) for size in values.shape), _number(2, FLOAT), _field(8, name.encode()),
                     _field(9, values.astype("<f4").tobytes())])


def _value(name: str, shape: tuple[int | None, ...]) -> bytes:
    sizes = (_field(2, f"any{place}".encode()) if size is None else _number(1, size)
             for place, size in enumerate(shape))
    kind = _number(1, FLOAT) + _field(2, b"".join(_field(1, size) for size in sizes))
    return _field(1, name.encode()) + _field(2, _field(1, kind))
