"""The labelling graph: list, read and decode, label, write, commit.

    refs ─► read_and_decode (CPU tasks) ─► LabelActor (one model each) ─► write_tables (tasks) ─► commits
    (driver)

An image that cannot be read, decoded or labelled becomes a row of `failures` and the rest goes on. A run that
is started again labels what is not in `labels` yet; failed images are tried again, their old rows making way.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.commit import Part, forget, open_table, publish, table_uri
from pipelines.execution import (
    DECODE_CPUS,
    WRITE_CPUS,
    Execution,
    actor_plan,
    cluster_nodes,
    start_ray,
)
from pipelines.label_actor import LabelActor, write_tables
from pipelines.label_plan import TABLES, LabelPlan, LabelRequest, Model, plan_label
from pipelines.sources import read_and_decode

if TYPE_CHECKING:
    from ray.data import Dataset

RETRIES = 3
"""How often Ray repeats a task whose process was killed; by default it would do so for ever with an image
that brings its process down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is."""

    done: int
    """Images labelled or failed in this run."""
    failed: int
    total: int
    seconds: float
    """Since the first image reached a model."""

    @property
    def images_per_second(self) -> float:
        """Over the run so far."""
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def remaining_s(self) -> float | None:
        """At this speed; None before it is known."""
        return (self.total - self.done) / self.images_per_second if self.images_per_second else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelResult:
    """What a run did; the keys of `--json`."""

    images: int
    """Labelled in this run."""
    failed: int
    """Failed in this run."""
    skipped: int
    """Labelled before."""
    seconds: float
    """From the first image at a model to the last commit."""
    images_per_second: float
    out: str
    startup_seconds: float
    """From the call to the first image at a model."""


def label(
    request: LabelRequest,
    execution: Execution | None = None,
    *,
    model: Model | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> LabelResult:
    """Label every image that has no labels yet, and commit tables as the run goes.

    Args:
        request: what to label.
        execution: how; changes no result.
        model: how to come by the labeller; tests put their own here.
        on_progress: called in this process whenever a file of rows has been written.

    Raises:
        ValueError, FileNotFoundError: the request cannot be carried out.
        ray.exceptions.RayError: the run was stopped; what was finished is committed, and the same call
        continues.
    """
    called = time.time()
    execution, model = execution or Execution(), model or Model()
    plan = plan_label(request, model)
    run = plan.description.digest
    tables = {
        name: open_table(table_uri(request.out, name), schema, plan.provenance)
        for name, schema in TABLES.items()
    }
    counts = dict.fromkeys(TABLES, 0)
    pending: dict[str, list[Part]] = {name: [] for name in TABLES}

    def commit() -> None:
        for name, schema in TABLES.items():
            parts, pending[name] = pending[name], []
            publish(tables[name], schema, parts, run=run, written_ms=int(time.time() * 1000))

    first = last_commit = time.time()
    if plan.todo:
        start_ray(execution)
        forget(tables["failures"], plan.retried)
        first = float("inf")
        try:
            for row in _written(label_graph(plan, model, execution)):
                pending[row["table"]].append(
                    Part(**{key: row[key] for key in ("path", "size", "rows", "stats")})
                )
                counts[row["table"]] += row["images"]
                first = min(first, row["started"])
                if time.time() - last_commit >= execution.commit_interval_s:
                    commit()
                    last_commit = time.time()
                if on_progress:
                    done, failed = sum(counts.values()), counts["failures"]
                    seconds = max(0.0, time.time() - first)
                    on_progress(Progress(done=done, failed=failed, total=len(plan.todo), seconds=seconds))
        except BaseException:
            with suppress(ValueError):  # the first error is the one to tell
                commit()
            raise
        commit()
    ended = time.time()
    first = min(max(first, called), ended)  # the actors' clocks may differ from ours
    return LabelResult(
        images=counts["labels"],
        failed=counts["failures"],
        skipped=plan.skipped,
        seconds=ended - first,
        images_per_second=counts["labels"] / (ended - first) if counts["labels"] else 0.0,
        out=request.out,
        startup_seconds=first - called,
    )


def label_graph(plan: LabelPlan, model: Model, execution: Execution) -> Dataset:
    """The lazy dataset whose rows are the files written below the plan's --out."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = (
        64 << 20
    )  # bytes of pixels; with Ray's 128 MiB, few blocks fill a small store
    actors = actor_plan(execution, cluster_nodes())
    run = plan.description.digest
    return (
        ray.data.from_arrow(_blocks(plan.todo, execution.images_per_block))
        .map_batches(
            functools.partial(read_and_decode, max_pixels=plan.request.max_pixels, run=run),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=DECODE_CPUS,
            max_retries=RETRIES,
        )
        .map_batches(
            LabelActor,
            batch_size=execution.batch_size,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                size=actors.num_actors, max_tasks_in_flight_per_actor=execution.tasks_in_flight
            ),
            num_cpus=actors.cpus,
            num_gpus=actors.gpus,
            fn_constructor_kwargs={
                "model": model,
                "checkpoint": plan.request.checkpoint,
                "vocabulary": plan.vocabulary,
                "run": run,
                "actors": actors,
            },
            max_task_retries=RETRIES,
        )
        .map_batches(
            functools.partial(
                write_tables, uris={name: table_uri(plan.request.out, name) for name in TABLES}
            ),
            batch_size=execution.images_per_file or min(1024, max(16, len(plan.todo) // 16)),
            batch_format="pyarrow",
            num_cpus=WRITE_CPUS,
        )
    )


def _blocks(refs: tuple[tuple[str, str], ...], images_per_block: int) -> list[pa.Table]:
    """The refs in tables of at most `images_per_block`, one task each."""
    table = pa.Table.from_arrays(
        [pa.array(column, pa.string()) for column in zip(*refs)], ["image_id", "uri"]
    )
    return [table.slice(start, images_per_block) for start in range(0, table.num_rows, images_per_block)]


def _written(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """The rows of `write_tables`, as they come."""
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        assert isinstance(batch, pa.Table)
        yield from batch.to_pylist()
