"""The walks in docs/architecture.md: few files, each called by an earlier one.

An entry is "1. `file` `function`" for the first file, and "2. `file` `function`, called by `file`" for the others.
"""

import ast
import re
from pathlib import Path

import pytest

HEADINGS = ["The walk of an image in `zs3 label`", "The walk of a truth mask in `zs3 evaluate`"]

MAX_FILES = 12

ENTRY = re.compile(
    r"^\d+\. `(?P<file>[\w/.]+)` `(?P<function>\w+)`(?:, called by `(?P<caller>[\w/.]+)`)?:", re.MULTILINE
)


@pytest.fixture(params=HEADINGS)
def walk(request: pytest.FixtureRequest, repo: Path) -> list[dict[str, str]]:
    """The entries below one heading: file, function, and the file that calls it."""
    page = (repo / "docs" / "architecture.md").read_text()
    section = page.split(f"## {request.param}\n")[1].split("\n## ")[0]
    entries = [match.groupdict() for match in ENTRY.finditer(section)]
    assert len(entries) == len(re.findall(r"^\d+\. ", section, re.MULTILINE)), (
        "every entry has the form of ENTRY"
    )
    return entries


def definitions(path: Path) -> set[str]:
    """Functions and classes at the top of a file."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, kinds)}


def imported(path: Path) -> set[tuple[str, str]]:
    """(file, name) of all `from module import name` in a file, also inside functions; a module may be a package."""
    return {
        (f"{node.module.replace('.', '/')}{end}", alias.name)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        for end in (".py", "/__init__.py")
    }


def test_a_walk_leads_through_few_files(walk: list[dict[str, str]]) -> None:
    files = [entry["file"] for entry in walk]
    assert 2 < len(files) <= MAX_FILES
    assert len(set(files)) == len(files), "a file is entered once"


def test_each_file_defines_the_function_of_its_entry(walk: list[dict[str, str]], repo: Path) -> None:
    for entry in walk:
        assert entry["function"] in definitions(repo / entry["file"]), entry


def test_each_function_is_imported_by_the_earlier_file_that_calls_it(
    walk: list[dict[str, str]], repo: Path
) -> None:
    assert walk[0]["file"].startswith("jobs/") and walk[0]["caller"] is None
    for index, entry in enumerate(walk[1:], start=1):
        assert entry["caller"] in [earlier["file"] for earlier in walk[:index]], entry
        assert (entry["file"], entry["function"]) in imported(repo / entry["caller"]), entry
