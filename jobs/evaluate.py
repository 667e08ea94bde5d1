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
from typing import Annotated, Literal

import tyro
from rich.console import Console

from jobs.cli.exit_codes import DONE, guarded
from jobs.cli.naming_options import NamingChanges
from jobs.cli.options import parse_command_line, print_json
from jobs.cli.progress import progress_bar
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.request import EvaluateRequest
from pipelines.execution import Execution
from pipelines.labelling.label import LabellerFactory
from pipelines.labelling.name import SegmentClassifierFactory
from zs3.metrics import GROUPS
from zs3.metrics.intervals import REPLICATES
from zs3.report.terminal import summary


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """Score a label table, stored segments, or a checkpoint against the truth of a data set; write report.json,
    report.md and report.html. With segments, the report splits the error into grouping and naming."""

    dataset: Literal["voc", "folder", "coco_stuff", "ade20k_full"]
    """Layout of the data set on disk."""
    root: str
    """Folder or uri of the data set."""
    split: str
    """Part of the data set to score against, for example val."""
    out: str
    """Folder or uri that gets the reports and the table `scores` (one confusion per image)."""
    labels: str | None = None
    """Label table, or the --out of a `zs3 label` run that holds it; local path or uri. Give this, --segments, or
    --checkpoint."""
    segments: str | None = None
    """Segments table, or the --out of a `zs3 segment` run: name the segments, score the names, and show where the
    error is."""
    checkpoint: str | None = None
    """Shipped name, folder or uri of a checkpoint: label the images now and score them, without a label table.
    With --segments: the checkpoint that made them, if it was moved since."""
    classes: str | None = None
    """Class list to label with, with --checkpoint or --segments; by default the data set's own."""
    naming: NamingChanges = field(default_factory=NamingChanges)
    """Naming settings that differ from the checkpoint's own, with --segments."""
    settings: str | None = None
    """The --out of a `zs3 tune` run, or its tune.json: name with the tuned settings, with --segments."""
    protocol: Literal["zs3", "paper", "voc21", "all"] = "zs3"
    """Which pixels count and how classes are averaged. `zs3` and `paper` ignore background, as the paper does;
    `paper` repeats the published evaluator: one class absent from the truth leaves its group's mean undefined.
    `voc21` counts background as a class. `all` gives all three, with `zs3` as the headline."""
    transductive: bool = False
    """Record that training saw the images of unseen classes. Stored with the numbers; changes none."""
    allow_missing: bool = False
    """Score the images that have both labels and truth, instead of stopping when some have only one."""
    diagnostics: str | None = None
    """JSON file with a list of further score sets to show (title, seen, unseen, harmonic, note)."""
    gallery: int = 12
    """Images shown in the report: a third each of the worst, the best, and random ones."""
    seed: int = 0
    """Chooses the random images of the gallery, and the bootstrap replicates."""
    replicates: int = REPLICATES
    """Bootstrap replicates of the images behind each 95 % interval."""
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
        argv: the arguments after the command; by default those of the process.
        model: makes the labeller of a checkpoint; tests pass their own.
        names: makes the classifier of segments; tests pass their own.
    """
    return guarded(lambda: _run(list(sys.argv[1:] if argv is None else argv), model, names))


def _run(argv: list[str], model: LabellerFactory | None, names: SegmentClassifierFactory | None) -> int:
    options = parse_command_line(EvaluateOptions, "zs3 evaluate", argv)
    values = {name: getattr(options, name) for name in EvaluateRequest.__slots__}
    request = EvaluateRequest(**{**values, "naming": options.naming.changes()})
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
        console.print(summary(report))
        console.print(f"\nreport  {options.out.rstrip('/')}/report.html", highlight=False, soft_wrap=True)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
