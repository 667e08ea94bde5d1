"""Rows in order of their ids, however many: cut into ranges of ids that fit into memory, each sorted by itself.

DuckDB sorts ids alone, and does that through files where they are many. Of rows that hold lists it does not let go:
with 256 MB it gave up at some 400,000 rows of `scores`.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.storage.spill import SpillFile

ROWS_IN_RANGE = 4096
"""Rows that are sorted at once; of `scores` some 10 MB."""

MAX_RANGES = 256
"""Files that are open at once; beyond a million rows, ranges grow instead."""

ROWS_AT_ONCE = 2048
"""Rows that are dealt out together, so that ranges do not get them one by one."""


def sorted_rows(
    tables: Iterable[pa.Table],
    ids: Iterable[str],
    folder: Path,
    schema: pa.Schema,
    name: str,
    *,
    count: int,
    rows_in_range: int = ROWS_IN_RANGE,
    rows_at_once: int,
) -> SpillFile:
    """The rows by `image_id`.

    Args:
        tables: the rows, some at a time, in any order.
        ids: their ids, in order.
        folder: existing folder for files; it is the caller's to remove.
        schema: of the rows.
        name: of the sorted rows.
        count: how many there are.
        rows_in_range: rows that are sorted at once, or more where there would be more than `MAX_RANGES` ranges.
        rows_at_once: in each table of the outcome but the last of a range.
    """
    rows_in_range = max(rows_in_range, -(-count // MAX_RANGES))
    ends = [image_id for place, image_id in enumerate(ids, 1) if place % rows_in_range == 0]
    ranges = [SpillFile(folder, schema, f"{name}-{number}") for number in range(len(ends) + 1)]
    for table in _larger(tables):
        places = np.array([bisect.bisect_left(ends, one) for one in table["image_id"].to_pylist()])
        for number in np.unique(places).tolist():
            ranges[number].write(table.filter(pa.array(places == number)).cast(schema))
    ordered = SpillFile(folder, schema, name)
    for held in ranges:
        rows = pa.concat_tables([schema.empty_table(), *held.tables()]).combine_chunks()
        held.remove()
        order = pc.sort_indices(rows["image_id"])
        for start in range(0, rows.num_rows, rows_at_once):
            ordered.write(rows.take(order.slice(start, rows_at_once)))
    ordered.finish()
    return ordered


def _larger(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of at least `ROWS_AT_ONCE`, the last maybe smaller."""
    waiting: list[pa.Table] = []
    rows = 0
    for table in tables:
        waiting.append(table)
        rows += table.num_rows
        if rows >= ROWS_AT_ONCE:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting, rows = [], 0
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()
