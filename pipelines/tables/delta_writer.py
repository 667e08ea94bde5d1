"""Tables under a Delta Lake log: tasks write Parquet files, the driver alone makes them part of a table.

A file counts only once the log names it, so readers always see whole commits, a killed task or driver leaves
nothing but invisible files (`vacuum` removes them), and a task that runs twice adds nothing twice: the driver
commits only what it received. Each commit carries the next number of its run; of two drivers that write the
same run at once, the second to commit is refused. Rows that make way for others leave in the transaction that
brings these.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from pipelines.storage.objects import describe_error, read_bytes, storage_options, with_retries
from pipelines.tables.delta_reader import (
    KEYS,
    data_files,
    difference,
    existing_table,
    files_of,
    read_data_file,
    schema_name,
    table_folder,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """One Parquet file that a task wrote and the driver has yet to commit."""

    path: str
    """Relative to the table."""
    size: int
    """In bytes."""
    rows: int
    stats: str
    """Delta statistics as JSON: rows, and least and greatest value of the plain columns."""


def write_data_file(folder: str, rows: pa.Table) -> DataFile:
    """Write rows as one new Parquet file of a table; it appears whole or not at all, and under a name of its
    own.

    Args:
        folder: path or uri of the table.
        rows: at least one row, in the table's schema.
    """
    name = f"part-{uuid.uuid4().hex}.parquet"
    buffer = pa.BufferOutputStream()
    pq.write_table(rows, buffer, compression="zstd")
    content = buffer.getvalue()
    if "://" in folder:
        with_retries(lambda: _put(f"{folder}/{name}", content), folder)
    else:
        hidden = Path(folder) / f".{name}"
        hidden.write_bytes(memoryview(content))
        hidden.replace(Path(folder) / name)
    return DataFile(path=name, size=content.size, rows=rows.num_rows, stats=_stats(rows))


def _put(uri: str, content: pa.Buffer) -> None:
    """One object of an object store; it appears whole or not at all."""
    with fsspec.open(uri, "wb") as file:
        file.write(memoryview(content))


def open_table(
    uri: str, schema: pa.Schema, provenance: Mapping[str, Any], *, replace: bool = False
) -> DeltaTable:
    """The table at `uri`, created if there is none, for a run of this provenance.

    Args:
        uri: local path or uri.
        schema: one of `zs3.tables`; its name is the table's.
        provenance: JSON values; those under `run` must equal what the table commit_metadata, all else is for
            information.
        replace: start a new, empty version of a table that is of another run, in one transaction; the old one stays
            readable by its version.

    Raises:
        ValueError: the table is of another run (the differing parts are named) and is not to be replaced, is no table
            of this kind, or cannot be made there.
    """
    table = existing_table(uri)
    if table is not None:
        other = difference(table, schema, provenance)
        if not other:
            return table
        if not replace:
            raise ValueError(other)

    def created() -> DeltaTable:
        try:
            return DeltaTable.create(
                uri,
                _delta_schema(schema),
                name=schema_name(schema),
                description=json.dumps(provenance, ensure_ascii=False, sort_keys=True),
                mode="error" if table is None else "overwrite",
                storage_options=storage_options(uri),
            )
        except (DeltaError, OSError):
            there = existing_table(uri)  # a passing error may have swallowed the answer alone
            if there is None or difference(there, schema, provenance):
                raise
            return there

    try:
        return with_retries(created, uri)
    except (DeltaError, OSError) as error:
        raise ValueError(
            f"cannot create the table {uri}: {describe_error(error)}; is the folder writable?"
        ) from error


def publish(
    table: DeltaTable,
    schema: pa.Schema,
    parts: Sequence[DataFile],
    *,
    run: str,
    written_ms: int,
    replaced: Collection[str] = (),
    commit_metadata: Mapping[str, Any] | None = None,
) -> None:
    """Make files part of the table, all in one transaction; does nothing without files and without rows to take out.

    Args:
        table: as of the last commit that this process made or saw.
        schema: the table's.
        parts: files that `write_data_file` wrote below it.
        run: digest of the run; it numbers its commits.
        written_ms: the time to record, in milliseconds since 1970.
        replaced: ids of images whose earlier rows leave in the same transaction.
        commit_metadata: JSON values that the log keeps with this commit.

    Raises:
        ValueError: another driver has committed to this run meanwhile, or storage refuses.
    """
    removed, kept = _without(table, schema, frozenset(replaced)) if replaced else ([], [])
    if parts or removed:
        _commit(table, schema, [*kept, *parts], removed, run, written_ms, commit_metadata or {})


def commit_start(table: DeltaTable, schema: pa.Schema, run: str, commit_metadata: Mapping[str, Any]) -> None:
    """Put a word into the log, without a file: a run has begun.

    Raises:
        ValueError: as of `publish`.
    """
    _commit(table, schema, [], [], run, 0, commit_metadata)


def rewrite(table: DeltaTable, schema: pa.Schema, rows: pa.Table, *, run: str, written_ms: int) -> None:
    """Make these the only rows of a table, in one transaction.

    Raises:
        ValueError: as of `publish`.
    """
    parts = [write_data_file(table_folder(table), rows)] if rows.num_rows else []
    removed = data_files(table)
    if parts or removed:
        _commit(table, schema, parts, removed, run, written_ms, {})


def _commit(
    table: DeltaTable,
    schema: pa.Schema,
    parts: Sequence[DataFile],
    removed: Sequence[tuple[str, int]],
    run: str,
    written_ms: int,
    commit_metadata: Mapping[str, Any],
) -> None:
    """One transaction that adds and removes files."""
    changes: list[AddAction | RemoveAction] = [
        RemoveAction(path, True, written_ms, size, {}) for path, size in removed
    ]
    changes += [
        AddAction(
            path=part.path,
            size=part.size,
            partition_values={},
            modification_time=written_ms,
            data_change=True,
            stats=part.stats,
        )
        for part in parts
    ]
    mark, before = uuid.uuid4().hex, table.version()

    def committed() -> None:
        try:
            turn = Transaction(run, (table.transaction_version(run) or 0) + 1)
            table.create_write_transaction(
                changes,
                "append",
                _delta_schema(schema),
                commit_properties=CommitProperties(
                    custom_metadata={"run": run, "mark": mark, **commit_metadata}, app_transactions=[turn]
                ),
            )
        except (DeltaError, OSError):
            # A passing error may have swallowed the answer alone; the same commit made again would be refused.
            if not _landed(table, mark, before):
                raise
        table.update_incremental()

    try:
        with_retries(committed, table_folder(table))
    except CommitFailedError as error:
        raise ValueError(
            f"another process is writing the same run to {table.table_uri} ({describe_error(error)}); "
            f"let one of them finish, then run this again: it continues where they stopped"
        ) from error
    except (DeltaError, OSError) as error:
        raise ValueError(
            f"cannot write to {table.table_uri}: {describe_error(error)}; run again once it is writable"
        ) from error


def _landed(table: DeltaTable, mark: str, after: int) -> bool:
    """Whether a commit that was answered with an error is in the log all the same.

    Its files are read here: the Delta library has waited for ever for a history whose connection was cut.

    Args:
        after: version of the table before the commit.
    """
    log = f"{table.table_uri.removeprefix('file://').rstrip('/')}/_delta_log"
    try:
        while mark.encode() not in read_bytes(f"{log}/{(after := after + 1):020}.json"):
            pass
    except OSError:  # no such version, or none that can be read
        return False
    return True


def _without(
    table: DeltaTable, schema: pa.Schema, ids: frozenset[str]
) -> tuple[list[tuple[str, int]], list[DataFile]]:
    """Files that hold rows of these images, and new files with their other rows."""
    removed, kept = [], []
    folder = table_folder(table)
    sizes = dict(data_files(table))
    for path in files_of(table, [(image_id, image_id) for image_id in sorted(ids)]):
        rows = read_data_file(f"{folder}/{path}")
        # Value by value: Arrow cannot filter the string views of files that a Delta delete has rewritten.
        stays = [image_id not in ids for image_id in rows["image_id"].to_pylist()]
        if all(stays):
            continue
        removed.append((path, sizes[path]))
        if any(stays):
            kept.append(write_data_file(folder, rows.cast(schema).filter(pa.array(stays))))
    return removed, kept


def _delta_schema(schema: pa.Schema) -> Schema:
    """The same columns in Delta's own types, which know no large binary."""
    return Schema.from_arrow(schema)


def _stats(rows: pa.Table) -> str:
    """Delta statistics of the columns that readers filter by."""
    least: dict[str, Any] = {}
    greatest: dict[str, Any] = {}
    for name in [name for name in (*KEYS, "class_id", "class_name", "stage") if name in rows.column_names]:
        bounds = pc.min_max(rows[name]).as_py()
        least[name], greatest[name] = bounds["min"], bounds["max"]
    nulls = {name: 0 for name in least}
    return json.dumps(
        {"numRecords": rows.num_rows, "minValues": least, "maxValues": greatest, "nullCount": nulls}
    )
