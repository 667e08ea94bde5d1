"""The report as a table for a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from zs3.metrics import GROUPS
from zs3.report.error_split import TITLES, split_classes, split_sentence
from zs3.report.formats import interval, percent
from zs3.wording import number_of

_SEEN, _UNSEEN = "bold blue", "bold yellow"
_BAR_CELLS = 24


def summary(report: Mapping[str, Any], *, max_classes: int = 40) -> RenderableType:
    """Headline scores, diagnostics, and at most `max_classes` classes (the worst), for `rich` to print."""
    caveats = [Text(f"note: {note}", style="dim") for note in report["notes"]]
    if report["absent"]:
        caveats.append(Text(f"absent from the truth: {', '.join(report['absent'])}", style="dim"))
    split = report.get("error_split")
    sentence = [Text(split_sentence(split), style="dim")] if split else []
    return Group(
        Text(report["title"], style="bold"),
        Text(f"protocol {report['protocol']['name']}, {number_of(report['images'], 'image')}", style="dim"),
        "",
        _scores(report),
        *sentence,
        "",
        _classes(report, max_classes),
        *caveats,
    )


def _scores(report: Mapping[str, Any]) -> Table:
    """A row for the result, and one per oracle or other diagnostic."""
    table = Table(box=None, pad_edge=False)
    table.add_column("mIoU %")
    for key, style in zip(GROUPS, (_SEEN, _UNSEEN, "bold", ""), strict=True):
        table.add_column(key, justify="right", style=style)
    table.add_row("as labelled", *(percent(report[key]["miou"]) for key in GROUPS))
    if any(interval(report[key]) for key in GROUPS):
        table.add_row(
            Text("95 % interval", style="dim"),
            *(Text(interval(report[key]), style="dim") for key in GROUPS),
        )
    for entry in report["diagnostics"]:
        table.add_row(Text(entry["title"], style="dim"), *(percent(entry.get(key)) for key in GROUPS))
    return table


def _classes(report: Mapping[str, Any], max_classes: int) -> Table:
    """Classes that occur in the truth, best first, with bars, and how much of all counted pixels truly is the class and
    is labelled it."""
    present = [entry for entry in report["classes"] if entry["iou"] is not None]
    chosen = sorted(present, key=lambda entry: -entry["iou"])[-max_classes:]
    caption = (
        f"the {len(chosen)} worst of {number_of(len(present), 'class', 'classes')}"
        if len(chosen) < len(present)
        else None
    )
    table = Table(box=None, pad_edge=False, caption=caption, caption_justify="left")
    split = report.get("error_split")
    by_class = {name: ious[1:] for name, _, ious in split_classes(split)} if split else {}
    oracles = [title.lower() for title in list(TITLES.values())[1:]] if split else []
    for column in ("class", "group", "IoU %", *oracles, "", "true %", "labelled %"):
        table.add_column(column, justify="left" if column in ("class", "group", "") else "right")
    for entry in chosen:
        style = _SEEN if entry["seen"] else _UNSEEN
        bar = Text("█" * round(entry["iou"] * _BAR_CELLS / 100), style=style)
        table.add_row(
            Text(entry["name"]),
            Text("seen" if entry["seen"] else "unseen", style=style),
            percent(entry["iou"]),
            *map(percent, by_class.get(entry["name"], ())),
            bar,
            *(percent(100 * entry[part] / report["pixels"]) for part in ("pixels", "labelled")),
        )
    return table
