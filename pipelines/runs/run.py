"""One run that fills a table image by image: what is left to do, and commits as the run goes.

Shared by `label`, `segment` and `name`, whose graphs differ. An image that cannot be processed becomes a row of
`failures` and the rest goes on. A run that is started again does what is not in its tables yet. A long run is a row of
chunks, each a graph of its own, so that the driver holds one chunk at a time.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.tables.delta_writer import open_table
from pipelines.execution import Execution
from pipelines.ray_session import start_ray
from pipelines.runs.committer import Committer
from pipelines.runs.crash_journal import remove_journals
from pipelines.runs.resume import Remaining, Target
from pipelines.runs.stall_timeout import stages, stop_graphs, iterate_with_timeout

if TYPE_CHECKING:
    from ray.data import Dataset

RETRIES = 3
"""How often Ray repeats a task whose process was killed, in graphs that take no notes of crashes; by default it would
do so for ever with an image that brings its process down."""

ENOUGH_TO_JUDGE = 100
"""Images after which a share of failures means something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is."""

    done: int
    """Images processed or failed in this run."""
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
class RunResult:
    """What a run did; the keys of `--json`."""

    images: int
    """Processed in this run."""
    failed: int
    """Failed in this run."""
    skipped: int
    """Processed before."""
    seconds: float
    """From the first image at a model to the last commit."""
    images_per_second: float
    out: str
    startup_seconds: float
    """From the call to the first image at a model."""
    failed_before: int = 0
    """Failed in an earlier run, and not tried again; part of `skipped`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """The images of one graph."""

    images: pa.Table
    """As `table_rows.WORK`."""
    total: int
    """Images of the whole run."""
    notes: str
    """Name of the run's notes on crashes, see `pipelines.runs.crash_journal`."""
    asked: int | None = None
    """Images in one file, where the execution says so."""

    def images_per_file(self, most: int) -> int:
        """Images in one file: as asked for, else a sixteenth of the run, at least 16 and at most `most`."""
        return self.asked or min(most, max(16, self.total // 16))


def run_graph(
    target: Target,
    left: Remaining,
    graph: Callable[[Chunk], Dataset],
    execution: Execution,
    *,
    called: float,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Execute a graph that writes files, chunk by chunk, and commit the files as it goes.

    Args:
        target: the tables.
        left: what is to be done; nothing starts no Ray.
        graph: makes the lazy dataset whose rows are those of `table_rows.write_tables`.
        execution: how; changes no result.
        called: when the run was asked for, in seconds since 1970.
        on_progress: called in this process whenever a file of rows has been written.

    Raises:
        ValueError: the tables cannot be written to, or are of another run.
        RuntimeError: too many images failed, or none was finished for too long.
        ray.exceptions.RayError: the run was stopped; what was finished is committed, and the same call continues.
    """
    too_many = failure_limit(execution.max_failures)
    ledger = Committer(
        target,
        left,
        {
            name: open_table(target.uris[name], schema, target.provenance, replace=left.replaces)
            for name, schema in target.all_schemas.items()
        },
    )
    ledger.begin()
    first = time.time()
    if left.todo:
        start_ray(execution)
        first = float("inf")
        notes = uuid.uuid4().hex
        try:
            for images in left.todo.chunks(execution.images_per_wave):
                chunk = Chunk(images=images, total=len(left.todo), notes=notes, asked=execution.images_per_file)
                for written in committed(ledger, _written(graph(chunk)), execution):
                    first = min(first, written["started"])
                    if on_progress:
                        seconds = max(0.0, time.time() - first)
                        on_progress(
                            Progress(
                                done=ledger.done, failed=ledger.failed, total=len(left.todo), seconds=seconds
                            )
                        )
                    if too_many(ledger.done, ledger.failed):
                        raise RuntimeError(
                            f"{ledger.failed} of the first {ledger.done} images failed, more than --max-failures "
                            f"{execution.max_failures} allows; {target.uris['failures']} says why. What was finished "
                            "is kept, and the same command continues it"
                        )
        except BaseException:
            with suppress(ValueError):  # the first error is the one to tell
                ledger.commit()
            stop_graphs()  # before the notes go that its actors take
            raise
        finally:
            remove_journals(notes)
    ledger.commit()
    ended = time.time()
    first = min(max(first, called), ended)  # the actors' clocks may differ from ours
    return RunResult(
        images=ledger.images,
        failed=ledger.failed,
        skipped=left.skipped,
        seconds=ended - first,
        images_per_second=ledger.images / (ended - first) if ledger.images else 0.0,
        out=target.out,
        startup_seconds=first - called,
        failed_before=left.failed_before,
    )


def committed(
    ledger: Committer, written: Iterator[dict[str, Any]], execution: Execution
) -> Iterator[dict[str, Any]]:
    """The same rows, entered into the books, which are committed now and then.

    Raises:
        StalledError: nothing came for too long.
        ValueError: the tables cannot be written to.
    """
    last = time.time()
    for row in iterate_with_timeout(written, execution.stall_timeout_s, stages):
        ledger.add(row)
        if time.time() - last >= execution.commit_interval_s:
            ledger.commit()
            last = time.time()
        yield row


def failure_limit(told: str | None) -> Callable[[int, int], bool]:
    """Whether so many failures, of so many images, are more than were allowed.

    Args:
        told: a number, or a share such as `5%`; none allows all.

    Raises:
        ValueError: it is neither.
    """
    if told is None:
        return lambda done, failed: False
    share = told.endswith("%")
    try:
        limit = float(told.removesuffix("%"))
    except ValueError:
        limit = -1.0
    if not (0 <= limit <= (100 if share else float("inf"))):
        raise ValueError(f"max_failures is {told!r}; expected a number such as 100, or a share such as 5%")
    if not share:
        return lambda done, failed: failed > limit
    return lambda done, failed: done >= ENOUGH_TO_JUDGE and 100 * failed > limit * done


def _written(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """The rows of `write_tables`, as they come."""
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        assert isinstance(batch, pa.Table)
        yield from batch.to_pylist()
