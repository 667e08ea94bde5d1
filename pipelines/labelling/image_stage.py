"""One loaded model that turns batches of decoded pictures into rows of a table: what `label` and `segment` share."""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.execution import DECODE_CPUS, WRITE_CPUS, ActorPlan, Execution, actor_options
from pipelines.labelling.external_masks import read_with_masks
from pipelines.labelling.read_images import read_and_decode
from pipelines.runs.resume import Target
from pipelines.runs.rows import BatchRunner, Rows, rows_table, with_bookkeeping, write_tables
from pipelines.runs.run import Chunk

if TYPE_CHECKING:
    from ray.data import Dataset


class LoadedModel(Protocol):
    """What has been loaded and knows which run it is for."""

    digest: str


M = TypeVar("M", bound=LoadedModel)
Image = Mapping[str, Any]
Picture = NDArray[np.uint8]


class ModelThread(Generic[M]):
    """A model in a thread of its own, for an actor to hold.

    Args:
        load: the model, for the torch device of that name.
        origin: where the model comes from, for messages.
        actors: its threads and device.
        run: digest of the run.
        results: name of the table that its rows are for.
        stage: what `failures` calls its work.
        planned: digest that the model must have, where the run is defined by more than the model.
        notes: name of the run's notes on crashes; none takes no notes.

    Raises:
        RuntimeError: the model here is not the one the run was planned with.
    """

    def __init__(
        self,
        load: Callable[[str], M],
        *,
        origin: str,
        actors: ActorPlan,
        run: str,
        results: str,
        stage: str,
        planned: str | None = None,
        notes: str | None = None,
    ) -> None:
        # The model lives in one thread. Ray constructs an actor in one and calls it from another; OpenMP would then
        # keep a pool of threads for each, more threads than cores, and stop spinning at its barriers: 0.83 of the
        # speed that one pool has.
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._model = self._thread.submit(_loaded, load, actors).result()
        if self._model.digest != (planned or run):
            raise RuntimeError(
                f"checkpoint {origin!r} has digest {self._model.digest[:12]} here, but the run was planned with "
                f"{(planned or run)[:12]}; do all machines see the same checkpoint and the same version of zs3?"
            )
        self._guard = BatchRunner(results=results, stage=stage, run=run, notes=notes)

    def rows(
        self,
        batch: pa.Table,
        rows_of: Callable[[M, Sequence[Image], Sequence[Picture]], Sequence[Rows]],
        schemas: Mapping[str, pa.Schema],
    ) -> pa.Table:
        """The batch's rows of each table, as `rows_table` lays them out.

        Args:
            batch: decoded pictures, as `sources.PIXELS` or `proposals.GIVEN`.
            rows_of: the rows of some images; called in the model's thread.
            schemas: of the tables.

        Raises:
            RuntimeError: the model fails for every image.
        """
        started = time.time()
        images = [
            {**image, **told}
            for image, told in zip(
                batch.drop_columns("pixels").to_pylist(), with_bookkeeping(batch), strict=True
            )
        ]
        done: list[dict[str, Rows]] = [{"failures": image["failures"]} for image in images]
        readable = [index for index, image in enumerate(images) if not image["failures"]]
        pictures = [_picture(batch, index) for index in readable]

        def in_thread(some: Sequence[Image], theirs: Sequence[Picture]) -> Sequence[Rows]:
            return self._thread.submit(rows_of, self._model, some, theirs).result()

        outcomes = self._guard.outcomes([images[i] for i in readable], pictures, in_thread)
        for index, outcome in zip(readable, outcomes, strict=True):
            done[index] = outcome
        return rows_table(started, images, done, schemas)


def picture_graph(
    actor: type,
    *,
    target: Target,
    chunk: Chunk,
    max_pixels: int,
    max_images_per_file: int,
    actors: ActorPlan,
    execution: Execution,
    arguments: Mapping[str, Any],
    proposals: Mapping[str, str] | None = None,
) -> Dataset:
    """Read and decode, process in actors, write: the lazy dataset whose rows are the files written.

    Args:
        actor: the class whose instances hold the model.
        max_pixels: pictures of more pixels become failures.
        max_images_per_file: images in one file, where the execution leaves it open.
        arguments: of the actor's constructor.
        chunk: the images.
        proposals: where masks are given: image id → JSON, see `proposals.Proposals`. They are read with the pictures.
    """
    import ray
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = (
        64 << 20
    )  # bytes of pixels; with Ray's 128 MiB, few blocks fill a small store
    read = read_and_decode if proposals is None else read_with_masks
    return (
        ray.data.from_arrow(_blocks(chunk.images, execution.images_per_block, proposals))
        .map_batches(
            functools.partial(read, max_pixels=max_pixels, run=target.digest, notes=chunk.notes),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=DECODE_CPUS,
            max_retries=-1,
        )
        .map_batches(
            actor,
            batch_size=execution.batch_size,
            batch_format="pyarrow",
            **actor_options(actors, execution),
            fn_constructor_kwargs={**arguments, "notes": chunk.notes},
            max_task_retries=-1,
        )
        .map_batches(
            functools.partial(write_tables, uris=target.uris, schemas=target.schemas),
            batch_size=execution.images_per_file or chunk.images_per_file(max_images_per_file),
            batch_format="pyarrow",
            num_cpus=WRITE_CPUS,
        )
    )


def _loaded(load: Callable[[str], M], actors: ActorPlan) -> M:
    """The model, and the number of threads that it computes with."""
    torch = importlib.import_module("torch") if actors.device == "cpu" else None
    if torch:
        torch.set_num_threads(actors.cpu_threads)
    return load(actors.device)


def _blocks(images: pa.Table, images_per_block: int, proposals: Mapping[str, str] | None) -> list[pa.Table]:
    """The images in tables of at most `images_per_block`, one task each."""
    if proposals is not None:
        told = [proposals.get(image_id, "") for image_id in images["image_id"].to_pylist()]
        images = images.append_column("proposals", pa.array(told, pa.large_string()))
    return [images.slice(start, images_per_block) for start in range(0, images.num_rows, images_per_block)]


def _picture(batch: pa.Table, index: int) -> Picture:
    """(H, W, 3) uint8 view of the pixels of one row."""
    height, width = batch["height"][index].as_py(), batch["width"][index].as_py()
    return np.frombuffer(batch["pixels"][index].as_buffer(), dtype=np.uint8).reshape(height, width, 3)
