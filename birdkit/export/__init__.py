"""From a checkpoint to a bundle for a faster runtime, which is proven from wave to row before anyone may use it.

exporting  converted, written, read back and let through the gate; or refused, with nothing left
gate       real audio through the model as it was trained and through the exported files

A network is converted and compared by birdkit.backends, which also reads bundles: a prediction needs no more than that.
"""
from birdkit.backends.conversion import export
from birdkit.export.exporting import Exported, GateAudio, bundle_folder, export_bundle, gate_audio
from birdkit.export.gate import GateReport, measure_gate, require_gate

__all__ = ["Exported", "GateAudio", "GateReport", "bundle_folder", "export", "export_bundle", "gate_audio",
           "measure_gate", "require_gate"]
