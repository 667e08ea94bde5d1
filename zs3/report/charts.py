"""Coordinates of a report's charts, which the page draws as SVG."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

SIDE = 300
"""Width and height of a chart, in its own units."""
_MIN_RADIUS, _MAX_RADIUS = 3.0, 11.0
_STEPS, _MAX_STEPS = (1, 2, 5, 10, 20), 6
_MARGIN = 1.15


def reliability(bins: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The reliability curve as dots: score of the labels to the right, share of correct pixels upwards.

    Args:
        bins: `calibration` of `report.json`.

    Returns:
        `dots` (x, y, radius in units of the chart; score, accuracy and share of the pixels in percent), `line` (the
        points of a polyline); none where no pixel had a score.
    """
    filled = [entry for entry in bins if entry["pixels"]]
    pixels = sum(entry["pixels"] for entry in filled)
    if not pixels:
        return None
    dots = []
    for entry in filled:
        share = entry["pixels"] / pixels
        dots.append(
            {
                "x": _rounded(entry["score"] * SIDE),
                "y": _rounded((1 - entry["accuracy"]) * SIDE),
                "radius": _rounded(_MIN_RADIUS + (_MAX_RADIUS - _MIN_RADIUS) * math.sqrt(share)),
                "score": 100 * entry["score"],
                "accuracy": 100 * entry["accuracy"],
                "share": 100 * share,
                "pixels": entry["pixels"],
            }
        )
    return {"dots": dots, "line": " ".join(f"{dot['x']},{dot['y']}" for dot in dots)}


def trade_off(tuning: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The seen-unseen curve of the tuning run that the labels' settings come from, as a line and a mark.

    Args:
        tuning: as the label table has it; none where its settings were not tuned.

    Returns:
        `line` and `levels` (points of polylines, the latter with the harmonic mean that they stand for), `dots` (one
        for each γ), `chosen` (x, y), `ticks` (percent, place); none where the table holds no curve.
    """
    points = [
        point
        for point in (tuning or {}).get("curve", ())
        if point["seen"] is not None and point["unseen"] is not None
    ]
    if not tuning or len(points) < 2:
        return None
    top = min(100.0, _MARGIN * max(1.0, *(max(point["seen"], point["unseen"]) for point in points)))

    step = next(step for step in _STEPS if top / step <= _MAX_STEPS)

    def place(seen: float, unseen: float) -> tuple[float, float]:
        return _rounded(seen / top * SIDE), _rounded((1 - unseen / top) * SIDE)

    dots = [
        dict(zip("xy", place(point["seen"], point["unseen"]))) | {key: point[key] for key in ("seen", "unseen")}
        | {"gamma": point["calibration"]}
        for point in points
    ]  # fmt: skip
    chosen = None
    if tuning.get("seen") is not None and tuning.get("unseen") is not None:
        chosen = dict(zip("xy", place(tuning["seen"], tuning["unseen"])))
    return {
        "title": tuning["title"],
        "line": " ".join(f"{dot['x']},{dot['y']}" for dot in dots),
        "dots": dots,
        "chosen": chosen,
        "harmonic": tuning.get("harmonic"),
        "levels": [_level(step / 2 * number, top, place) for number in range(1, math.ceil(2 * top / step))],
        "ticks": [(level, _rounded(level / top * SIDE)) for level in range(0, math.floor(top) + 1, step)],
    }


def _level(harmonic: float, top: float, place: Any) -> dict[str, Any]:
    """A line of equal harmonic mean h, which is below `top`: unseen = h seen / (2 seen - h)."""
    smallest = harmonic * top / (2 * top - harmonic)  # here unseen is at the top
    ratio = top / smallest
    along = [smallest * ratio ** (step / 24) for step in range(25)]
    points = [place(seen, harmonic * seen / (2 * seen - harmonic)) for seen in along]
    return {
        "harmonic": f"{harmonic:g}",
        "line": " ".join(f"{x},{y}" for x, y in points),
        "x": points[12][0],
        "y": points[12][1],
    }


def _rounded(value: float) -> float:
    """A tenth of a unit is finer than the eye sees."""
    return round(value, 1)
