"""Tables under a Delta Lake log: tasks write Parquet files, the driver alone makes them part of a table.

A file counts only once the log names it, so readers always see whole commits, a killed task or driver leaves
nothing but invisible files (`vacuum` removes them), and a task that runs twice adds nothing twice: the driver
commits only what it received. Each commit carries the next number of its run; of two drivers that write the
same run at once, the second to commit is refused.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

IDS_PER_DELETE = 1000
"""Ids in one delete, which names them all in its predicate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One Parquet file that a task wrote and the driver has yet to commit."""

    path: str
    """Relative to the table."""
    size: int
    """In bytes."""
    rows: int
    stats: str
    """Delta statistics as JSON: rows, and least and greatest value of the plain columns."""


def write_part(folder: str, rows: pa.Table) -> Part:
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
        with fsspec.open(f"{folder}/{name}", "wb") as file:
            file.write(memoryview(content))
    else:
        hidden = Path(folder) / f".{name}"
        hidden.write_bytes(memoryview(content))
        hidden.replace(Path(folder) / name)
    return Part(path=name, size=content.size, rows=rows.num_rows, stats=_stats(rows))


def open_table(uri: str, schema: pa.Schema, provenance: Mapping[str, Any]) -> DeltaTable:
    """The table at `uri`, created if there is none, for a run of this provenance.

    Args:
        uri: local path or uri.
        schema: one of `zs3.tables`; its name is the table's.
        provenance: JSON values; those under `run` must equal what the table says, all else is for
            information.

    Raises:
        ValueError: the table is of another run (the differing parts are named), is no table of this kind, or
            cannot be made there.
    """
    name = (schema.metadata or {}).get(b"zs3.table", b"").decode()
    table = existing_table(uri)
    if table is None:
        description = json.dumps(provenance, ensure_ascii=False, sort_keys=True)
        try:
            return DeltaTable.create(
                uri,
                _delta_schema(schema),
                name=name,
                description=description,
                storage_options=storage_options(uri),
            )
        except (DeltaError, OSError) as error:
            raise ValueError(
                f"cannot create the table {uri}: {_first_line(error)}; is the folder writable?"
            ) from error
    held, wanted = provenance_of(table).get("run", {}), provenance["run"]
    if table.metadata().name != name or not held:
        raise ValueError(
            f"{uri} is a table called {table.metadata().name!r}, not {name!r} of zs3; choose another --out"
        )
    differing = sorted(key for key in held.keys() | wanted.keys() if held.get(key) != wanted.get(key))
    if differing:
        details = ", ".join(
            f"{key} ({_short(held.get(key))} there, {_short(wanted.get(key))} now)" for key in differing
        )
        raise ValueError(
            f"{uri} holds another run, made with a different {details}; choose another --out, or remove it"
        )
    return table


def existing_table(uri: str) -> DeltaTable | None:
    """The table at `uri`, or None if nothing is there.

    Raises:
        ValueError: it is there, or something on the way to it, and cannot be read as one.
    """
    path = Path(uri)
    blocking = (
        next((part for part in (path, *path.parents) if part.is_file()), None) if "://" not in uri else None
    )
    if blocking:
        raise ValueError(
            f"cannot use {uri} for a table: {blocking} is a file, expected a folder; choose another --out"
        )
    try:
        return DeltaTable(uri, storage_options=storage_options(uri))
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as error:
        raise ValueError(
            f"cannot read the table {uri}: {_first_line(error)}; check access, or choose another --out"
        ) from error


def provenance_of(table: DeltaTable) -> dict[str, Any]:
    """What `open_table` was given when the table was created; empty for a table that is not ours."""
    try:
        held = json.loads(table.metadata().description or "{}")
    except json.JSONDecodeError:
        return {}
    return held if isinstance(held, dict) else {}


def image_uris(table: DeltaTable) -> dict[str, str]:
    """Image id → uri of every image that has a row."""
    rows = table.to_pyarrow_dataset().to_table(columns=["image_id", "uri"])
    unique = rows.group_by(["image_id", "uri"]).aggregate([])
    return dict(zip(unique["image_id"].to_pylist(), unique["uri"].to_pylist(), strict=True))


def publish(
    table: DeltaTable, schema: pa.Schema, parts: Sequence[Part], *, run: str, written_ms: int
) -> None:
    """Make files part of the table, all in one transaction; does nothing without files.

    Args:
        table: as of the last commit that this process made or saw.
        schema: the table's.
        parts: files that `write_part` wrote below it.
        run: digest of the run; it numbers its commits.
        written_ms: the time to record, in milliseconds since 1970.

    Raises:
        ValueError: another driver has committed to this run meanwhile, or storage refuses.
    """
    if not parts:
        return
    adds: list[AddAction | RemoveAction] = [
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
    try:
        turn = Transaction(run, (table.transaction_version(run) or 0) + 1)
        properties = CommitProperties(custom_metadata={"run": run}, app_transactions=[turn])
        table.create_write_transaction(adds, "append", _delta_schema(schema), commit_properties=properties)
        table.update_incremental()
    except CommitFailedError as error:
        raise ValueError(
            f"another process is writing the same run to {table.table_uri} ({_first_line(error)}); "
            f"let one of them finish, then run this again: it continues where they stopped"
        ) from error
    except (DeltaError, OSError) as error:
        raise ValueError(
            f"cannot write to {table.table_uri}: {_first_line(error)}; run again once it is writable"
        ) from error


def forget(table: DeltaTable, ids: Iterable[str]) -> None:
    """Delete the rows of these images, so that a new attempt can take their place."""
    names = ["'" + name.replace("'", "''") + "'" for name in sorted(ids)]
    for start in range(0, len(names), IDS_PER_DELETE):
        table.delete(f"image_id IN ({', '.join(names[start : start + IDS_PER_DELETE])})")


def storage_options(uri: str) -> dict[str, str]:
    """What the Delta library needs beyond its reading of the environment: plain-http endpoints must be
    allowed."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    return {"AWS_ALLOW_HTTP": "true"} if uri.startswith("s3") and endpoint.startswith("http://") else {}


def table_uri(out: str, name: str) -> str:
    """The uri of one table of a run: a subfolder of its --out, made absolute where it is local."""
    if out.startswith("file://"):
        out = out.removeprefix("file://")
    root = out.rstrip("/") if "://" in out else str(Path(out).expanduser().absolute())
    return f"{root}/{name}"


def _delta_schema(schema: pa.Schema) -> Schema:
    """The same columns in Delta's own types, which know no large binary."""
    return Schema.from_arrow(schema)


def _stats(rows: pa.Table) -> str:
    """Delta statistics of the columns that readers filter by."""
    least: dict[str, Any] = {}
    greatest: dict[str, Any] = {}
    for name in [
        name for name in ("image_id", "class_id", "class_name", "stage") if name in rows.column_names
    ]:
        bounds = pc.min_max(rows[name]).as_py()
        least[name], greatest[name] = bounds["min"], bounds["max"]
    nulls = {name: 0 for name in least}
    return json.dumps(
        {"numRecords": rows.num_rows, "minValues": least, "maxValues": greatest, "nullCount": nulls}
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) >= 40 else text
