"""The images of a run: each once, in order of their uris, with ids, and cut into shards that tell whether they changed.

A catalogue lies in a temporary DuckDB file and is read in batches, so memory stays the same for any number of images.
A shard ends where the digest of a uri says so, not after a count: an image that is added to a bucket changes the one
shard that it falls into, and all others are seen to be as they were by comparing digests, without a look at an image.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipelines.runs.listing import FOUND, found

SHARD = 1024
"""Images in a shard, on average."""

PREFIX = "zs3-catalogue-"
FORGOTTEN_S = 7 * 24 * 3600
"""Age in seconds of a killed run's catalogue after which it is removed."""

MEMORY = "256MB"
"""What DuckDB may hold of a catalogue at once; beyond that it writes to its file."""

ROWS_AT_ONCE = 8192

_STEM = r"regexp_replace(regexp_extract(uri, '[^/]*$'), '^(.+)\.[^.]+$', '\1', 's')"
"""File name without folder and extension, as `PurePosixPath.stem` has it."""

_ROW = "concat_ws(chr(0), image_id, uri, etag)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Neighbouring images of a catalogue."""

    number: int
    digest: str
    """Of ids, uris and etags, 128 bits (hex); the same images in any listing give the same."""
    images: int
    uris: tuple[str, str]
    """The first and the last."""
    ids: tuple[str, str]
    """The least and the greatest."""


class Catalogue:
    """Images as (image id, uri, etag), without end in mind.

    An id is the file name without folder and extension where those are unique in the whole listing; otherwise
    every id is the path relative to the listing's root: the folder itself, or the deepest folder that holds all. The
    limit is applied last, so it changes no id.

    Args:
        batches: with the columns of `listing.FOUND`, in any order, uris maybe repeated; a column `image_id` beside them
            settles the ids.
        root: folder of the listing; empty takes the deepest that holds all.
        limit: how many images to take; none takes all.

    Raises:
        ValueError: the limit is not positive, or the stream names no image.
    """

    def __init__(self, batches: Iterable[pa.RecordBatch], root: str = "", limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}; expected at least 1, or leave it out to take every image")
        _remove_forgotten()
        # Held by the instance, so that it is removed with it.
        self._folder = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
        self.connection = duckdb.connect(str(Path(self._folder.name) / "catalogue.duckdb"))
        for setting in (f"memory_limit = '{MEMORY}'", "threads = 2", "enable_progress_bar = false"):
            self.connection.execute(f"SET {setting}")
        stream = iter(batches)
        first = next(stream, pa.RecordBatch.from_pylist([], schema=FOUND))
        load(self.connection, "named", first.schema, _chained(first, stream))
        given = "image_id" in first.schema.names
        ids = "any_value(image_id)" if given else _STEM
        self.connection.execute(
            f"CREATE TABLE once AS SELECT {ids} AS image_id, uri, max(etag) AS etag FROM named GROUP BY uri"
        )
        if not given and self._one(
            "SELECT EXISTS (SELECT 1 FROM once GROUP BY image_id HAVING count(*) > 1)"
        ):
            ends = self.connection.execute("SELECT min(uri), max(uri) FROM once").fetchone() or ("", "")
            skip = len(root or _common_folder(*ends))
            self.connection.execute(f"UPDATE once SET image_id = ltrim(substr(uri, {skip + 1}), '/')")
        kept = "" if limit is None else f" LIMIT {limit}"
        self.connection.execute(
            f"CREATE TABLE ordered AS SELECT image_id, uri, etag FROM once ORDER BY uri{kept}"
        )
        self.connection.execute(
            f"""CREATE TABLE ends AS
            SELECT row_number() OVER (ORDER BY position) - 1 AS shard, position FROM (
              SELECT rowid AS position FROM ordered WHERE md5_number_lower(uri) % {SHARD} = 0 UNION SELECT 0)"""
        )
        self.connection.execute(
            """CREATE TABLE images AS
            SELECT image_id, uri, etag, shard FROM ordered ASOF JOIN ends ON ordered.rowid >= ends.position"""
        )
        for done in ("named", "once", "ordered", "ends"):
            self.connection.execute(f"DROP TABLE {done}")
        self.images = int(self._one("SELECT count(*) FROM images"))
        self.digest = f"{int(self._one(f'SELECT bit_xor(md5_number({_ROW})) FROM images') or 0):032x}"

    def shards(self) -> list[Shard]:
        """All shards in order: one small value for about a thousand images."""
        rows = self.connection.execute(
            f"""SELECT shard, bit_xor(md5_number({_ROW})), count(*), min(uri), max(uri), min(image_id), max(image_id)
            FROM images GROUP BY shard ORDER BY shard"""
        ).fetchall()
        return [
            Shard(number=number, digest=f"{digest:032x}", images=count, uris=(low, high), ids=(least, most))
            for number, digest, count, low, high, least, most in rows
        ]

    def rows(self) -> Iterator[pa.RecordBatch]:
        """Batches with image_id, uri, etag and shard, in order of uris."""
        return read(self.connection, "SELECT image_id, uri, etag, shard FROM images ORDER BY uri")

    def _one(self, query: str) -> Any:
        row = self.connection.execute(query).fetchone()
        assert row is not None
        return row[0]


def catalogue_of(source: str, limit: int | None = None) -> Catalogue:
    """The images that a source names; see `listing.found` and `Catalogue`.

    Raises:
        FileNotFoundError: the source does not exist.
        ValueError: it names no image, or the limit is not positive.
    """
    root, batches = found(source)
    return Catalogue(batches, root, limit)


def list_images(source: str, limit: int | None = None) -> list[tuple[str, str]]:
    """(image id, uri) of every image that a source names, in order of uris; for short listings."""
    return [
        (row["image_id"], row["uri"])
        for batch in catalogue_of(source, limit).rows()
        for row in batch.to_pylist()
    ]


def load(
    connection: duckdb.DuckDBPyConnection, name: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]
) -> None:
    """Make a table of a stream, whose errors are raised as they are."""
    failed: list[BaseException] = []

    def guarded() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except BaseException as error:
            failed.append(error)
            raise

    stream = pa.RecordBatchReader.from_batches(schema, guarded())
    connection.register("stream", stream)
    try:
        connection.execute(f"CREATE TABLE {name} AS FROM stream")
    except Exception:
        if failed:
            raise failed[0] from None
        raise
    finally:
        connection.unregister("stream")


def read(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[pa.RecordBatch]:
    """The rows of a query in batches, while the connection goes on being used."""
    with connection.cursor() as cursor:
        yield from cursor.sql(query).to_arrow_reader(ROWS_AT_ONCE)


def _chained(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


def _remove_forgotten() -> None:
    """Remove catalogues of runs that were killed and could not do it."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > FORGOTTEN_S:
                shutil.rmtree(folder, ignore_errors=True)


def _common_folder(least: str, greatest: str) -> str:
    """The deepest folder that holds the first uri and the last, and so all between."""
    shared = 0
    while shared < min(len(least), len(greatest)) and least[shared] == greatest[shared]:
        shared += 1
    return least[:shared].rpartition("/")[0]
