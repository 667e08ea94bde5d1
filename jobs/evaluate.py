"""Score labels, stored segments or a checkpoint against a data set: seen, unseen and harmonic mIoU, with a report.

    zs3 evaluate --labels runs/voc --dataset voc --root /data/VOC2012 --split val --out runs/voc/report
    zs3 evaluate --segments runs/kept --dataset voc --root /data/VOC2012 --split val --out runs/kept/report
    zs3 evaluate --checkpoint zs3-mini --dataset voc --root /data/VOC2012 --split val --out runs/voc/report
    ray job submit --working-dir . -- python jobs/evaluate.py --labels s3://bucket/run --dataset coco_stuff …

The result goes to standard output as a table, or with --json as one line; progress goes to standard error.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jobs.cli.exit_codes import DONE, guarded
from jobs.cli.naming_options import NamingChanges
from jobs.cli.options import parse_command_line, print_json
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.request import EvaluateRequest
from pipelines.execution import Execution
from pipelines.labelling.label import LabellerFactory
from pipelines.labelling.name import SegmentClassifierFactory
from zs3.metrics.intervals import REPLICATES
from zs3.report import SCORE_KEYS
from zs3.report.terminal import summary


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """Score a label table, stored segments, or a checkpoint, against the truth of a data set; write report.json,
    report.md and report.html. With segments, the report splits the error into grouping and naming."""

    dataset: Literal["voc", "folder", "coco_stuff", "ade20k_full"]
    """How the data set lies on disk."""
    root: str
    """Folder or uri of the data set."""
    split: str
    """Which part of it to score against, for example val."""
    out: str
    """Folder or uri that gets the reports and the table `scores` (one confusion per image)."""
    labels: str | None = None
    """Label table, or the --out of a `zs3 label` run that holds it; local path or uri. This, --segments, or
    --checkpoint."""
    segments: str | None = None
    """Segments table, or the --out of a `zs3 segment` run: name and score it, and say where the error is."""
    checkpoint: str | None = None
    """Shipped name, folder or uri of a checkpoint: label the images now and score them, without a label table.
    Beside --segments, where the checkpoint that made them lies now; by default where it was then."""
    classes: str | None = None
    """Class list to label with, beside --checkpoint or --segments; by default the data set's own."""
    naming: NamingChanges = field(default_factory=NamingChanges)
    """Naming settings that differ from the checkpoint's own, beside --segments."""
    settings: str | None = None
    """The --out of a `zs3 tune` run, or its tune.json: name with the tuned settings, beside --segments."""
    protocol: Literal["zs3", "paper", "voc21", "all"] = "zs3"
    """Which pixels count and how classes are averaged. `zs3` and `paper` ignore background, as the paper does;
    `paper` repeats the published evaluator: one class absent from the truth leaves its group's mean undefined.
    `voc21` counts background as a class. `all` gives every one; `zs3` is then the headline."""
    transductive: bool = False
    """Say that training saw the pictures of unseen classes. Stored with the numbers, changes none."""
    allow_missing: bool = False
    """Score the images that have both labels and truth, instead of stopping when some have one only."""
    diagnostics: str | None = None
    """JSON file with a list of further score sets to show (title, seen, unseen, harmonic, note)."""
    gallery: int = 12
    """Images shown in the report: a third each of the worst, the best, and random ones."""
    seed: int = 0
    """Chooses the random images of the gallery, and the drawings of the intervals."""
    replicates: int = REPLICATES
    """Drawings of the images behind each 95 % interval."""
    json: bool = False
    """Print the scores as one line of JSON, the last line of standard output, instead of a table."""
    execution: Annotated[Execution, tyro.conf.arg(name="")] = field(default_factory=Execution)
    """How to run; changes no result. Actors and batches are for --checkpoint and --segments."""


def main(
    argv: Sequence[str] | None = None,
    *,
    model: LabellerFactory | None = None,
    names: SegmentClassifierFactory | None = None,
) -> int:
    """The exit code of one evaluation: 0 when a report was written.

    Args:
        argv: the command line after the verb; by default the process's own.
        model: how to come by the labeller of a checkpoint; tests put their own here.
        names: how to come by the classifier of segments; likewise.
    """
    return guarded(lambda: _run(list(sys.argv[1:] if argv is None else argv), model, names))


def _run(argv: list[str], model: LabellerFactory | None, names: SegmentClassifierFactory | None) -> int:
    options = parse_command_line(EvaluateOptions, "zs3 evaluate", argv)
    values = {name: getattr(options, name) for name in EvaluateRequest.__slots__}
    request = EvaluateRequest(**{**values, "naming": options.naming.changes()})
    columns = (TextColumn("scoring images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars = Console(stderr=True)
    with Progress(*columns, console=bars, transient=True, disable=not bars.is_terminal) as progress:
        bar = progress.add_task("scoring", total=None)
        report = evaluate(
            request,
            options.execution,
            now=datetime.now(UTC),
            model=model,
            names=names,
            on_progress=lambda done, of: progress.update(bar, completed=done, total=of),
        )
    if options.json:
        line = {key: report[key] for key in SCORE_KEYS}
        line |= {"images": report["images"], "protocol": report["protocol"]["name"], "out": options.out}
        print_json(line)
    else:
        console = Console()
        console.print(summary(report))
        console.print(f"\nreport  {options.out.rstrip('/')}/report.html", highlight=False, soft_wrap=True)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
