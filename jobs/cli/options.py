"""The two ends of a door that are for programs: options from the command line, and the one line of JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import tyro

from pipelines.ray_session import leave_ray

Options = TypeVar("Options")


def parse_command_line(kind: type[Options], prog: str, argv: Sequence[str]) -> Options:
    """The options of a command line.

    Args:
        kind: a dataclass, whose docstrings are the help.
        prog: what the help calls the command.

    Raises:
        SystemExit: wrong usage, or --help.
    """
    return tyro.cli(
        kind,
        prog=prog,
        args=list(argv),
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes),
    )


def print_json(values: Mapping[str, Any]) -> None:
    """Write a result as the last line of standard output; Ray is left before, as it may write behind it."""
    leave_ray()
    sys.stdout.write(json.dumps(values, ensure_ascii=False) + "\n")
