"""A tuning run for people: the seen-unseen trade-off as a picture, and the whole in Markdown."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zs3.report import shown

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
    shown_first, shown_last = namings[tuned["current"]["naming"]], namings[tuned["best"]["naming"]]
    for held in namings:
        if held not in (shown_first, shown_last):
            _line(axes, held["curve"], color=LINE, linewidth=0.9, zorder=1)
    others = len(namings) - (1 if shown_first == shown_last else 2)
    if others:
        axes.plot([], [], color=LINE, label=f"{others} other namings")
    kinds = [(shown_first, BLUE, "current naming")]
    if shown_last != shown_first:
        kinds.append((shown_last, ORANGE, "best naming"))
    for held, colour, name in kinds:
        area = "–" if held["area"] is None else f"{held['area']:.3f}"
        _line(axes, held["curve"], color=colour, linewidth=2.2, zorder=3, label=f"{name}, area {area}")
    marks = [("current", BLUE, "o", "current settings"), ("best", ORANGE, "D", "best harmonic mean")]
    for which, colour, marker, name in marks:
        one = tuned[which]
        if one["seen"] is None or one["unseen"] is None:
            continue
        axes.plot(
            one["seen"],
            one["unseen"],
            marker=marker,
            markersize=9,
            color=colour,
            markeredgecolor="white",
            linestyle="none",
            zorder=5,
            label=f"{name}: {shown(one['harmonic'])} at γ = {one['calibration']:g}",
        )
    right, top = (
        min(101.5, 1.04 * max(limits[1], 1.0)) for limits in (axes.get_xlim(), axes.get_ylim())
    )  # a whole marker at 100 %
    _harmonic_lines(axes, right, top)
    axes.set_xlim(0, right)
    axes.set_ylim(0, top)
    axes.set_xlabel("seen mIoU, %", color=INK)
    axes.set_ylabel("unseen mIoU, %", color=INK)
    axes.set_title(
        f"Seen-unseen trade-off on {tuned['tuned_on']['title']}, {tuned['tuned_on']['dataset']['images']} images",
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
    """One trade-off; points without a number are left out."""
    points = [one for one in curve if one["seen"] is not None and one["unseen"] is not None]
    axes.plot([one["seen"] for one in points], [one["unseen"] for one in points], **style)


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
        command: that names with the tuned settings.
    """
    told, current, best = tuned["tuned_on"], tuned["current"], tuned["best"]
    changes = ", ".join(f"`{key}` {value}" for key, value in tuned["settings"].items())
    lines = [
        f"# Naming settings tuned on {told['title']}",
        "",
        f"{told['settings_tried']} settings ({told['namings_tried']} ways of naming under {told['gammas_tried']} γ) on "
        f"{told['dataset']['images']} images, protocol `{told['protocol']}`. Scores of these images say how well the "
        "settings fit; score them on another split.",
        "",
        "| | seen % | unseen % | harmonic % | area under the trade-off |",
        "| --- | ---: | ---: | ---: | ---: |",
        _row("current settings", current, tuned),
        _row("best harmonic mean", best, tuned),
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
    ranked = sorted(
        tuned["namings"], key=lambda held: -(held["best"]["harmonic"] or 0.0)
    )  # sorting keeps the order of equals
    for held in ranked:
        one = held["best"]
        lines.append(
            f"| {_words(held['settings'])} | {one['calibration']:g} | {shown(one['seen'])} | {shown(one['unseen'])} | "
            f"{shown(one['harmonic'])} | {_area(held)} |"
        )
    return "\n".join(lines) + "\n"


def _row(name: str, one: Mapping[str, Any], tuned: Mapping[str, Any]) -> str:
    """One point."""
    figures = " | ".join(shown(one[key]) for key in ("seen", "unseen", "harmonic"))
    return f"| {name} | {figures} | {_area(tuned['namings'][one['naming']])} |"


def _area(held: Mapping[str, Any]) -> str:
    return "–" if held["area"] is None else f"{held['area']:.4f}"


def _words(settings: Mapping[str, Any]) -> str:
    """What a naming changes."""
    return ", ".join(f"{key} {value}" for key, value in settings.items()) or "the checkpoint's own"
