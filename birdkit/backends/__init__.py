"""What computes a network's `classify` on a CPU: one file per runtime, entered in BACKENDS."""
from birdkit.backends.base import AUTO, BACKENDS, PRECISIONS, Backend, ExportedBackend, ExportError
from birdkit.backends.choice import choose_backend, exported_backend, has_openvino
from birdkit.backends.onnx_graph import OnnxClassifier
from birdkit.backends.openvino_graph import OpenVINOClassifier
from birdkit.backends.torch_eager import TorchClassifier

__all__ = ["AUTO", "BACKENDS", "PRECISIONS", "Backend", "ExportError", "ExportedBackend", "OnnxClassifier",
           "OpenVINOClassifier", "TorchClassifier", "choose_backend", "exported_backend", "has_openvino"]
