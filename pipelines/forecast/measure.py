"""What images cost: read and decoded one by one, processed by the actor of a run, and written as its tables are."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipelines.execution import ActorPlan
from pipelines.forecast.estimate import Interval, parts_of_size
from pipelines.tables.delta_writer import write_data_file

TOGETHER = 32
"""Images in one file at most, when it is measured what each adds to it; that takes as many files again."""

Actor = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What some images cost, one by one in their order."""

    load_s: float
    """Until the model was loaded."""
    decode_s: tuple[float, ...]
    """Reading and decoding, in one thread."""
    model_s: tuple[float, ...]
    done: pa.Table
    """What the actor made of them, one row each, as `table_rows.rows_table`."""


def measure(
    make_actor: Callable[[], Actor], read: Callable[[pa.Table], Iterable[pa.Table]], images: pa.Table
) -> Measured:
    """Process images one by one; pictures never share a pass through a network, so a batch costs what they do.

    The first one is processed once before, as first calls are slow.

    Args:
        make_actor: loads the model.
        read: reads and decodes.
        images: as `table_rows.WORK`, in random order, so that nothing that changes meanwhile leans on some of them.
    """
    began = time.perf_counter()
    actor = make_actor()
    load_s = time.perf_counter() - began
    decode_s, model_s, done = [], [], []
    actor(_read(read, images.slice(0, 1)))
    for index in range(images.num_rows):
        began = time.perf_counter()
        picture = _read(read, images.slice(index, 1))
        decoded = time.perf_counter()
        done.append(actor(picture))
        decode_s.append(decoded - began)
        model_s.append(time.perf_counter() - decoded)
    return Measured(
        load_s=load_s, decode_s=tuple(decode_s), model_s=tuple(model_s), done=pa.concat_tables(done)
    )


def measure_on_ray(
    make_actor: Callable[[], Actor],
    read: Callable[[pa.Table], Iterable[pa.Table]],
    images: pa.Table,
    actors: ActorPlan,
) -> Measured:
    """The same in a worker of the Ray in use, which is given what an actor of the run gets.

    Raises:
        ray.exceptions.RayError: the worker failed, maybe for an image that brings its process down.
    """
    import ray

    task = ray.remote(measure).options(num_cpus=actors.cpus, num_gpus=actors.gpus, max_retries=0)
    measured: Measured = ray.get(task.remote(make_actor, read, images))
    return measured


def written(done: pa.Table, name: str, schema: pa.Schema, per_file: int) -> tuple[list[float], float]:
    """What each image adds to the files of a table, and what a file takes beside that, in bytes.

    Files hold neighbours of the listing, whose rows are alike and so take less. The images are therefore put together
    in order of their uris, as many as a file of the run has, if it has few.

    Args:
        done: what the actor made of the images.
        name: of the table.
        schema: of the table.
        per_file: images in a file of the run.
    """
    order = _by_uri(done, name)
    together = min(per_file, TOGETHER, len(order))
    adds, remainders = [0.0] * len(order), []
    with tempfile.TemporaryDirectory(prefix="zs3-plan-") as folder:

        def size_of(images: Sequence[int]) -> float:
            rows = pa.Table.from_struct_array(
                done[name].take(pa.array(images, pa.int64())).combine_chunks().flatten()
            )
            return float(write_data_file(folder, rows.cast(schema)).size) if rows.num_rows else 0.0

        for end in range(together, len(order) + together, together):
            images = order[:end][-together:]  # the last ones are as many, though some are met again
            theirs, remainder = parts_of_size(size_of, images)
            remainders.append(remainder)
            for image, added in zip(images, theirs, strict=True):
                adds[image] = added
    return adds, sum(remainders) / len(remainders)


def _by_uri(done: pa.Table, name: str) -> list[int]:
    """Numbers of the images in order of their uris; those without rows first."""
    uris = [rows[0]["uri"] if rows else "" for rows in done[name].to_pylist()]
    return sorted(range(len(uris)), key=uris.__getitem__)


def files(images: int, per_file: int) -> Interval:
    """To how many files so many images are written.

    A writing task gets at least `per_file` images, but for the last, and its last file holds what is over: there are at
    most twice as many files as are needed. The last file of all counts as the part that it is full, as its least: what
    a file takes beside its images is less where they are fewer.
    """
    needed = -(-images // per_file)
    return Interval(estimate=needed, low=images / per_file, high=2 * needed)


def _read(read: Callable[[pa.Table], Iterable[pa.Table]], images: pa.Table) -> pa.Table:
    return pa.concat_tables(read(images))
