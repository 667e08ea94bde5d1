"""What the sampled images cost: seconds to decode and to process, measured one by one, and bytes in table files."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pyarrow as pa

from pipelines.execution import ActorPlan
from pipelines.tables.delta_writer import write_data_file

Actor = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The costs of some images, in their order."""

    load_s: float
    """Loading the model."""
    decode_s: tuple[float, ...]
    """Reading and decoding, in one thread."""
    model_s: tuple[float, ...]
    rows: pa.Table
    """What the actor made of them: one row per image, as `rows.rows_table`."""


def measure(
    make_actor: Callable[[], Actor],
    read: Callable[[pa.Table], Iterable[pa.Table]],
    images: pa.Table,
    clock: Callable[[], float] = time.perf_counter,
) -> Measured:
    """Process images one by one. A network gets one picture at a time in any batch, so a batch costs their sum.

    The first image is processed twice and the first time does not count, because first calls are slow.

    Args:
        make_actor: loads the model.
        read: reads and decodes.
        images: with the columns `rows.WORK`, in random order, so that a drift of speed favours none of them.
        clock: seconds.
    """
    start = clock()
    actor = make_actor()
    load_s = clock() - start
    actor(pa.concat_tables(read(images.slice(0, 1))))
    decode_s, model_s, rows = [], [], []
    for index in range(images.num_rows):
        start = clock()
        pixels = pa.concat_tables(read(images.slice(index, 1)))
        decoded = clock()
        rows.append(actor(pixels))
        decode_s.append(decoded - start)
        model_s.append(clock() - decoded)
    return Measured(
        load_s=load_s, decode_s=tuple(decode_s), model_s=tuple(model_s), rows=pa.concat_tables(rows)
    )


def measure_on_ray(
    make_actor: Callable[[], Actor],
    read: Callable[[pa.Table], Iterable[pa.Table]],
    images: pa.Table,
    actors: ActorPlan,
) -> Measured:
    """`measure` in a worker of the running Ray, with the resources that an actor of the run gets.

    Raises:
        ray.exceptions.RayError: the worker failed; an image may have crashed its process.
    """
    import ray

    task = ray.remote(measure).options(num_cpus=actors.cpus, num_gpus=actors.gpus, max_retries=0)
    measured: Measured = ray.get(task.remote(make_actor, read, images))
    return measured


def bytes_in_files(
    rows: pa.Table, table_name: str, schema: pa.Schema, images_per_file: int
) -> tuple[list[float], float]:
    """Bytes that each image adds to the files of a table, and bytes that every file takes besides.

    The rows are written to files as large as those of the run, and again to one file for each image. With n images in g
    files, the cost of a file is (bytes of the small files - bytes of the large ones) / (n - g); an image adds what its
    own file takes beyond that cost.

    Args:
        rows: what the actor made of the images, see `Measured.rows`.
        table_name: column of `rows` that holds the rows for the table.
        schema: of the table.
        images_per_file: in the files of the run.
    """
    images = (rows[table_name].slice(index, 1).combine_chunks() for index in range(rows.num_rows))
    tables = [pa.Table.from_struct_array(image.flatten()).cast(schema) for image in images]
    # A run writes its images in order of their uris: neighbours have more in common, so they take less.
    by_uri = sorted(filter(len, tables), key=lambda table: str(table["uri"][0]))
    with tempfile.TemporaryDirectory(prefix="zs3-plan-") as folder:
        alone = [write_data_file(folder, table).size if len(table) else 0 for table in tables]
        groups = [by_uri[start : start + images_per_file] for start in range(0, len(by_uri), images_per_file)]
        grouped = [write_data_file(folder, pa.concat_tables(group)).size for group in groups]
    per_file = (sum(alone) - sum(grouped)) / max(1, len(by_uri) - len(groups))
    return [size - per_file if size else 0.0 for size in alone], per_file
