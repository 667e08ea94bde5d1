"""The report of an evaluation: one dict (`report.json`) that page, Markdown and terminal table show.

Imports `zs3.metrics` and `zs3.vocabulary`.
Begin with `report_values` below, then `page`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from zs3.metrics import Protocol, Scores

SCORE_KEYS = ("seen", "unseen", "harmonic", "all")
"""The headline scores of a report, each an object with `miou` in percent."""


def report_values(
    *,
    title: str,
    scores: Scores,
    protocol: Protocol,
    images: int,
    missing: Mapping[str, Sequence[str]],
    notes: Sequence[str],
    diagnostics: Sequence[Mapping[str, Any]],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """What `report.json` holds: plain JSON values, percent throughout, null where a number is undefined.

    Args:
        title: what was evaluated, for people: data set and split.
        scores: of all images together.
        protocol: how `scores` were taken.
        images: how many images were scored.
        missing: why an image was not scored -> ids of such images.
        notes: sentences that a reader of the numbers must know.
        diagnostics: further score sets, each with title, seen, unseen, harmonic (percent), note and maybe all.
        provenance: digests, versions and settings that made the numbers.
    """
    values = {
        "title": title,
        "seen": {"miou": scores.seen},
        "unseen": {"miou": scores.unseen},
        "harmonic": {"miou": scores.harmonic},
        "all": {"miou": scores.all},
        "pixel_accuracy": scores.pixel_accuracy,
        "mean_accuracy": scores.mean_accuracy,
        "frequency_weighted_iou": scores.frequency_weighted_iou,
        "images": images,
        "pixels": scores.pixels,
        "classes": [
            {
                "name": entry.name,
                "seen": entry.seen,
                "iou": entry.iou,
                "accuracy": entry.accuracy,
                "pixels": entry.pixels,
            }
            for entry in scores.classes
        ],
        "absent": list(scores.absent),
        "protocol": {"name": protocol.name, "words": list(protocol.words)},
        "missing": {why: {"count": len(ids), "ids": sorted(ids)} for why, ids in missing.items()},
        "notes": list(notes),
        "diagnostics": [diagnostic(entry) for entry in diagnostics],
        "provenance": dict(provenance),
    }
    return _without_nan(values)


def diagnostic(entry: Mapping[str, Any]) -> dict[str, Any]:
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


def shown(value: float | None, digits: int = 1) -> str:
    """A percentage for people: an en dash where it is undefined."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def interval(entry: Mapping[str, Any]) -> str:
    """The 95 % interval of a score or class for people; empty where it has none."""
    if entry.get("low") is None or entry.get("high") is None:
        return ""
    return f"{shown(entry['low'])} to {shown(entry['high'])}"


def headline(report: Mapping[str, Any]) -> str:
    """The result in one sentence, for people."""
    seen, unseen, both = (shown(report[key]["miou"]) for key in ("seen", "unseen", "harmonic"))
    return (
        f"mIoU {seen} on classes with training masks (seen), {unseen} on classes known by name only "
        f"(unseen), harmonic mean {both}, on {report['images']} images."
    )


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested provenance as (dotted key, text) rows in their order; a list of objects, such as a curve, is counted."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and any(isinstance(entry, Mapping) for entry in value):
            rows.append((f"{prefix}{key}", f"{len(value)} entries"))
        elif isinstance(value, list | tuple):
            rows.append((f"{prefix}{key}", ", ".join(map(str, value)) or "none"))
        else:
            rows.append((f"{prefix}{key}", "none" if value is None else str(value)))
    return rows


def _without_nan(value: Any) -> Any:
    """The same JSON value with null for every number that is none: JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
