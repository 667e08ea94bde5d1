"""Drop what damaged tables have lost: `zs3 repair`, `python jobs/repair.py`. It needs no Ray and runs on any machine.

zs3 repair --out s3://bucket/run
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from jobs.cli.exit_codes import DONE, guarded
from jobs.cli.options import print_json
from jobs.cli.run_options import TableOptions, parse_run_options
from jobs.cli.terminal import write_lines
from pipelines.runs.repair import Loss, repair
from zs3.wording import first_names, number_of


@dataclass(frozen=True, kw_only=True)
class RepairOptions(TableOptions):
    """Drop what damaged tables have lost, so that they can be read and the next run makes it again.

    Files that the log of a table names and that are not there, or are cut, leave the table in one transaction. Entries
    of the log that are empty or cut, and checkpoints of it that cannot be read, are moved aside, to _damaged/ in the
    folder of the table. The table shards is emptied, so that the next run looks for the rows of every image. Nothing
    else is changed.
    Exit codes: 0 nothing is lost any more, 1 stopped by an error, 2 wrong usage.
    """

    dry_run: bool = False
    """Print what is lost, and change nothing."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of `zs3 repair`.

    Args:
        argv: the command line after the command; by default the process's own.
    """
    return guarded(lambda: _run(parse_run_options(RepairOptions, "zs3 repair", argv)))


def _run(options: RepairOptions) -> int:
    losses = repair(options.out, dry_run=options.dry_run)
    if options.json:
        print_json(
            {"out": options.out, "dry_run": options.dry_run, "tables": [asdict(loss) for loss in losses]}
        )
        return DONE
    write_lines(line for loss in losses for line in _lines(loss))
    write_lines([_last_line(options, losses)])
    return DONE


def _lines(loss: Loss) -> list[str]:
    """What a table has lost, as lines of text."""
    lines = [f"{loss.uri}:"]
    if loss.entries:
        lines.append(f"  entries of the log  {first_names(loss.entries)}; what they recorded is lost")
    if loss.checkpoints:
        lines.append(
            f"  checkpoints         {first_names(loss.checkpoints)}; they only repeat entries of the log"
        )
    if loss.files:
        rows = "" if loss.rows is None else f", {number_of(loss.rows, 'row')}"
        images = "" if loss.images is None else f" of {number_of(loss.images, 'image')}"
        lines.append(f"  files               {first_names(loss.files)}{rows}{images}")
    if not loss.entries and not loss.checkpoints and not loss.files:
        lines.append("  lists images as done, and the table of their results is gone")
    return lines


def _last_line(options: RepairOptions, losses: Sequence[Loss]) -> str:
    if not losses:
        return "nothing is lost"
    if options.dry_run:
        return "nothing was changed: this was a dry run"
    again = (
        "zs3 evaluate"
        if all(loss.table == "scores" for loss in losses)
        else "the command that made the tables"
    )
    return f"dropped; run {again} again, which makes what is missing"


if __name__ == "__main__":
    sys.exit(main())
