"""Compare two evaluations of the same images: is the second better, for which classes, and may it be chance?

    zs3 compare runs/old/report runs/new/report
    zs3 compare runs/old/report runs/new/report --fail-below -0.5          for CI

Exit code 4: the difference is below --fail-below. Standard output gets tables, or with --json one line.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.cli.exit_codes import DONE, guarded
from jobs.cli.options import parse_command_line, print_json, request_from
from jobs.cli.run_options import RayOptions
from jobs.cli.terminal import clean, write_messages
from pipelines.comparison.compare import CompareRequest, compare
from pipelines.execution import RaySettings
from zs3.wording import map_texts, number_of

WORSE = 4
"""Exit code when the difference is below --fail-below."""

_TITLES = {
    "iou": "mIoU",
    "boundary_iou": "boundary IoU",
    "accuracy": "mean accuracy",
    "pixel_accuracy": "pixel accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
}


@dataclass(frozen=True, kw_only=True)
class CompareOptions(CompareRequest):
    """Compare the second evaluation with the first. Both must have the same images, truth and protocol."""

    first: Annotated[str, tyro.conf.Positional]
    """Folder, uri or report.json of a `zs3 evaluate` run, to compare with."""
    second: Annotated[str, tyro.conf.Positional]
    """The same of the run that may be better or worse."""
    fail_below: float | None = None
    """Exit with 4 when the difference (second minus first, in points) is below this; 0 allows no loss."""
    score: Literal["seen", "unseen", "harmonic", "all", "pixel_accuracy"] = "harmonic"
    """The score of --fail-below: an mIoU, or pixel accuracy."""
    top: int = 10
    """Number of classes and of label changes to show."""
    json: bool = False
    """Print everything as one line of JSON, the last line of standard output, instead of tables."""
    execution: RayOptions = field(default_factory=RaySettings)
    """How to count label changes. These options change no result."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of one comparison.

    Args:
        argv: the arguments after the command; by default those of the process.
    """
    return guarded(lambda: _run(parse_command_line(CompareOptions, "zs3 compare", argv)))


def _run(options: CompareOptions) -> int:
    if options.fail_below is not None and not math.isfinite(options.fail_below):
        raise ValueError(f"--fail-below is {options.fail_below}; expected a number of points, such as -0.5")
    comparison = compare(request_from(options, CompareRequest), options.execution)
    code, verdict = _verdict(comparison, options)
    if options.json:
        gate = {"fail_below": options.fail_below, "score": options.score, "failed": code == WORSE}
        print_json(comparison | gate)
    else:
        _show(map_texts(comparison, clean), options.top)
    if verdict:
        write_messages([verdict])
    return code


def _verdict(comparison: Mapping[str, Any], options: CompareOptions) -> tuple[int, str]:
    """The exit code and a line that explains it.

    Raises:
        ValueError: the score of --fail-below is undefined.
    """
    if options.fail_below is None:
        return DONE, ""
    metric, group = ("pixel_accuracy", "all") if options.score == "pixel_accuracy" else ("iou", options.score)
    difference = comparison["scores"][metric][group]["difference"]
    if difference is None:
        raise ValueError(
            f"--fail-below looks at {options.score}, which is undefined in one of the runs; choose another --score"
        )
    if difference < options.fail_below:
        return WORSE, (
            f"zs3: {options.score} changed by {difference:+.3f} points, below --fail-below {options.fail_below:g}"
        )
    return DONE, ""


def _show(comparison: Mapping[str, Any], top: int) -> None:
    """Print tables."""
    console = Console()
    first, second = comparison["first"], comparison["second"]
    images, protocol = comparison["images"], comparison["protocol"]
    console.print(Text(f"{first} → {second}: {number_of(images, 'image')}, protocol {protocol}"))
    scores = _table("score", "group")
    for metric, groups in comparison["scores"].items():
        for group, difference in groups.items():
            scores.add_row(_TITLES[metric], group, *_cells(difference))
    classes = _table("class", "group")
    for entry in comparison["classes"][:top]:
        classes.add_row(Text(entry["name"]), "seen" if entry["seen"] else "unseen", *_cells(entry))
    console.print(scores, "", Text("classes that changed most"), classes)
    if comparison["churn"]:
        _show_label_changes(console, comparison["churn"], top)
    for note in comparison["notes"]:
        console.print(Text(f"note: {note}", style="dim"))


def _show_label_changes(console: Console, changes: Mapping[str, Any], top: int) -> None:
    pixels, changed = changes["pixels"], changes["changed"]
    share = 100 * changed / pixels if pixels else 0.0
    console.print("", Text(f"{changed:,} of {number_of(pixels, 'pixel')} changed ({share:.2f} %)"))
    table = Table(box=None, pad_edge=False)
    for name in ("from", "to", "pixels"):
        table.add_column(name, justify="right" if name == "pixels" else "left")
    for change in changes["changes"][:top]:
        table.add_row(Text(change["from"]), Text(change["to"]), f"{change['pixels']:,}")
    console.print(table)


def _table(*names: str) -> Table:
    """An empty table of differences, with these columns first."""
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name)
    for name in ("first %", "second %", "difference", "95 % interval", "p"):
        table.add_column(name, justify="right")
    return table


def _cells(difference: Mapping[str, float | None]) -> list[str]:
    """The figures of one difference; a dash where one is undefined."""
    low, high = difference["low"], difference["high"]
    styles = {"first": ".2f", "second": ".2f", "difference": "+.2f", "p": ".4f"}
    *figures, p = (
        "–" if (value := difference[key]) is None else format(value, style) for key, style in styles.items()
    )
    return [*figures, "–" if low is None else f"{low:+.2f} … {high:+.2f}", p]


if __name__ == "__main__":
    sys.exit(main())
