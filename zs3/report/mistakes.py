"""What was taken for what: the confusion matrix of a report as shares of each true class, and its largest mistakes."""

from collections.abc import Mapping
from typing import Any

LARGEST = 10
"""Mistakes that are told in words."""


def matrix(confusion: Mapping[str, Any], seen: Mapping[str, bool]) -> dict[str, Any] | None:
    """Rows of shares in percent, for people; none where no class is in any mistake.

    Args:
        confusion: `confusion` of `report.json`.
        seen: name of each class -> whether it is seen.

    Returns:
        `columns` (name, whether seen), the last one every other label together; `rows` (name, whether seen, pixels,
        cells), a cell with its share of the row, its pixels, and whether it is `right`; classes without true pixels
        have cells without a share.
    """
    names = confusion["classes"]
    if not names:
        return None
    rows = []
    for place, name in enumerate(names):
        counts = [*confusion["pixels"][place], confusion["other"][place]]
        total = sum(counts)
        cells = [
            {
                "share": 100 * pixels / total if total else None,
                "pixels": pixels,
                "right": column == place,
                "taken": names[column] if column < len(names) else "other",
            }
            for column, pixels in enumerate(counts)
        ]
        rows.append({"name": name, "seen": seen.get(name, True), "pixels": total, "cells": cells})
    return {"columns": [(name, seen.get(name, True)) for name in names], "rows": rows}


def largest(held: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The mistakes with most pixels: the true class, what it was taken for, pixels, and share of the true class.

    Args:
        held: as `matrix` gives it.
    """
    wrong = [
        {"truth": row["name"], **{key: cell[key] for key in ("taken", "pixels", "share")}}
        for row in held["rows"]
        for cell in row["cells"]
        if cell["pixels"] and not cell["right"]
    ]
    return sorted(wrong, key=lambda entry: -entry["pixels"])[:LARGEST]
