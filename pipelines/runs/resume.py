"""What of a listing is not in the tables of a run yet, computed from the tables alone.

A shard of the listing that the table `shards` holds is done, and none of its images is looked at, so the cost grows
with shards and not with images. For the other shards, the table files that can hold their images are read. The work
lies in the catalogue's temporary database, so memory stays constant.

An image is pending if it has no row yet, if its store reports another content than that of its row, or, on request, if
it failed before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from pipelines.runs.catalogue import Catalogue, Shard, load, read
from pipelines.runs.rows import WORK
from pipelines.tables.damage import DamagedTableError
from pipelines.tables.delta_reader import (
    KEYS,
    data_files,
    difference,
    existing_table,
    file_uri,
    files_of,
    read_data_file,
    row_batches,
    table_folder,
    table_uri,
)
from zs3.tables import FAILURES, SHARDS
from zs3.wording import REDACTED

_STORED = pa.schema(
    {"image_id": pa.string(), "uri": pa.string(), "etag": pa.string(), "attempts": pa.int32()}
)

_PLACES = ("images", "classes", "checkpoint", "masks", "segments", "settings", "out")
"""Fields of requests that may be paths on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRequest:
    """The request fields of every command that fills tables. Each command adds its own, and offers all as options."""

    out: str
    """Folder or uri that gets the tables."""
    limit: int | None = None
    """Take only the first images, in order of their uris."""
    retry_failures: bool = False
    """Process the images that failed before, and only these."""
    replace: bool = False
    """Start a new version of tables that were made with other weights, settings or classes.
    The old version stays readable by its number. Without this option such tables are refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The tables that a run adds to."""

    out: str
    """Folder or uri below which the tables lie."""
    results: str
    """Name of the table of results; `failures` and `shards` lie next to it."""
    schema: pa.Schema
    """Of the table of results."""
    provenance: Mapping[str, Any]
    """What the tables record: `run`, which must agree between runs into the same table, and more."""
    digest: str
    """Of `run`."""
    replace: bool = False
    """Start a new version of tables that hold another run."""

    @property
    def schemas(self) -> dict[str, pa.Schema]:
        """Name → schema of the tables of images."""
        return {self.results: self.schema, "failures": FAILURES}

    @property
    def all_schemas(self) -> dict[str, pa.Schema]:
        """Name → schema of all tables; the first decides which run they hold."""
        return {**self.schemas, "shards": SHARDS}

    @property
    def uris(self) -> dict[str, str]:
        """Name → uri of all tables."""
        return {name: table_uri(self.out, name) for name in self.all_schemas}


def stored_request(command: str, request: TableRequest) -> dict[str, Any]:
    """A request as a table stores it for `zs3 retry`: with absolute paths, without what only concerns one run."""
    values = {
        key: value
        for key, value in asdict(request).items()
        if key not in ("retry_failures", "replace") and value is not None
    }
    for key in _PLACES:
        value = values.get(key)
        if (
            isinstance(value, str)
            and "://" not in value
            and (Path(value).exists() or key in ("images", "out"))
        ):
            values[key] = str(Path(value).expanduser().absolute())
    return {"verb": command, **values}


class PendingImages:
    """The images to process, in order of their uris: the table `pending` in the catalogue's database."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.connection = catalogue.connection
        self._catalogue = catalogue  # its database is removed with it
        (self._count,) = self.connection.execute("SELECT count(*) FROM pending").fetchone() or (0,)

    def __len__(self) -> int:
        return int(self._count)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(image id, uri) of each."""
        for batch in self._rows(KEYS):
            yield from zip(batch["image_id"].to_pylist(), batch["uri"].to_pylist(), strict=True)

    def chunks(self, size: int) -> Iterator[pa.Table]:
        """Tables of at most `size` images, in the schema `WORK`."""
        batches: list[pa.RecordBatch] = []
        for batch in self._rows(WORK.names):
            while sum(map(len, batches)) + len(batch) >= size:
                taken = size - sum(map(len, batches))
                yield pa.Table.from_batches([*batches, batch.slice(0, taken)]).cast(WORK)
                batches, batch = [], batch.slice(taken)
            if len(batch):
                batches.append(batch)
        if batches:
            yield pa.Table.from_batches(batches).cast(WORK)

    def by_shard(self) -> dict[int, int]:
        """Shard → number of its images in here."""
        rows = self.connection.execute("SELECT shard, count(*) FROM pending GROUP BY shard")
        return dict(rows.fetchall())

    def _rows(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return read(self.connection, f"SELECT {', '.join(columns)} FROM pending ORDER BY uri")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemainingWork:
    """What of a listing is not in the tables yet."""

    target: Target
    pending: PendingImages
    listed: int
    """Images in the listing."""
    listing_digest: str
    """Of ids, uris and etags."""
    failed_before: int
    """Images of the listing that failed before and are not pending."""
    retried: int
    """Pending images that failed before."""
    changed: int
    """Pending images whose content has changed since they were processed."""
    untouched: int
    """Images of the listing without a row that are not pending, because only failures are retried."""
    open_shards: Mapping[int, Shard]
    """Number → shard, for those not in the table `shards`; empty where only failures are retried."""
    done_shards: pa.Table
    """Rows of `shards` that belong to this listing."""
    stale_failures: frozenset[str]
    """Ids with results whose earlier row of `failures` is still there."""
    replaces: bool
    """Whether the run starts a new version of tables that hold another run."""
    other_files: Mapping[str, int]
    """Extension → number of files in the listed folder that are no images (`listing.listed_images`)."""
    versions: Mapping[str, int]
    """Name → version of each table as it was read; -1 where there was none."""

    @property
    def skipped(self) -> int:
        """Images of the listing that were processed before and are not pending."""
        return self.listed - len(self.pending) - self.untouched


def remaining_work(catalogue: Catalogue, target: Target, *, retry_failures: bool = False) -> RemainingWork:
    """What of a listing is not in the target's tables yet; reads, writes nothing.

    Args:
        retry_failures: take the images that failed before, and only these.

    Raises:
        ValueError: the tables hold another run and are not to be replaced, or hold other images under these ids.
    """
    tables, replaces, versions = _open_tables(target)
    done_shards, open_shards = _done_and_open_shards(catalogue, tables["shards"])
    connection = catalogue.connection
    for name in ("failed", "processed", "open", "pending"):
        connection.execute(f"DROP TABLE IF EXISTS {name}")
    load(connection, "failed", _STORED, rows_of_images(tables["failures"]))
    load(connection, "processed", _STORED, rows_of_images(tables[target.results], open_shards))
    for name in ("failed", "processed"):  # tables hold uris without the passwords that the listing has
        connection.execute(
            f"UPDATE {name} SET uri = images.uri FROM images "
            f"WHERE images.image_id = {name}.image_id AND contains({name}.uri, '{REDACTED}')"
        )
    connection.execute(f"CREATE OR REPLACE VIEW stored AS {_STORED_IDS}")
    if not catalogue.has_ids and catalogue.keep_ids("stored"):
        done_shards, open_shards = _done_and_open_shards(catalogue, tables["shards"])
    numbers = pa.array([shard.number for shard in open_shards], pa.int64())
    load(connection, "open", pa.schema({"shard": pa.int64()}), iter([pa.record_batch([numbers], ["shard"])]))
    _refuse_other_images(catalogue, target)
    stale = connection.execute(
        "SELECT DISTINCT f.image_id FROM failed f JOIN processed p USING (uri) WHERE p.etag = f.etag"
    ).fetchall()
    connection.execute(f"CREATE TABLE pending AS {_FAILED_BEFORE if retry_failures else _NEW_OR_CHANGED}")

    def count(query: str) -> int:
        (number,) = connection.execute(f"SELECT count(*) FROM {query}").fetchone() or (0,)
        return int(number)

    return RemainingWork(
        target=target,
        pending=PendingImages(catalogue),
        listed=catalogue.images,
        listing_digest=catalogue.digest,
        failed_before=count(_FAILED_AND_NOT_PENDING),
        retried=count("pending WHERE attempts > 0"),
        changed=count("pending WHERE replaces AND attempts = 0"),
        untouched=count(_UNTOUCHED) if retry_failures else 0,
        open_shards={} if retry_failures else {shard.number: shard for shard in open_shards},
        done_shards=done_shards,
        stale_failures=frozenset(image_id for (image_id,) in stale),
        replaces=replaces,
        other_files=dict(catalogue.other_files),
        versions=versions,
    )


_STORED_IDS = """
SELECT uri, image_id, etag FROM processed
UNION SELECT uri, image_id, etag FROM failed WHERE uri NOT IN (SELECT uri FROM processed)"""
"""The images that have a row."""

_NEW_OR_CHANGED = """
SELECT i.image_id, i.uri, i.etag, i.shard, 0 AS attempts, s.uri IS NOT NULL AS replaces
FROM images i JOIN open USING (shard) LEFT JOIN stored s USING (uri)
WHERE s.uri IS NULL OR (s.etag <> i.etag AND s.etag <> '' AND i.etag <> '')"""
"""Images without a row, and images whose etag differs from that of their row; an empty etag counts as unchanged."""

_FAILED_BEFORE = """
SELECT i.image_id, i.uri, i.etag, i.shard, max(f.attempts) AS attempts, true AS replaces
FROM images i JOIN failed f USING (uri) WHERE i.uri NOT IN (SELECT uri FROM processed)
GROUP BY ALL"""

_FAILED_AND_NOT_PENDING = """
(SELECT DISTINCT f.uri FROM failed f JOIN images USING (uri)
WHERE f.uri NOT IN (SELECT uri FROM pending) AND f.uri NOT IN (SELECT uri FROM processed))"""

_UNTOUCHED = """
images JOIN open USING (shard)
WHERE uri NOT IN (SELECT uri FROM processed) AND uri NOT IN (SELECT uri FROM failed)"""


def _open_tables(target: Target) -> tuple[dict[str, DeltaTable | None], bool, dict[str, int]]:
    """The tables whose rows count (None: the rows of another run, or no table), whether others are to be replaced, and
    the versions of all.

    The table of results decides: where it holds this run, the others follow it, since a run that replaces all tables
    may have been stopped between two of them.
    """
    tables: dict[str, DeltaTable | None] = {}
    versions: dict[str, int] = {}
    replaces = follows = False
    for name, schema in target.all_schemas.items():
        table = existing_table(target.uris[name])
        other = difference(table, schema, target.provenance) if table is not None else ""
        if other and not (target.replace or follows):
            raise ValueError(other)
        replaces |= bool(other)
        tables[name] = None if other else table
        versions[name] = -1 if table is None else table.version()
        if name == target.results:
            follows = table is not None and not other
    if tables[target.results] is None and replaces:
        tables = dict.fromkeys(tables)
    shards = tables["shards"]
    if tables[target.results] is None and shards is not None and data_files(shards):
        raise DamagedTableError(
            target.uris[target.results], f"it is gone, while {target.uris['shards']} lists images as done"
        )
    return tables, replaces, versions


def _done_and_open_shards(catalogue: Catalogue, table: DeltaTable | None) -> tuple[pa.Table, list[Shard]]:
    """The rows of `shards` that belong to a listing, and the shards of the listing that it does not hold."""
    shards = catalogue.shards()
    rows = _rows_of_shards(table, {shard.digest for shard in shards})
    done = frozenset(rows["digest"].to_pylist())
    return rows, [shard for shard in shards if shard.digest not in done]


def _rows_of_shards(table: DeltaTable | None, digests: set[str]) -> pa.Table:
    """The rows of `shards` with one of these digests, each digest once."""
    if table is None:
        return SHARDS.empty_table()
    batches = row_batches(table, SHARDS.names)
    rows = [row for batch in batches for row in batch.to_pylist() if row["digest"] in digests]
    return pa.Table.from_pylist(list({row["digest"]: row for row in rows}.values()), schema=SHARDS)


def rows_of_images(
    table: DeltaTable | None, shards: Sequence[Shard] | None = None
) -> Iterator[pa.RecordBatch]:
    """Image id, uri, etag and attempts of each image in a table, read from the files that can hold images of shards.

    Args:
        table: one of images; None has no rows.
        shards: None reads every file.
    """
    if table is None or shards == []:
        return
    if shards is None:
        paths = files_of(table, [("", "\U0010ffff")])
    else:
        by_uri = files_of(table, [shard.uris for shard in shards], "uri")
        by_id = files_of(table, [shard.ids for shard in shards], "image_id")
        paths = list(dict.fromkeys([*by_uri, *by_id]))
    folder = table_folder(table)
    has_attempts = "attempts" in {field.name for field in table.schema().fields}
    columns = [*KEYS, "etag", *(["attempts"] if has_attempts else [])]
    for path in paths:
        rows = read_data_file(file_uri(folder, path), columns)
        unique = rows.group_by(columns).aggregate([])
        if not has_attempts:
            unique = unique.append_column("attempts", pa.array([0] * len(unique), pa.int32()))
        yield from unique.select(_STORED.names).cast(_STORED).combine_chunks().to_batches()


def _refuse_other_images(catalogue: Catalogue, target: Target) -> None:
    """Refuse a listing whose ids mean other images than those in the tables."""
    clash = """SELECT p.image_id, p.uri, i.image_id, i.uri FROM processed p JOIN images i USING ({0})
        JOIN open USING (shard) WHERE p.{1} <> i.{1} ORDER BY i.uri LIMIT 1"""
    other = catalogue.connection.execute(clash.format("image_id", "uri")).fetchone()
    if other:
        raise ValueError(
            f"{target.out} already holds {target.results} of an image called {other[0]!r}, from {other[1]}; "
            f"this one is {other[3]}; list both in one folder as --images, where the new one gets its path as id, or "
            "choose another --out"
        )
    renamed = catalogue.connection.execute(clash.format("uri", "image_id")).fetchone()
    if renamed:
        raise ValueError(
            f"{target.out} already holds {target.results} of {renamed[1]} under the id {renamed[0]!r}; in this listing "
            f"its id is {renamed[2]!r}; choose another --out"
        )
