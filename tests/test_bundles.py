"""Bundles: exported once, read without conversion, refused where anything about them changed."""
import json
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import noise, tone
from settled import CLASSES, settled_config, write_checkpoint, write_soundscapes

from birdkit import export, frontend
from birdkit.backends import OnnxClassifier, OpenVINOClassifier, bundles
from birdkit.backends.bundles import BundleError
from birdkit.cli import main
from birdkit.export import Exported, GateAudio, export_bundle, exporting, gate
from birdkit.inference import load_predictors, predict_wave
from birdkit.kaggle import MissingInputError, Workspace
from birdkit.runs.labelling import LabelRun
from birdkit.settings import replace


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exported, GateAudio]:
    """A checkpoint, its bundle for OpenVINO at f32, and the audio it was measured on."""
    folder = tmp_path_factory.mktemp("made")
    path = write_checkpoint(folder / "round0_split0" / "best.safetensors")
    material = GateAudio(tuple(write_soundscapes(folder / "audio")), (), "3 files")
    return path, export_bundle(path, material), material


@pytest.fixture
def copied(made: tuple[Path, Exported, GateAudio], tmp_path: Path) -> Path:
    """A bundle that a test may spoil, with its checkpoint above it."""
    shutil.copytree(made[0].parent, tmp_path / "run")
    return tmp_path / "run" / "openvino_f32"


def test_a_bundle_predicts_what_its_checkpoint_does(made: tuple[Path, Exported, GateAudio]) -> None:
    """What is submitted through a bundle must be what was validated, in the same columns, as the same teacher."""
    path, exported, _ = made
    assert exported.folder == path.parent / "openvino_f32"
    bundle, plain = (load_predictors([one], backend=backend)[0]
                     for one, backend in ((exported.folder, "openvino"), (path, "torch")))
    assert (bundle.hash, bundle.seen, bundle.classes) == (plain.hash, plain.seen, plain.classes)
    assert (bundle.classify.backend, bundle.classify.precision) == ("openvino", "f32")  # type: ignore[attr-defined]
    wave = noise(13) + tone(3000, 13)
    assert np.allclose(*(predict_wave(wave, [one], window_s=5.0) for one in (bundle, plain)), rtol=0, atol=1e-6)


def test_a_bundle_is_a_teacher_like_its_checkpoint(made: tuple[Path, Exported, GateAudio], tmp_path: Path) -> None:
    """Of a later round it may label only what it has not learnt from, which its run config tells, too."""
    config = replace(settled_config(), round=1, split=0, n_splits=2)
    late = write_checkpoint(tmp_path / "late.safetensors", config)
    bundle = export_bundle(late, made[2]).folder
    run = LabelRun(tmp_path, tmp_path, "tiny", 2, {"labelling__out_of_fold": "all", "labelling__teachers": "all"})
    for teacher in (late, bundle):
        with pytest.raises(ValueError, match=r"needs teachers of all 2 splits in round 2, but there are those of 1"):
            run.check_teachers([teacher])
    run.check_teachers([made[1].folder])  # of round 0


def test_a_bundle_loads_where_nothing_converts(made: tuple[Path, Exported, GateAudio], monkeypatch, caplog) -> None:
    """Kaggle's timed run has neither nncf nor onnx, and no minutes to convert in; its log says what was proven."""
    for name in ("nncf", "onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    for kind in (OpenVINOClassifier, OnnxClassifier):
        monkeypatch.setattr(kind, "convert", classmethod(lambda *_, **__: pytest.fail("it was converted again")))
    with caplog.at_level(logging.INFO):
        assert len(load_predictors([made[1].folder])) == 1
    assert "made from best.safetensors, proven on 12 rows of 3 files" in caplog.text


def test_an_onnx_bundle_needs_onnxruntime_alone(made: tuple[Path, Exported, GateAudio], tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """Where OpenVINO's wheel does not install, the other runtime is all there is."""
    path, _, material = made
    exported = export_bundle(path, material, backend="onnxruntime", folder=tmp_path / "onnx")
    assert exported.report.logits.max_error <= 1e-4 * exported.report.logits.sigma
    for name in ("openvino", "nncf", "onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    found = load_predictors([exported.folder])[0]
    assert found.classify.backend == "onnxruntime"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="needs onnxruntime"):
        load_predictors([exported.folder])


def test_another_backend_or_precision_than_the_bundles_is_an_error(made: tuple[Path, Exported, GateAudio]) -> None:
    """Somebody who asks for f32 and is given int8 believes a figure that he did not measure."""
    folder = made[1].folder
    with pytest.raises(ValueError, match="exported for 'openvino'"):
        load_predictors([folder], backend="torch")
    with pytest.raises(ValueError, match="exported for 'f32'"):
        load_predictors([folder], precision="bf16")
    with pytest.raises(ValueError, match="exported for 'f32'"):
        load_predictors([folder], changes={"precision": "bf16"})
    with pytest.raises(ValueError, match="exported for 'cpu'"):
        load_predictors([folder], device="cuda")
    with pytest.raises(ValueError, match="none for \\[2\\]"):
        load_predictors([folder], changes={"scales": (1, 2)})


@pytest.mark.parametrize("name", ["network_1.xml", "network_1.bin", "golden.safetensors"])
def test_a_changed_file_is_refused(copied: Path, name: str) -> None:
    """A file that was cut off by a full disk, or mixed up with another's, is found before it predicts."""
    content = bytearray((copied / name).read_bytes())
    content[-3] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} was changed"):
        load_predictors([copied])
    (copied / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        load_predictors([copied])


def test_a_changed_report_is_refused(copied: Path) -> None:
    """Two class names exchanged by hand would exchange two columns of the submission."""
    report = json.loads((copied / "bundle.json").read_text())
    report["classes"] = report["classes"][::-1]
    (copied / "bundle.json").write_text(json.dumps(report))
    with pytest.raises(BundleError, match=r"bundle\.json was changed"):
        load_predictors([copied])


def test_a_retrained_checkpoint_leaves_its_bundle_behind(copied: Path) -> None:
    """Trained again and not exported again: the old network would be submitted under the new one's score."""
    load_predictors([copied])
    write_checkpoint(copied.parent / "best.safetensors", seed=1)
    with pytest.raises(BundleError, match="another checkpoint than it was made from"):
        load_predictors([copied])
    (copied.parent / "best.safetensors").unlink()  # on Kaggle the bundle alone may be attached
    load_predictors([copied])


def test_another_front_end_is_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle's network belongs to the images it was made with, whether their version says so or not."""
    with monkeypatch.context() as patch:
        patch.setattr(frontend, "VERSION", frontend.VERSION + 1)
        with pytest.raises(BundleError, match="front end is version"):
            load_predictors([copied])
    scale = frontend.FrontEnd._scale
    monkeypatch.setattr(frontend.FrontEnd, "_scale", lambda self, decibels: scale(self, decibels) + 0.1)
    with pytest.raises(BundleError, match=r"image differs by 0\.1"):
        load_predictors([copied])


def test_what_never_passed_the_gate_is_refused(copied: Path) -> None:
    """A bundle put together by other means than the export was never compared with anything."""
    bundles.seal(copied, {})
    with pytest.raises(BundleError, match="never compared"):
        load_predictors([copied])


def test_an_export_that_fails_leaves_nothing_and_an_older_bundle_alone(copied: Path, made, monkeypatch) -> None:
    """A refused bundle that lies there would be loaded by the next who looks; a good one must survive."""
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    real = OpenVINOClassifier.convert
    monkeypatch.setattr(OpenVINOClassifier, "convert",
                        classmethod(lambda cls, model, **named: real(_spoiled(model), **named)))
    with pytest.raises(exporting.ExportError, match=r"not exported.*f32 may differ"):
        export_bundle(copied.parent / "best.safetensors", made[2])
    with pytest.raises(exporting.ExportError, match="not exported"):
        export_bundle(copied.parent / "best.safetensors", made[2], folder=copied.parent / "new")
    (copied.parent / "mine").mkdir()
    with pytest.raises(FileExistsError, match="no bundle"):
        export_bundle(copied.parent / "best.safetensors", made[2], folder=copied.parent / "mine")
    (copied.parent / "mine").rmdir()
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before
    assert sorted(path.name for path in copied.parent.iterdir()) == ["best.safetensors", "openvino_f32"]


def _spoiled(model):
    """The model with one weight of its classifier changed."""
    model.head.classifier.bias.data[0] += 0.01
    return model


def test_every_scale_has_its_network(made: tuple[Path, Exported, GateAudio], tmp_path: Path) -> None:
    """The 2021 second place's three lengths of clips, in one bundle."""
    path = write_checkpoint(tmp_path / "run" / "best.safetensors", settled_config(inference__scales=(1, 2)))
    found = load_predictors([export_bundle(path, made[2]).folder])
    assert [one.config.frontend.clip_s for one in found] == [2.0, 4.0]
    plain = load_predictors([path], backend="torch")
    wave = noise(13) + tone(3000, 13)
    assert np.allclose(*(predict_wave(wave, one, window_s=5.0) for one in (found, plain)), rtol=0, atol=1e-6)
    assert len(load_predictors([path.parent / "openvino_f32"], changes={"scales": (2,)})) == 1


def test_the_command_exports_beside_the_checkpoint_or_elsewhere(made, tmp_path: Path, capsys) -> None:
    """What a person types; the folders are those that notebook 04 looks for."""
    path, _, material = made
    audio = str(material.files[0].parent)
    assert main(["export", str(path), "--audio", audio, "--precision", "f16", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"bundle: {tmp_path / 'round0_split0' / 'openvino_f16'}" in said and "12 rows of 3 files" in said
    work = Workspace(tmp_path, roots=())
    assert work.checkpoints(0, bundle="openvino_f16") == [tmp_path / "round0_split0" / "openvino_f16"]
    f16 = (tmp_path / "round0_split0" / "openvino_f16" / "network_1.bin").stat().st_size
    assert f16 < 0.6 * (path.parent / "openvino_f32" / "network_1.bin").stat().st_size
    assert main(["export", str(path), str(path), "--audio", audio]) == 1
    assert "to one folder" in capsys.readouterr().err
    assert main(["export", str(path), "--backend", "onnxruntime", "--precision", "bf16", "--audio", audio]) == 1
    assert "must be one of f32" in capsys.readouterr().err


def test_without_audio_the_bundle_is_measured_on_generated_soundscapes(caplog, monkeypatch) -> None:
    """A figure on sounds that no field has heard must not be taken for one on real audio."""
    monkeypatch.setattr(exporting, "GENERATED_FILES", 1)
    with export.gate_audio(None, precision="f32") as material:
        assert len(material.files) == 1 and all(file.is_file() for file in material.files)
        assert material.audio == "1 generated soundscapes"
    assert "no field has heard" in caplog.text and not material.files[0].exists()


@pytest.mark.parametrize("precision", ["bf16", "f16", "int8"])
def test_lower_precisions_are_proven_on_real_audio_alone(made, precision: str, capsys) -> None:
    """What rounding does to a network shows on what it hears: a generated tone proves nothing."""
    assert main(["export", str(made[0]), "--precision", precision]) == 1
    assert "--audio DIR" in capsys.readouterr().err and not list(made[0].parent.glob(f"*_{precision}"))


def test_ranges_are_measured_on_other_files_than_the_gate_hears(made) -> None:
    """Ranges fitted to the very files that judge them would pass the gate and clip on Kaggle."""
    folder = made[2].files[0].parent
    with export.gate_audio(folder, precision="int8") as material:
        assert material.calibration and not set(material.calibration) & set(material.files)
        assert len(material.calibration) + len(material.files) == 3
    with export.gate_audio(folder, precision="int8", calibration=folder) as material:
        assert len(material.calibration) == len(material.files) == 3


def test_a_run_without_its_bundle_is_named(made: tuple[Path, Exported, GateAudio], tmp_path: Path) -> None:
    """Four of five models exported: the fifth must not be left out of the ensemble in silence."""
    shutil.copytree(made[0].parent, tmp_path / "round0_split0")
    work = Workspace(tmp_path, roots=())
    assert [path.name for path in work.checkpoints(0, bundle="openvino_f32")] == ["openvino_f32"]
    (tmp_path / "round0_split1").mkdir()
    shutil.copy(made[0], tmp_path / "round0_split1")
    with pytest.raises(MissingInputError, match="no openvino_f32 in round0_split1"):
        work.checkpoints(0, bundle="openvino_f32")
    with pytest.raises(MissingInputError, match="openvino_int8"):
        work.checkpoints(0, bundle="openvino_int8")


def test_the_report_says_what_was_measured(made: tuple[Path, Exported, GateAudio]) -> None:
    """Months later the folder itself must say how far it is from its model, and on what that was heard."""
    kept = json.loads((made[1].folder / "bundle.json").read_text())
    assert kept["gate"]["audio"] == "3 files" and kept["gate"]["rows"] == 12 and kept["gate"]["files"] == 3
    assert kept["gate"]["logits"]["sigma"] > 0.1 and kept["classes"] == list(CLASSES)
    assert gate.MAX_ROW_ERROR >= kept["gate"]["row_error"] >= 0
