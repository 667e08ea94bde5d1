"""What intervals, outlines, calibration and confusions add to `report.json`, as plain values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zs3.metrics.confusions import Confusion
from zs3.metrics.counts import GROUPS, finite
from zs3.metrics.protocols import EvaluatedClass, Protocol
from zs3.metrics.reliability import Reliability
from zs3.metrics.resampling import METRICS, Range, Ranges
from zs3.metrics.scoring import counted, scored_classes

SHOWN_CLASSES = 25
"""Classes of a confusion matrix that a person can still read."""


def with_ranges(report: Mapping[str, Any], held: Ranges) -> dict[str, Any]:
    """The report with `low` and `high` beside every score and class, `boundary`, and `metrics`.

    Args:
        report: as `report_values` gives it; its own numbers stay as they are.
        held: of the same protocol.
    """
    ends = {group: _ends(held.means["iou", group]) for group in GROUPS}
    classes = [
        {**entry, **_ends(region), "boundary_iou": finite(edge.value)}
        for entry, region, edge in zip(report["classes"], held.iou, held.boundary_iou, strict=True)
    ]
    metrics = {
        metric: {group: _value(held.means[metric, group]) for group in GROUPS}
        for metric in METRICS
        if metric not in ("iou", "boundary_iou")
    }
    return {
        **report,
        **{group: {**report[group], **ends[group]} for group in GROUPS},
        "classes": classes,
        "boundary": {group: headline(held, group, "boundary_iou") for group in GROUPS},
        "metrics": metrics,
    }


def headline(held: Ranges, group: str, metric: str = "iou") -> dict[str, float | None]:
    """One score as `report.json` holds it: miou, low, high."""
    return {"miou": finite(held.means[metric, group].value), **_ends(held.means[metric, group])}


def calibration(held: Reliability) -> dict[str, Any]:
    """The reliability curve, and the expected calibration error of each group in percent."""
    errors = {group: finite(value) for group, value in held.errors().items()}
    return {"calibration": held.curve(), "calibration_error": errors}


def confusion_matrix(
    whole: Confusion, classes: Sequence[EvaluatedClass], protocol: Protocol, *, most: int = SHOWN_CLASSES
) -> dict[str, Any]:
    """The classes that take part in most mistakes: names, and pixels by truth (rows) and label (columns).

    `other` holds, per row, the pixels whose label is none of these classes.

    Args:
        whole: of all images.
        classes: of the data set.
        protocol: which pixels count.
        most: how many classes are given; those in no mistake are left out.
    """
    kept = counted(whole, classes, protocol)
    scored = scored_classes(classes, protocol)
    ids = np.array([entry.id for entry in scored], np.int64)
    wrong = kept.truth != kept.prediction
    mass = [int(kept.pixels[wrong & ((kept.truth == one) | (kept.prediction == one))].sum()) for one in ids]
    largest = sorted(range(len(scored)), key=lambda k: (-mass[k], k))[:most]
    shown = [k for k in sorted(largest) if mass[k]]
    place = {int(ids[k]): row for row, k in enumerate(shown)}
    matrix = np.zeros((len(shown), len(shown) + 1), np.int64)
    for truth, label, pixels in zip(kept.truth.tolist(), kept.prediction.tolist(), kept.pixels.tolist()):
        if truth in place:
            matrix[place[truth], place.get(label, len(shown))] += pixels
    return {
        "classes": [scored[k].name for k in shown],
        "pixels": matrix[:, :-1].tolist(),
        "other": matrix[:, -1].tolist(),
    }


def _ends(held: Range) -> dict[str, float | None]:
    """The interval."""
    return {"low": finite(held.low), "high": finite(held.high)}


def _value(held: Range) -> dict[str, float | None]:
    """A score that is no mIoU."""
    return {"value": finite(held.value), **_ends(held)}
