"""The report as Markdown: for a pull request, a README, or a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from zs3.report import SCORE_KEYS, flat, headline, interval, shown
from zs3.report.error_split import TITLES, split_classes, split_sentence
from zs3.report.left_out import left_out
from zs3.report.measures import measured
from zs3.report.mistakes import largest, matrix


def render(report: Mapping[str, Any]) -> str:
    """The whole of `report.json` in words and tables, without the pictures."""
    scores = [(key, shown(report[key]["miou"]), interval(report[key])) for key in SCORE_KEYS]
    scores.append(("pixel accuracy", shown(report["pixel_accuracy"]), ""))
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
    measures = [
        (what, *(shown(value) + (f" ({ends})" if ends else "") for value, ends in cells))
        for what, cells in measured(report)
    ]
    if measures:
        head = ("measure", *(f"{key} %" for key in SCORE_KEYS))
        sections.append(["## Every measure", "", *_table(head, measures)])
    mistakes = matrix(report["confusion"], {}) if "confusion" in report else None
    if mistakes:
        sections.append(["## Largest mistakes", "", *_mistakes(mistakes)])
    sections += [_left_out(*entry) for entry in left_out(report)]
    words = [f"- {_text(sentence)}" for sentence in report["protocol"]["words"]]
    sections.append([f"## Protocol `{report['protocol']['name']}`", "", *words])
    origin = [(key, f"`{value}`") for key, value in flat(report["provenance"])]
    sections.append(["## Provenance", "", *_table(("what", "value"), origin)])
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def _diagnostics(report: Mapping[str, Any]) -> list[str]:
    """What-if scores."""
    rows = [
        (entry["title"], *(shown(entry.get(key)) for key in SCORE_KEYS), entry["note"])
        for entry in report["diagnostics"]
    ]
    return _table(("what if", "seen %", "unseen %", "harmonic %", "all %", "what it says"), rows)


def _error_split(split: Mapping[str, Any]) -> list[str]:
    """What each oracle would add, in all and by class."""
    rows = [
        (name, "seen" if seen else "**unseen**", *map(shown, ious))
        for name, seen, ious in split_classes(split)
    ]
    head = ("class", "group", *(f"{title.lower()} %" for title in TITLES.values()))
    return [split_sentence(split), "", *_table(head, rows)]


def _mistakes(held: Mapping[str, Any]) -> list[str]:
    """What was taken for what, most pixels first."""
    rows = [
        (entry["truth"], entry["taken"], f"{entry['pixels']:,}", shown(entry["share"]))
        for entry in largest(held)
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
            "seen" if entry["seen"] else "**unseen**",
            shown(entry["iou"]),
            interval(entry),
            shown(entry["accuracy"]),
            f"{entry['pixels']:,}",
        )
        for entry in report["classes"]
    ]
    return _table(("class", "group", "IoU %", "95 % interval", "accuracy %", "true pixels"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; columns of figures, known by % or pixels in their name, are set to the right."""
    rule = ["---:" if name.endswith(("%", "pixels")) else "---" for name in head]
    lines = [list(head), rule, *([_text(cell) for cell in row] for row in rows)]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _text(value: str) -> str:
    """On one line, and unable to end a table cell or to start HTML."""
    return " ".join(value.split()).replace("|", "\\|").replace("<", "&lt;")
