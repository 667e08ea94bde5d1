"""Runs without Ray: the same actors, files and commits, batch by batch in this process."""

from collections.abc import Iterator
from dataclasses import asdict
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
from pipelines.runs.catalogue import Catalogue
from pipelines.runs.resume import Target, remaining_work
from pipelines.runs.rows import write_tables
from pipelines.runs.run import RunResult, run_table
from pipelines.tables.delta_writer import write_data_file
from tests.support.listings import pending_table
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
