"""The drawing of the package, held by reading every import: whoever crosses a layer learns it here."""
from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import birdkit

PACKAGE = Path(birdkit.__file__).parent
NOTEBOOKS = PACKAGE.parent / "notebooks"

# From the ground up. A part, which is a file or a folder right below birdkit, imports from lower rows, or from its own
# where that makes no circle.
LAYERS = (
    "registry settings folding metrics decisions postprocess blending effects profiles kaggle sending",
    "config audio splits batch output pace",
    "frontend losses augmentations sampling recipes",
    "models pictures",
    "checkpoint data backends",
    "inference ensembles export preprocess submission synthesis",
    "pseudolabel training",
    "runs experiments reports pipeline catalogue commands cli __main__",
)
# Folders of one concept each. The others are open sets: a file for each member, named by what it holds.
MAPPED = "backends data effects ensembles experiments export inference kaggle metrics preprocess pseudolabel reports " \
         "runs submission synthesis training"
MOST_NAMES = 45  # that `ls birdkit` may show: more is no drawing, but an index
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


def modules_used(name: str) -> set[str]:
    """The modules that one imports from; what a folder itself offers counts as a module with the folder's name."""
    nodes = [node for node in ast.walk(ast.parse(MODULES[name].read_text())) if isinstance(node, ast.ImportFrom)]
    members = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
    inside = {member.removeprefix("birdkit.") for member in members if member.startswith("birdkit.")}
    return {member if member in MODULES else member.rpartition(".")[0] for member in inside} - {""}


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


def circular(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """What is left of a graph of imports after everything that can be loaded was taken out."""
    left = {name: used - {name} for name, used in graph.items()}
    while True:
        ends = {name for name, used in left.items() if not used & left.keys()}
        if not ends:
            return left
        left = {name: used & left.keys() for name, used in left.items() if name not in ends}


def test_no_circle_of_imports() -> None:
    """Within a row imports are allowed, but two parts that need each other are one part in two places."""
    graph: dict[str, set[str]] = {}
    for name in MODULES:
        if name:
            graph.setdefault(name.split(".")[0], set()).update(parts_used(name))
    assert not circular(graph)


def test_no_circle_inside_a_folder() -> None:
    """A folder hides no knot: its modules have an order, too, and none asks for what the folder as a whole offers."""
    assert not circular({name: modules_used(name) for name in MODULES if name})
    within = {name for name in MODULES if "." in name and name.split(".")[0] in modules_used(name)}
    assert not within, f"import from a neighbour, not from one's own folder: {within}"


def test_a_circle_is_found() -> None:
    """The two tests above prove nothing if a circle looks like a line."""
    assert circular({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == {"a": {"b"}, "b": {"c"}, "c": {"b"}}
    assert not circular({"a": {"b", "c"}, "b": {"c"}, "c": set()})


def test_what_ls_shows_can_be_taken_in() -> None:
    """A newcomer who sees a hundred files finds nothing; what belongs together lies in a folder that says so."""
    shown = {name.split(".")[0] for name in MODULES if name}
    assert shown == set(LAYER) and len(shown) + 1 <= MOST_NAMES  # and __init__


@pytest.mark.parametrize("folder", MAPPED.split())
def test_a_folder_says_what_lies_in_it(folder: str) -> None:
    """The docstring of a folder is where a reader looks first; a module that it does not name is not found."""
    text = ast.get_docstring(ast.parse(MODULES[folder].read_text())) or ""
    named = {word.strip(",") for line in text.splitlines() for word in line.partition("  ")[0].split()}
    assert not {name.split(".")[1] for name in MODULES if name.startswith(f"{folder}.")} - named


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
