"""Graphs of Ray Data that run in this process: the same functions, actors, files and commits, without processes.


A graph of Ray costs seconds, most of them for starting actors. What a run does is tested here; that Ray does the same,
and what happens when its processes end, is tested on the session's Ray in one test of each command and in
tests/pipelines/runs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import ray
import ray.data
import torch

import pipelines.runs.run
from pipelines.execution import ActorPlan, Execution
from pipelines.runs.catalogue import Catalogue
from pipelines.runs.resume import Target, remaining_work
from pipelines.runs.rows import write_tables
from pipelines.runs.run import RunResult, run_table
from pipelines.tables.delta_writer import write_data_file
from zs3.tables import LABELS

ONE = ActorPlan(num_actors=1, gpus=0, cpus=1, per_machine=1, threads=1)


IDS = ("a", "b", "c")
"""The images of `work_of`."""


def work_of(out, results="labels", schema=LABELS):
    """What of three images is not in the tables of a run yet."""
    target = Target(
        out=out,
        results=results,
        schema=schema,
        provenance={"run": {"weights": "w"}, "digest": "r"},
        digest="r",
    )
    uris = [f"s3://b/{image_id}.jpg" for image_id in IDS]
    batch = pa.RecordBatch.from_pydict({"uri": uris, "etag": ["e"] * len(uris)})
    return remaining_work(Catalogue(iter([batch])), target)


def add(committer, work, done="", failed="") -> None:
    """Add a row for each of some images, all of one file, as a task writes them."""
    files = []
    for name, ids in ((work.target.results, done), ("failures", failed)):
        schema = work.target.schemas[name]
        rows = [
            {"image_id": image_id, "uri": f"s3://b/{image_id}.jpg", "etag": "e", "run": "r"}
            for image_id in ids
        ]
        if rows:
            file = write_data_file(work.target.uris[name], rows_table(schema, rows))
            files.append({"table": name, **asdict(file)})
    count = len(done) + len(failed)
    written = {"started": 0.0, "images": len(done), "failed": len(failed), "shards": [0] * count}
    committer.add({**written, "replaced": [], "files": files})


def rows_table(schema, rows) -> pa.Table:
    """A table of rows, whose other columns are zero or empty."""
    kinds = {
        pa.types.is_list: [],
        pa.types.is_string: "",
        pa.types.is_large_binary: b"",
        pa.types.is_boolean: False,
    }
    empty = {
        field.name: next((value for is_kind, value in kinds.items() if is_kind(field.type)), 0)
        for field in schema
    }
    return pa.Table.from_pylist([{**empty, **row} for row in rows], schema=schema)


class LocalDataset:
    """The part of `ray.data.Dataset` that zs3 uses, computed block by block when it is iterated."""

    def __init__(self, blocks: Callable[[], Iterator[pa.Table]]) -> None:
        self._blocks = blocks
        self.context = SimpleNamespace(execution_options=SimpleNamespace(preserve_order=True))

    def map_batches(
        self,
        function: Any,
        *,
        batch_size: int | None,
        batch_format: str,
        fn_constructor_kwargs: dict[str, Any] | None = None,
        **resources: Any,
    ) -> "LocalDataset":
        """As Ray's; a class is called once, and its one instance takes all batches."""
        assert batch_format == "pyarrow"

        def blocks() -> Iterator[pa.Table]:
            call = function(**(fn_constructor_kwargs or {})) if isinstance(function, type) else function
            for batch in _batches(self._blocks(), batch_size):
                result = call(batch)
                yield from [result] if isinstance(result, pa.Table) else result

        return LocalDataset(blocks)

    def repartition(self, *_: Any, **__: Any) -> "LocalDataset":
        """The same rows; where they are cut is of no account here."""
        return self

    def iter_batches(self, **_: Any) -> Iterator[pa.Table]:
        """The blocks that have rows."""
        return (block for block in self._blocks() if block.num_rows)

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        """Their rows."""
        return (row for block in self.iter_batches() for row in block.to_pylist())


def local_dataset(tables: pa.Table | Sequence[pa.Table]) -> LocalDataset:
    """As `ray.data.from_arrow`."""
    return LocalDataset(lambda: iter([tables] if isinstance(tables, pa.Table) else tables))


def _batches(blocks: Iterator[pa.Table], size: int | None) -> Iterator[pa.Table]:
    """Blocks cut and joined to batches of a size; None leaves them as they are."""
    waiting: pa.Table | None = None
    for block in blocks:
        if size is None:
            yield block
            continue
        waiting = block if waiting is None else pa.concat_tables([waiting, block])
        while waiting.num_rows >= size:
            yield waiting.slice(0, size)
            waiting = waiting.slice(size)
    if waiting is not None and waiting.num_rows:
        yield waiting


@contextmanager
def graphs_in_process() -> Iterator[None]:
    """Let every graph run in this process, whether or not a Ray runs too."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray.data, "from_arrow", local_dataset)
        if not ray.is_initialized():
            patch.setattr(ray, "is_initialized", lambda: True)
            patch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 3.0}}])
        yield
    torch.set_num_threads(threads)


def run_here(rows, actor, work, *, size=4, on_progress=None, commit_interval_s=0.0) -> RunResult:
    """What `run_table` does with the rows that an actor makes of some rows."""

    def graph(chunk: Any) -> LocalDataset:
        made = local_dataset(rows).map_batches(actor, batch_size=size, batch_format="pyarrow")
        write = lambda batch: write_tables(batch, uris=work.target.uris, schemas=work.target.schemas)  # noqa: E731
        return made.map_batches(write, batch_size=None, batch_format="pyarrow")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines.runs.run, "start_ray", lambda execution: False)
        prepared = SimpleNamespace(work=work, graph=lambda execution: graph)
        return run_table(lambda: prepared, Execution(commit_interval_s=commit_interval_s), on_progress)
