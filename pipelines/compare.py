"""Two evaluations side by side: every difference with its interval, the classes that moved, and pixel churn.

Scores are computed anew from the tables `scores`, image by image, so the images are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.churn import churn
from pipelines.evaluation_files import in_order
from pipelines.execution import Execution
from pipelines.labels import open_labels_at
from pipelines.reports import EvaluatedRun, open_run
from zs3.metrics.counts import GROUPS, finite
from zs3.metrics.intervals import REPLICATES
from zs3.metrics.paired import Difference, paired
from zs3.metrics.protocols import differences
from zs3.metrics.resampling import METRICS
from zs3.sketching import confusion_of

NAMED_IDS = 5
"""How many offenders a message names."""


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
    tables, notes = _same_images(runs, request)
    classes = runs[0].vocabulary.classes
    held = paired(
        partial(in_order, tables[0]),
        partial(in_order, tables[1]),
        tables[0].num_rows,
        classes,
        runs[0].protocol,
        replicates=request.replicates,
        seed=request.seed,
    )
    moves = [
        {"name": name, "seen": seen, **_values(one)}
        for name, seen, one in held.classes
        if not np.isnan(one.difference)
    ]
    result: dict[str, Any] = {
        "first": request.first,
        "second": request.second,
        "images": tables[0].num_rows,
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


def _same_images(runs: Sequence[EvaluatedRun], request: CompareRequest) -> tuple[list[pa.Table], list[str]]:
    """Rows of the images that both runs scored, in order of their ids, and what a reader must know.

    Raises:
        ValueError: an image occurs twice or has two truths, none is in both, or some are in one only.
    """
    tables = [run.scores.sort_by("image_id") for run in runs]
    ids = [table["image_id"].to_pylist() for table in tables]
    for run, held in zip(runs, ids, strict=True):
        if len(set(held)) < len(held):
            twice = next(one for one, other in pairwise(held) if one == other)
            raise ValueError(f"the table scores of {run.source} holds image {twice!r} twice; evaluate again")
    both = set(ids[0]) & set(ids[1])
    alone = [sorted(set(held) - both) for held in ids]
    if not both:
        raise ValueError(
            f"{runs[0].source} and {runs[1].source} have no image in common; compare the same split"
        )
    notes = []
    if any(alone):
        told = ", ".join(
            f"{len(some)} only in {run.source} ({', '.join(some[:NAMED_IDS]) or 'none'})"
            for run, some in zip(runs, alone, strict=True)
        )
        if not request.allow_missing:
            raise ValueError(
                f"the runs scored different images: {told}; compare the {len(both)} of both with --allow-missing"
            )
        notes.append(f"Left out are images of one run: {told}.")
        tables = [
            table.filter(pa.array([image_id in both for image_id in held]))
            for table, held in zip(tables, ids, strict=True)
        ]
    _refuse_other_truth(tables, runs)
    return tables, notes


def _refuse_other_truth(tables: Sequence[pa.Table], runs: Sequence[EvaluatedRun]) -> None:
    """Both runs saw the same true pixels of every class in every image."""
    wanted = ["image_id", "truth", "prediction", "pixels"]
    for blocks in zip(*(in_order(table.select(wanted)) for table in tables), strict=True):
        for first, second in zip(*(block.to_pylist() for block in blocks), strict=True):
            if _true_pixels(first) != _true_pixels(second):
                raise ValueError(
                    f"the truth of image {first['image_id']!r} differs between {runs[0].source} and "
                    f"{runs[1].source}; evaluate both on the same data set"
                )


def _true_pixels(row: dict[str, Any]) -> dict[int, int]:
    """Pixels of each true class."""
    pairs = confusion_of(row)
    found, index = np.unique(pairs.truth, return_inverse=True)
    return dict(zip(found.tolist(), np.bincount(index, pairs.pixels).astype(np.int64).tolist(), strict=True))


def _values(held: Difference) -> dict[str, float | None]:
    """A difference for JSON."""
    return {key: finite(value) for key, value in asdict(held).items()}
