"""Writing Delta Lake tables: tasks write Parquet files, and only the driver commits them to the log.

A file counts only when the log lists it. So readers always see whole commits, a killed task or driver leaves only
files without a commit (a full vacuum removes them), and a task that runs twice adds its rows once: the driver commits
only what it received. Each commit has the next number of its run; if two drivers write the same run at the same time,
the second commit is refused. Rows that are replaced are removed in the transaction that adds the new ones.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from pipelines.storage.atomic import renamed_when_whole, write_whole
from pipelines.storage.objects import describe_error, read_bytes, storage_options, with_retries
from pipelines.tables.damage import ACTIONS, entry_name
from pipelines.tables.delta_reader import (
    KEYS,
    data_files,
    delta_uri,
    difference,
    existing_table,
    file_uri,
    files_of,
    read_data_file,
    schema_name,
    table_folder,
)
from zs3.files import filesystem_of


class ConflictError(ValueError):
    """Another process has committed to the same run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """A Parquet file that a task wrote and that the driver has not committed yet."""

    path: str
    """Relative to the table."""
    size: int
    """In bytes."""
    rows: int
    stats: str
    """Delta statistics as JSON: number of rows, and minimum and maximum of some columns."""


def write_data_file(folder: str, rows: pa.Table) -> DataFile:
    """Write rows as a new Parquet file with a unique name, which appears whole or not at all.

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
        # Not a hidden name: Delta's vacuum leaves hidden files alone.
        with renamed_when_whole(Path(folder, f"{name}.tmp"), Path(folder, name)) as file:
            file.write(memoryview(content))
    return DataFile(path=name, size=content.size, rows=rows.num_rows, stats=_stats(rows))


def _put(uri: str, content: pa.Buffer) -> None:
    """Write an object, which appears whole or not at all."""
    filesystem, path = filesystem_of(uri)
    with filesystem.open(path, "wb") as file:
        file.write(memoryview(content))


def open_table(
    uri: str, schema: pa.Schema, provenance: Mapping[str, Any], *, replace: bool = False
) -> DeltaTable:
    """The table at `uri` for a run with this provenance; created if there is none.

    Args:
        uri: local path or uri.
        schema: one of `zs3.tables`; its name is the table's.
        provenance: JSON values; those under `run` must equal those of the table, all others are for
            information.
        replace: if the table is of another run, start a new, empty version in one transaction; the old version stays
            readable by its number.

    Raises:
        ValueError: the table is of another run (the message names the differing parts) and `replace` is not set, it is
            another kind of table, or it cannot be created.
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
                delta_uri(uri),
                _delta_schema(schema),
                name=schema_name(schema),
                description=json.dumps(provenance, ensure_ascii=False, sort_keys=True),
                mode="error" if table is None else "overwrite",
                storage_options=storage_options(uri),
            )
        except (DeltaError, OSError):
            there = existing_table(uri)  # a transient error may have lost only the answer
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
    """Add files to the table and remove replaced rows in one transaction; does nothing if there are neither.

    Args:
        table: at the last commit that this process made or read.
        schema: the table's.
        parts: files that `write_data_file` wrote for it.
        run: digest of the run, whose commits are numbered.
        written_ms: time of the commit, in milliseconds since 1970.
        replaced: ids of images whose earlier rows are removed.
        commit_metadata: JSON values that the log stores with this commit.

    Raises:
        ConflictError: another driver has committed to this run.
        ValueError: the storage cannot be written to.
    """
    removed, kept = _without(table, schema, frozenset(replaced)) if replaced else ([], [])
    if parts or removed:
        _commit(table, schema, [*kept, *parts], removed, run, written_ms, commit_metadata or {})


def commit_entry(table: DeltaTable, schema: pa.Schema, run: str, commit_metadata: Mapping[str, Any]) -> None:
    """Write an entry without files to the log, such as the one with which a run begins.

    Raises:
        ConflictError, ValueError: as of `publish`.
    """
    _commit(table, schema, [], [], run, 0, commit_metadata)


def drop_files(
    table: DeltaTable,
    paths: Collection[str],
    *,
    run: str,
    written_ms: int,
    commit_metadata: Mapping[str, Any],
) -> None:
    """Remove files from the log in one transaction, whether or not they are there.

    Raises:
        ConflictError, ValueError: as of `publish`.
    """
    removed = [(path, size) for path, size in data_files(table) if path in paths]
    _commit(table, pa.schema(table.schema()), [], removed, run, written_ms, commit_metadata)


def replace_broken_entries(uri: str, versions: Collection[int], *, written_ms: int) -> None:
    """Copy entries of the log to the folder `_damaged` of the table, and put entries without content in their place.

    Where the first of all is broken, which describes the table, nothing can be read: then the whole log is moved there.

    Raises:
        ValueError: they cannot be written.
    """
    log = f"{uri}/_delta_log"
    filesystem, path = filesystem_of(log)
    filesystem.invalidate_cache(path)
    names = [entry_name(version) for version in versions]
    if 0 in versions:
        names = [str(name).rpartition("/")[2] for name in filesystem.ls(path, detail=False)]
    content = json.dumps({"commitInfo": {"timestamp": written_ms, "operation": "REPAIR"}}) + "\n"
    for name in names:
        write_whole(f"{uri}/_damaged/{name}", read_bytes(f"{log}/{name}"))
        if 0 in versions:
            filesystem.rm_file(f"{path}/{name}")
        else:
            write_whole(f"{log}/{name}", content.encode())


def move_checkpoints(uri: str, names: Collection[str]) -> None:
    """Move checkpoints of the log to the folder `_damaged` of the table, so that it is read without them."""
    filesystem, path = filesystem_of(f"{uri}/_delta_log")
    filesystem.invalidate_cache(path)
    for name in names:
        write_whole(f"{uri}/_damaged/{name}", read_bytes(f"{uri}/_delta_log/{name}"))
        filesystem.rm_file(f"{path}/{name}")
    if names and filesystem.exists(f"{path}/_last_checkpoint"):  # a hint, which may name one of them
        filesystem.rm_file(f"{path}/_last_checkpoint")


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
    """Add and remove files in one transaction."""
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
                    custom_metadata={"run": run, "mark": mark, ACTIONS: len(changes), **commit_metadata},
                    app_transactions=[turn],
                ),
            )
        except (DeltaError, OSError):
            # A transient error may have lost only the answer; the same commit again would be refused.
            if not _landed(table, mark, before):
                raise
        table.update_incremental()

    try:
        with_retries(committed, table_folder(table))
    except CommitFailedError as error:
        raise ConflictError(
            f"another process is writing the same run to {table_folder(table)} ({describe_error(error)}); "
            f"let one of them finish, then run this again: it continues where they stopped"
        ) from error
    except (DeltaError, OSError) as error:
        raise ValueError(
            f"cannot write to {table_folder(table)}: {describe_error(error)}; run again once it is writable"
        ) from error


def _landed(table: DeltaTable, mark: str, after: int) -> bool:
    """Whether the log contains a commit whose answer was an error.

    The log files are read directly, because the Delta library can wait forever when its connection is cut.

    Args:
        after: version of the table before the commit.
    """
    log = f"{table_folder(table)}/_delta_log"
    try:
        while mark.encode() not in read_bytes(f"{log}/{(after := after + 1):020}.json"):
            pass
    except OSError:  # no such version, or none that can be read
        return False
    return True


def _without(
    table: DeltaTable, schema: pa.Schema, ids: frozenset[str]
) -> tuple[list[tuple[str, int]], list[DataFile]]:
    """Path and size of the files that contain rows of these images, and new files with their other rows."""
    removed, kept = [], []
    folder = table_folder(table)
    sizes = dict(data_files(table))
    for path in files_of(table, [(image_id, image_id) for image_id in sorted(ids)]):
        rows = read_data_file(file_uri(folder, path))
        # As a list: Arrow cannot filter the string views of files that a Delta delete has rewritten.
        keep = [image_id not in ids for image_id in rows["image_id"].to_pylist()]
        if all(keep):
            continue
        removed.append((path, sizes[path]))
        if any(keep):
            kept.append(write_data_file(folder, rows.cast(schema).filter(pa.array(keep))))
    return removed, kept


def _delta_schema(schema: pa.Schema) -> Schema:
    """The same columns in Delta's own types; Delta has no large binary."""
    return Schema.from_arrow(schema)


def _stats(rows: pa.Table) -> str:
    """Delta statistics of the columns by which readers filter."""
    min_values: dict[str, Any] = {}
    max_values: dict[str, Any] = {}
    for name in [name for name in (*KEYS, "class_id", "class_name", "stage") if name in rows.column_names]:
        bounds = pc.min_max(rows[name]).as_py()
        min_values[name], max_values[name] = bounds["min"], bounds["max"]
    nulls = {name: 0 for name in min_values}
    return json.dumps(
        {"numRecords": rows.num_rows, "minValues": min_values, "maxValues": max_values, "nullCount": nulls}
    )
