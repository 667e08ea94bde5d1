"""Reading the images of a listing: bytes from wherever they lie, then pixels, in CPU tasks beside the models."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from pipelines.runs.crash_journal import TRIES, CrashJournal, given_up
from pipelines.runs.rows import WORK, failure_of, with_bookkeeping
from pipelines.storage.objects import (
    CredentialsError,
    StorageDownError,
    classify_error,
    describe_error,
    read_bytes,
)
from zs3.images.codec import decode
from zs3.tables import FAILURES

READS_AT_ONCE = 8
"""Files that one task reads at the same time; object stores answer late, not slowly."""

MAX_BYTES_PER_PIXEL, MAX_EXTRA_BYTES = 8, 64 << 20
"""A file that has more bytes than this for each pixel that may be decoded, and this beside, is not read: 16 bits in
four channels, and room for metadata and further pictures in the file."""

DOWN = 8
"""Images in a row for which a store gave nothing but passing errors, after which it is taken to be down."""

PIXELS = pa.schema(
    [
        *WORK,
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("pixels", pa.large_binary()),
        pa.field("failures", pa.list_(pa.struct(list(FAILURES)))),
    ]
)
"""A decoded image on its way to an actor: the bytes of (H, W, 3) uint8 RGB, or one row of `failures` and no pixels."""


def read_and_decode(
    refs: pa.Table, *, max_pixels: int, run: str, notes: str | None = None
) -> Iterator[pa.Table]:
    """One table of one row (`PIXELS`) per image, one at a time, so that memory stays with one picture.

    Args:
        refs: columns image_id and uri, and the others of `table_rows.WORK` where there is such.
        max_pixels: pictures of more pixels are refused before they are decoded.
        run: digest that failure rows carry.
        notes: name of the run's notes on crashes (`pipelines.runs.crash_journal`); none takes no notes.

    Raises:
        CredentialsError: the store refuses the credentials.
        StorageDownError: the store answers nothing but errors.
    """
    images = with_bookkeeping(refs, WORK)
    journal = CrashJournal(notes, "decode") if notes else None
    try:
        yield from _decoded(images, journal, max_pixels, run)
    finally:
        if journal:
            journal.close()


def _decoded(
    images: list[dict[str, Any]], journal: CrashJournal | None, max_pixels: int, run: str
) -> Iterator[pa.Table]:
    """One table of one row per image."""
    alone = journal.crashes()[0] if journal else {}
    down = 0
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        read = functools.partial(_content, most=MAX_BYTES_PER_PIXEL * max_pixels + MAX_EXTRA_BYTES)
        contents = pool.map(read, (image["uri"] for image in images))
        for image, content in zip(images, contents, strict=True):
            row: dict[str, Any] = {**image, "height": 0, "width": 0, "pixels": b"", "failures": []}
            passing = isinstance(content, Exception) and classify_error(content, image["uri"]) == "passing"
            down = down + 1 if passing else 0
            if isinstance(content, Exception) and down == DOWN:
                raise StorageDownError(
                    f"the store gave nothing but errors for {DOWN} images in a row, the last time for {image['uri']}: "
                    f"{describe_error(content)}; run again once it answers"
                )
            try:
                if isinstance(content, Exception):
                    raise content
                if (deaths := alone.get(image["image_id"], 0)) >= TRIES:
                    raise given_up(deaths)
                if journal:
                    journal.at([image["image_id"]])
                pixels_HW3 = decode(content, max_pixels=max_pixels)
                row["height"], row["width"] = pixels_HW3.shape[:2]
                row["pixels"] = pixels_HW3.tobytes()
            except CredentialsError:
                raise
            except Exception as error:  # whatever is wrong with one file must not stop the others
                stage = "read" if isinstance(content, Exception) else "decode"
                row["failures"] = [failure_of(image, stage, error, run)]
            if journal:
                journal.at([])
            yield pa.Table.from_pylist([row], schema=PIXELS)


def _content(uri: str, most: int) -> bytes | Exception:
    """The content of a file of at most so many bytes, or why there is none."""
    try:
        return read_bytes(uri, most)
    except Exception as error:  # each storage library raises its own
        return error
