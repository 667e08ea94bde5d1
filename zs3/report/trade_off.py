"""The report of a tuning run: the seen-unseen trade-off as a picture, and everything in Markdown."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zs3.report.formats import percent
from zs3.wording import number_of

BLUE, ORANGE, INK, SOFT, LINE = "#0067a8", "#c95a00", "#20242c", "#6b7280", "#d5d9e0"

HARMONIC_LEVELS = 9
"""Lines of equal harmonic mean in the picture."""


def picture(tuned: Mapping[str, Any]) -> bytes:
    """A PNG of seen mIoU against unseen mIoU as γ goes over its range, for the current and the best naming.

    Args:
        tuned: as `tune.json` holds it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 6.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    namings = tuned["namings"]
    current, best = namings[tuned["current"]["naming"]], namings[tuned["best"]["naming"]]
    others = [naming for naming in namings if naming not in (current, best)]
    for naming in others:
        _line(axes, naming["curve"], color=LINE, linewidth=0.9, zorder=1)
    if others:
        axes.plot([], [], color=LINE, label=f"{number_of(len(others), 'other naming')}")
    highlighted = [(current, BLUE, "current naming"), (best, ORANGE, "best naming")]
    for naming, colour, name in highlighted[: 1 if current == best else 2]:
        area = "–" if naming["area"] is None else f"{naming['area']:.3f}"
        _line(axes, naming["curve"], color=colour, linewidth=2.2, zorder=3, label=f"{name}, area {area}")
    marks = [("current", BLUE, "o", "current settings"), ("best", ORANGE, "D", "best harmonic mean")]
    for key, colour, marker, name in marks:
        point = tuned[key]
        if point["seen"] is None or point["unseen"] is None:
            continue
        axes.plot(
            point["seen"],
            point["unseen"],
            marker=marker,
            markersize=9,
            color=colour,
            markeredgecolor="white",
            linestyle="none",
            zorder=5,
            label=f"{name}: {percent(point['harmonic'])} at γ = {point['calibration']:g}",
        )
    # Above 100, so that a marker at 100 % is whole.
    right, top = (min(101.5, 1.04 * max(limits[1], 1.0)) for limits in (axes.get_xlim(), axes.get_ylim()))
    _harmonic_lines(axes, right, top)
    axes.set_xlim(0, right)
    axes.set_ylim(0, top)
    axes.set_xlabel("seen mIoU, %", color=INK)
    axes.set_ylabel("unseen mIoU, %", color=INK)
    axes.set_title(
        f"Seen-unseen trade-off on {tuned['tuned_on']['title']}, "
        f"{number_of(tuned['tuned_on']['dataset']['images'], 'image')}",
        color=INK,
        loc="left",
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=SOFT)
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=2)
    stored = io.BytesIO()
    figure.savefig(stored, format="png")
    return stored.getvalue()


def _line(axes: Any, curve: Sequence[Mapping[str, Any]], **style: Any) -> None:
    """One trade-off; undefined points are left out."""
    points = [point for point in curve if point["seen"] is not None and point["unseen"] is not None]
    axes.plot([point["seen"] for point in points], [point["unseen"] for point in points], **style)


def _harmonic_lines(axes: Any, right: float, top: float) -> None:
    """Lines of equal harmonic mean, each with its value."""
    seen, unseen = np.meshgrid(np.linspace(0.01, right, 200), np.linspace(0.01, top, 200))
    lines = axes.contour(
        seen,
        unseen,
        2 * seen * unseen / (seen + unseen),
        levels=HARMONIC_LEVELS,
        colors=SOFT,
        linewidths=0.6,
        linestyles="dotted",
        zorder=0,
    )
    axes.clabel(lines, fontsize=7, colors=SOFT, fmt="%g")


def markdown(tuned: Mapping[str, Any], command: str) -> str:
    """`tune.json` in words and tables.

    Args:
        command: a command line that names with the tuned settings.
    """
    origin = tuned["tuned_on"]
    changes = ", ".join(f"`{key}` {value}" for key, value in tuned["settings"].items())
    lines = [
        f"# Naming settings tuned on {origin['title']}",
        "",
        "{settings_tried} settings ({namings_tried} ways of naming under {gammas_tried} γ) on {images} images, "
        "protocol `{protocol}`. Scores of these images say how well the settings fit; score them on another "
        "split.".format(**origin, images=origin["dataset"]["images"]),
        "",
        "| | seen % | unseen % | harmonic % | area under the trade-off |",
        "| --- | ---: | ---: | ---: | ---: |",
        _row("current settings", tuned["current"], tuned),
        _row("best harmonic mean", tuned["best"], tuned),
        "",
        f"Best settings, where they differ from the checkpoint's: {changes or 'none; its own are the best of these'}.",
        "",
        f"    {command}",
        "",
        "![seen against unseen mIoU over γ](tune.png)",
        "",
        "γ is taken from the classes that the checkpoint was trained on; a curve ends on an axis where the data set",
        "calls the same classes seen.",
        *(f"\n{note}" for note in tuned["notes"]),
        "",
        "## Ways of naming, each at its best γ",
        "",
        "| naming | γ | seen % | unseen % | harmonic % | area |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    ranked = sorted(tuned["namings"], key=lambda naming: -(naming["best"]["harmonic"] or 0.0))
    own = "the checkpoint's own"
    for naming in ranked:
        best = naming["best"]
        changes = ", ".join(f"{key} {value}" for key, value in naming["settings"].items())
        figures = " | ".join(percent(best[key]) for key in ("seen", "unseen", "harmonic"))
        lines.append(f"| {changes or own} | {best['calibration']:g} | {figures} | {_area(naming)} |")
    return "\n".join(lines) + "\n"


def _row(name: str, point: Mapping[str, Any], tuned: Mapping[str, Any]) -> str:
    """A row of the table of settings."""
    figures = " | ".join(percent(point[key]) for key in ("seen", "unseen", "harmonic"))
    return f"| {name} | {figures} | {_area(tuned['namings'][point['naming']])} |"


def _area(naming: Mapping[str, Any]) -> str:
    return "–" if naming["area"] is None else f"{naming['area']:.4f}"
