"""Options that commands share, by what a command does: read the tables of a run, compute on images, fill tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import tyro

from jobs.cli.options import parse_command_line
from pipelines.execution import ActorSettings, Execution, RaySettings
from pipelines.storage.objects import use_storage_options

ExecutionOptions = tyro.conf.OmitArgPrefixes[Execution]
"""A group of its own in --help, titled "execution options"; of commands that fill tables."""

ActorOptions = tyro.conf.OmitArgPrefixes[ActorSettings]
"""The same for commands that compute in actors and fill no table."""

RayOptions = tyro.conf.OmitArgPrefixes[RaySettings]
"""The same for commands that only need a Ray."""


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """Options of every command that reads or fills the tables of a run."""

    out: str
    """Folder or uri of the tables: the --out of the run."""
    storage_options: tuple[str, ...] = ()
    """Credentials and endpoints of object stores, as name=value: endpoint, region, profile, key, secret or token.
    http=public reads images from web pages too, and http=any also those in private networks.
    Variables that begin with AWS_, GOOGLE_ or AZURE_ are allowed too. Values are never printed or stored.
    By default they come from the environment, a profile or the machine's role."""
    json: bool = False
    """Print the result as one line of JSON, the last line of standard output."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(TableOptions):
    """Options of every command that computes on images."""

    execution: ExecutionOptions = field(default_factory=Execution)
    """How to run. These options change no result."""


@dataclass(frozen=True, kw_only=True)
class TableRunOptions(RunOptions):
    """Options of every command that fills tables, besides its request."""

    dry_run: bool = False
    """Print what the command would do, and write nothing. `zs3 plan` prints how long it would take."""


Options = TypeVar("Options", bound=TableOptions)


def parse_run_options(kind: type[Options], prog: str, argv: Sequence[str] | None) -> Options:
    """The options of a command line; its storage options are in effect afterwards."""
    options = parse_command_line(kind, prog, argv)
    use_storage_options(options.storage_options)
    return options
