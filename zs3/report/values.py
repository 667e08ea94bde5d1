"""`report.json`: the scores of an evaluation as plain JSON values."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zs3.metrics import GROUPS, Confusion, EvaluatedClass, Protocol, Scores, counted, finite
from zs3.metrics.counts import scored_classes
from zs3.metrics.reliability import Reliability
from zs3.metrics.resampling import METRICS, Range, Ranges

MAX_MATRIX_CLASSES = 25
"""Classes of a confusion matrix that a person can still read."""


def report_values(
    *,
    title: str,
    scores: Scores,
    protocol: Protocol,
    images: int,
    missing: Mapping[str, tuple[int, Sequence[str]]],
    notes: Sequence[str],
    diagnostics: Sequence[Mapping[str, Any]],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """The part of `report.json` that every report has: percent throughout, null where a number is undefined.

    Args:
        title: data set and split.
        scores: of all images together.
        protocol: how `scores` were taken.
        images: how many images were scored.
        missing: why images were not scored -> how many, and ids of the first.
        notes: caveats that a reader of the numbers must know.
        diagnostics: further score sets, each with title, seen, unseen, harmonic (percent), note and maybe all.
        provenance: digests, versions and settings that made the numbers.
    """
    values = {
        "title": title,
        **{group: {"miou": getattr(scores, group)} for group in GROUPS},
        "pixel_accuracy": scores.pixel_accuracy,
        "mean_accuracy": scores.mean_accuracy,
        "frequency_weighted_iou": scores.frequency_weighted_iou,
        "images": images,
        "pixels": scores.pixels,
        "classes": [
            {key: getattr(entry, key) for key in ("name", "seen", "iou", "accuracy", "pixels", "labelled")}
            for entry in scores.classes
        ],
        "absent": list(scores.absent),
        "protocol": protocol.to_json(),
        "missing": {why: {"count": count, "ids": sorted(ids)} for why, (count, ids) in missing.items()},
        "notes": list(notes),
        "diagnostics": [checked_diagnostic(entry) for entry in diagnostics],
        "provenance": dict(provenance),
    }
    return _without_nan(values)


def checked_diagnostic(entry: Mapping[str, Any]) -> dict[str, Any]:
    """One further score set as the report shows it.

    Raises:
        ValueError: it has no title, or no numbers under seen, unseen and harmonic.
    """
    if not isinstance(entry, Mapping) or not isinstance(entry.get("title"), str):
        raise ValueError(
            f"diagnostic {entry!r} has no title; expected title, seen, unseen, harmonic and note"
        )
    checked: dict[str, Any] = {"title": entry["title"], "note": str(entry.get("note", ""))}
    for key in ("seen", "unseen", "harmonic", *(["all"] if "all" in entry else [])):
        value = entry.get(key)
        value = value.get("miou") if isinstance(value, Mapping) else value
        if value is not None and not isinstance(value, int | float):
            raise ValueError(
                f"diagnostic {entry['title']!r} has {key} = {value!r}; expected a number in percent, or null"
            )
        checked[key] = value
    return checked


def with_ranges(report: Mapping[str, Any], ranges: Ranges) -> dict[str, Any]:
    """The report with `low` and `high` beside every score and class, `boundary`, and `metrics`.

    Args:
        report: as `report_values` gives it; its own numbers stay as they are.
        ranges: of the same protocol.
    """
    classes = [
        {**entry, **_ends(region), "boundary_iou": finite(edge.value)}
        for entry, region, edge in zip(report["classes"], ranges.iou, ranges.boundary_iou, strict=True)
    ]
    metrics = {
        metric: {group: score_range(ranges, group, metric, "value") for group in GROUPS}
        for metric in METRICS
        if metric not in ("iou", "boundary_iou")
    }
    return {
        **report,
        **{group: {**report[group], **_ends(ranges.means["iou", group])} for group in GROUPS},
        "classes": classes,
        "boundary": {group: score_range(ranges, group, "boundary_iou") for group in GROUPS},
        "metrics": metrics,
    }


def with_masks(report: Mapping[str, Any], had_masks: Mapping[str, bool | None]) -> dict[str, Any]:
    """The report with `trained` in each class but background: whether the labeller had training masks of it.

    Args:
        had_masks: name of each seen and unseen class -> the same, None where that is not known.
    """
    classes = [
        {**entry, "trained": had_masks[entry["name"]]} if entry["name"] in had_masks else entry
        for entry in report["classes"]
    ]
    return {**report, "classes": classes}


def score_range(
    ranges: Ranges, group: str, metric: str = "iou", key: str = "miou"
) -> dict[str, float | None]:
    """One score as `report.json` holds it: its value under `key`, low, high."""
    score = ranges.means[metric, group]
    return {key: finite(score.value), **_ends(score)}


def calibration(reliability: Reliability) -> dict[str, Any]:
    """The reliability curve, and the expected calibration error of each group in percent."""
    errors = {group: finite(value) for group, value in reliability.errors().items()}
    return {"calibration": reliability.curve(), "calibration_error": errors}


def confusion_matrix(
    confusion: Confusion,
    classes: Sequence[EvaluatedClass],
    protocol: Protocol,
    *,
    max_classes: int = MAX_MATRIX_CLASSES,
) -> dict[str, Any]:
    """The classes with most wrong pixels: names, and pixels by truth (rows) and label (columns).

    `other` holds, per row, the pixels whose label is none of these classes.

    Args:
        confusion: of all images.
        classes: of the data set.
        protocol: which pixels count.
        max_classes: classes that are given; those without a wrong pixel are left out.
    """
    kept = counted(confusion, classes, protocol)
    scored = scored_classes(classes, protocol)
    wrong = kept.truth != kept.prediction
    wrong_pixels = [
        int(kept.pixels[wrong & ((kept.truth == entry.id) | (kept.prediction == entry.id))].sum())
        for entry in scored
    ]
    worst = sorted(range(len(scored)), key=lambda k: (-wrong_pixels[k], k))[:max_classes]
    chosen = [scored[k] for k in sorted(worst) if wrong_pixels[k]]
    place = {entry.id: row for row, entry in enumerate(chosen)}
    matrix = np.zeros((len(chosen), len(chosen) + 1), np.int64)
    for truth, label, pixels in zip(kept.truth.tolist(), kept.prediction.tolist(), kept.pixels.tolist()):
        if truth in place:
            matrix[place[truth], place.get(label, len(chosen))] += pixels
    return {
        "classes": [entry.name for entry in chosen],
        "pixels": matrix[:, :-1].tolist(),
        "other": matrix[:, -1].tolist(),
    }


def _ends(score: Range) -> dict[str, float | None]:
    return {"low": finite(score.low), "high": finite(score.high)}


def _without_nan(value: Any) -> Any:
    """The same JSON value with null for every number that is undefined: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
