"""The images of a run: each once, in order of their uris, with ids, and cut into shards whose digests show changes.

A catalogue lies in a temporary DuckDB file and is read in batches, so memory stays constant for any number of images.
A shard ends where the digest of a uri has a certain value, not after a count: an image that is added to a bucket
changes only the shard that it falls into. Equal digests show that the others are unchanged, without a look at an image.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipelines.runs.listing import LISTED, listed_images
from pipelines.storage.temporary_folders import lock_folder, remove_old_folders
from zs3.wording import redacted

SHARD = 1024
"""Images in a shard, on average."""

PREFIX = "zs3-catalogue-"
"""Of the temporary folder of a catalogue."""

_NAMES = re.compile(r"catalogue\.duckdb(\.wal)?|duckdb_temp_.*")
"""Of the files in it."""

MEMORY = "256MB"
"""Memory that DuckDB may take for a catalogue; beyond that it writes to its file."""

ROWS_PER_BATCH = 8192

_STEM = r"regexp_replace(regexp_extract(uri, '[^/]*$'), '^(.+)\.[^.]+$', '\1', 's')"
"""File name without folder and extension, as `PurePosixPath.stem` has it."""

_ROW = "concat_ws(chr(0), image_id, uri, etag)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Neighbouring images of a catalogue."""

    number: int
    digest: str
    """Of ids, uris and etags, 128 bits (hex); equal for the same images in any listing."""
    images: int
    uris: tuple[str, str]
    """The first and the last."""
    ids: tuple[str, str]
    """The first and the last in order."""


class Catalogue:
    """Images as (image id, uri, etag), in a database on disk.

    An id is the file name without folder and extension where those are unique in the whole listing; otherwise, or on
    request, every id is the path relative to the listing's root: the folder that was listed, or the deepest folder that
    holds all images. The limit is applied last, so it changes no id. `keep_ids` gives images the ids that they have in
    tables. Secrets in uris of the web are left out of ids.

    Args:
        batches: with the columns of `listing.LISTED`, in any order; uris may repeat. A column `image_id` gives the ids.
        root: folder of the listing; by default the deepest that holds all.
        limit: how many images to take; None takes all.
        other_files: of the listing (`listing.listed_images`).
        relative_ids: whether every id is a path.

    Attributes:
        images: their number.
        has_ids: whether the batches gave the ids.

    Raises:
        ValueError: the limit is not positive, or the stream names no image.
    """

    def __init__(
        self,
        batches: Iterable[pa.RecordBatch],
        root: str = "",
        limit: int | None = None,
        other_files: Mapping[str, int] | None = None,
        *,
        relative_ids: bool = False,
    ) -> None:
        self.other_files = {} if other_files is None else other_files
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}; expected at least 1, or leave it out to take every image")
        remove_old_folders(PREFIX, _NAMES)
        # An attribute, so that the folder is removed together with the catalogue.
        self._folder = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
        lock = lock_folder(Path(self._folder.name))
        weakref.finalize(self, os.close, lock)
        self.connection = duckdb.connect(str(Path(self._folder.name) / "catalogue.duckdb"))
        self.connection.create_function(
            "without_secrets", _without_secrets, ["VARCHAR", "VARCHAR"], "VARCHAR"
        )
        for setting in (f"memory_limit = '{MEMORY}'", "threads = 2", "enable_progress_bar = false"):
            self.connection.execute(f"SET {setting}")
        stream = iter(batches)
        first = next(stream, pa.RecordBatch.from_pylist([], schema=LISTED))
        load(self.connection, "listed", first.schema, itertools.chain([first], stream))
        self.has_ids = "image_id" in first.schema.names
        ids = "any_value(image_id)" if self.has_ids else _STEM
        self.connection.execute(
            f"CREATE TABLE once AS SELECT {ids} AS image_id, uri, max(etag) AS etag FROM listed GROUP BY uri"
        )
        repeated = "SELECT EXISTS (SELECT 1 FROM once GROUP BY image_id HAVING count(*) > 1)"
        if not self.has_ids and (relative_ids or self._value(repeated)):
            ends = self.connection.execute("SELECT min(uri), max(uri) FROM once").fetchone() or ("", "")
            common = os.path.commonprefix(ends)  # noqa: RUF071 -- uris are no paths
            skip = len(root or common.rpartition("/")[0])
            relative = f"regexp_replace(substr(uri, {skip + 1}), '^/', '')"  # of `a//b.png`, one slash stays
            self.connection.execute(f"UPDATE once SET image_id = {relative}")
        if not self.has_ids:
            self.connection.execute(
                "UPDATE once SET image_id = without_secrets(image_id, uri) "
                "WHERE uri LIKE 'http%' AND regexp_matches(image_id, '[=@]')"
            )
        limited = "" if limit is None else f" LIMIT {limit}"
        self.connection.execute(
            f"CREATE TABLE ordered AS SELECT image_id, uri, etag FROM once ORDER BY uri{limited}"
        )
        self.connection.execute(
            f"""CREATE TABLE starts AS
            SELECT row_number() OVER (ORDER BY position) - 1 AS shard, position FROM (
              SELECT rowid AS position FROM ordered WHERE md5_number_lower(uri) % {SHARD} = 0 UNION SELECT 0)"""
        )
        self.connection.execute(
            """CREATE TABLE images AS
            SELECT image_id, uri, etag, shard FROM ordered ASOF JOIN starts ON ordered.rowid >= starts.position"""
        )
        for name in ("listed", "once", "ordered", "starts"):
            self.connection.execute(f"DROP TABLE {name}")
        self.images = int(self._value("SELECT count(*) FROM images"))

    @property
    def digest(self) -> str:
        """Of ids, uris and etags, 128 bits (hex)."""
        return f"{int(self._value(f'SELECT bit_xor(md5_number({_ROW})) FROM images') or 0):032x}"

    def keep_ids(self, stored: str) -> bool:
        """Give images the ids that they have in a table, so that an id stays while the listing grows.

        An image that is not in the table, and whose id another image of the listing has there, gets its uri as id.

        Args:
            stored: name of a table of this database with the columns image_id and uri.

        Returns:
            Whether an id has changed.
        """
        kept = self._value(
            f"UPDATE images SET image_id = s.image_id FROM {stored} s "
            "WHERE images.uri = s.uri AND images.image_id <> s.image_id"
        )
        moved = self._value(
            f"""UPDATE images SET image_id = without_secrets(uri, uri)
            WHERE uri NOT IN (SELECT uri FROM {stored}) AND image_id IN
            (SELECT s.image_id FROM {stored} s WHERE s.uri IN (SELECT uri FROM images))"""
        )
        return bool(kept or moved)

    def shards(self) -> list[Shard]:
        """All shards in order; there is one for about a thousand images."""
        rows = self.connection.execute(
            f"""SELECT shard, bit_xor(md5_number({_ROW})), count(*), min(uri), max(uri), min(image_id), max(image_id)
            FROM images GROUP BY shard ORDER BY shard"""
        ).fetchall()
        return [
            Shard(
                number=number,
                digest=f"{digest:032x}",
                images=count,
                uris=(min_uri, max_uri),
                ids=(min_id, max_id),
            )
            for number, digest, count, min_uri, max_uri, min_id, max_id in rows
        ]

    def rows(self) -> Iterator[pa.RecordBatch]:
        """Batches with image_id, uri, etag and shard, in order of uris."""
        return read(self.connection, "SELECT image_id, uri, etag, shard FROM images ORDER BY uri")

    def _value(self, query: str) -> Any:
        row = self.connection.execute(query).fetchone()
        assert row is not None
        return row[0]


def _without_secrets(image_id: str, uri: str) -> str:
    """The id of a page of the web without passwords and signed queries; a digest of the uri keeps such ids apart."""
    plain = redacted(f"://{image_id}").removeprefix("://")
    return image_id if plain == image_id else f"{plain}-{hashlib.sha256(uri.encode()).hexdigest()[:12]}"


def catalogue_of(source: str, limit: int | None = None, *, relative_ids: bool = False) -> Catalogue:
    """The images of a source; see `listing.listed_images` and `Catalogue`."""
    others: Counter[str] = Counter()
    root, batches = listed_images(source, others)
    return Catalogue(batches, root, limit, others, relative_ids=relative_ids)


def load(
    connection: duckdb.DuckDBPyConnection, name: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]
) -> None:
    """Make a table of a stream. An error of the stream is raised as it is, not as one of DuckDB."""
    errors: list[BaseException] = []

    def recorded() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except BaseException as error:
            errors.append(error)
            raise

    stream = pa.RecordBatchReader.from_batches(schema, recorded())
    connection.register("stream", stream)
    try:
        connection.execute(f"CREATE TABLE {name} AS FROM stream")
    except Exception:
        if errors:
            raise errors[0] from None
        raise
    finally:
        connection.unregister("stream")


def read(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[pa.RecordBatch]:
    """The rows of a query in batches; the connection stays usable meanwhile."""
    with connection.cursor() as cursor:
        yield from cursor.sql(query).to_arrow_reader(ROWS_PER_BATCH)
