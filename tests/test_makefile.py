"""`make` installs what each target needs, once. The programs of the environment are scripts that record their calls."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """#!/bin/sh
echo "$(basename "$0") $*" >> {calls}
case "$*" in *pip*) exit {pip_status};; esac
"""

OUTSIDE = {name: value for name, value in os.environ.items() if "MAKE" not in name and name != "MFLAGS"}
"""The environment without what `make test` hands to the make that a test starts."""


class Environment:
    """A folder that looks like a virtual environment to `make`."""

    def __init__(self, repo: Path, folder: Path) -> None:
        self.repo, self.folder, self.calls = repo, folder, folder / "calls"
        (folder / "bin").mkdir()
        self.write_programs(pip_status=0)

    def write_programs(self, pip_status: int) -> None:
        for name in ("python", "zs3"):
            program = self.folder / "bin" / name
            program.write_text(SCRIPT.format(calls=self.calls, pip_status=pip_status))
            program.chmod(0o755)

    def make(self, *arguments: str) -> tuple[int, list[str], str]:
        """The exit status, the programs that were called, and the output."""
        self.calls.write_text("")
        command = ["make", *arguments, f"VENV={self.folder}", f"PYTHON={sys.executable}"]
        done = subprocess.run(
            command, cwd=self.repo, env=OUTSIDE, capture_output=True, text=True, check=False
        )
        return done.returncode, [line.strip() for line in self.calls.read_text().splitlines()], done.stdout


@pytest.fixture
def environment(repo: Path, tmp_path: Path) -> Environment:
    return Environment(repo, tmp_path)


PYTEST = "python -m pytest -n 2 --dist loadgroup"
PIP = "python -m pip install --disable-pip-version-check -c constraints.txt -e"


def test_the_demo_installs_what_running_needs_and_says_how_large_it_is(environment: Environment) -> None:
    status, calls, printed = environment.make("demo", "ARGS=--out elsewhere")
    assert (status, calls) == (0, [f"{PIP} .", "zs3 demo --out elsewhere"])
    assert "3.5 GB to download and 7 GB on disk" in printed.splitlines()[0]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("demo", "test"), [[f"{PIP} .", "zs3 demo"], [f"{PIP} .[dev]", PYTEST]]),
        (("test", "demo"), [[f"{PIP} .[dev]", PYTEST], ["zs3 demo"]]),
        (("demo", "demo"), [[f"{PIP} .", "zs3 demo"], ["zs3 demo"]]),
    ],
)
def test_demo_and_test_may_follow_each_other_in_either_order(
    environment: Environment, targets: tuple[str, str], expected: list[list[str]]
) -> None:
    assert [environment.make(target)[1] for target in targets] == expected


def test_a_machine_of_a_cluster_installs_with_its_extras(environment: Environment) -> None:
    assert environment.make("install", "EXTRAS=aws")[:2] == (0, [f"{PIP} .[aws]"])


def test_an_installation_that_failed_is_tried_again(environment: Environment) -> None:
    environment.write_programs(pip_status=1)
    status, calls, _ = environment.make("demo")
    assert (status != 0, calls) == (True, [f"{PIP} ."])
    environment.write_programs(pip_status=0)
    assert environment.make("demo")[1][0] == f"{PIP} ."


def test_an_interpreter_that_is_too_old_is_named(repo: Path, tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1 && exit 0\nexit 1\n')
    old.chmod(0o755)
    command = ["make", "demo", f"VENV={tmp_path / 'venv'}", f"PYTHON={old}"]
    done = subprocess.run(command, cwd=repo, env=OUTSIDE, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "is Python 3.9.1, and zs3 needs 3.11 or newer" in done.stderr
