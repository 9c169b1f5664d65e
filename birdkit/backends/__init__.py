"""What computes a network's `classify` on a CPU: one file per runtime, entered in BACKENDS.

torch_eager     the model itself
onnx_graph      ONNX Runtime
openvino_graph  OpenVINO
base            what all of them keep to, and the registry
choice          which one, where nobody says
int8            quantised on real images
conversion      a model behind a runtime, compared with torch
parity          how far it is from the model, and how far it may be
bundles         an exported checkpoint on disk, and what it must prove when it is loaded
"""
from birdkit.backends.base import AUTO, BACKENDS, PRECISIONS, Backend, ExportedBackend, ExportError
from birdkit.backends.choice import choose_backend, exported_backend, has_openvino
from birdkit.backends.onnx_graph import OnnxClassifier
from birdkit.backends.openvino_graph import OpenVINOClassifier
from birdkit.backends.torch_eager import TorchClassifier

__all__ = ["AUTO", "BACKENDS", "PRECISIONS", "Backend", "ExportError", "ExportedBackend", "OnnxClassifier",
           "OpenVINOClassifier", "TorchClassifier", "choose_backend", "exported_backend", "has_openvino"]
