"""What an evaluation is to do, and the checks that need no data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.storage.objects import read_bytes
from zs3.datasets import DatasetName
from zs3.datasets.listing import title
from zs3.files import parsed_json
from zs3.images.codec import Alpha
from zs3.metrics.intervals import REPLICATES
from zs3.report.values import checked_diagnostic


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRequest:
    """The options of `zs3 evaluate` that define its report."""

    dataset: DatasetName
    """Layout of the data set on disk."""
    root: str
    """Folder or uri of the data set."""
    split: str
    """Part of the data set to score against, for example val."""
    out: str
    """Folder or uri that gets the reports and the table `scores` (one confusion per image)."""
    labels: str | None = None
    """Label table, or the --out of a `zs3 label` run; local path or uri.
    Give this, --segments, or --checkpoint."""
    segments: str | None = None
    """Segments table, or the --out of a `zs3 segment` run: name the segments and score the names.
    The report then also shows where the error is."""
    checkpoint: str | None = None
    """Shipped name, folder or uri of a checkpoint: label the images now, without a label table, and score them.
    With --segments: the checkpoint that made them, if it was moved since."""
    classes: str | None = None
    """Class list to label with, with --checkpoint or --segments; by default the data set's own."""
    allow_confusable: bool = False
    """Run although two classes have the same embedding, so that one of them gets the segments of both."""
    naming: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `NamingSettings`, and `templates`, that replace the checkpoint's own, with segments."""
    settings: str | None = None
    """The --out of a `zs3 tune` run, or its tune.json: name with the tuned settings, with --segments."""
    alpha: Alpha = "white"
    """What becomes of transparency in the images, with --checkpoint: laid on white, or dropped as in the published
    code."""
    protocol: Literal["zs3", "paper", "voc21", "all"] = "zs3"
    """Which pixels count and how classes are averaged. `zs3` and `paper` ignore background, as the paper does.
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

    @property
    def title(self) -> str:
        """Data set and split."""
        return title(self.dataset, self.root, self.split)


def read_diagnostics(source: str | None) -> list[dict[str, Any]]:
    """Further score sets from a JSON file, checked; none without a file.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is not a JSON list of score sets.
    """
    if source is None:
        return []
    content = parsed_json(read_bytes(source), f"diagnostics {source!r}", "write it again")
    if not isinstance(content, list):
        raise ValueError(
            f"diagnostics {source!r} holds a {type(content).__name__}; expected a list of score sets"
        )
    return [checked_diagnostic(entry) for entry in content]


def refuse_unclear(request: EvaluateRequest) -> None:
    """Check that a request has one thing to score and options that fit it.

    Raises:
        ValueError: it has several or none, an option that does not fit, or no replicates.
    """
    checkpoint = request.checkpoint if request.segments is None else None
    if sum(source is not None for source in (request.labels, request.segments, checkpoint)) != 1:
        raise ValueError(
            "give --labels, a table to score, --segments, to name and score, or --checkpoint, a model to score; "
            "one of the three, but --segments may have its --checkpoint beside it"
        )
    if request.alpha != "white" and (checkpoint is None):
        raise ValueError(
            "--alpha goes with --checkpoint alone; label tables and segments keep what was chosen when they were made"
        )
    if request.classes is not None and request.labels is not None:
        raise ValueError(
            "--classes goes with --checkpoint or --segments; a label table knows its own class list"
        )
    naming = [*(f"--naming.{key}" for key in request.naming), *(["--settings"] if request.settings else [])]
    if naming and request.segments is None:
        raise ValueError(f"{naming[0]} goes with --segments; nothing else is named with other settings")
    if request.replicates < 1:
        raise ValueError(f"replicates is {request.replicates}; expected at least 1, {REPLICATES} is usual")
