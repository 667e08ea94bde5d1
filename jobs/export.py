"""Labels as files of other tools: `zs3 export`, `python jobs/export.py`, or on a cluster

    ray job submit --working-dir . -- python jobs/export.py \\
        --labels s3://bucket/run --to png --out s3://bucket/masks
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from jobs.cli.exit_codes import DONE, guarded
from jobs.cli.options import parse_command_line, print_json
from pipelines.execution import Execution
from pipelines.export.export import ExportRequest, Format, export


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """Write a label table as files that other tools read. The same command, given again, leaves the same files.

    png: `<image id>.png`, whose value is the class id, 255 where nothing was labelled (lists with ids from 255 on: 16
    bits, 65535). coco: `coco.json`, stuff annotations. panoptic: `panoptic.json` and `panoptic/<image id>.png`. cvat:
    what CVAT imports as "Segmentation mask 1.1". parquet: the rows as plain Parquet files.
    """

    labels: str
    """Label table, or the --out of a `zs3 label` or `zs3 name` run that holds it; local path or uri."""
    to: Format
    """What to write."""
    out: str
    """Folder or uri that gets the files."""
    classes: str | None = None
    """Class list whose ids the files carry: voc, coco_stuff, ade20k_full, or a .txt or .json file. Classes are found by
    name or meaning. By default the list that was labelled with."""
    json: bool = False
    """Print the result as one line of JSON, the last of standard output."""
    execution: Annotated[Execution, tyro.conf.arg(name="")] = field(default_factory=Execution)
    """How to run; changes no file."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of one export: 0 when all files are there.

    Args:
        argv: the command line after the verb; by default the process's own.
    """
    return guarded(lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def _run(argv: list[str]) -> int:
    options = parse_command_line(ExportOptions, "zs3 export", argv)
    if options.to == "parquet" and options.classes is not None:
        raise ValueError("--classes goes with files of class ids; --to parquet copies the rows as they are")
    request = ExportRequest(labels=options.labels, to=options.to, out=options.out, classes=options.classes)
    columns = (TextColumn("exporting"), TextColumn("{task.completed}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("exporting", total=None)
        result = export(
            request, options.execution, on_progress=lambda done: progress.update(bar, completed=done)
        )
    sys.stderr.write(
        f"{result.images} images, {result.files} files in {result.seconds:.1f} s: {result.out}\n"
    )
    if options.json:
        print_json(asdict(result))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
