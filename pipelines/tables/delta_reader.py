"""Reading Delta Lake tables: opening one, its provenance, and which of its files can contain an image."""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from pipelines.storage.objects import describe_error, open_file, read_bytes, storage_options, with_retries
from pipelines.tables.damage import (
    DamagedTableError,
    broken_checkpoints,
    broken_entries,
    entry_name,
    lost_files,
)
from zs3.addresses import local_path
from zs3.vocabulary import Vocabulary, differences_in_words

KEYS = ("image_id", "uri")
"""Columns whose minimum and maximum in a file show whether it can contain an image."""

_UNREADABLE = re.compile(r"%[0-9A-Fa-f]{2}|[\\\x00-\x1f\x7f\ud800-\udfff]")
_UNREADABLE_LOCALLY = re.compile(_UNREADABLE.pattern + r"|[\[\]^|]")
"""What a path must not contain. The Delta library (deltalake 1.6) writes tables there that it cannot read again:
it decodes `%20` once more than it encodes it, and takes a backslash for a slash."""


def difference(table: DeltaTable, schema: pa.Schema, provenance: Mapping[str, Any]) -> str:
    """Why a table cannot take the rows of a run, as an error message; empty if it can.

    Args:
        schema: of the rows.
        provenance: of the run.

    Raises:
        ValueError: it is another kind of table, so it must not be replaced either.
    """
    uri, name, origin = table_folder(table), schema_name(schema), provenance_of(table)
    stored, wanted = origin.get("run", {}), provenance["run"]
    if table.metadata().name != name or not stored:
        raise ValueError(
            f"{uri} is a table called {table.metadata().name!r}, not {name!r} of zs3; choose another --out"
        )
    columns = [field.name for field in table.schema().fields]
    if set(columns) ^ set(schema.names) == {"instance_id"}:
        kind, other = ("panoptic", "semantic") if "instance_id" in columns else ("semantic", "panoptic")
        return (
            f"{uri} holds {kind} label maps, and this run makes {other} ones; choose another --out, or start a new "
            "version of the table with --replace"
        )
    if columns != schema.names:
        return (
            f"{uri} was made by another version of zs3, with other columns; choose another --out, or start a new "
            "version of the table with --replace"
        )
    differing = sorted(key for key in stored.keys() | wanted.keys() if stored.get(key) != wanted.get(key))
    if not differing:
        return ""
    differing_classes = _differing_classes(origin, provenance)
    details = ", ".join(
        f"class list ({differing_classes})"
        if key == "vocabulary" and differing_classes
        else f"{key} ({_short(stored.get(key))} there, {_short(wanted.get(key))} now)"
        for key in differing
    )
    return (
        f"{uri} holds another run, made with a different {details}; choose another --out, or start a new version of "
        "the table with --replace"
    )


def _differing_classes(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """How the class lists of two provenances differ; empty if one has none."""
    if not (stored.get("vocabulary") and wanted.get("vocabulary")):
        return ""
    there, now = (Vocabulary.from_json(part["vocabulary"]) for part in (stored, wanted))
    return differences_in_words(there, now)


def existing_table(uri: str, *, check: bool = True) -> DeltaTable | None:
    """The table at `uri`, or None if there is none.

    Args:
        check: compare the log with the listing of the folder.

    Raises:
        DamagedTableError: files that the log names are not there, or entries of the log are not whole.
        ValueError: it cannot be read, or a part of the path is a file.
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
            return DeltaTable(delta_uri(uri), storage_options=storage_options(uri))
        except TableNotFoundError:
            return None

    try:
        if check:
            _refuse_broken_log(uri)
        table = with_retries(opened, uri)
        if check and table is not None:
            _refuse_lost_files(table)
        return table
    except (DeltaError, OSError) as error:
        if check and (broken := broken_checkpoints(uri)):
            raise DamagedTableError(uri, f"the checkpoint {broken[0]} of its log cannot be read") from error
        raise ValueError(
            f"cannot read the table {uri}: {describe_error(error)}; check access, or choose another --out"
        ) from error


def _refuse_broken_log(uri: str) -> None:
    broken = broken_entries(uri)
    if broken:
        raise DamagedTableError(uri, f"the entry {entry_name(broken[0])} of its log is empty or cut")


def _refuse_lost_files(table: DeltaTable) -> None:
    folder, files = table_folder(table), dict(data_files(table))
    lost = lost_files(folder, files)
    if lost:
        path, reason = next(iter(lost.items()))
        count = f" (one of {len(lost)} such files)" if len(lost) > 1 else ""
        raise DamagedTableError(folder, f"its file {path} {reason}{count}")


def provenance_of(table: DeltaTable) -> dict[str, Any]:
    """The provenance with which `open_table` created the table; empty for other tables."""
    try:
        provenance = json.loads(table.metadata().description or "{}")
    except json.JSONDecodeError:
        return {}
    return provenance if isinstance(provenance, dict) else {}


def log_entries(table: DeltaTable, max_entries: int) -> Iterator[dict[str, Any]]:
    """What the newest entries of a table's log say of their commits, newest first, with the key `version`.

    The log files are read directly: the Delta library's `history` is empty in a folder with `#` or `?` in its name.
    """
    newest = table.version()
    for version in range(newest, max(-1, newest - max_entries), -1):
        try:
            lines = read_bytes(f"{table_folder(table)}/_delta_log/{entry_name(version)}").splitlines()
        except OSError:  # a checkpoint has replaced it and the files before it
            return
        try:
            infos = [action["commitInfo"] for action in map(json.loads, lines) if "commitInfo" in action]
        except ValueError:  # cut; see `damage`
            infos = []
        yield {"version": version, **(infos[0] if infos else {})}


def image_uris(table: DeltaTable) -> dict[str, str]:
    """Image id → uri of every image that has a row."""
    return {
        image_id: uri
        for batch in row_batches(table, KEYS)
        for image_id, uri in zip(batch["image_id"].to_pylist(), batch["uri"].to_pylist(), strict=True)
    }


def row_batches(table: DeltaTable, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of all rows, file by file, in the types of the table.

    The Delta library's own reader is not used: after an error, its threads abort the process when it ends.

    Raises:
        ValueError: a file cannot be read; the message has its name.
    """
    types = pa.schema(table.schema())
    schema = pa.schema([types.field(name) for name in columns])
    for uri in file_uris(table):
        with parquet_file(uri) as file:
            for batch in file.iter_batches(columns=list(columns)):
                yield batch.select(list(columns)).cast(schema)


@contextmanager
def parquet_file(uri: str) -> Iterator[pq.ParquetFile]:
    """One file of a table, opened.

    Raises:
        ValueError: it cannot be read, here or in the block; the message has its name.
    """
    try:
        with open_file(uri) as file:
            yield pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"cannot read {uri}, a file of a table: {describe_error(error)}; if it is damaged, delete it: `zs3 repair` "
            "then drops it from the table, and the next run makes it again"
        ) from error


def read_data_file(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of one file of a table; raises as `parquet_file`."""
    with parquet_file(uri) as file:
        return file.read(columns=list(columns) if columns else None)


def files_of(table: DeltaTable, ranges: Sequence[tuple[str, str]], key: str = "image_id") -> list[str]:
    """Paths, relative to the table, of its files that can contain a value in one of these ranges, ends included.

    Only the log is read; files without bounds in the log are included.

    Args:
        key: one of `KEYS`.
    """
    merged: list[list[str]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], last)
        else:
            merged.append([first, last])
    starts = [first for first, _ in merged]
    paths = []
    for action in _file_entries(table):
        low, high = action.get(f"min.{key}"), action.get(f"max.{key}")
        if low is None or high is None:
            paths.append(action["path"])
            continue
        # Ranges are sorted and disjoint: if the last that starts before the file's end stops before it, so do all.
        index = bisect.bisect_right(starts, high) - 1
        if index >= 0 and merged[index][1] >= low:
            paths.append(action["path"])
    return paths


def data_files(table: DeltaTable) -> list[tuple[str, int]]:
    """Path and size of every file of a table."""
    return [(action["path"], action["size_bytes"]) for action in _file_entries(table)]


def row_counts(table: DeltaTable) -> dict[str, int]:
    """Path of every file of a table → its rows, as the log says; 0 where it does not."""
    return {action["path"]: action.get("num_records") or 0 for action in _file_entries(table)}


def _file_entries(table: DeltaTable) -> list[dict[str, Any]]:
    """The log's entry of every file: path, size_bytes, num_records, and bounds as min.… and max.…"""
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
    """The uri of one table of a run: a subfolder of its --out, absolute if it is local."""
    path = local_path(out)
    root = out.rstrip("/") if path is None else str(Path(path).expanduser().absolute())
    return f"{root}/{name}"


def delta_uri(uri: str) -> str:
    """The uri by which the Delta library opens a table: with percent signs, as it reads and gives uris.

    Args:
        uri: local path, or uri with the key as it is in the store; everywhere else zs3 uses these.

    Raises:
        ValueError: the Delta library could not read a table there.
    """
    local = "://" not in uri
    match = (_UNREADABLE_LOCALLY if local else _UNREADABLE).search(uri)
    if match:
        raise ValueError(
            f"cannot use {uri!r} for a table: the Delta library cannot read tables below a folder with {match[0]!r} in "
            "its name; rename the folder, or choose another"
        )
    if local:
        return Path(uri).absolute().as_uri()
    scheme, _, rest = uri.partition("://")
    bucket, slash, key = rest.partition("/")
    return f"{scheme}://{bucket}{slash}{quote(key)}"


def table_folder(table: DeltaTable) -> str:
    """The path of a table, or its uri with the key as it is in the store, without a slash at its end."""
    return unquote(table.table_uri.removeprefix("file://")).rstrip("/")


def file_uris(table: DeltaTable) -> list[str]:
    """The paths or uris of a table's files, sorted; uris have keys as they are in the store."""
    folder = table_folder(table)
    return sorted(file_uri(folder, path) for path, _ in data_files(table))


def file_uri(folder: str, path: str) -> str:
    """The path or uri of a file that the log of the table in `folder` names; that of a copied table lies elsewhere."""
    if path.startswith("file://"):
        return path.removeprefix("file://")
    return path if "://" in path else f"{folder}/{path}"


def schema_name(schema: pa.Schema) -> str:
    """The name of the table that a schema of `zs3.tables` is for."""
    return (schema.metadata or {}).get(b"zs3.table", b"").decode()


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) >= 40 else text
