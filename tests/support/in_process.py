"""Runs without Ray: the same actors, files and commits, batch by batch in this process."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

import pipelines.runs.run
from pipelines.execution import ActorPlan, Execution
from pipelines.labelling.image_stage import read_and_decode
from pipelines.labelling.name import NameActor, NameRequest, SegmentClassifierFactory, prepare_name
from pipelines.labelling.segment import SegmentActor, SegmentExporterFactory, SegmentRequest, prepare_segment
from pipelines.labelling.segments_table import read_segments
from pipelines.runs.rows import write_tables
from pipelines.runs.run import RunResult, run_table
from tests.support.listings import pending_table

ONE = ActorPlan(num_actors=1, gpus=0, cpus=1, per_machine=1, threads=1)


class Here:
    """Stands for the dataset of files that a graph writes."""

    def __init__(self, rows, actor, target, size) -> None:
        self.rows, self.actor, self.target, self.size = rows, actor, target, size

    def iter_batches(self, **_: Any) -> Iterator[pa.Table]:
        for start in range(0, self.rows.num_rows, self.size):
            done = self.actor(self.rows.slice(start, self.size))
            yield write_tables(done, uris=self.target.uris, schemas=self.target.schemas)


def run_here(rows, actor, work, *, size=4, on_progress=None, commit_interval_s=0.0) -> RunResult:
    """What `run_table` does with the rows that an actor makes of some rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines.runs.run, "start_ray", lambda execution: False)
        graph = lambda execution: lambda chunk: Here(rows, actor, work.target, size)  # noqa: E731
        prepared = SimpleNamespace(work=work, graph=graph)
        return run_table(lambda: prepared, Execution(commit_interval_s=commit_interval_s), on_progress)


def segment_here(request: SegmentRequest) -> RunResult:
    """As `pipelines.labelling.segment.segment`."""
    plan = prepare_segment(request)
    pictures = pa.concat_tables(
        read_and_decode(pending_table(plan.work), max_pixels=request.max_pixels, run=plan.work.target.digest)
    )
    actor = SegmentActor(
        model=SegmentExporterFactory(),
        checkpoint=request.checkpoint,
        store=request.store,
        run=plan.work.target.digest,
        exporter_digest=plan.exporter_digest,
        actors=ONE,
    )
    return run_here(pictures, actor, plan.work)


def name_here(request: NameRequest) -> RunResult:
    """As `pipelines.labelling.name.name`."""
    plan = prepare_name(request)
    wanted = {row["image_id"]: row for row in pending_table(plan.work).to_pylist()}
    rows = pa.concat_tables(read_segments(pa.table({"file": list(plan.files)}), wanted=wanted))
    classifier = SegmentClassifierFactory().load(plan.checkpoint, plan.vocabulary, plan.naming)
    actor = NameActor(
        classifier=classifier, vocabulary=plan.vocabulary, run=plan.work.target.digest, threads=1
    )
    return run_here(rows, actor, plan.work)
