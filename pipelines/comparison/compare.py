"""Two evaluations side by side: every difference with its interval, the classes that changed, and label changes.

Scores are computed anew from the tables `scores`, image by image, so the images are paired.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.comparison.evaluated_run import EvaluatedRun, open_run
from pipelines.comparison.label_changes import label_changes
from pipelines.comparison.paired_scores import paired_rows
from pipelines.execution import RaySettings
from pipelines.tables.label_table import open_labels_at
from zs3.metrics import GROUPS, finite
from zs3.metrics.intervals import BLOCK, REPLICATES
from zs3.metrics.paired import Difference, paired
from zs3.metrics.protocols import differences as protocol_differences
from zs3.metrics.resampling import METRICS
from zs3.vocabulary import differences_in_words
from zs3.wording import number_of


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareRequest:
    """The options of `zs3 compare` that define its numbers."""

    first: str
    """Folder, uri or report.json of the run to compare with."""
    second: str
    """The run that may be better or worse."""
    allow_missing: bool = False
    """Compare the images that both have, instead of stopping when one has others."""
    churn: bool = True
    """Count the pixels whose label changed, which reads both label tables; --no-churn leaves this out."""
    replicates: int = REPLICATES
    """Bootstrap replicates of the images, and random exchanges of the two runs."""
    seed: int = 0
    """Chooses the replicates and exchanges."""


def compare(request: CompareRequest, execution: RaySettings | None = None) -> dict[str, Any]:
    """The comparison as JSON values; see docs/cli.md.

    Raises:
        ValueError, FileNotFoundError: a report cannot be used, or the two cannot be compared.
    """
    if request.replicates < 1:
        raise ValueError(f"replicates is {request.replicates}; expected at least 1, {REPLICATES} is usual")
    runs = (open_run(request.first), open_run(request.second))
    _refuse_incomparable(*runs)
    with tempfile.TemporaryDirectory() as folder:
        rows = paired_rows(runs, Path(folder), allow_missing=request.allow_missing)
        differences = paired(
            partial(rows.first.tables, BLOCK),
            partial(rows.second.tables, BLOCK),
            rows.images,
            runs[0].vocabulary.classes,
            runs[0].protocol,
            replicates=request.replicates,
            seed=request.seed,
        )
    classes = [
        {"name": name, "seen": seen, **_values(difference)}
        for name, seen, difference in differences.classes
        if not np.isnan(difference.difference)
    ]
    result: dict[str, Any] = {
        "first": request.first,
        "second": request.second,
        "images": rows.images,
        "protocol": runs[0].protocol.name,
        "scores": {
            metric: {group: _values(differences.means[metric, group]) for group in GROUPS}
            for metric in METRICS
        },
        "classes": sorted(classes, key=lambda entry: (-abs(entry["difference"]), entry["name"])),
        "churn": None,
    }
    notes = list(rows.notes)
    if request.churn:
        result["churn"], caveats = _label_changes(runs, execution or RaySettings())
        notes += caveats
    return {**result, "notes": notes}


def _label_changes(
    runs: Sequence[EvaluatedRun], execution: RaySettings
) -> tuple[dict[str, Any] | None, list[str]]:
    """The label changes and their caveats, or the reason why there are none."""
    tables = []
    for run in runs:
        labels = run.report["provenance"]["labels"]
        if labels["uri"] is None:
            return None, [
                f"Label changes were not counted: {run.source} was scored from a checkpoint, without a label table."
            ]
        table = open_labels_at(labels["uri"], labels["version"])
        if table is None:
            return None, [
                f"Label changes were not counted: {run.source} is of the label table {labels['uri']} "
                f"(version {labels['version']}), which is gone."
            ]
        tables.append(table)
    changes = label_changes(tables[0], tables[1], execution)
    differing = changes["sizes_differ"]
    return changes, [
        f"Label changes leave out {number_of(differing, 'image')} whose sizes differ."
    ] if differing else []


def _refuse_incomparable(first: EvaluatedRun, second: EvaluatedRun) -> None:
    """Numbers of different protocols or class lists are not compared."""
    fields = protocol_differences(first.report["protocol"], second.report["protocol"])
    if fields:
        raise ValueError(
            f"{first.source} and {second.source} are of different protocols ({'; '.join(fields)}); "
            "evaluate one of them again with the --protocol of the other"
        )
    if first.vocabulary.digest != second.vocabulary.digest:
        differing = differences_in_words(
            first.vocabulary, second.vocabulary, ("in the first", "in the second")
        )
        raise ValueError(
            f"{first.source} was scored on the {number_of(len(first.vocabulary.classes), 'class', 'classes')} of "
            f"{first.vocabulary.name!r}, {second.source} on the {len(second.vocabulary.classes)} of "
            f"{second.vocabulary.name!r}, and the lists differ ({differing}); evaluate both on the same data set"
        )


def _values(difference: Difference) -> dict[str, float | None]:
    """A difference as JSON values."""
    return {key: finite(value) for key, value in asdict(difference).items()}
