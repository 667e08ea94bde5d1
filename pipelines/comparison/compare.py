"""Two evaluations side by side: every difference with its interval, the classes that moved, and pixel churn.

Scores are computed anew from the tables `scores`, image by image, so the images are paired.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.comparison.evaluated_run import EvaluatedRun, open_run
from pipelines.comparison.label_changes import churn
from pipelines.comparison.paired_scores import paired_rows
from pipelines.execution import Execution
from pipelines.tables.label_table import open_labels_at
from zs3.metrics.counts import GROUPS, finite
from zs3.metrics.intervals import REPLICATES
from zs3.metrics.paired import Difference, paired
from zs3.metrics.protocols import differences
from zs3.metrics.resampling import METRICS


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareRequest:
    """What to compare with what."""

    first: str
    """Folder, uri or report.json of the run to compare with."""
    second: str
    """The run that may be better or worse."""
    allow_missing: bool = False
    """Compare the images that both have, instead of stopping when one has others."""
    churn: bool = True
    """Count the pixels whose label changed; reads both label tables."""
    replicates: int = REPLICATES
    """Drawings of the images, and exchanges of the two runs."""
    seed: int = 0
    """Chooses them."""


def compare(request: CompareRequest, execution: Execution | None = None) -> dict[str, Any]:
    """The comparison as JSON values; see docs/cli.md.

    Raises:
        ValueError, FileNotFoundError: a report cannot be used, or the two cannot be compared.
    """
    if request.replicates < 1:
        raise ValueError(f"replicates is {request.replicates}; expected at least 1, {REPLICATES} is usual")
    runs = (open_run(request.first), open_run(request.second))
    _refuse_unlike(*runs)
    with tempfile.TemporaryDirectory() as folder:
        rows = paired_rows(runs, Path(folder), allow_missing=request.allow_missing)
        held = paired(
            rows.first.tables,
            rows.second.tables,
            rows.images,
            runs[0].vocabulary.classes,
            runs[0].protocol,
            replicates=request.replicates,
            seed=request.seed,
        )
    notes = list(rows.notes)
    moves = [
        {"name": name, "seen": seen, **_values(one)}
        for name, seen, one in held.classes
        if not np.isnan(one.difference)
    ]
    result: dict[str, Any] = {
        "first": request.first,
        "second": request.second,
        "images": rows.images,
        "protocol": runs[0].protocol.name,
        "scores": {
            metric: {group: _values(held.means[metric, group]) for group in GROUPS} for metric in METRICS
        },
        "classes": sorted(moves, key=lambda move: (-abs(move["difference"]), move["name"])),
        "churn": None,
    }
    if request.churn:
        result["churn"], reason = _churn(runs, execution or Execution())
        notes += reason
    return {**result, "notes": notes}


def _churn(runs: Sequence[EvaluatedRun], execution: Execution) -> tuple[dict[str, Any] | None, list[str]]:
    """Pixel churn, or why there is none."""
    opened = []
    for run in runs:
        labels = run.report["provenance"]["labels"]
        if labels["uri"] is None:
            return None, [
                f"No pixel churn: {run.source} was scored from a checkpoint, without a label table."
            ]
        table = open_labels_at(labels["uri"], labels["version"])
        if table is None:
            return None, [
                f"No pixel churn: the label table {labels['uri']} (version {labels['version']}) of {run.source} "
                "is gone."
            ]
        opened.append(table)
    held = churn(opened[0], opened[1], execution)
    differing = held["sizes_differ"]
    return held, [f"Pixel churn leaves out {differing} images whose sizes differ."] if differing else []


def _refuse_unlike(first: EvaluatedRun, second: EvaluatedRun) -> None:
    """Numbers of different protocols or class lists are not compared."""
    fields = differences(first.report["protocol"], second.report["protocol"])
    if fields:
        raise ValueError(
            f"{first.source} and {second.source} are of different protocols ({'; '.join(fields)}); "
            "evaluate one of them again with the --protocol of the other"
        )
    if first.vocabulary.digest != second.vocabulary.digest:
        raise ValueError(
            f"{first.source} was scored on the {len(first.vocabulary.classes)} classes of "
            f"{first.vocabulary.name!r}, {second.source} on the {len(second.vocabulary.classes)} of "
            f"{second.vocabulary.name!r}, and the lists differ; evaluate both on the same data set"
        )


def _values(held: Difference) -> dict[str, float | None]:
    """A difference for JSON."""
    return {key: finite(value) for key, value in asdict(held).items()}
