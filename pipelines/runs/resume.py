"""What a listing leaves to do, found from the tables alone.

Shards of the listing that the table `shards` knows are done, and no image of theirs is looked at: the cost grows with
shards, not with images. Of the other shards, the files of the tables that can hold their images are read. All of it
lies in the catalogue's temporary database, so memory stays the same.

An image is left to do if it has no row yet, if its store says that its content has changed since, or, when that is
asked for, if it failed before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

import pyarrow as pa
from deltalake import DeltaTable

from pipelines.runs.catalogue import Catalogue, Shard, load, read
from pipelines.tables.delta_reader import KEYS, difference, existing_table, files_of, read_data_file, table_uri
from pipelines.runs.rows import WORK
from zs3.tables import FAILURES, SHARDS

_HELD = pa.schema({"image_id": pa.string(), "uri": pa.string(), "etag": pa.string(), "attempts": pa.int32()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The tables that a run adds to, and which run it is."""

    out: str
    """Folder or uri below which the tables lie."""
    results: str
    """Name of the table of results; beside it lie `failures` and `shards`."""
    schema: pa.Schema
    """Of the results."""
    provenance: Mapping[str, Any]
    """What the tables say of themselves: `run`, which must agree between runs into the same table, and more."""
    digest: str
    """Of `run`."""
    replace: bool = False
    """Start a new version of tables that are of another run."""

    @property
    def schemas(self) -> dict[str, pa.Schema]:
        """Name → schema of the tables of images."""
        return {self.results: self.schema, "failures": FAILURES}

    @property
    def all_schemas(self) -> dict[str, pa.Schema]:
        """Name → schema of all tables, the one that decides which run it is first."""
        return {**self.schemas, "shards": SHARDS}

    @property
    def uris(self) -> dict[str, str]:
        """Name → place of all tables."""
        return {name: table_uri(self.out, name) for name in self.all_schemas}


def asked(verb: str, request: Any) -> dict[str, Any]:
    """A request as a table keeps it, so that `zs3 retry` can make it again: places on this machine in full.

    Args:
        verb: what was asked for.
        request: a dataclass of plain values.
    """
    values = {
        key: value
        for key, value in asdict(request).items()
        if key not in ("retry_failures", "replace") and value is not None
    }
    for key in ("images", "classes", "checkpoint", "masks", "segments", "settings", "out"):
        value = values.get(key)
        if (
            isinstance(value, str)
            and "://" not in value
            and (Path(value).exists() or key in ("images", "out"))
        ):
            values[key] = str(Path(value).expanduser().absolute())
    return {"verb": verb, **values}


class Todo(Sequence[tuple[str, str]]):
    """The images to be processed, in order of their uris, as (image id, uri); they stay in the catalogue's file."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.connection = catalogue.connection
        """Of the catalogue's file, where they are the table `todo`."""
        self._catalogue = catalogue  # which removes its file when it goes
        (self._count,) = self.connection.execute("SELECT count(*) FROM todo").fetchone() or (0,)

    def __len__(self) -> int:
        return int(self._count)

    @overload
    def __getitem__(self, index: int) -> tuple[str, str]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[tuple[str, str]]: ...
    def __getitem__(self, index: int | slice) -> Any:
        start, stop, step = (slice(index, index + 1) if isinstance(index, int) else index).indices(len(self))
        assert step == 1 and (isinstance(index, slice) or index >= 0), "read forwards"
        rows = self._rows(f"LIMIT {max(0, stop - start)} OFFSET {start}", ", ".join(KEYS))
        pairs = [(row["image_id"], row["uri"]) for batch in rows for row in batch.to_pylist()]
        return pairs[0] if isinstance(index, int) else pairs

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for batch in self._rows("", ", ".join(KEYS)):
            yield from ((row["image_id"], row["uri"]) for row in batch.to_pylist())

    def chunks(self, size: int) -> Iterator[pa.Table]:
        """Tables of at most `size` images, as `WORK`."""
        held: list[pa.RecordBatch] = []
        for batch in self._rows("", ", ".join(WORK.names)):
            while sum(map(len, held)) + len(batch) >= size:
                taken = size - sum(map(len, held))
                yield pa.Table.from_batches([*held, batch.slice(0, taken)]).cast(WORK)
                held, batch = [], batch.slice(taken)
            if len(batch):
                held.append(batch)
        if held:
            yield pa.Table.from_batches(held).cast(WORK)

    def table(self) -> pa.Table:
        """All of them, as `WORK`; for short listings."""
        return next(self.chunks(max(1, len(self))), WORK.empty_table())

    def by_shard(self) -> dict[int, int]:
        """Shard → images of it to be processed."""
        rows = self.connection.execute("SELECT shard, count(*) FROM todo GROUP BY shard")
        return dict(rows.fetchall())

    def _rows(self, some: str, columns: str) -> Iterator[pa.RecordBatch]:
        return read(self.connection, f"SELECT {columns} FROM todo ORDER BY uri {some}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remaining:
    """What a listing leaves to do."""

    todo: Todo
    listed: int
    """Images in the listing."""
    listing: str
    """Digest of the listing: ids, uris and etags."""
    failed_before: int
    """Images of the listing that failed before, and are not tried again."""
    retried: int
    """Images to do that failed before."""
    changed: int
    """Images to do whose content has changed since."""
    untouched: int
    """Images of the listing that have no row, and are not to do either since only failures are."""
    open: Mapping[int, Shard]
    """Shards that are not in the table `shards` yet, by number; none where only failures are tried again."""
    known: pa.Table
    """Rows of `shards` that hold for this listing."""
    stale: frozenset[str]
    """Ids that failed once and have results since; their rows of failures are to go."""
    replaces: bool
    """Whether tables of another run are to make way."""

    @property
    def skipped(self) -> int:
        """Images of the listing that were processed before and are not to be processed again."""
        return self.listed - len(self.todo) - self.untouched


def remaining(
    catalogue: Catalogue | Iterable[tuple[str, str]], target: Target, *, retry_failures: bool = False
) -> Remaining:
    """What of a listing is not in the target's tables yet; reads, writes nothing.

    Args:
        catalogue: the listing; or (image id, uri) of its images.
        target: the tables.
        retry_failures: take the images that failed before, and only these.

    Raises:
        ValueError: the tables are of another run and are not to be replaced, or hold other images under these ids.
    """
    if not isinstance(catalogue, Catalogue):
        rows = [{"image_id": image_id, "uri": uri, "etag": ""} for image_id, uri in catalogue]
        catalogue = Catalogue(
            [pa.RecordBatch.from_pylist(rows, schema=pa.schema([_HELD.field(i) for i in range(3)]))]
        )
    tables, replaces = _open(target)
    shards = catalogue.shards()
    known = _known(tables["shards"], {shard.digest for shard in shards})
    done = frozenset(known["digest"].to_pylist())
    unknown = [shard for shard in shards if shard.digest not in done]
    connection = catalogue.connection
    for name in ("failed", "labelled", "open", "todo"):
        connection.execute(f"DROP TABLE IF EXISTS {name}")
    load(connection, "failed", _HELD, rows_of_images(tables["failures"]))
    load(connection, "labelled", _HELD, rows_of_images(tables[target.results], unknown))
    load(connection, "open", pa.schema({"shard": pa.int64()}), _numbers(unknown))
    _refuse_other_images(catalogue, target)
    stale = connection.execute(
        "SELECT DISTINCT f.image_id FROM failed f JOIN labelled l USING (uri) WHERE l.etag = f.etag"
    ).fetchall()
    connection.execute(f"CREATE TABLE todo AS {_RETRY if retry_failures else _LEFT}")
    again, tried = connection.execute(
        "SELECT count(*) FILTER (again AND attempts = 0), count(*) FILTER (attempts > 0) FROM todo"
    ).fetchone() or (0, 0)
    (failed,) = connection.execute(
        "SELECT count(DISTINCT f.uri) FROM failed f JOIN images USING (uri) WHERE f.uri NOT IN (SELECT uri FROM todo) "
        "AND f.uri NOT IN (SELECT uri FROM labelled)"
    ).fetchone() or (0,)
    (untouched,) = (retry_failures and connection.execute(_UNTOUCHED).fetchone()) or (0,)
    return Remaining(
        todo=Todo(catalogue),
        listed=catalogue.images,
        listing=catalogue.digest,
        failed_before=int(failed),
        retried=int(tried),
        changed=int(again),
        untouched=int(untouched),
        open={} if retry_failures else {shard.number: shard for shard in unknown},
        known=known,
        stale=frozenset(image_id for (image_id,) in stale),
        replaces=replaces,
    )


_LEFT = """
WITH held AS (
  SELECT uri, etag, false AS failed FROM labelled
  UNION ALL SELECT uri, etag, true FROM failed WHERE uri NOT IN (SELECT uri FROM labelled))
SELECT i.image_id, i.uri, i.etag, i.shard, 0 AS attempts, h.uri IS NOT NULL AS again
FROM images i JOIN open USING (shard) LEFT JOIN (SELECT DISTINCT * FROM held) h USING (uri)
WHERE h.uri IS NULL OR (h.etag <> i.etag AND h.etag <> '' AND i.etag <> '')"""
"""Images without a row, and images whose content is another than that of their row; what a store does not tell of is
taken to be as it was."""

_UNTOUCHED = """
SELECT count(*) FROM images JOIN open USING (shard)
WHERE uri NOT IN (SELECT uri FROM labelled) AND uri NOT IN (SELECT uri FROM failed)"""

_RETRY = """
SELECT i.image_id, i.uri, i.etag, i.shard, max(f.attempts) AS attempts, true AS again
FROM images i JOIN failed f USING (uri) WHERE i.uri NOT IN (SELECT uri FROM labelled)
GROUP BY ALL"""


def _open(target: Target) -> tuple[dict[str, DeltaTable | None], bool]:
    """The tables whose rows count, and whether others are to be replaced.

    The table of results decides: where it is of this run, the others follow it, since a run that was to replace all may
    have been stopped between them.
    """
    tables: dict[str, DeltaTable | None] = {}
    replaces = follows = False
    for name, schema in target.all_schemas.items():
        table = existing_table(target.uris[name])
        other = difference(table, schema, target.provenance) if table is not None else ""
        if other and not (target.replace or follows):
            raise ValueError(other)
        replaces |= bool(other)
        tables[name] = None if other else table
        if name == target.results:
            follows = table is not None and not other
    if tables[target.results] is None and replaces:
        tables = dict.fromkeys(tables)
    return tables, replaces


def _known(table: DeltaTable | None, digests: frozenset[str] | set[str]) -> pa.Table:
    """The rows of `shards` that are of this listing."""
    if table is None:
        return SHARDS.empty_table()
    rows = [row for row in table.to_pyarrow_table().to_pylist() if row["digest"] in digests]
    return pa.Table.from_pylist(list({row["digest"]: row for row in rows}.values()), schema=SHARDS)


def rows_of_images(
    table: DeltaTable | None, shards: Sequence[Shard] | None = None
) -> Iterator[pa.RecordBatch]:
    """Image id, uri, etag and attempts of each image in a table, of the files alone that can hold images of shards.

    Args:
        table: one of images; none has no row.
        shards: none takes every file.
    """
    if table is None or shards == []:
        return
    if shards is None:
        paths = files_of(table, [("", "\U0010ffff")])
    else:
        by_uri = files_of(table, [shard.uris for shard in shards], "uri")
        by_id = files_of(table, [shard.ids for shard in shards], "image_id")
        paths = list(dict.fromkeys([*by_uri, *by_id]))
    folder = table.table_uri.removeprefix("file://").rstrip("/")
    has_attempts = "attempts" in {field.name for field in table.schema().fields}
    columns = [*KEYS, "etag", *(["attempts"] if has_attempts else [])]
    for path in paths:
        rows = read_data_file(f"{folder}/{path}", columns)
        unique = rows.group_by(columns).aggregate([])
        if not has_attempts:
            unique = unique.append_column("attempts", pa.array([0] * len(unique), pa.int32()))
        yield from unique.select(_HELD.names).cast(_HELD).combine_chunks().to_batches()


def _numbers(shards: Sequence[Shard]) -> Iterator[pa.RecordBatch]:
    yield pa.RecordBatch.from_arrays([pa.array([shard.number for shard in shards], pa.int64())], ["shard"])


def _refuse_other_images(catalogue: Catalogue, target: Target) -> None:
    """Refuse a listing whose ids mean other images than those in the tables."""
    clash = """SELECT l.image_id, l.uri, i.image_id, i.uri FROM labelled l JOIN images i USING ({0})
        JOIN open USING (shard) WHERE l.{1} <> i.{1} ORDER BY i.uri LIMIT 1"""
    other = catalogue.connection.execute(clash.format("image_id", "uri")).fetchone()
    if other:
        raise ValueError(
            f"{target.out} already holds {target.results} of an image called {other[0]!r}, from {other[1]}; "
            f"this one is {other[3]}; choose another --out"
        )
    renamed = catalogue.connection.execute(clash.format("uri", "image_id")).fetchone()
    if renamed:
        raise ValueError(
            f"{target.out} already holds {target.results} of {renamed[1]} under the id {renamed[0]!r}; in this listing "
            f"its id is {renamed[2]!r}, as file names repeat; choose another --out"
        )
