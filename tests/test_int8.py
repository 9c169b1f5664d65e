"""Eight bits: faster where the order of every class survives, and refused where it does not."""
import json
import logging
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from settled import settled_config, write_checkpoint, write_soundscapes
from tiny_run import run, tiny_config, write_tones

from birdkit.backends import ExportError, OpenVINOClassifier
from birdkit.checkpoint import load
from birdkit.export import GateAudio, bundle_folder, export_bundle, gate
from birdkit.export.exporting import calibration_images
from birdkit.frontend import FrontEnd
from birdkit.inference import load_predictors


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GateAudio]:
    """A checkpoint, and audio of which the last file is for the ranges."""
    folder = tmp_path_factory.mktemp("int8")
    files = write_soundscapes(folder / "audio", 4)
    return write_checkpoint(folder / "best.safetensors"), GateAudio(tuple(files[:3]), tuple(files[3:]), "3 files")


def convolutions(graph: openvino.Model) -> list[bool]:
    """Of every multiplication with weights, in order: are its weights 8 bits?"""
    found = []
    for node in graph.get_ordered_ops():
        if node.get_type_name() in ("Convolution", "GroupConvolution", "MatMul"):
            source = node.input_value(1).get_node()
            while source.get_type_name() != "Constant":
                source = source.input_value(0).get_node()
            found.append(source.get_element_type() == openvino.Type.i8)
    return found


def test_what_is_spared_is_the_head_and_the_first_convolution(given: tuple[Path, GateAudio]) -> None:
    """What the report says was left as it is must be so: neither more, which is slow, nor less, which is wrong."""
    model = load(given[0]).model
    images = calibration_images(given[1].calibration, model.frontend, n=8)
    whole, spared = (convolutions(OpenVINOClassifier.convert(model, precision="int8", calibration=images, spare=spare))
                     for spare in (False, True))
    head = 3  # the neck's linear layer, attention and classifier
    assert len(whole) == len(spared) and all(whole)
    assert spared == [False, *[True] * (len(whole) - 1 - head), *[False] * head]
    with pytest.raises(ValueError, match="images of real clips"):
        OpenVINOClassifier.convert(model, precision="int8")


def test_a_bundle_in_int8_is_let_through_by_the_order_it_keeps(given: tuple[Path, GateAudio], monkeypatch,
                                                               caplog) -> None:
    """The whole network is tried first; where the gate refuses that, the head and the first convolution are spared,
    and the report says so; where that is refused, too, nothing is left."""
    path, material = given
    folder, judged = bundle_folder(path, "openvino", "int8"), []
    monkeypatch.setattr(gate, "MIN_RANK_AGREEMENT", 0.5)  # a network of a few thousand random weights keeps less order
    monkeypatch.setattr(gate, "MIN_CLASS_AGREEMENT", 0.0)
    exported = export_bundle(path, material, precision="int8")
    assert exported.spared == "" and exported.report.logits.max_error > 1e-3 * exported.report.logits.sigma
    found = load_predictors([folder])[0]
    assert (found.classify.precision, found.classify.backend) == ("int8", "openvino")  # type: ignore[attr-defined]

    def refuse_the_first(report: gate.GateReport, precision: str) -> None:
        judged.append(precision)
        if len(judged) != 2:
            raise ExportError("too far off")

    monkeypatch.setattr(gate, "require_gate", refuse_the_first)
    with caplog.at_level(logging.WARNING):
        assert export_bundle(path, material, precision="int8").spared == "the head and the first convolution"
    assert "all of it: too far off" in caplog.text and judged == ["int8", "int8"]
    assert json.loads((folder / "bundle.json").read_text())["gate"]["spared"].startswith("the head")
    with pytest.raises(ExportError, match=r"all of it: too far off\. without the head"):
        export_bundle(path, material, precision="int8", folder=path.parent / "refused")
    assert not [one for one in path.parent.iterdir() if "refused" in one.name]


def test_a_trained_network_passes_the_gate_as_it_stands(tmp_path: Path) -> None:
    """The limits are for networks that have learnt something; what would refuse those, too, nobody could use."""
    config = tiny_config(data__samples_per_epoch=64, train__epochs=6, train__validate_every=0,
                         model__backbone="scratch_resnet_s2", model__hidden=32)
    run(config, write_tones(tmp_path), tmp_path, "run")
    files = write_soundscapes(tmp_path / "audio", 12)
    exported = export_bundle(tmp_path / "run" / "best.safetensors",
                             GateAudio(tuple(files[:9]), tuple(files[9:]), "9 files"), precision="int8")
    assert exported.report.rank_mean >= gate.MIN_RANK_AGREEMENT and exported.spared == ""
    assert exported.report.logits.max_error > 1e-3 * exported.report.logits.sigma


def test_ranges_come_from_the_beginning_of_every_file(given: tuple[Path, GateAudio], tmp_path: Path) -> None:
    """Ranges of one loud file would be all networks' ranges; a file that cannot be read costs only itself."""
    front = FrontEnd(settled_config().frontend)
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    files = [*given[1].files, tmp_path / "broken.wav"]
    images = calibration_images(files, front, n=8)
    assert len(images) == 6  # two clips of each of three files
    alone = [calibration_images([file], front, n=2) for file in given[1].files]
    assert torch.equal(images, torch.cat(alone)) and np.isfinite(images).all()
    with pytest.raises(ExportError, match="none of 1 files"):
        calibration_images([tmp_path / "broken.wav"], front)
