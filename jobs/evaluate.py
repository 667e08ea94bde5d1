"""Score labels, stored segments or a checkpoint against a data set: seen, unseen and harmonic mIoU, with a report.

    zs3 evaluate --labels runs/voc --dataset voc --root /data/VOC2012 --split val --out runs/voc/report
    zs3 evaluate --segments runs/kept --dataset voc --root /data/VOC2012 --split val --out runs/kept/report
    zs3 evaluate --checkpoint zs3-mini --dataset voc --root /data/VOC2012 --split val --out runs/voc/report
    ray job submit --working-dir . -- python jobs/evaluate.py --labels s3://bucket/run --dataset coco_stuff …

Standard output gets a table, or with --json one line; progress goes to standard error.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rich.console import Console

from jobs.cli.exit_codes import DONE, guarded
from jobs.cli.naming_options import NamingChanges
from jobs.cli.options import parse_command_line, print_json, request_from
from jobs.cli.progress import progress_bar
from jobs.cli.run_options import ActorOptions
from jobs.cli.terminal import clean
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.request import EvaluateRequest
from pipelines.execution import ActorSettings
from pipelines.labelling.label import LabellerFactory
from pipelines.labelling.name import SegmentClassifierFactory
from zs3.metrics import GROUPS
from zs3.report.terminal import summary
from zs3.wording import map_texts


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(EvaluateRequest):
    """Score a label table, stored segments, or a checkpoint against the truth of a data set; write report.json,
    report.md and report.html. With segments, the report splits the error into grouping and naming."""

    naming: NamingChanges = field(default_factory=NamingChanges)  # type: ignore[assignment]  # one option a setting
    """Naming settings that replace the checkpoint's own, with --segments."""
    json: bool = False
    """Print the scores as one line of JSON, the last line of standard output, instead of a table."""
    execution: ActorOptions = field(default_factory=ActorSettings)
    """How to run. These options change no result; those of actors and batches act with --checkpoint and --segments."""


def main(
    argv: Sequence[str] | None = None,
    *,
    model: LabellerFactory | None = None,
    names: SegmentClassifierFactory | None = None,
) -> int:
    """The exit code of one evaluation: 0 when a report was written.

    Args:
        argv: the arguments after the command; by default those of the process.
        model, names: replace the labeller of a checkpoint and the classifier of segments; for tests.
    """
    return guarded(lambda: _run(parse_command_line(EvaluateOptions, "zs3 evaluate", argv), model, names))


def _run(
    options: EvaluateOptions, model: LabellerFactory | None, names: SegmentClassifierFactory | None
) -> int:
    request = request_from(options, EvaluateRequest, naming=options.naming.changes())
    with progress_bar("scoring") as show:
        report = evaluate(
            request, options.execution, now=datetime.now(UTC), model=model, names=names, on_progress=show
        )
    if options.json:
        line = {group: report[group] for group in GROUPS}
        line |= {"images": report["images"], "protocol": report["protocol"]["name"], "out": options.out}
        print_json(line)
    else:
        console = Console()
        console.print(summary(map_texts(report, clean)))
        place = clean(f"{options.out.rstrip('/')}/report.html")
        console.print(f"\nreport  {place}", highlight=False, soft_wrap=True, markup=False)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
