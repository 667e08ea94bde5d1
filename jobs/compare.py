"""Compare two evaluations on the same images: is the second better, where, and is that chance?

    zs3 compare runs/old/report runs/new/report
    zs3 compare runs/old/report runs/new/report --fail-below -0.5          for CI

Exit code 4: the difference lies below --fail-below. The result goes to standard output, with --json as one line.
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
from jobs.cli.options import parse_command_line, print_json
from pipelines.comparison.compare import CompareRequest, compare
from pipelines.execution import Execution
from zs3.metrics.intervals import REPLICATES

WORSE = 4
"""Exit code of a comparison that crossed --fail-below."""

_TITLES = {
    "iou": "mIoU",
    "boundary_iou": "boundary IoU",
    "accuracy": "mean accuracy",
    "pixel_accuracy": "pixel accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions:
    """Compare the second evaluation with the first; both of the same images, truth and protocol."""

    first: Annotated[str, tyro.conf.Positional]
    """Folder, uri or report.json of a `zs3 evaluate` run: the one to compare with."""
    second: Annotated[str, tyro.conf.Positional]
    """The same of the run that may be better or worse."""
    fail_below: float | None = None
    """Exit with 4 when the difference (second less first, in points) is lower than this; 0 allows no loss."""
    score: Literal["seen", "unseen", "harmonic", "all", "pixel_accuracy"] = "harmonic"
    """What --fail-below looks at: an mIoU, or pixel accuracy."""
    allow_missing: bool = False
    """Compare the images that both runs scored, instead of stopping when one has others."""
    no_churn: bool = False
    """Do not read the label tables to count pixels whose label changed."""
    top: int = 10
    """Classes and changes that are shown."""
    replicates: int = REPLICATES
    """Drawings behind the intervals, and exchanges behind the p-values."""
    seed: int = 0
    """Chooses them."""
    json: bool = False
    """Print everything as one line of JSON, the last line of standard output, instead of tables."""
    execution: Annotated[Execution, tyro.conf.arg(name="")] = field(default_factory=Execution)
    """How to run; changes no result."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of one comparison.

    Args:
        argv: the command line after the verb; by default the process's own.
    """
    return guarded(lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def _run(argv: list[str]) -> int:
    options = parse_command_line(CompareOptions, "zs3 compare", argv)
    if options.fail_below is not None and not math.isfinite(options.fail_below):
        raise ValueError(f"--fail-below is {options.fail_below}; expected a number of points, such as -0.5")
    request = CompareRequest(
        first=options.first,
        second=options.second,
        allow_missing=options.allow_missing,
        churn=not options.no_churn,
        replicates=options.replicates,
        seed=options.seed,
    )
    found = compare(request, options.execution)
    code, verdict = _verdict(found, options)
    if options.json:
        line = found | {"fail_below": options.fail_below, "score": options.score, "failed": code == WORSE}
        print_json(line)
    else:
        _show(found, options.top)
    if verdict:
        sys.stderr.write(verdict + "\n")
    return code


def _verdict(found: Mapping[str, Any], options: CompareOptions) -> tuple[int, str]:
    """The exit code and a line that explains it.

    Raises:
        ValueError: the score that is to be looked at is undefined.
    """
    if options.fail_below is None:
        return DONE, ""
    metric, group = ("pixel_accuracy", "all") if options.score == "pixel_accuracy" else ("iou", options.score)
    difference = found["scores"][metric][group]["difference"]
    if difference is None:
        raise ValueError(
            f"--fail-below looks at {options.score}, which is undefined in one of the runs; choose another --score"
        )
    if difference < options.fail_below:
        return WORSE, (
            f"zs3: {options.score} changed by {difference:+.3f} points, below --fail-below {options.fail_below:g}"
        )
    return DONE, ""


def _show(found: Mapping[str, Any], top: int) -> None:
    """Tables for people."""
    console = Console()
    console.print(
        Text(f"{found['first']} → {found['second']}: {found['images']} images, protocol {found['protocol']}")
    )
    scores = _table("score", "group")
    for metric, groups in found["scores"].items():
        for group, held in groups.items():
            scores.add_row(_TITLES[metric], group, *_cells(held))
    classes = _table("class", "group")
    for held in found["classes"][:top]:
        classes.add_row(Text(held["name"]), "seen" if held["seen"] else "unseen", *_cells(held))
    console.print(scores, "", Text("classes that moved most"), classes)
    if found["churn"]:
        _show_churn(console, found["churn"], top)
    for note in found["notes"]:
        console.print(Text(f"note: {note}", style="dim"))


def _show_churn(console: Console, churn: Mapping[str, Any], top: int) -> None:
    """Pixels that changed their label."""
    share = 100 * churn["changed"] / churn["pixels"] if churn["pixels"] else 0.0
    console.print("", Text(f"{churn['changed']:,} of {churn['pixels']:,} pixels changed ({share:.2f} %)"))
    table = Table(box=None, pad_edge=False)
    for name in ("from", "to", "pixels"):
        table.add_column(name, justify="right" if name == "pixels" else "left")
    for change in churn["changes"][:top]:
        table.add_row(Text(change["from"]), Text(change["to"]), f"{change['pixels']:,}")
    console.print(table)


def _table(*names: str) -> Table:
    """A table of differences."""
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name)
    for name in ("first %", "second %", "difference", "95 % interval", "p"):
        table.add_column(name, justify="right")
    return table


def _cells(held: Mapping[str, float | None]) -> list[str]:
    """The figures of one difference."""
    ends = "–" if held["low"] is None else f"{held['low']:+.2f} … {held['high']:+.2f}"
    return [
        _shown(held["first"]),
        _shown(held["second"]),
        _shown(held["difference"], "+.2f"),
        ends,
        _shown(held["p"], ".4f"),
    ]


def _shown(value: float | None, style: str = ".2f") -> str:
    """A figure, or a dash where it is undefined."""
    return "–" if value is None else format(value, style)


if __name__ == "__main__":
    sys.exit(main())
