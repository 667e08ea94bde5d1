"""Who may import whom, read from the source text. The tables below are the picture: a folder may import what stands
in its row, and a row names only rows above it, so there is no circle."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LAYERS = ("zs3", "pipelines", "jobs")

ZS3 = {
    # values and what needs nothing of ours
    "wording": "",
    "addresses": "",
    "files": "addresses",
    "class_lists": "wording",
    "open_vocabularies": "",
    "models": "",
    "vocabulary": "class_lists files open_vocabularies wording",
    "tables": "wording",
    "metrics": "wording",
    "images": "",
    "nets": "",
    "tensor_files": "addresses files wording",
    "encoders": "files tensor_files wording",
    # data and training
    "datasets": "files images vocabulary wording",
    "masks": "files images wording",
    "parts": "files masks wording",
    "label_rows": "masks wording",
    "export": "images",
    "learning": "nets datasets images vocabulary",
    # a model: its settings, its weights, its class names
    "config": "nets encoders learning",
    "checkpoint": "files tensor_files parts config models nets vocabulary wording",
    "recipes": "config nets encoders learning",
    "text": "files tensor_files config encoders vocabulary",
    # picture -> segments -> names
    "segmentation": "parts config nets encoders masks wording",
    "classification": "segmentation text encoders nets masks label_rows checkpoint config vocabulary",
    "inference": "parts segmentation classification text encoders nets checkpoint config vocabulary",
    # from models of others
    "convert": "files tensor_files parts encoders learning checkpoint config recipes nets segmentation vocabulary "
    "open_vocabularies wording",
    # truth
    "evaluation": "metrics label_rows classification segmentation config vocabulary wording",
    "tuning": "classification segmentation text metrics checkpoint config vocabulary wording",
    "report": "metrics vocabulary wording",
}

PIPELINES = {
    "storage": "",
    "execution": "",
    "termination": "",
    "ray_session": "execution storage termination",
    "tables": "storage",
    "runs": "tables storage execution ray_session termination",
    "labelling": "runs tables storage execution ray_session",
    "evaluation": "labelling runs tables storage execution ray_session",
    "comparison": "evaluation tables storage execution ray_session",
    "tuning": "evaluation labelling runs tables storage execution ray_session",
    "forecast": "labelling runs tables execution ray_session",
    "export": "tables storage execution ray_session",
    "training": "storage ray_session",
}

MAX_FILES = 12
"""In one folder, beside its `__init__.py`; one that needs more holds two things."""


def imports(source: str, module: str, is_package: bool = False) -> set[str]:
    """Full names of all that a module imports, at its top or inside functions, relative imports resolved.

    `from a import b` counts as a and as a.b, since b may be a module.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if is_package else module.split(".")[:-1]
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


def layer_imports(repo: Path, layer: str) -> Iterator[tuple[str, set[str]]]:
    """(module name, what it imports) for every file of a layer."""
    for path in sorted((repo / layer).rglob("*.py")):
        parts = path.relative_to(repo).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        yield module, imports(path.read_text(), module, is_package)


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def offenders(repo: Path, room: str, forbidden: tuple[str, ...]) -> list[str]:
    """`module imports name` for every import of a forbidden room, of modules at or below `room`."""
    return [
        f"{module} imports {name}"
        for module, names in layer_imports(repo, room.split(".")[0])
        if within(module, room)
        for name in sorted(names)
        if any(within(name, other) for other in forbidden)
    ]


def arrows(repo: Path, layer: str) -> set[tuple[str, str]]:
    """(room, room that it imports) within a layer; a room is a folder, or a file beside the folders."""
    found = set()
    for module, names in layer_imports(repo, layer):
        room = module.removeprefix(f"{layer}").removeprefix(".").split(".")[0]
        others = {name.removeprefix(f"{layer}.").split(".")[0] for name in names if within(name, layer)}
        found |= {
            (room, other) for other in others if room and other in rooms_of(repo, layer) and other != room
        }
    return found


def rooms_of(repo: Path, layer: str) -> set[str]:
    """Folders with code and files beside them."""
    folder = repo / layer
    return {path.parent.name for path in folder.glob("*/__init__.py")} | {
        path.stem for path in folder.glob("*.py") if path.stem != "__init__"
    }


def drawn(table: dict[str, str]) -> set[tuple[str, str]]:
    return {(room, other) for room, others in table.items() for other in others.split()}


@pytest.mark.parametrize(("layer", "table"), [("zs3", ZS3), ("pipelines", PIPELINES)])
def test_rooms_import_what_the_picture_says_and_nothing_else(
    repo: Path, layer: str, table: dict[str, str]
) -> None:
    assert rooms_of(repo, layer) == set(table)
    assert arrows(repo, layer) == drawn(table)


@pytest.mark.parametrize("table", [ZS3, PIPELINES])
def test_a_row_of_the_picture_names_only_rows_above_it(table: dict[str, str]) -> None:
    order = list(table)
    assert [arrow for arrow in drawn(table) if order.index(arrow[1]) >= order.index(arrow[0])] == []


def test_layers_import_downwards(repo: Path) -> None:
    assert offenders(repo, "zs3", ("ray", "pipelines", "jobs")) == []
    assert offenders(repo, "pipelines", ("jobs",)) == []


def test_a_command_imports_no_other_command_but_to_carry_out_its_request(repo: Path) -> None:
    commands = {path.stem for path in (repo / "jobs").glob("*.py")} - {"__init__", "main"}
    found = {
        (module.removeprefix("jobs."), other)
        for module, names in layer_imports(repo, "jobs")
        for other in commands
        if module != f"jobs.{other}" and any(within(name, f"jobs.{other}") for name in names)
    }
    assert found == {("retry", "label"), ("retry", "segment"), ("retry", "name")}


def test_no_folder_holds_more_than_a_dozen_files(repo: Path) -> None:
    """`jobs` has one file a command, and nothing else."""
    from jobs.main import COMMANDS

    crowded = {
        str(folder.relative_to(repo)): len(files)
        for layer in ("zs3", "pipelines", "tests", "benchmarks")
        for folder in [repo / layer, *(path for path in (repo / layer).rglob("*") if path.is_dir())]
        if len(files := [path for path in folder.glob("*.py") if path.name != "__init__.py"]) > MAX_FILES
    }
    assert crowded == {}
    files = {path.stem for path in (repo / "jobs").glob("*.py")}
    assert files == {*COMMANDS, "main", "__init__"}


def test_every_folder_says_what_it_does_what_it_may_import_and_where_to_begin(repo: Path) -> None:
    silent = []
    for layer in LAYERS:
        for init in (repo / layer).rglob("__init__.py"):
            words = ast.get_docstring(ast.parse(init.read_text())) or ""
            if not ("Imports " in words and "Begin with " in words):
                silent.append(str(init.relative_to(repo)))
    assert silent == []


def test_importing_the_science_brings_no_ray(repo: Path) -> None:
    # Source text cannot show what a library of ours pulls in by itself; a fresh interpreter can.
    names = [module for module, _ in layer_imports(repo, "zs3")]
    loading = f"for name in {names!r}: importlib.import_module(name)"
    code = f"import importlib, sys\n{loading}\nsys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=repo, check=False).returncode == 0


def test_no_file_prints_but_the_commands(repo: Path) -> None:
    printing = [
        str(path.relative_to(repo))
        for layer in ("zs3", "pipelines")
        for path in (repo / layer).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert printing == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import ray.data as rd", "ray.data"),
        ("from ray import data", "ray.data"),
        ("def later():\n    import jobs", "jobs"),
        ("from . import segments", "zs3.nets.segments"),
        ("from ..tables import LABELS", "zs3.tables.LABELS"),
    ],
)
def test_every_form_of_import_is_seen(source: str, expected: str) -> None:
    assert expected in imports(source, "zs3.nets.zegformer")


def test_a_relative_import_in_a_package_starts_at_the_package_itself() -> None:
    assert "zs3.nets.backbone" in imports("from .backbone import Backbone", "zs3.nets", is_package=True)
