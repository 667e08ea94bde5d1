"""Reading tables under a Delta Lake log: what is there, what it says of its making, and which files can hold an
image."""

from __future__ import annotations

import bisect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from pipelines.storage.objects import describe_error, storage_options, with_retries

KEYS = ("image_id", "uri")
"""Columns whose least and greatest values in a file tell whether it can hold an image."""


def difference(table: DeltaTable, schema: pa.Schema, provenance: Mapping[str, Any]) -> str:
    """Why a table cannot take rows of a run, in a sentence; empty where it can.

    Args:
        schema: what the rows have.
        provenance: of the run.

    Raises:
        ValueError: the table is not one of this kind at all, so it is not to be replaced either.
    """
    uri, name = table_folder(table), schema_name(schema)
    held, wanted = provenance_of(table).get("run", {}), provenance["run"]
    if table.metadata().name != name or not held:
        raise ValueError(
            f"{uri} is a table called {table.metadata().name!r}, not {name!r} of zs3; choose another --out"
        )
    if [field.name for field in table.schema().fields] != schema.names:
        return (
            f"{uri} was made by another version of zs3, with other columns; choose another --out, or start a new "
            "version of the table with --replace"
        )
    differing = sorted(key for key in held.keys() | wanted.keys() if held.get(key) != wanted.get(key))
    if not differing:
        return ""
    details = ", ".join(
        f"{key} ({_short(held.get(key))} there, {_short(wanted.get(key))} now)" for key in differing
    )
    return (
        f"{uri} holds another run, made with a different {details}; choose another --out, or start a new version of "
        "the table with --replace"
    )


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

    def opened() -> DeltaTable | None:
        try:
            return DeltaTable(uri, storage_options=storage_options(uri))
        except TableNotFoundError:
            return None

    try:
        return with_retries(opened, uri)
    except (DeltaError, OSError) as error:
        raise ValueError(
            f"cannot read the table {uri}: {describe_error(error)}; check access, or choose another --out"
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


def read_data_file(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of one file of a table."""
    with fsspec.open(uri, "rb") as file:
        return pq.read_table(file, columns=list(columns) if columns else None, partitioning=None)


def files_of(table: DeltaTable, ranges: Sequence[tuple[str, str]], key: str = "image_id") -> list[str]:
    """Paths, relative to the table, of its files that can hold a value in one of these ranges, ends included.

    The log alone is asked; files whose bounds it does not know are among them.

    Args:
        key: one of `KEYS`.
    """
    merged: list[list[str]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], high)
        else:
            merged.append([low, high])
    starts = [low for low, _ in merged]
    found = []
    for action in _actions(table):
        least, greatest = action.get(f"min.{key}"), action.get(f"max.{key}")
        if least is None or greatest is None:
            found.append(action["path"])
            continue
        # Ranges are apart and in order: if the last that starts before the file ends stops before it, so do all.
        index = bisect.bisect_right(starts, greatest) - 1
        if index >= 0 and merged[index][1] >= least:
            found.append(action["path"])
    return found


def data_files(table: DeltaTable) -> list[tuple[str, int]]:
    """Path and size of every file of a table."""
    return [(action["path"], action["size_bytes"]) for action in _actions(table)]


def _actions(table: DeltaTable) -> list[dict[str, Any]]:
    """What the log says of every file: path, size_bytes, num_records, and bounds as min.… and max.…"""
    actions = pa.table(table.get_add_actions(flatten=True))
    wanted = [
        name
        for name in actions.column_names
        if name in ("path", "size_bytes", "num_records")
        or name.removeprefix("min.").removeprefix("max.") in KEYS
    ]
    rows: list[dict[str, Any]] = actions.select(wanted).to_pylist()
    return [{**row, "path": unquote(row["path"])} for row in rows]


def table_uri(out: str, name: str) -> str:
    """The uri of one table of a run: a subfolder of its --out, made absolute where it is local."""
    if out.startswith("file://"):
        out = out.removeprefix("file://")
    root = out.rstrip("/") if "://" in out else str(Path(out).expanduser().absolute())
    return f"{root}/{name}"


def table_folder(table: DeltaTable) -> str:
    """The path or uri of a table, without a slash at its end."""
    return table.table_uri.removeprefix("file://").rstrip("/")


def schema_name(schema: pa.Schema) -> str:
    """The name of the table that a schema of `zs3.tables` is for."""
    return (schema.metadata or {}).get(b"zs3.table", b"").decode()


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) >= 40 else text
