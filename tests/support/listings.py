"""Short listings and what is pending of them, in memory."""

import pyarrow as pa

from pipelines.runs.catalogue import catalogue_of
from pipelines.runs.rows import WORK


def list_images(source, limit=None):
    """(image id, uri) of every image of a source, in order of uris."""
    batches = catalogue_of(source, limit).rows()
    return [(row["image_id"], row["uri"]) for batch in batches for row in batch.to_pylist()]


def pending_table(work) -> pa.Table:
    """The pending images of `RemainingWork`, in the schema `WORK`."""
    return next(work.pending.chunks(1_000_000), WORK.empty_table())
