"""The pages for readers are true: files, modules, links and options that they mention exist."""

import contextlib
import functools
import importlib
import io
import re
from pathlib import Path
from typing import get_args

import pytest

from zs3.datasets import LAYOUTS, DatasetName

PAGES = sorted(
    path.relative_to(root).as_posix()
    for root in [Path(__file__).resolve().parent.parent]
    for path in [root / "README.md", root / "CONTRIBUTING.md", *(root / "docs").glob("*.md")]
)
OUR_PATH = re.compile(r"(?<![\w/.<])((?:zs3|pipelines|jobs|tests|benchmarks|examples|docs)/[\w./-]*\w/?)")
OUR_MODULE = re.compile(r"(?<![\w/.-])((?:zs3|pipelines|jobs)(?:\.[A-Za-z_]\w*)+)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PLACEHOLDER = re.compile(r"NAME|COMMAND")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w.-]*\w")

OPTIONS_OF_OTHERS = {
    "--working-dir", "--address", "--follow", "--restart", "--no-restart", "--validate", "--format", "--picture-share",
}  # fmt: skip
"""Options of `ray`, `kubectl`, `cvat-cli` and a benchmark."""

SCHEMA_KEYS = {"zs3.table", "zs3.version"}
"""Keys of schema metadata, which look like modules."""


def exists(repo: Path, dotted: str) -> bool:
    """Whether a dotted name is a module of ours, or something that one defines."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        module = repo.joinpath(*parts[:length])
        file = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
        if file.is_file():
            names = parts[length:]
            return not names or re.search(rf"\b{names[0]}\b", file.read_text()) is not None
    return False


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_mentions_exist(repo: Path, page: str) -> None:
    paths = {path for path in OUR_PATH.findall((repo / page).read_text()) if not PLACEHOLDER.search(path)}
    assert {path for path in paths if not (repo / path).exists()} == set()


@pytest.mark.parametrize("page", PAGES)
def test_modules_and_names_that_a_page_mentions_exist(repo: Path, page: str) -> None:
    text = OUR_PATH.sub("", (repo / page).read_text())
    names = {name for name in OUR_MODULE.findall(text) if not name.endswith((".py", ".md"))} - SCHEMA_KEYS
    assert {name for name in names if not exists(repo, name)} == set()


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_links_of_a_page_lead_somewhere(repo: Path, page: str) -> None:
    folder = (repo / page).parent
    for target in LINK.findall((repo / page).read_text()):
        path, _, heading = target.partition("#")
        if "://" in target:
            continue
        linked = folder / path if path else repo / page
        assert linked.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}
            assert heading in slugs, target


@functools.cache
def help_of(command: str) -> str:
    """The text of `zs3 COMMAND --help`, on a wide terminal."""
    arguments = ["mini", "--help"] if command == "train" else ["--help"]
    written = io.StringIO()
    with contextlib.redirect_stdout(written), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        assert importlib.import_module(f"jobs.{command}").main(arguments) == 0
    return written.getvalue()


def options_of(command: str) -> set[str]:
    """The options that `zs3 COMMAND --help` lists."""
    return set(OPTION.findall(help_of(command)))


def required_options(command: str) -> set[str]:
    """The options that `zs3 COMMAND --help` calls required."""
    _, *entries = re.split(r"^[│| ]+(?=--[a-z])", help_of(command), flags=re.MULTILINE)
    return {entry.split()[0] for entry in entries if "(required)" in entry}


def sections(text: str) -> dict[str, str]:
    """The text below each heading `zs3 COMMAND` of docs/cli.md."""
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    commands = (re.fullmatch(r"`zs3 (\w+)`", title) for title in parts[1::2])
    return {match[1]: body for match, body in zip(commands, parts[2::2], strict=True) if match}


def test_docs_cli_describes_every_command(repo: Path) -> None:
    from jobs.main import COMMANDS

    assert tuple(sections((repo / "docs/cli.md").read_text())) == COMMANDS


def test_options_that_docs_cli_mentions_are_options_of_some_command(repo: Path) -> None:
    """A section may mention the options of the commands that it names, such as those that continue a run."""
    options = {command: options_of(command) for command in sections((repo / "docs/cli.md").read_text())}
    for command, text in sections((repo / "docs/cli.md").read_text()).items():
        named = {command, *re.findall(r"zs3 (\w+)", text)} & set(options)
        known = set().union(*(options[name] for name in named))
        # `--naming.…` stands for a group, `--set.FIELD` and `--workers.FIELD` for fields of a recipe.
        unknown = {
            option
            for option in OPTION.findall(text)
            if option not in known and not any(other.startswith(f"{option}.") for other in known)
        }
        assert unknown == set(), command


@pytest.mark.parametrize("page", ["README.md", "docs/runs.md", "docs/clusters.md", "docs/handoff.md"])
def test_options_on_other_pages_exist(repo: Path, page: str) -> None:
    from jobs.main import COMMANDS

    known = set().union(*(options_of(command) for command in COMMANDS)) | OPTIONS_OF_OTHERS
    assert {option for option in OPTION.findall((repo / page).read_text()) if option not in known} == set()


def test_required_options_of_a_command_are_on_its_page(repo: Path) -> None:
    assert required_options("label") == {"--images", "--classes", "--checkpoint", "--out"}
    for command, text in sections((repo / "docs/cli.md").read_text()).items():
        assert {option for option in required_options(command) if option not in text} == set(), command


@pytest.mark.parametrize("command", ["evaluate", "tune"])
def test_every_data_set_reader_is_a_choice_as_contributing_says(command: str) -> None:
    assert set(get_args(DatasetName)) == set(LAYOUTS)
    choices = help_of(command).partition("--dataset {")[2]
    assert [name for name in LAYOUTS if not re.search(rf"\b{name}\b", choices)] == []


def test_the_trees_of_docs_architecture_are_the_folders(repo: Path) -> None:
    (tree,) = re.findall(r"^```\n(jobs/\n.*?)^```", (repo / "docs/architecture.md").read_text(), re.M | re.S)
    drawn, layer = set(), ""
    for line in tree.splitlines():
        name = line.split()[0]
        layer = layer if line.startswith(" ") else name
        drawn.add(name if name == layer else layer + name)
    folders = {
        f"{folder.relative_to(repo)}/"
        for layer in ("jobs", "pipelines", "zs3")
        for folder in [repo / layer, *(init.parent for init in (repo / layer).glob("*/__init__.py"))]
    }
    files = {
        f"{layer}/{path.name}" for layer in ("pipelines", "zs3") for path in (repo / layer).glob("[!_]*.py")
    }
    assert drawn == folders | files | {"jobs/main.py"}


def test_no_page_mentions_a_path_of_one_machine(repo: Path) -> None:
    for page in PAGES:
        assert not re.search(r"(?<![\w/])/(tmp|root|work|opt)/", (repo / page).read_text()), page
