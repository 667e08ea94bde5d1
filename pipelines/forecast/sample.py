"""A stratified sample of the images that a run would process, drawn where their listing lies."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from pipelines.forecast.estimate import Interval, Stratum, allocation, exactly, total
from pipelines.runs.catalogue import read
from pipelines.runs.resume import PendingImages
from pipelines.runs.rows import WORK
from pipelines.storage.objects import filesystem_of

_BYTES = r"TRY_CAST(regexp_extract(etag, '^(\d+)-\d{15,}$', 1) AS BIGINT)"
"""The size of a file where the etag is that of `listing` for stores that have none: size and time of modification."""


_STRATA = """
CREATE OR REPLACE TABLE strata AS SELECT *, dense_rank() OVER (ORDER BY band) - 1 AS stratum FROM (
  SELECT *, floor({strata} * (sum(weight) OVER (ORDER BY {order} ROWS UNBOUNDED PRECEDING) - weight / 2)
    / sum(weight) OVER ()) AS band
  FROM (SELECT *, {weight} AS weight FROM pending))"""
"""Parts of equal weight. Where sizes are known, an image weighs its share of all images and of all bytes. Parts of
equal numbers would put a few huge files with many others, and intervals would be too narrow where they are not drawn;
parts of equal bytes would know little of small files, where cost does not follow size. Tests simulate it."""

_BY_SIZE = {
    "weight": f"1 + coalesce({_BYTES} / nullif(avg({_BYTES}) OVER (), 0), 0)",
    "order": f"{_BYTES}, uri",
}
_BY_PLACE = {"weight": "1", "order": "uri"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Some of the images to be processed, in random order."""

    images: pa.Table
    """As `table_rows.WORK`."""
    strata: tuple[int, ...]
    """Of each image, the number of its stratum."""
    sizes: tuple[int, ...]
    """Images to be processed in each stratum."""
    by_size: bool
    """Whether strata are of files of like size; else they are stretches of the listing."""
    all_bytes: int | None
    """Of the files of all images to be processed; None where the listing does not tell."""

    def total(self, values: list[float]) -> Interval:
        """The sum over all images to be processed of something that was measured of each of these."""
        return total(
            [
                Stratum(
                    size=size,
                    values=tuple(
                        value for value, of in zip(values, self.strata, strict=True) if of == number
                    ),
                )
                for number, size in enumerate(self.sizes)
            ]
        )

    def bytes_read(self) -> Interval:
        """Of the files of all images to be processed.

        Files that are not there count as empty, as do those of a store that does not tell.
        """
        if self.all_bytes is not None:
            return exactly(self.all_bytes)
        return self.total([float(_size(uri)) for uri in self.images["uri"].to_pylist()])


def draw(todo: PendingImages, sample: int, seed: int) -> Sample:
    """Images drawn without replacement, as many from each stratum, or all of it where it has no more.

    Args:
        todo: all images to be processed, at least one.
        sample: how many to draw; all where there are no more.
        seed: the same gives the same images.

    Raises:
        ValueError: the sample is too small.
    """
    strata, drawn = allocation(len(todo), sample)
    connection = todo.connection
    known, all_bytes = connection.execute(
        f"SELECT count({_BYTES}), sum({_BYTES}) FROM pending"
    ).fetchone() or (
        0,
        0,
    )
    by_size = known == len(todo)
    connection.execute(_STRATA.format(strata=strata, **(_BY_SIZE if by_size else _BY_PLACE)))
    sizes = connection.execute("SELECT count(*) FROM strata GROUP BY stratum ORDER BY stratum").fetchall()
    names = ", ".join(WORK.names)
    turns = f"row_number() OVER (PARTITION BY stratum ORDER BY md5(concat(uri, chr(0), '{int(seed)}')))"
    rows = pa.Table.from_batches(
        read(
            connection,
            f"""SELECT {names}, stratum FROM (SELECT *, {turns} AS turn FROM strata) WHERE turn <= {drawn}
            ORDER BY turn, stratum""",
        )
    )
    connection.execute("DROP TABLE strata")
    return Sample(
        images=rows.select(WORK.names).cast(WORK),
        strata=tuple(rows["stratum"].to_pylist()),
        sizes=tuple(size for (size,) in sizes),
        by_size=by_size,
        all_bytes=int(all_bytes) if by_size else None,
    )


def _size(uri: str) -> int:
    """Of a file, in bytes."""
    filesystem, path = filesystem_of(uri)
    try:
        return int(filesystem.size(path) or 0)
    except OSError:
        return 0
