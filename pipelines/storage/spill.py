"""Rows in a file instead of the driver's memory, and SQL queries over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import pyarrow as pa

MEMORY = "256MB"
"""Memory of a query; sorts and joins that need more continue on disk."""

IDS_AT_ONCE = 16384
"""Rows of few and small columns that are in memory together."""


class SpillFile:
    """Rows of one schema that are appended, then read or queried.

    Args:
        folder: existing folder for the rows and for temporary files of queries; the caller removes it.
        schema: of the rows.
        name: of the rows in queries, and of the file; unique in the folder.
    """

    def __init__(self, folder: Path, schema: pa.Schema, name: str = "rows") -> None:
        self._folder, self._name = folder, name
        self._path = folder / f"{name}.arrow"
        self._file = pa.OSFile(str(self._path), "wb")
        self._stream = pa.ipc.new_stream(self._file, schema)

    def __enter__(self) -> SpillFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    def write(self, rows: pa.Table) -> None:
        """Append rows."""
        self._stream.write_table(rows)

    def tables(self) -> Iterator[pa.Table]:
        """All rows in the order of appending, in tables of limited size."""
        with self.reader() as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])

    def column(self, sql: str, *values: Any) -> Iterator[str]:
        """The values of a query with one column."""
        for table in self.stream(sql, *values, rows_at_once=IDS_AT_ONCE):
            yield from table.column(0).to_pylist()

    def finish(self) -> None:
        """Close the file for appending."""
        if not self._file.closed:
            self._stream.close()
            self._file.close()

    @contextmanager
    def reader(self) -> Iterator[pa.RecordBatchReader]:
        """All rows in the order of appending, as a stream."""
        self.finish()
        # Not memory-mapped: pages that were read would count as memory of the process.
        with pa.OSFile(str(self._path), "rb") as file:
            yield pa.ipc.open_stream(file)

    def stream(
        self,
        sql: str,
        *values: Any,
        rows_at_once: int = 512,
        joined_with: Sequence[SpillFile] = (),
        **named: Any,
    ) -> Iterator[pa.Table]:
        """The result of a query, in tables of limited size.

        Args:
            sql: a query of DuckDB; it may use the name of the rows once. `?` stands for the values in turn, or
                `$name` for named values.
            rows_at_once: in each table except the last.
            joined_with: further rows that the query uses.
        """
        settings: dict[str, Any] = {
            "memory_limit": MEMORY,
            "temp_directory": str(self._folder),
            "threads": 1,
        }
        with ExitStack() as stack:
            connection = stack.enter_context(duckdb.connect(config=settings))
            for rows in (self, *joined_with):
                connection.register(rows._name, stack.enter_context(rows.reader()))
            answer: Any = connection.sql(sql, params=named or list(values)).to_arrow_reader(rows_at_once)
            for batch in answer:
                yield pa.Table.from_batches([batch])

    def query(self, sql: str, *values: Any, **named: Any) -> list[dict[str, Any]]:
        """The result of a query with few rows."""
        return [row for table in self.stream(sql, *values, **named) for row in table.to_pylist()]

    def repeated(self, column: str, limit: int) -> list[str]:
        """The first values, sorted, that a column contains more than once; empty values do not count."""
        sql = (
            f"select {column} as value from {self._name} where {column} <> '' "
            f"group by all having count(*) > 1 order by all limit {limit}"
        )
        return [row["value"] for row in self.query(sql)]
