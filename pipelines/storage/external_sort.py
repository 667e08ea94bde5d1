"""Sorting any number of rows by image id: the rows are split into ranges of ids that fit into memory.

DuckDB sorts the ids alone, on disk where they are many. It cannot sort rows with lists on disk: with 256 MB it gave up
at about 400,000 rows of `scores`.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.storage.spill import SpillFile

ROWS_IN_RANGE = 4096
"""Rows that are sorted at once; about 10 MB of `scores`."""

MAX_RANGES = 256
"""Files that are open at the same time; beyond a million rows, ranges grow instead."""

ROWS_AT_ONCE = 2048
"""Rows that are written together, so that ranges do not get them one by one."""


def range_ends(ids: Iterable[str], count: int, rows_in_range: int = ROWS_IN_RANGE) -> list[str]:
    """The last id of each range but the last, for `SortedSpill`.

    Args:
        ids: those that rows may have, in order.
        count: how many there are.
        rows_in_range: ids in a range, or more where there would be more than `MAX_RANGES` ranges.
    """
    rows_in_range = max(rows_in_range, -(-count // MAX_RANGES))
    return [image_id for number, image_id in enumerate(ids, 1) if number % rows_in_range == 0]


class SortedSpill:
    """Rows of one schema, appended as they come, and read back in order of `image_id`.

    Args:
        folder: existing folder for the rows; the caller removes it.
        schema: of the rows, with a column `image_id`.
        name: of the rows; unique in the folder.
        ends: the last id of each range but the last, in order; they bound what is in memory, and change no order.
    """

    def __init__(self, folder: Path, schema: pa.Schema, name: str, ends: Sequence[str]) -> None:
        self.schema, self._ends = schema, ends
        self._ranges = [SpillFile(folder, schema, f"{name}-{number}") for number in range(len(ends) + 1)]
        self._pending: list[pa.Table] = []

    def write(self, rows: pa.Table) -> None:
        """Append rows, which are cast to the schema."""
        self._pending.append(rows)
        if sum(table.num_rows for table in self._pending) >= ROWS_AT_ONCE:
            self._distribute()

    def _distribute(self) -> None:
        """Write the pending rows to the files of their ranges."""
        rows = pa.concat_tables(self._pending).combine_chunks().cast(self.schema)
        self._pending = []
        numbers = np.array(
            [bisect.bisect_left(self._ends, image_id) for image_id in rows["image_id"].to_pylist()]
        )
        for number in np.unique(numbers).tolist():
            self._ranges[number].write(rows.filter(pa.array(numbers == number)))

    def tables(self, rows_at_once: int) -> Iterator[pa.Table]:
        """All rows in order; `rows_at_once` in each table but the last of a range. No more rows can be written."""
        if self._pending:
            self._distribute()
        for part in self._ranges:
            rows = pa.concat_tables([self.schema.empty_table(), *part.tables()]).combine_chunks()
            order = pc.sort_indices(rows["image_id"])
            for start in range(0, rows.num_rows, rows_at_once):
                yield rows.take(order.slice(start, rows_at_once))
