"""Write labels as files of other tools: `zs3 export`, `python jobs/export.py`, or on a cluster

    ray job submit --working-dir . -- python jobs/export.py \\
        --labels s3://bucket/run --to png --out s3://bucket/masks
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from jobs.cli.exit_codes import DONE, guarded
from jobs.cli.options import parse_command_line, print_json, request_from
from jobs.cli.progress import progress_bar
from jobs.cli.run_options import RayOptions
from jobs.cli.terminal import write_messages
from pipelines.execution import RaySettings
from pipelines.export.export import ExportRequest, export
from pipelines.runs.run import Progress
from zs3.wording import number_of


@dataclass(frozen=True, kw_only=True)
class ExportOptions(ExportRequest):
    """Write a label table as files that other tools read. The same command writes the same files again.

    png: `<image id>.png` with class ids, 255 where no class was labelled (for ids from 255 on: 16 bits, 65535).
    coco: `coco.json` with stuff annotations. panoptic: `panoptic.json` and `panoptic/<image id>.png`.
    cvat: what CVAT imports as "Segmentation mask 1.1". parquet: the rows as plain Parquet files.
    Exit codes: 0 all files are written, 1 stopped by an error, 2 wrong usage.
    """

    json: bool = False
    """Print the result as one line of JSON, the last line of standard output."""
    execution: RayOptions = field(default_factory=RaySettings)
    """How to run. These options change no file."""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of one export.

    Args:
        argv: the command line after the command; by default the process's own.
    """
    return guarded(lambda: _run(parse_command_line(ExportOptions, "zs3 export", argv)))


def _run(options: ExportOptions) -> int:
    if options.to == "parquet" and options.classes is not None:
        raise ValueError("--classes has no effect with --to parquet, which copies the rows; leave it out")
    with progress_bar("exporting") as show:
        result = export(
            request_from(options, ExportRequest),
            options.execution,
            on_progress=lambda images: show(Progress(done=images)),
        )
    write_messages(
        [
            f"{number_of(result.images, 'image')}, {number_of(result.files, 'file')} in {result.seconds:.1f} s: "
            f"{result.out}"
        ]
    )
    if options.json:
        print_json(asdict(result))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
