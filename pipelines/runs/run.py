"""One run that fills tables image by image, and commits as it goes. `label`, `segment` and `name` share it.

An image that cannot be processed becomes a row of `failures`, and the run continues. A run that is started again does
what is not in its tables yet. A long run is split into chunks, each with a graph of its own, so that the driver holds
one chunk at a time.
"""

from __future__ import annotations

import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from pipelines.execution import Execution
from pipelines.ray_session import start_ray
from pipelines.runs.committer import Committer
from pipelines.runs.crash_journal import remove_journals
from pipelines.runs.lease import RENEW_S
from pipelines.runs.resume import RemainingWork
from pipelines.runs.stall_timeout import graph_state, iterate_with_timeout, stop_graphs
from pipelines.termination import uninterrupted
from zs3.wording import number_of

if TYPE_CHECKING:
    from ray.data import Dataset

RETRIES = 3
"""How often Ray repeats a task whose process died, in graphs without a crash journal. By default Ray repeats it without
end, also where an image crashes its process."""

MIN_IMAGES_FOR_SHARE = 100
"""Images to process before a share of failures can stop a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far something over images is."""

    done: int
    """Images processed so far, including failures."""
    total: int | None = None
    """None where it is not known."""
    failed: int = 0
    seconds: float | None = None
    """Since the first image reached a model; None where the receiver takes the time itself."""

    @property
    def images_per_second(self) -> float:
        """Over all images so far; 0 before it is known."""
        return self.done / self.seconds if self.seconds else 0.0

    @property
    def remaining_s(self) -> float | None:
        """Seconds that the other images take at this speed; None before it is known."""
        rate = self.images_per_second
        return (self.total - self.done) / rate if rate and self.total is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run did; the keys of `--json`."""

    images: int = 0
    """Processed in this run."""
    failed: int = 0
    """Failed in this run."""
    skipped: int
    """Processed before."""
    seconds: float = 0.0
    """From the first image at a model to the last commit."""
    images_per_second: float = 0.0
    out: str
    startup_seconds: float = 0.0
    """From the call to the first image at a model."""
    failed_before: int = 0
    """Failed in an earlier run and not tried again; part of `skipped`."""
    other_files: Mapping[str, int] = field(default_factory=dict)
    """Extension → number of files in the folder of images that are none; "" counts those without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """The images of one graph."""

    images: pa.Table
    """In the schema `rows.WORK`."""
    total: int
    """Images of the whole run."""
    journal_id: str
    """Which crash journal the run keeps (`pipelines.runs.crash_journal`)."""


class PreparedRun(Protocol):
    """A request that was checked, and what it leaves to do."""

    @property
    def work(self) -> RemainingWork:
        """The tables, and the images that are not in them yet."""

    def graph(self, execution: Execution) -> Callable[[Chunk], Dataset]:
        """A function that makes the lazy dataset of a chunk, with rows `rows.WRITTEN`. Called once, if images are
        pending, before any table is made."""


def run_table(
    prepare: Callable[[], PreparedRun],
    execution: Execution | None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Execute a graph that writes files, chunk by chunk, and commit the files as it goes.

    Args:
        prepare: checks the request. Without pending images, Ray is not started.
        execution: how to run; changes no result.
        on_progress: called in this process whenever a file of rows has been written.

    Raises:
        ValueError, FileNotFoundError: the request cannot be carried out, or the tables cannot be written to; also where
            another run writes them.
        RuntimeError: too many images failed, or none was finished for too long.
        ray.exceptions.RayError, Terminated, KeyboardInterrupt: the run was stopped; what was finished is committed, and
            the same call continues.
    """
    called = time.monotonic()
    execution = execution or Execution()
    too_many = failure_limit(execution.max_failures)
    prepared = prepare()
    work, total = prepared.work, len(prepared.work.pending)
    graph = prepared.graph(execution) if total else None
    committer = Committer(work)
    try:
        with uninterrupted():
            committer.begin()
        if graph:
            _process(graph, work, committer, execution, on_progress, too_many)
        with uninterrupted():
            committer.commit()
    finally:
        with uninterrupted():
            committer.release()
    seconds = committer.seconds
    return RunResult(
        images=committer.images,
        failed=committer.failed,
        skipped=work.skipped,
        seconds=seconds,
        images_per_second=committer.images / seconds if seconds else 0.0,
        out=work.target.out,
        startup_seconds=time.monotonic() - called - seconds,
        failed_before=work.failed_before,
        other_files=work.other_files,
    )


def _process(
    graph: Callable[[Chunk], Dataset],
    work: RemainingWork,
    committer: Committer,
    execution: Execution,
    on_progress: Callable[[Progress], None] | None,
    too_many: Callable[[int, int], bool],
) -> None:
    """Execute the graph of each chunk, and commit what it writes; after an error, what was written until then."""
    start_ray(execution)
    committed = time.monotonic()
    journal_id, total = uuid.uuid4().hex, len(work.pending)

    def renew() -> None:
        with uninterrupted():
            committer.renew(RENEW_S)

    try:
        for images in work.pending.chunks(execution.images_per_wave):
            dataset = graph(Chunk(images=images, total=total, journal_id=journal_id))
            for written in iterate_with_timeout(
                _written(dataset), execution.stall_timeout_s, graph_state, renew
            ):
                committer.add(written)
                if time.monotonic() - committed >= execution.commit_interval_s:
                    with uninterrupted():
                        committer.commit()
                    committed = time.monotonic()
                renew()
                done, failed = committer.done, committer.failed
                if on_progress:
                    on_progress(Progress(done=done, failed=failed, total=total, seconds=committer.seconds))
                if too_many(done, failed):
                    raise RuntimeError(
                        f"{failed} of the first {number_of(done, 'image')} failed, more than --max-failures "
                        f"{execution.max_failures} allows; {work.target.uris['failures']} says why. What was "
                        "finished is kept, and the same command continues it"
                    )
    except BaseException:
        with suppress(ValueError), uninterrupted():  # the first error is the one to report
            committer.commit()
        stop_graphs()  # before their journals are removed
        raise
    finally:
        remove_journals(journal_id)


def failure_limit(max_failures: str | None) -> Callable[[int, int], bool]:
    """A function of (images done, images failed): whether more failed than `max_failures` allows.

    Args:
        max_failures: a number, or a share such as `5%`; None allows all. A share is judged after
            `MIN_IMAGES_FOR_SHARE` images, except 0%, which the first failure exceeds.

    Raises:
        ValueError: it is neither.
    """
    if max_failures is None:
        return lambda done, failed: False
    is_share = max_failures.endswith("%")
    digits = max_failures.removesuffix("%")
    limit = float(digits) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", digits) else -1.0
    if not (0 <= limit <= (100 if is_share else sys.float_info.max)):
        raise ValueError(
            f"max_failures is {max_failures!r}; expected a number such as 100, or a share such as 5%; "
            "leave it out to allow all"
        )
    if not is_share or not limit:
        return lambda done, failed: failed > limit
    return lambda done, failed: done >= MIN_IMAGES_FOR_SHARE and 100 * failed > limit * done


def _written(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """The rows of `write_tables`, as they come."""
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        assert isinstance(batch, pa.Table)
        yield from batch.to_pylist()
