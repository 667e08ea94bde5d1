"""The naming graph: read segments, name, write, commit. It sees no picture and runs on CPUs.

    files of the segments table ─► read_segments (tasks) ─► NameActor (text banks) ─► write_tables (tasks) ─► commits
    (driver)

Its tables are those of `pipelines/labelling/label.py`. The text banks are encoded once, on the driver, and travel to
the actors.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.execution import DECODE_CPUS, RESERVED_CPUS, WRITE_CPUS, Execution, actor_options, actor_plan
from pipelines.labelling.label_actor import rows_of_map
from pipelines.labelling.label_plan import TABLES
from pipelines.labelling.name_plan import (
    NamePlan,
    NameRequest,
    SegmentClassifierFactory,
    SegmentClassifierProtocol,
    plan_name,
)
from pipelines.ray_session import cluster_nodes
from pipelines.runs.rows import (
    BOOKKEEPING,
    WORK,
    BatchRunner,
    Rows,
    rows_table,
    with_bookkeeping,
    write_tables,
)
from pipelines.runs.run import Chunk, Progress, RunResult, run_graph
from zs3.segmentation.table import NEEDED, segments_at
from zs3.vocabulary import Vocabulary

if TYPE_CHECKING:
    from ray.data import Dataset

MAX_IMAGES_PER_FILE = 1024
"""Images in one file of labels, some megabytes."""

Wanted = Mapping[str, Mapping[str, Any]] | Container[str]
"""Ids of images to read, maybe with the bookkeeping of each (`table_rows.BOOKKEEPING`)."""

IMAGES_AT_ONCE = 16
"""Rows of segments that a task reads and hands on together."""


def name(
    request: NameRequest,
    execution: Execution | None = None,
    *,
    model: SegmentClassifierFactory | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Name the segments of every image that has no labels yet, and commit tables as the run goes.

    Args:
        request: what to name.
        execution: how; changes no result.
        model: how to come by the classifier; tests put their own here.
        on_progress: called in this process whenever a file of rows has been written.

    Raises:
        ValueError, FileNotFoundError: the request cannot be carried out.
        ray.exceptions.RayError: the run was stopped; what was finished is committed, and the same call continues.
    """
    called = time.time()
    execution, model = execution or Execution(), model or SegmentClassifierFactory()
    plan = plan_name(request, model)
    classifier = functools.cache(lambda: model.load(plan.checkpoint, plan.vocabulary, plan.naming))
    if plan.left.todo:
        classifier()  # refuses class lists, so it comes before any table is made
    return run_graph(
        plan.target,
        plan.left,
        lambda chunk: name_graph(plan, chunk, classifier(), execution),
        execution,
        called=called,
        on_progress=on_progress,
    )


def name_graph(
    plan: NamePlan, chunk: Chunk, classifier: SegmentClassifierProtocol, execution: Execution
) -> Dataset:
    """The lazy dataset whose rows tell of the files written below the plan's --out."""
    wanted = {row.pop("image_id"): row for row in chunk.images.select(BOOKKEEPING.names).to_pylist()}
    named = {
        "classifier": classifier,
        "vocabulary": plan.vocabulary,
        "run": plan.target.digest,
        "notes": chunk.notes,
    }
    return segments_graph(plan.files, wanted, NameActor, named, execution).map_batches(
        functools.partial(write_tables, uris=plan.target.uris, schemas=plan.target.schemas),
        batch_size=chunk.images_per_file(MAX_IMAGES_PER_FILE),
        batch_format="pyarrow",
        num_cpus=WRITE_CPUS,
    )


def segments_graph(
    files: Sequence[str],
    wanted: Wanted,
    actor: type,
    arguments: Mapping[str, Any],
    execution: Execution,
) -> Dataset:
    """The lazy dataset of what an actor class makes of stored segments, batch by batch.

    Args:
        files: of the segments table.
        wanted: the images to read.
        actor: called with tables as `read_segments` gives them.
        arguments: of its constructor, beside `threads`.
    """
    import ray
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 64 << 20
    actors = actor_plan(one_per_core(execution, cluster_nodes()), cluster_nodes())
    return (
        ray.data.from_arrow([pa.table({"file": [file]}) for file in files])
        .map_batches(
            functools.partial(read_segments, wanted=wanted),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=DECODE_CPUS,
            max_retries=-1,
        )
        .map_batches(
            actor,
            batch_size=execution.batch_size,
            batch_format="pyarrow",
            **actor_options(actors, execution, most=len(files)),  # a file is what one task reads
            fn_constructor_kwargs={**arguments, "threads": actors.threads or 1},
            max_task_retries=-1,
        )
    )


def one_per_core(execution: Execution, nodes: Sequence[Mapping[str, float]]) -> Execution:
    """The execution with actors for naming: one of one thread per CPU of the Ray in use, room for tasks left."""
    cpus = sum(node.get("CPU", 0.0) for node in nodes)
    return replace(
        execution,
        num_actors=execution.num_actors or max(1, int(cpus - RESERVED_CPUS)),
        cpus_per_actor=execution.cpus_per_actor or min(1.0, max(0.5, cpus - RESERVED_CPUS)),
        gpus_per_actor=0.0,
    )


def read_segments(files: pa.Table, *, wanted: Wanted) -> Iterator[pa.Table]:
    """The wanted rows of Parquet files of segments, some at a time, with the columns that naming needs.

    Args:
        files: a column `file`.
        wanted: the images to read; their bookkeeping, where there is such, becomes columns.
    """
    columns = ["image_id", "uri", "etag", *NEEDED]
    for file in files["file"].to_pylist():
        with fsspec.open(file, "rb") as opened:
            parquet = pq.ParquetFile(opened)
            ids = parquet.read(columns=["image_id"])["image_id"].to_pylist()
            if not any(image_id in wanted for image_id in ids):
                continue
            for batch in parquet.iter_batches(IMAGES_AT_ONCE, columns=columns):
                # Row by row: Arrow cannot filter the string views of files that a Delta delete has rewritten.
                rows = pa.Table.from_batches([batch])
                kept = [
                    index for index, image_id in enumerate(rows["image_id"].to_pylist()) if image_id in wanted
                ]
                if kept:
                    yield _with_books(pa.concat_tables([rows.slice(index, 1) for index in kept]), wanted)


def _with_books(rows: pa.Table, wanted: Wanted) -> pa.Table:
    """The rows with the bookkeeping of their images, where there is such."""
    if not isinstance(wanted, Mapping):
        return rows
    books = [wanted[image_id] for image_id in rows["image_id"].to_pylist()]
    for name in BOOKKEEPING.names[1:]:
        column = pa.array([book[name] for book in books], BOOKKEEPING.field(name).type)
        rows = rows.append_column(name, column)
    return rows


class NameActor:
    """Turns batches of segments into label rows and failure rows.

    Raises:
        RuntimeError: naming fails for every image.
    """

    def __init__(
        self,
        *,
        classifier: SegmentClassifierProtocol,
        vocabulary: Vocabulary,
        run: str,
        threads: int,
        notes: str | None = None,
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self._classifier, self._vocabulary, self._run = classifier, vocabulary, run
        self._guard = BatchRunner(results="labels", stage="name", run=run, notes=notes)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row per image: its rows of `labels`, or its row of `failures`."""
        started = time.time()
        images = with_bookkeeping(batch, WORK)
        outcomes = self._guard.outcomes(images, range(batch.num_rows), functools.partial(self._rows, batch))
        return rows_table(started, images, outcomes, TABLES)

    def _rows(self, batch: pa.Table, images: Sequence[Mapping[str, Any]], rows: Sequence[int]) -> list[Rows]:
        """The label rows of some images, each with its row in the batch."""
        return [
            rows_of_map(
                image,
                *self._classifier.name(segments_at(batch, row)),
                seen=self._classifier.seen,
                vocabulary=self._vocabulary,
                run=self._run,
            )
            for image, row in zip(images, rows, strict=True)
        ]
