"""The steps that `label` and `segment` share: read and decode an image, give it to a model in an actor, write its rows.

uris ─► read_and_decode (CPU tasks) ─► an actor that holds a ModelThread ─► write_tables (tasks)
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.execution import (
    DECODE_CPUS,
    WRITE_CPUS,
    ActorPlan,
    Execution,
    actor_options,
    actor_plan,
    images_per_file,
)
from pipelines.ray_session import cluster_nodes, configure_ray_data
from pipelines.runs.catalogue import Catalogue, catalogue_of
from pipelines.runs.crash_journal import MAX_CRASHES, CrashJournal, crash_error
from pipelines.runs.listing import listed_images
from pipelines.runs.resume import RemainingWork, TableRequest
from pipelines.runs.rows import WORK, Rows, failure_of, work_rows, write_tables
from pipelines.runs.run import Chunk
from pipelines.storage.objects import (
    CredentialsError,
    StorageDownError,
    classify_error,
    describe_error,
    read_bytes,
)
from zs3.images.codec import DEFAULT_MAX_PIXELS, Alpha, decode
from zs3.tables import FAILURES

if TYPE_CHECKING:
    from ray.data import Dataset


PARALLEL_READS = 8
"""Files that one task reads at the same time; object stores answer with delay, not at a low rate."""

MAX_BYTES_PER_PIXEL, MAX_EXTRA_BYTES = 8, 64 << 20
"""A file with more bytes than this for each pixel that may be decoded, plus the extra, is not read. 8 bytes: four
channels of 16 bits; the extra: metadata and further pictures in the file."""

MAX_STORAGE_ERRORS = 8
"""Images in a row for which a store gave only transient errors, after which it counts as down."""

PIXELS = pa.schema(
    [
        *WORK,
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("pixels", pa.large_binary()),
        pa.field("failures", pa.list_(pa.struct(list(FAILURES)))),
    ]
)
"""A decoded image: the bytes of (H, W, 3) uint8 RGB, or one row of `failures` and no pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesRequest(TableRequest):
    """The request fields that `label` and `segment` share."""

    images: str
    """Folder, glob, text file of uris, Parquet table with a column `uri`, or one image; local, s3:// or gs://."""
    checkpoint: str
    """Shipped name (zs3-mini), folder or uri of a checkpoint."""
    max_pixels: int = DEFAULT_MAX_PIXELS
    """Images of more pixels are not decoded; they become failures."""
    alpha: Alpha = "white"
    """What becomes of transparency: laid on white, or dropped as in the published code. Another choice is another
    run."""
    ids: Literal["names", "relative"] = "names"
    """names: an image's id is its file name without extension where those are unique, otherwise its path below the
    listed folder; relative: always that path, which stays unique as the folder grows. Ids in tables stay."""

    def catalogue(self) -> Catalogue:
        """The images, listed now; raises as `catalogue_of` does."""
        return catalogue_of(self.images, self.limit, relative_ids=self.ids == "relative")

    def refuse_unusable(self) -> None:
        """Raise for images that are not there and options out of their range; cheap, before weights are read."""
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels is {self.max_pixels}; expected at least 1")
        listed_images(self.images)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRun:
    """What a run of `label` or `segment` does with its images."""

    work: RemainingWork
    actor: type
    """Its instances turn batches of pixels into rows (`rows.BatchRunner.table`)."""
    arguments: Callable[[ActorPlan], Mapping[str, Any]]
    """Of the actor's constructor, besides `journal_id`."""
    read: Callable[..., Iterator[pa.Table]]
    """`read_and_decode` or `external_masks.read_with_masks`, with all arguments but `refs` and `journal_id`."""
    max_images_per_file: int
    """Upper limit where the execution gives no number."""
    masks: Mapping[str, str] | None = None
    """Image id → JSON for `read_with_masks`; None where the model predicts masks."""

    def with_masks(self, images: pa.Table) -> pa.Table:
        """Some images (`rows.WORK`), with a column `masks_at` where there are external masks."""
        if self.masks is None:
            return images
        masks = [self.masks.get(image_id, "") for image_id in images["image_id"].to_pylist()]
        return images.append_column("masks_at", pa.array(masks, pa.large_string()))


def with_alpha(parts: Mapping[str, str], alpha: Alpha) -> dict[str, str]:
    """The parts of a run's digest with what becomes of transparency; the default, which runs had before it could be
    chosen, is no part."""
    return {**parts, **({} if alpha == "white" else {"alpha": alpha})}


def image_graph(run: ImageRun, execution: Execution, chunk: Chunk) -> Dataset:
    """The lazy dataset whose rows are `rows.WRITTEN`: what was written about the images of a chunk."""
    import ray

    configure_ray_data()
    actors = actor_plan(execution, cluster_nodes())
    target, size, images = run.work.target, execution.images_per_block, run.with_masks(chunk.images)
    blocks = [images.slice(start, size) for start in range(0, images.num_rows, size)]
    return (
        ray.data.from_arrow(blocks)
        .map_batches(
            functools.partial(run.read, journal_id=chunk.journal_id),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=DECODE_CPUS,
            max_retries=-1,
        )
        .map_batches(
            run.actor,
            batch_size=execution.batch_size,
            batch_format="pyarrow",
            **actor_options(actors, execution),
            fn_constructor_kwargs={**run.arguments(actors), "journal_id": chunk.journal_id},
            max_task_retries=-1,
        )
        .map_batches(
            functools.partial(write_tables, uris=target.uris, schemas=target.schemas),
            batch_size=images_per_file(execution, chunk.total, run.max_images_per_file),
            batch_format="pyarrow",
            num_cpus=WRITE_CPUS,
        )
    )


def read_and_decode(
    refs: pa.Table, *, max_pixels: int, run: str, alpha: Alpha = "white", journal_id: str | None = None
) -> Iterator[pa.Table]:
    """One table of one row (`PIXELS`) per image, one at a time, so that memory holds one picture.

    Args:
        refs: columns image_id and uri, and other columns of `rows.WORK` where there are any.
        max_pixels: images of more pixels are refused before they are decoded.
        run: digest of the run, for rows of `failures`.
        alpha: as for `decode`.
        journal_id: which crash journal to keep (`pipelines.runs.crash_journal`); None keeps none.

    Raises:
        CredentialsError: the store refuses the credentials.
        StorageDownError: the store returns nothing but errors.
    """
    journal = CrashJournal(journal_id, "decode") if journal_id else None
    try:
        yield from _decode_all(work_rows(refs), journal, max_pixels, alpha, run)
    finally:
        if journal:
            journal.close()


def _decode_all(
    images: list[dict[str, Any]], journal: CrashJournal | None, max_pixels: int, alpha: Alpha, run: str
) -> Iterator[pa.Table]:
    crashes = journal.crashes()[0] if journal else {}
    storage_errors = 0
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        read = functools.partial(_content, max_bytes=MAX_BYTES_PER_PIXEL * max_pixels + MAX_EXTRA_BYTES)
        contents = pool.map(read, (image["uri"] for image in images))
        for image, content in zip(images, contents, strict=True):
            row: dict[str, Any] = {**image, "height": 0, "width": 0, "pixels": b"", "failures": []}
            transient = (
                isinstance(content, Exception) and classify_error(content, image["uri"]) == "transient"
            )
            storage_errors = storage_errors + 1 if transient else 0
            if isinstance(content, Exception) and storage_errors == MAX_STORAGE_ERRORS:
                raise StorageDownError(
                    f"the store gave nothing but errors for {MAX_STORAGE_ERRORS} images in a row, the last time for "
                    f"{image['uri']}: {describe_error(content)}; run again once it answers"
                )
            try:
                if isinstance(content, Exception):
                    raise content
                if (count := crashes.get(image["image_id"], 0)) >= MAX_CRASHES:
                    raise crash_error(count)
                if journal:
                    journal.enter([image["image_id"]])
                pixels_HW3 = decode(content, max_pixels=max_pixels, alpha=alpha)
                row["height"], row["width"] = pixels_HW3.shape[:2]
                row["pixels"] = pixels_HW3.tobytes()
            except CredentialsError:
                raise
            except Exception as error:  # whatever is wrong with one file must not stop the others
                stage = "read" if isinstance(content, Exception) else "decode"
                row["failures"] = [failure_of(image, stage, error, run)]
            if journal:
                journal.enter([])
            yield pa.Table.from_pylist([row], schema=PIXELS)


def _content(uri: str, max_bytes: int) -> bytes | Exception:
    """The content of a file, or the error that reading it raised."""
    try:
        return read_bytes(uri, max_bytes)
    except Exception as error:  # each storage library raises its own
        return error


def picture_at(batch: pa.Table, index: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 view of the pixels in one row of `PIXELS`."""
    height, width = batch["height"][index].as_py(), batch["width"][index].as_py()
    return np.frombuffer(batch["pixels"][index].as_buffer(), dtype=np.uint8).reshape(height, width, 3)


class ModelThread:
    """A model that lives in a thread of its own.

    Ray constructs an actor in one thread and calls it from another. OpenMP would keep a pool of threads for each, more
    threads than cores, and stop spinning at its barriers: 0.83 of the speed that one pool has.

    Args:
        load: makes the model, which has a `digest`, on a torch device, given by name.
        origin: the checkpoint, for messages.
        actors: threads and device.
        digest: the model must have this one.

    Raises:
        RuntimeError: the model has another digest.
    """

    def __init__(self, load: Callable[[str], Any], *, origin: str, actors: ActorPlan, digest: str) -> None:
        def loaded() -> Any:
            model = load(actors.device)
            torch = sys.modules.get(
                "torch"
            )  # importing it takes seconds, which a model without it need not wait
            if torch and actors.device == "cpu":
                torch.set_num_threads(actors.cpu_threads)
            return model

        self._thread = ThreadPoolExecutor(max_workers=1)
        self._model = self._thread.submit(loaded).result()
        if self._model.digest != digest:
            raise RuntimeError(
                f"checkpoint {origin!r} has digest {self._model.digest[:12]} here, but the run was planned with "
                f"{digest[:12]}; do all machines see the same checkpoint and the same version of zs3?"
            )

    def call(self, function: Callable[..., Sequence[Rows]], *arguments: Any) -> Sequence[Rows]:
        """`function(model, *arguments)`, run in the model's thread."""
        return self._thread.submit(function, self._model, *arguments).result()
