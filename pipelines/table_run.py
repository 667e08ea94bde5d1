"""One run that fills a table image by image: what is left to do, and commits as the run goes.

Shared by `label`, `segment` and `name`, whose graphs differ. An image that cannot be processed becomes a row of
`failures` and the rest goes on. A run that is started again does what is not in its table yet; failed images are
tried again, their old rows making way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.commit import Part, existing_table, forget, image_uris, open_table, publish, table_uri
from pipelines.execution import Execution, start_ray
from zs3.tables import FAILURES

if TYPE_CHECKING:
    from ray.data import Dataset

RETRIES = 3
"""How often Ray repeats a task whose process was killed; by default it would do so for ever with an image
that brings its process down."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The tables that a run adds to, and which run it is."""

    out: str
    """Folder or uri below which the tables lie."""
    results: str
    """Name of the table of results; the other one is `failures`."""
    schema: pa.Schema
    """Of the results."""
    provenance: Mapping[str, Any]
    """What the tables say of themselves: `run`, which must agree between runs into the same table, and more."""
    digest: str
    """Of `run`."""

    @property
    def schemas(self) -> dict[str, pa.Schema]:
        """Name → schema of both tables."""
        return {self.results: self.schema, "failures": FAILURES}

    @property
    def uris(self) -> dict[str, str]:
        """Name → place of both tables."""
        return {name: table_uri(self.out, name) for name in self.schemas}


@dataclass(frozen=True, slots=True, kw_only=True)
class Remaining:
    """What a listing leaves to do."""

    todo: tuple[tuple[str, str], ...]
    """(image id, uri) still to be processed."""
    skipped: int
    """Images that are in the table already."""
    retried: frozenset[str]
    """Ids to do that failed before."""


def remaining(refs: Sequence[tuple[str, str]], target: Target) -> Remaining:
    """What of a listing is not in the target's table yet; reads, writes nothing.

    Raises:
        ValueError: the tables are of another run, or hold other images under these ids.
    """
    held: dict[str, dict[str, str]] = {name: {} for name in target.schemas}
    for name, schema in target.schemas.items():
        if existing_table(target.uris[name]) is not None:
            held[name] = image_uris(open_table(target.uris[name], schema, target.provenance))
    _refuse_other_images(refs, held[target.results], target)
    todo = tuple(ref for ref in refs if ref[0] not in held[target.results])
    return Remaining(
        todo=todo,
        skipped=len(refs) - len(todo),
        retried=frozenset(image_id for image_id, _ in todo if image_id in held["failures"]),
    )


def run_graph(
    target: Target,
    left: Remaining,
    graph: Callable[[], Dataset],
    execution: Execution,
    *,
    called: float,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Execute a graph that writes files, and commit them as it goes.

    Args:
        target: the tables.
        left: what is to be done; nothing starts no Ray.
        graph: makes the lazy dataset whose rows are those of `table_rows.write_tables`.
        execution: how; changes no result.
        called: when the run was asked for, in seconds since 1970.
        on_progress: called in this process whenever a file of rows has been written.

    Raises:
        ValueError: the tables cannot be written to, or are of another run.
        ray.exceptions.RayError: the run was stopped; what was finished is committed, and the same call continues.
    """
    tables = {
        name: open_table(target.uris[name], schema, target.provenance)
        for name, schema in target.schemas.items()
    }
    counts = dict.fromkeys(target.schemas, 0)
    pending: dict[str, list[Part]] = {name: [] for name in target.schemas}

    def commit() -> None:
        for name, schema in target.schemas.items():
            parts, pending[name] = pending[name], []
            publish(tables[name], schema, parts, run=target.digest, written_ms=int(time.time() * 1000))

    first = last_commit = time.time()
    if left.todo:
        start_ray(execution)
        forget(tables["failures"], left.retried)
        first = float("inf")
        try:
            for row in _written(graph()):
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
                    on_progress(Progress(done=done, failed=failed, total=len(left.todo), seconds=seconds))
        except BaseException:
            with suppress(ValueError):  # the first error is the one to tell
                commit()
            raise
        commit()
    ended = time.time()
    first = min(max(first, called), ended)  # the actors' clocks may differ from ours
    images = counts[target.results]
    return RunResult(
        images=images,
        failed=counts["failures"],
        skipped=left.skipped,
        seconds=ended - first,
        images_per_second=images / (ended - first) if images else 0.0,
        out=target.out,
        startup_seconds=first - called,
    )


def _written(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """The rows of `write_tables`, as they come."""
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        assert isinstance(batch, pa.Table)
        yield from batch.to_pylist()


def _refuse_other_images(refs: Sequence[tuple[str, str]], held: Mapping[str, str], target: Target) -> None:
    """Refuse a listing whose ids mean other images than those in the table."""
    ids = {uri: image_id for image_id, uri in held.items()}
    for image_id, uri in refs:
        if held.get(image_id, uri) != uri:
            raise ValueError(
                f"{target.out} already holds {target.results} of an image called {image_id!r}, from {held[image_id]}; "
                f"this one is {uri}; choose another --out"
            )
        if ids.get(uri, image_id) != image_id:
            raise ValueError(
                f"{target.out} already holds {target.results} of {uri} under the id {ids[uri]!r}; in this listing "
                f"its id is {image_id!r}, as file names repeat; choose another --out"
            )
