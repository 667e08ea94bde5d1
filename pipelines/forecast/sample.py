"""A simple random sample of the images that a run would process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.forecast.bootstrap import Interval, bootstrap_weights, percentile_interval
from pipelines.runs.catalogue import read
from pipelines.runs.resume import PendingImages
from pipelines.runs.rows import WORK
from zs3.files import filesystem_of

_FILE_BYTES = r"TRY_CAST(regexp_extract(etag, '^(\d+)-\d{15,}$', 1) AS BIGINT)"
"""The file size, where `listing` made the etag from size and modification time because the store has no etags."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """Images drawn at random from those to be processed."""

    images: pa.Table
    """In random order, with the columns `rows.WORK`."""
    weights: NDArray[np.float64]
    """See `bootstrap_weights`."""
    all_bytes: int | None
    """Size of all image files to be processed; None where the listing does not contain sizes."""

    def totals(self, values: Sequence[float]) -> NDArray[np.float64]:
        """The estimated total over all images to be processed, then its bootstrap replicates.

        Args:
            values: one for each sampled image.
        """
        return self.weights @ np.asarray(values, np.float64)

    def bytes_read(self) -> Interval:
        """Size of all image files; where the listing has no sizes, estimated from those of the sampled files."""
        if self.all_bytes is not None:
            return Interval(estimate=self.all_bytes, low=self.all_bytes, high=self.all_bytes)
        return percentile_interval(self.totals([_size(uri) for uri in self.images["uri"].to_pylist()]))


def draw(pending: PendingImages, size: int, seed: int) -> Sample:
    """Images drawn at random without replacement.

    Args:
        pending: all images to be processed, at least one.
        size: how many to draw; all are taken where there are no more.
        seed: the same seed draws the same images.

    Raises:
        ValueError: the size is below 2.
    """
    if size < 2:
        raise ValueError(
            f"sample is {size}; expected at least 2, since one image does not show how they vary"
        )
    rows = pa.Table.from_batches(
        read(
            pending.connection,
            f"""SELECT {", ".join(WORK.names)} FROM pending
            ORDER BY md5(concat(uri, chr(0), '{int(seed)}')), uri LIMIT {int(size)}""",
        )
    )
    known, all_bytes = pending.connection.execute(
        f"SELECT count({_FILE_BYTES}), sum({_FILE_BYTES}) FROM pending"
    ).fetchone() or (0, 0)
    return Sample(
        images=rows.cast(WORK),
        weights=bootstrap_weights(rows.num_rows, len(pending), seed),
        all_bytes=int(all_bytes) if known == len(pending) else None,
    )


def _size(uri: str) -> int:
    """File size in bytes; 0 where the file is gone or the store does not say."""
    filesystem, path = filesystem_of(uri)
    try:
        return int(filesystem.size(path) or 0)
    except OSError:
        return 0
