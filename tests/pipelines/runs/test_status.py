"""How far a run is, as its commits tell: while it runs, stopped, complete, after other tools, and without any entry."""

import json
import time

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from PIL import Image

import pipelines.runs.status
import pipelines.tables.delta_reader
from jobs import status as command
from pipelines.execution import ActorPlan
from pipelines.labelling.image_stage import read_and_decode
from pipelines.labelling.segment import SegmentActor, SegmentRequest, prepare_segment
from pipelines.runs.status import status
from pipelines.tables.delta_writer import commit_entry, open_table, publish, write_data_file
from tests.servers.object_store import LIMITED_BUCKET
from tests.support.in_process import run_here
from tests.support.listings import pending_table
from tests.support.stored_segments import grouping
from zs3.tables import LABELS, SEGMENTS

ONE = ActorPlan(num_actors=1, gpus=0, cpus=1, per_machine=1, threads=1)


class StopError(RuntimeError):
    """Ends a run in the middle, as a signal would."""


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for index in range(10):
        Image.fromarray(np.full((8, 12, 3), (0, 0, 200), np.uint8)).save(
            tmp_path / "photos" / f"i{index}.png"
        )
    (tmp_path / "photos" / "i3.png").write_bytes(b"no picture")
    return tmp_path / "photos"


def segmented(images, out, stop_at=None, **changes):
    """Segment in this process, two images a file and a commit for each; maybe until some images are done."""
    request = SegmentRequest(images=str(images), checkpoint="colours", out=str(out), **changes)
    plan = prepare_segment(request, grouping())
    refs = pending_table(plan.work)
    pictures = pa.concat_tables(read_and_decode(refs, max_pixels=1000, run=plan.work.target.digest))
    actor = SegmentActor(
        model=grouping(),
        checkpoint="colours",
        store="compact",
        run=plan.work.target.digest,
        exporter_digest=plan.exporter_digest,
        actors=ONE,
    )

    def progress(seen):
        if stop_at is not None and seen.done >= stop_at:
            raise StopError

    return run_here(pictures, actor, plan.work, size=2, on_progress=progress)


def test_a_stopped_run_then_a_complete_one(photos):
    (photos / "notes.md").write_text("no image")
    with pytest.raises(StopError):
        segmented(photos, "kept", stop_at=4)
    (table,) = status("kept")
    assert (table.table, table.verb, table.state) == ("segments", "segment", "running")
    assert table.other_files == {".md": 1}
    assert (table.listed, table.done, table.failed, table.left) == (10, 3, 1, 6)
    assert [(commit.images, commit.files) for commit in table.commits] == [(2, 2), (2, 1)]
    sizes = pa.table(DeltaTable("kept/segments").get_add_actions()).column("size_bytes").to_pylist()
    failures = pa.table(DeltaTable("kept/failures").get_add_actions()).column("size_bytes").to_pylist()
    assert sum(commit.size for commit in table.commits) == sum(sizes) + sum(failures)
    assert table.images_per_second > 0 and table.images_per_second_run > 0
    assert table.left_s == pytest.approx(6 / table.images_per_second)
    plan = prepare_segment(SegmentRequest(images=str(photos), checkpoint="colours", out="kept"), grouping())
    assert (table.digest, table.listing) == (plan.work.target.digest, plan.work.listing_digest)
    assert table.run == plan.work.target.provenance["run"]

    commit_entry(DeltaTable("kept/segments"), SEGMENTS, plan.work.target.digest, {"progress": begun(table)})
    (again,) = status("kept")
    assert (again.state, again.left, again.images_per_second) == ("running", 6, None), (
        "a run that has begun is told"
    )

    (later,) = status("kept", now=time.time() + 3600)
    assert later.state == "stopped" and later.since_commit_s == pytest.approx(3600, abs=60)

    segmented(photos, "kept")
    (table,) = status("kept")
    assert (table.state, table.done, table.failed, table.left, table.left_s) == ("complete", 9, 1, 0, 0.0)
    assert [commit.images for commit in table.commits] == [2, 2, 2], "of the last run"


def test_files_that_are_committed_together_do_not_make_a_run_fast(tmp_path):
    stored = open_table(str(tmp_path / "labels"), LABELS, {"run": {"weights": "w"}, "digest": "d"})
    counts = {"listing": "l", "listed": 20, "failed": 0, "of": 20}
    for images, seconds in ((0, 0.0), (8, 100.0), (9, 100.01)):
        progress = {**counts, "done": images, "this_run": images, "seconds": seconds}
        commit_entry(stored, LABELS, "d", {"progress": progress})
    (table,) = status(str(tmp_path))
    assert table.images_per_second == pytest.approx(0.09, rel=0.01) and table.commits[0].images == 1


def begun(table):
    """The counts of a run before its first image."""
    counts = {"listing": table.listing, "listed": table.listed, "done": table.done, "failed": table.failed}
    return {**counts, "this_run": 0, "of": table.left, "seconds": 0.0}


def test_after_a_retry_nothing_untouched_counts_as_done(photos):
    with pytest.raises(StopError):
        segmented(photos, "kept", stop_at=4)
    Image.new("RGB", (12, 8), (0, 0, 200)).save(photos / "i3.png")
    segmented(photos, "kept", retry_failures=True)
    (table,) = status("kept")
    assert (table.listed, table.done, table.failed, table.left, table.state) == (10, 4, 0, 6, "stopped")


def test_commits_of_other_tools_hide_nothing_and_their_changes_are_shown(photos):
    segmented(photos, "kept")
    before = status("kept")
    stored = DeltaTable("kept/segments")
    stored.optimize.compact()
    stored.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    (table,) = status("kept")
    assert (table.done, table.state, table.changed_by) == (before[0].done, "complete", "")
    DeltaTable("kept/segments").delete("image_id = 'i0'")
    (table,) = status("kept")
    assert (table.done, table.changed_by) == (9, "DELETE")


def test_few_entries_are_read_however_many_commits_there_are(photos, monkeypatch):
    segmented(photos, "kept")
    reads, read_bytes = [], pipelines.tables.delta_reader.read_bytes
    monkeypatch.setattr(
        pipelines.tables.delta_reader, "read_bytes", lambda uri: reads.append(uri) or read_bytes(uri)
    )
    monkeypatch.setattr(pipelines.runs.status, "MAX_ENTRIES", 2)
    (table,) = status("kept")
    assert 0 < len(reads) <= 4 and table.done == 9


def test_the_images_of_a_table_without_commits_of_a_run_are_counted(tmp_path):
    provenance = {"run": {"weights": "w"}, "digest": "d"}
    stored = open_table(str(tmp_path / "labels"), LABELS, provenance)
    (table,) = status(str(tmp_path))
    assert (table.done, table.failed, table.listed, table.left, table.state) == (0, 0, None, None, "stopped")
    rows = [_row(image_id, class_id) for image_id in "ab" for class_id in (1, 2)]
    part = write_data_file(str(tmp_path / "labels"), pa.Table.from_pylist(rows, schema=LABELS))
    publish(stored, LABELS, [part], run="d", written_ms=0)
    (table,) = status(str(tmp_path))
    assert (table.done, table.listed, table.left_s, table.commits) == (2, None, None, ())


def _row(image_id, class_id):
    row = {field.name: "" if pa.types.is_string(field.type) else 0 for field in LABELS}
    return row | {
        "image_id": image_id, "uri": image_id, "class_id": class_id, "seen": True, "bbox": [0, 0, 1, 1], "rle": b"x",
    }  # fmt: skip


def test_a_new_version_of_a_table_starts_from_nothing(photos):
    segmented(photos, "kept")
    other = {"run": {"checkpoint": "other"}, "digest": "o"}
    for name, schema in pipelines.runs.status.RESULTS.items():
        if name == "segments":
            open_table(f"kept/{name}", schema, other, replace=True)
    (table,) = status("kept")
    assert (table.digest, table.done, table.listed) == ("o", 0, None)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda folder: None, "no table at"),
        (lambda folder: folder.write_text("x"), "is a file, expected a folder"),
        (
            lambda folder: DeltaTable.create(
                str(folder / "labels"), LABELS.remove(0), name="labels", description='{"run": {"a": "b"}}'
            ),
            "was made by another version of zs3, with other columns",
        ),
        (
            lambda folder: DeltaTable.create(str(folder / "labels"), LABELS, name="mine"),
            "is a table called 'mine', not 'labels' of zs3",
        ),
    ],
)
def test_a_table_of_another_kind_is_named_in_one_line(tmp_path, capsys, made, message):
    made(tmp_path / "out")
    assert command.main(["--out", str(tmp_path / "out")]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err


def test_the_command_prints_text_or_json(photos, capsys):
    with pytest.raises(StopError):
        segmented(photos, "kept", stop_at=4)
    assert command.main(["--out", "kept"]) == 0
    text = capsys.readouterr().out
    for expected in (
        "kept/segments: running",
        "3 of 10 done, 1 failed, 6 left",
        "images/s over",
        "time left",
    ):
        assert expected in text
    assert command.main(["--out", "kept", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    (table,) = json.loads(line)["tables"]
    assert set(table) == {
        "table", "uri", "state", "listed", "done", "failed", "left", "images_per_second", "images_per_second_run",
        "left_seconds", "since_commit_s", "commits", "verb", "digest", "run", "listing", "changed_by",
            "other_files",
    }  # fmt: skip
    assert set(table["commits"][0]) == {"time", "images", "files", "size"}
    segmented(photos, "kept")
    assert command.main(["--out", "kept"]) == 0
    assert "zs3 retry --out kept" in capsys.readouterr().out


def test_tables_in_an_object_store(object_store, photos):
    out = f"s3://{LIMITED_BUCKET}/status"
    segmented(photos, out)
    (table,) = status(out)
    assert (table.state, table.done, table.failed) == ("complete", 9, 1)
    assert table.uri == f"{out}/segments" and table.commits[0].size > 0
