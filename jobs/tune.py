"""Tune how stored segments are named, on one split of a data set: `zs3 tune`, `python jobs/tune.py`, or on a cluster

    zs3 tune --segments kept/ --dataset voc --root VOC2012/ --split train --out tuned/
    zs3 name --segments kept/ --classes voc --settings tuned/ --out named/
    ray job submit --working-dir . -- python jobs/tune.py --segments s3://bucket/kept --dataset coco_stuff …

The result goes to standard output as a table, or with --json as one line; progress goes to standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.cli.exit_codes import DONE, guarded
from jobs.cli.options import parse_command_line, print_json
from jobs.cli.progress import progress_bar
from pipelines.execution import Execution
from pipelines.tuning.request import TuneRequest
from pipelines.tuning.tune import SCORES, command, tune
from zs3.report import shown
from zs3.tuning.grid import NamingGrid


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneOptions:
    """Try naming settings on stored segments and their truth, on CPUs, without a picture or a network.

    Writes tune.json (every score; `zs3 name --settings` reads it), tune.md and tune.png. Values are crossed with each
    other; γ costs next to nothing, every other naming is painted three times. Scores of the split that was tuned on say
    how well the settings fit: evaluate on another one.
    """

    segments: str
    """The --out of a `zs3 segment` run, or its segments table; local, s3:// or gs://."""
    dataset: Literal["voc", "folder", "coco_stuff", "ade20k_full"]
    """How the data set lies on disk."""
    root: str
    """Folder or uri of the data set."""
    split: str
    """Which part of it to tune on. Keep another one to report."""
    out: str
    """Folder or uri that gets tune.json, tune.md and tune.png."""
    checkpoint: str | None = None
    """The checkpoint that made the segments; by default the place that it was read from then."""
    classes: str | None = None
    """Class list to name with; by default the data set's own."""
    protocol: Literal["zs3", "paper", "voc21"] = "zs3"
    """Which pixels count and how classes are averaged, as for `zs3 evaluate`."""
    allow_missing: bool = False
    """Tune on the images that have segments, instead of stopping when some have none."""
    grid: Annotated[NamingGrid, tyro.conf.arg(name="")] = field(default_factory=NamingGrid)
    """What to try."""
    json: bool = False
    """Print the outcome as one line of JSON, the last line of standard output, instead of a table."""
    execution: Annotated[Execution, tyro.conf.arg(name="")] = field(default_factory=Execution)
    """How to run; changes no result. By default one actor of one thread per CPU; no GPU is used."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of one tuning run: 0 when its files were written.

    Args:
        argv: the command line after the verb; by default the process's own.
    """
    return guarded(lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def _run(argv: list[str]) -> int:
    options = parse_command_line(TuneOptions, "zs3 tune", argv)
    request = TuneRequest(**{name: getattr(options, name) for name in TuneRequest.__slots__})
    with progress_bar("tuning") as show:
        tuned = tune(request, options.execution, now=datetime.now(UTC), on_progress=show)
    if options.json:
        print_json(_line(tuned, options.out))
    else:
        _show(tuned, request)
    return DONE


def _line(tuned: Mapping[str, Any], out: str) -> dict[str, Any]:
    """The outcome in short: the settings, the current and the best point with the areas of their namings."""
    told = tuned["tuned_on"]
    points = {
        which: tuned[which] | {"area": tuned["namings"][tuned[which]["naming"]]["area"]}
        for which in ("current", "best")
    }
    return {
        "settings": tuned["settings"],
        **points,
        "settings_tried": told["settings_tried"],
        "images": told["dataset"]["images"],
        "split": told["title"],
        "seconds": tuned["seconds"],
        "startup_seconds": tuned["startup_seconds"],
        "out": out,
    }


def _show(tuned: Mapping[str, Any], request: TuneRequest) -> None:
    """The outcome for people."""
    console, told = Console(), tuned["tuned_on"]
    table = Table(box=None, pad_edge=False)
    table.add_column(f"tuned on {told['title']}, {told['dataset']['images']} images")
    for name in ("seen %", "unseen %", "harmonic %", "area"):
        table.add_column(name, justify="right")
    for name, which in (("current settings", "current"), ("best harmonic mean", "best")):
        one = tuned[which]
        area = tuned["namings"][one["naming"]]["area"]
        figures = [shown(one[group]) for group in SCORES[:3]]
        table.add_row(name, *figures, "–" if area is None else f"{area:.4f}")
    console.print(table)
    changes = ", ".join(f"{key} {value}" for key, value in tuned["settings"].items())
    lines = [
        f"best of {told['settings_tried']} settings: {changes or 'the ones of the checkpoint'}",
        f"picture  {request.out.rstrip('/')}/tune.png",
        f"use      {command(request)}",
    ]
    for line in lines:
        console.print(Text(line), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
