"""The report as Markdown."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from zs3.metrics import GROUPS
from zs3.report.details import confusion_rows, largest_mistakes, left_out, measures
from zs3.report.error_split import TITLES, split_classes, split_sentence
from zs3.report.formats import flattened, headline, interval, masks_word, percent
from zs3.wording import printable


def render(report: Mapping[str, Any]) -> str:
    """The whole of `report.json` in words and tables, without the pictures."""
    scores = [(key, percent(report[key]["miou"]), interval(report[key])) for key in GROUPS]
    scores.append(("pixel accuracy", percent(report["pixel_accuracy"]), ""))
    sections = [
        [f"# {_text(report['title'])}", "", headline(report)],
        _table(("score", "mIoU %", "95 % interval"), scores),
    ]
    if report["notes"]:
        sections.append(["## Read this first", "", *(f"- {_text(note)}" for note in report["notes"])])
    if report["diagnostics"]:
        sections.append(["## Where the points are", "", *_diagnostics(report)])
    if "error_split" in report:
        sections.append(_error_split(report["error_split"]))
    sections.append(["## Classes", "", *_classes(report)])
    sections.append([f"Absent from the truth: {', '.join(map(_text, report['absent'])) or 'none'}."])
    rows = [
        (name, *(percent(value) + (f" ({ends})" if ends else "") for value, ends in cells))
        for name, cells in measures(report)
    ]
    if rows:
        head = ("measure", *(f"{key} %" for key in GROUPS))
        sections.append(["## Every measure", "", *_table(head, rows)])
    matrix = confusion_rows(report["confusion"], {}) if "confusion" in report else None
    if matrix:
        sections.append(["## Largest mistakes", "", *_mistakes(matrix)])
    sections += [_left_out(*entry) for entry in left_out(report)]
    words = [f"- {_text(sentence)}" for sentence in report["protocol"]["words"]]
    sections.append([f"## Protocol `{report['protocol']['name']}`", "", *words])
    origin = [(key, _code(value)) for key, value in flattened(report["provenance"])]
    sections.append(["## Provenance", "", *_table(("what", "value"), origin)])
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def _diagnostics(report: Mapping[str, Any]) -> list[str]:
    """What-if scores."""
    rows = [
        (entry["title"], *(percent(entry.get(key)) for key in GROUPS), entry["note"])
        for entry in report["diagnostics"]
    ]
    return _table(("what if", "seen %", "unseen %", "harmonic %", "all %", "what it says"), rows)


def _error_split(split: Mapping[str, Any]) -> list[str]:
    """What each oracle would add to the headline, and IoU by class."""
    rows = [
        (name, "seen" if seen else _UNSEEN, *map(percent, ious)) for name, seen, ious in split_classes(split)
    ]
    head = ("class", "group", *(f"{title.lower()} %" for title in TITLES.values()))
    return [split_sentence(split), "", *_table(head, rows)]


def _mistakes(matrix: Mapping[str, Any]) -> list[str]:
    """Wrong labels, most pixels first."""
    rows = [
        (entry["truth"], entry["taken"], f"{entry['pixels']:,}", percent(entry["share"]))
        for entry in largest_mistakes(matrix)
    ]
    return _table(("true class", "called", "pixels", "of the class %"), rows)


def _left_out(title: str, count: int, entries: Sequence[tuple[str, str]]) -> list[str]:
    """Images that were not scored."""
    lines = [
        f"- {_text(image_id)}" + (f": {_text(reason)}" if reason else "") for image_id, reason in entries
    ]
    more = count - len(entries)
    return [f"## {title}: {count:,}", "", *lines, *([f"- and {more:,} more"] if more else [])]


def _classes(report: Mapping[str, Any]) -> list[str]:
    """Every class, in the order of the data set."""
    rows = [
        (
            entry["name"],
            "seen" if entry["seen"] else _UNSEEN,
            masks_word(entry),
            percent(entry["iou"]),
            interval(entry),
            percent(entry["accuracy"]),
            f"{entry['pixels']:,}",
        )
        for entry in report["classes"]
    ]
    return _table(
        ("class", "group", "training masks", "IoU %", "95 % interval", "accuracy %", "true pixels"), rows
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; columns of figures, recognised by % or pixels in their name, are aligned right."""
    rule = ["---:" if name.endswith(("%", "pixels")) else "---" for name in head]
    lines = [list(head), rule, *([_text(cell) for cell in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


class _Written(str):
    """Markdown of ours, not to be escaped."""


_UNSEEN = _Written("**unseen**")


def _text(value: str) -> str:
    """One line of plain text: it can neither end a table cell, nor be a link, a picture, HTML or emphasis."""
    if isinstance(value, _Written):
        return value
    return re.sub(r"[\\`*\[\]|]", r"\\\g<0>", printable(" ".join(value.split()))).replace("<", "&lt;")


def _code(value: str) -> str:
    """One line between backticks, in which only they and the ends of cells have a meaning."""
    text = printable(" ".join(value.split())).replace("`", "'").replace("|", "\\|").replace("<", "&lt;")
    return _Written(f"`{text}`")
