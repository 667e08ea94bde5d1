"""Rows that wait in a file instead of the driver's memory, and questions about all of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import pyarrow as pa

MEMORY = "256MB"
"""What a question may hold at once; the rest of a sort or a join goes through files."""


IDS_AT_ONCE = 16384
"""Rows of few and small columns that are held together."""


class SpillFile:
    """Rows of one schema, appended as they come, and asked about when all are there.

    Args:
        folder: existing folder for the rows, and for what questions leave on disk meanwhile; it is the caller's to
            remove.
        schema: of the rows.
        name: of the rows, in questions too; unique in the folder.
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
        """All rows, as they were appended, some at a time."""
        with self.reader() as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])

    def remove(self) -> None:
        """The rows are no longer needed."""
        self.finish()
        self._path.unlink()

    def column(self, question: str, *values: Any) -> Iterator[str]:
        """The answer to a question that is one column, value by value."""
        for table in self.stream(question, *values, rows_at_once=IDS_AT_ONCE):
            yield from table.column(0).to_pylist()

    def finish(self) -> None:
        """No more rows come."""
        if not self._file.closed:
            self._stream.close()
            self._file.close()

    @contextmanager
    def reader(self) -> Iterator[pa.RecordBatchReader]:
        """All rows, as they were appended, as a stream."""
        self.finish()
        # Not mapped: pages that were read would count as memory of the process.
        with pa.OSFile(str(self._path), "rb") as file:
            yield pa.ipc.open_stream(file)

    def stream(
        self,
        question: str,
        *values: Any,
        rows_at_once: int = 512,
        beside: Sequence[SpillFile] = (),
        **named: Any,
    ) -> Iterator[pa.Table]:
        """The answer to a question, some rows at a time.

        Args:
            question: SQL of DuckDB about the rows by their name, which it may name once; `?` stands for the values in
                turn, or `$name` for named ones.
            rows_at_once: in each table but the last.
            beside: further rows that the question names.
        """
        settings: dict[str, Any] = {
            "memory_limit": MEMORY,
            "temp_directory": str(self._folder),
            "threads": 1,
        }
        with ExitStack() as stack:
            connection = stack.enter_context(duckdb.connect(config=settings))
            for held in (self, *beside):
                connection.register(held._name, stack.enter_context(held.reader()))
            answer: Any = connection.sql(question, params=named or list(values)).to_arrow_reader(rows_at_once)
            for batch in answer:
                yield pa.Table.from_batches([batch])

    def ask(self, question: str, *values: Any, **named: Any) -> list[dict[str, Any]]:
        """The answer to a question that has few rows."""
        return [row for table in self.stream(question, *values, **named) for row in table.to_pylist()]

    def repeated(self, column: str, most: int) -> list[str]:
        """Some values, in order, that a column holds more than once; empty ones are passed over."""
        question = (
            f"select {column} as value from {self._name} where {column} <> '' "
            f"group by all having count(*) > 1 order by all limit {most}"
        )
        return [row["value"] for row in self.ask(question)]
