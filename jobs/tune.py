"""Tune how stored segments are named, on one split of a data set.

    zs3 tune --segments kept/ --dataset voc --root VOC2012/ --split train --out tuned/
    zs3 name --segments kept/ --classes voc --settings tuned/ --out named/
    ray job submit --working-dir . -- python jobs/tune.py --segments s3://bucket/kept --dataset coco_stuff …

Standard output gets a table, or with --json one line; progress goes to standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.cli.exit_codes import DONE, guarded
from jobs.cli.options import parse_command_line, print_json, request_from
from jobs.cli.progress import progress_bar
from jobs.cli.run_options import ActorOptions
from jobs.cli.terminal import clean
from pipelines.execution import ActorSettings
from pipelines.tuning.request import TuneRequest
from pipelines.tuning.tune import name_command, tune
from zs3.report.formats import percent
from zs3.tuning.grid import NamingGrid
from zs3.wording import map_texts, number_of


@dataclass(frozen=True, kw_only=True)
class TuneOptions(TuneRequest):
    """Try naming settings on stored segments and their truth, on CPUs, without images or networks.

    Writes tune.json (every score; `zs3 name --settings` reads it), tune.md and tune.png. All values are combined with
    each other; more values of γ cost next to nothing, every other setting takes three passes over the segments. Scores
    of the tuning split show how well the settings fit: evaluate on another split.
    """

    grid: tyro.conf.OmitArgPrefixes[NamingGrid] = field(default_factory=NamingGrid)
    """Values to try."""
    json: bool = False
    """Print the result as one line of JSON, the last line of standard output, instead of a table."""
    execution: ActorOptions = field(default_factory=ActorSettings)
    """How to run. These options change no result. By default one actor of one thread per CPU; no GPU is used."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of one tuning run: 0 when its files were written.

    Args:
        argv: the arguments after the command; by default those of the process.
    """
    return guarded(lambda: _run(parse_command_line(TuneOptions, "zs3 tune", argv)))


def _run(options: TuneOptions) -> int:
    request = request_from(options, TuneRequest)
    with progress_bar("tuning") as show:
        tuned = tune(request, options.execution, now=datetime.now(UTC), on_progress=show)
    if options.json:
        print_json(_line(tuned, options.out))
    else:
        _show(map_texts(tuned, clean), request)
    return DONE


def _line(tuned: Mapping[str, Any], out: str) -> dict[str, Any]:
    """The result in short: the settings, and the current and the best point with the areas of their namings."""
    origin = tuned["tuned_on"]
    points = {
        key: tuned[key] | {"area": tuned["namings"][tuned[key]["naming"]]["area"]}
        for key in ("current", "best")
    }
    return {
        "settings": tuned["settings"],
        **points,
        "settings_tried": origin["settings_tried"],
        "images": origin["dataset"]["images"],
        "split": origin["title"],
        "seconds": tuned["seconds"],
        "startup_seconds": tuned["startup_seconds"],
        "out": out,
    }


def _show(tuned: Mapping[str, Any], request: TuneRequest) -> None:
    """Print a table and what to do next."""
    console, origin = Console(), tuned["tuned_on"]
    table = Table(box=None, pad_edge=False)
    table.add_column(Text(f"tuned on {origin['title']}, {number_of(origin['dataset']['images'], 'image')}"))
    for name in ("seen %", "unseen %", "harmonic %", "area"):
        table.add_column(name, justify="right")
    for name, key in (("current settings", "current"), ("best harmonic mean", "best")):
        point = tuned[key]
        area = tuned["namings"][point["naming"]]["area"]
        figures = [percent(point[group]) for group in ("seen", "unseen", "harmonic")]
        table.add_row(name, *figures, "–" if area is None else f"{area:.4f}")
    console.print(table)
    changes = ", ".join(f"{key} {value}" for key, value in tuned["settings"].items())
    lines = [
        f"best of {number_of(origin['settings_tried'], 'setting')}: {changes or 'the ones of the checkpoint'}",
        f"picture  {request.out.rstrip('/')}/tune.png",
        f"use      {name_command(request)}",
    ]
    for line in lines:
        console.print(Text(clean(line)), soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
