"""The drawing of the package, held by reading every import: whoever crosses a layer learns it here."""
from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import birdkit

PACKAGE = Path(birdkit.__file__).parent
NOTEBOOKS = PACKAGE.parent / "notebooks"

# From the ground up. A module imports from lower rows, or from its own where that makes no circle.
LAYERS = (
    "registry settings folding metrics comparison decisions postprocess blending rows effects weight_fit profiles "
    "kaggle windows jobs window_index disk offline manifest sending repetition",
    "config audio splits batch output ambience calls composition crops packed distributed filecache marks pace",
    "frontend losses augmentations sampling presets recipes soundscapes view optimisation",
    "models fingerprint",
    "checkpoint tables window_labels window_choice labelled_soundscapes recording_labels teacher_table audio_store "
    "sources feeding data backends",
    "inference listening predictor reading levels binding ensembles export parity bundles preprocess packing "
    "call_sources submission layouts synthesis",
    "validation averaging run_files teacher_model distillation material trainer relabelling loop training "
    "pseudolabel gate bundle_export",
    "runs call_run label_run submit_run plan experiments rounds pipeline pictures report report_compare report_labels "
    "report_rounds effects_run report_effects ensemble_making catalogue commands cli __main__",
)
LAYER = {name: number for number, row in enumerate(LAYERS) for name in row.split()}
FRONT_END_ONLY = {"stft", "istft", "ShortTimeFFT", "melspectrogram", "mel", "mel_frequencies", "power_to_db",
                  "amplitude_to_db", "log10", "torchaudio"}
DUMPING_GROUNDS = {"utils", "util", "helpers", "common", "constants", "misc"}


def modules() -> dict[str, Path]:
    """Every module by its dotted name below birdkit, such as "losses.bce"."""
    paths = {path: path.relative_to(PACKAGE).with_suffix("").parts for path in sorted(PACKAGE.rglob("*.py"))}
    return {".".join(part for part in parts if part != "__init__"): path for path, parts in paths.items()}


MODULES = modules()


def imported(source: str) -> set[str]:
    """All modules a source imports, anywhere in it, function bodies included; members count as modules, too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports inside the package are absolute"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def parts_used(name: str) -> set[str]:
    """The files and folders right below birdkit that a module imports, but for its own."""
    inside = {used.split(".")[1] for used in imported(MODULES[name].read_text()) if used.startswith("birdkit.")}
    return {part for part in inside if part in LAYER or part in MODULES} - {name.split(".")[0]}


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_a_module_imports_only_from_below(name: str) -> None:
    """A reader who knows the drawing knows what a change can touch; one import upwards ends that."""
    part = name.split(".")[0]
    assert part in LAYER, f"{part} has no place in the drawing: put it into LAYERS, the design and birdkit/__init__.py"
    above = {used for used in parts_used(name) if LAYER[used] > LAYER[part]}
    assert not above, f"{name} (row {LAYER[part]}) imports {', '.join(sorted(above))} from above"


def test_no_circle_of_imports() -> None:
    """Within a row imports are allowed, but two modules that need each other are one module in two files."""
    graph: dict[str, set[str]] = {}
    for name in MODULES:
        if name:
            graph.setdefault(name.split(".")[0], set()).update(parts_used(name))
    while True:
        ends = {part for part, used in graph.items() if not used & graph.keys()}
        if not ends:
            break
        graph = {part: used for part, used in graph.items() if part not in ends}
    assert not graph, f"circular: {graph}"


def test_the_package_itself_imports_nothing() -> None:
    """`import birdkit` must take no time, and every module may ask it for the version."""
    assert imported(MODULES[""].read_text()) == set()


@pytest.mark.parametrize("name", [name for name in MODULES if LAYER.get(name.split(".")[0]) == 0])
def test_the_lowest_layer_never_names_torch(name: str) -> None:
    """Metrics, profiles and paths are used where a second of start-up counts, and where torch is not installed."""
    assert not {used for used in imported(MODULES[name].read_text()) if used.split(".")[0] in ("torch", "timm")}


def test_the_lowest_layer_loads_without_torch() -> None:
    """The same for what its imports import in turn."""
    lowest = ", ".join(f"birdkit.{name}" for name in MODULES if LAYER.get(name.split(".")[0]) == 0)
    code = f"import sys, {lowest}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def spectrogram_words(source: str) -> set[str]:
    """Names and attributes in a source that only the front end may use."""
    nodes = list(ast.walk(ast.parse(source)))
    words = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    words |= {node.id for node in nodes if isinstance(node, ast.Name)}
    words |= {word for used in imported(source) for word in used.split(".")}
    return words & FRONT_END_ONLY


@pytest.mark.parametrize("name", [name for name in MODULES if name != "frontend"])
def test_no_other_module_makes_a_spectrogram(name: str) -> None:
    """A second spectrogram for inference cost both seeds their place: there is one, in frontend.py."""
    found = spectrogram_words(MODULES[name].read_text())
    assert not found, f"{name} uses {', '.join(sorted(found))}, which only frontend.py may"


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_no_notebook_makes_a_spectrogram(path: Path) -> None:
    """A notebook is where the second spectrogram usually begins."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert not spectrogram_words("\n".join(code))


def test_the_front_end_words_are_found_where_they_are() -> None:
    """The two tests above prove nothing if the words they look for do not even occur in frontend.py."""
    assert {"log10", "mel"} <= spectrogram_words(MODULES["frontend"].read_text())


def test_there_is_no_dumping_ground() -> None:
    """A function lives with its concept: what goes into utils.py is never found again."""
    assert not [name for name in MODULES if set(name.split(".")) & DUMPING_GROUNDS]
