"""Who may import whom, read from the source text: jobs -> pipelines -> zs3; in zs3 the values know nobody."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOMS = ("zs3", "pipelines", "jobs")
VALUES = ("zs3.vocabulary", "zs3.tables", "zs3.metrics")
TOP = ("zs3.nets", "zs3.learning", "zs3.naming")


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


def room_imports(repo: Path, room: str) -> Iterator[tuple[str, set[str]]]:
    """(module name, what it imports) for every file of a room."""
    for path in sorted((repo / room).rglob("*.py")):
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
        for module, names in room_imports(repo, room.split(".")[0])
        if within(module, room)
        for name in sorted(names)
        if any(within(name, other) for other in forbidden)
    ]


def test_zs3_imports_neither_ray_nor_the_rooms_above_it(repo: Path) -> None:
    assert offenders(repo, "zs3", ("ray", "pipelines", "jobs")) == []


def test_pipelines_do_not_import_jobs(repo: Path) -> None:
    assert offenders(repo, "pipelines", ("jobs",)) == []


@pytest.mark.parametrize("module", VALUES)
def test_values_import_nothing_of_ours(repo: Path, module: str) -> None:
    own = f" imports {module}."  # a value may be a package of several files
    assert [line for line in offenders(repo, module, ROOMS) if own not in line] == []


def test_networks_know_no_data(repo: Path) -> None:
    above = ("zs3.datasets", "zs3.images", "zs3.vocabulary", "zs3.tables", "zs3.learning", "zs3.naming")
    assert offenders(repo, "zs3.nets", above) == []


def test_only_learning_and_naming_sit_on_top_of_the_networks(repo: Path) -> None:
    below = ("zs3.vocabulary", "zs3.images", "zs3.datasets", "zs3.text", "zs3.encoders", "zs3.classify")
    found = [
        line for room in below for line in offenders(repo, room, ("zs3.nets", "zs3.learning", "zs3.naming"))
    ]
    assert found == []


def test_importing_the_science_brings_no_ray(repo: Path) -> None:
    # Source text cannot show what a library of ours pulls in by itself; a fresh interpreter can.
    names = [module for module, _ in room_imports(repo, "zs3")]
    loading = f"for name in {names!r}: importlib.import_module(name)"
    code = f"import importlib, sys\n{loading}\nsys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=repo, check=False).returncode == 0


def test_no_file_prints_but_the_doors(repo: Path) -> None:
    printing = [
        str(path.relative_to(repo))
        for room in ("zs3", "pipelines")
        for path in (repo / room).rglob("*.py")
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
