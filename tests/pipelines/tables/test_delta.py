"""Files count once they are committed, and only then; a table belongs to one run."""

import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from pipelines.tables.delta_reader import files_of, image_uris, provenance_of, table_uri
from pipelines.tables.delta_writer import open_table, publish, write_data_file
from zs3.tables import FAILURES, LABELS
from zs3.vocabulary import parse_class_list

PROVENANCE = {"run": {"weights": "w1", "vocabulary": "v1"}, "note": "anything"}


def failures(*ids):
    names = [name for name in FAILURES.names if name not in ("image_id", "attempts")]
    return pa.Table.from_pylist(
        [{"image_id": i, "attempts": 1, **dict.fromkeys(names, f"x{i}")} for i in ids], schema=FAILURES
    )


@pytest.fixture
def uri(tmp_path):
    return table_uri(str(tmp_path / "out"), "failures")


def add(table, uri, *ids):
    publish(table, FAILURES, [write_data_file(uri, failures(*ids))], run="r", written_ms=1)


def test_a_new_table_is_empty_and_says_whose_it_is(uri):
    table = open_table(uri, FAILURES, PROVENANCE)
    assert image_uris(table) == {}
    assert provenance_of(DeltaTable(uri)) == PROVENANCE
    assert table.metadata().name == "failures"


def test_written_files_count_only_once_committed(uri):
    table = open_table(uri, FAILURES, PROVENANCE)
    waiting = write_data_file(uri, failures("a", "b"))
    assert image_uris(DeltaTable(uri)) == {}
    publish(table, FAILURES, [waiting], run="r", written_ms=1)
    assert image_uris(DeltaTable(uri)) == {"a": "xa", "b": "xb"}
    assert json.loads(waiting.stats)["maxValues"]["image_id"] == "b"


def test_duckdb_reads_the_table_past_orphans_and_half_written_files(uri, tmp_path):
    table = open_table(uri, FAILURES, PROVENANCE)
    add(table, uri, "a")
    write_data_file(uri, failures("orphan"))
    (tmp_path / "out" / "failures" / "part-broken.parquet").write_bytes(b"PAR1")
    t = DeltaTable(uri).to_pyarrow_dataset()
    assert duckdb.sql("SELECT image_id FROM t").fetchall() == [("a",)]
    assert t.schema.field("image_id").nullable is False


def test_a_full_vacuum_removes_what_killed_tasks_leave_and_nothing_else(uri, tmp_path, monkeypatch):
    table = open_table(uri, FAILURES, PROVENANCE)
    add(table, uri, "a")
    folder = tmp_path / "out" / "failures"
    write_data_file(uri, failures("not committed"))
    before = set(folder.iterdir())
    with monkeypatch.context() as patch:  # as if killed: the file is neither renamed nor removed
        patch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
        with pytest.raises(KeyboardInterrupt):
            write_data_file(uri, failures("killed"))
    (unfinished,) = set(folder.iterdir()) - before
    assert not unfinished.match("*.parquet"), "readers of Parquet files do not take it for one"
    table = DeltaTable(uri)
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True)
    assert {str(path) for path in folder.iterdir() if path.is_file()} == set(table.file_uris())
    assert image_uris(DeltaTable(uri)) == {"a": "xa"}


def test_the_second_of_two_writers_of_one_run_is_refused(uri):
    first, second = open_table(uri, FAILURES, PROVENANCE), open_table(uri, FAILURES, PROVENANCE)
    add(first, uri, "a")
    with pytest.raises(ValueError, match="another process is writing the same run"):
        add(second, uri, "a")
    add(first, uri, "b")
    assert sorted(image_uris(DeltaTable(uri))) == ["a", "b"]


def test_a_table_of_another_run_is_refused_and_the_differences_named(uri):
    open_table(uri, FAILURES, PROVENANCE)
    open_table(uri, FAILURES, {**PROVENANCE, "note": "else"})
    with pytest.raises(ValueError, match=r"another run, made with a different weights \(w1 there, w2 now\)"):
        open_table(uri, FAILURES, {"run": {"weights": "w2", "vocabulary": "v1"}})


def test_class_lists_that_differ_are_named_by_their_classes(uri):
    lists = [parse_class_list(text, name="mine") for text in ("cat\ndog", "cat\nyak")]
    runs = [{"run": {"vocabulary": part.digest}, "vocabulary": part.to_json()} for part in lists]
    open_table(uri, FAILURES, runs[0])
    with pytest.raises(
        ValueError, match=r"different class list \(only there: dog; only now: yak\); choose another"
    ):
        open_table(uri, FAILURES, runs[1])


def test_a_table_that_is_not_ours_is_refused(uri):
    DeltaTable.create(uri, open_table(f"{uri}2", LABELS, PROVENANCE).schema())
    with pytest.raises(ValueError, match="not 'failures' of zs3"):
        open_table(uri, FAILURES, PROVENANCE)


def test_a_file_where_the_table_should_be_is_named(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ValueError, match=r"out is a file, expected a folder; choose another --out"):
        open_table(table_uri(str(tmp_path / "out"), "failures"), FAILURES, PROVENANCE)


def test_a_log_that_cannot_be_read_is_named(uri, tmp_path):
    open_table(uri, FAILURES, PROVENANCE)
    (tmp_path / "out/failures/_delta_log/00000000000000000000.json").write_text('{"protocol": 1}')
    with pytest.raises(ValueError, match="cannot read the table"):
        open_table(uri, FAILURES, PROVENANCE)


def test_storage_that_refuses_a_commit_is_named_and_nothing_changes(uri, tmp_path):
    table = open_table(uri, FAILURES, PROVENANCE)
    waiting = write_data_file(uri, failures("a"))
    log = tmp_path / "out/failures/_delta_log"
    log.rename(log.with_name("away"))
    log.write_text("a file where the log was")
    with pytest.raises(ValueError, match="cannot write to"):
        publish(table, FAILURES, [waiting], run="r", written_ms=1)
    log.unlink()
    log.with_name("away").rename(log)
    assert image_uris(DeltaTable(uri)) == {}


def test_rows_of_replaced_images_leave_in_the_transaction_that_brings_others(uri):
    table = open_table(uri, FAILURES, PROVENANCE)
    add(table, uri, "it's", "b")
    add(table, uri, "c")
    before, version = table.file_uris(), table.version()
    part = write_data_file(uri, failures("it's", "d"))
    publish(
        table,
        FAILURES,
        [part],
        run="r",
        written_ms=1,
        replaced=["it's", "nowhere"],
        commit_metadata={"told": 1},
    )
    held = DeltaTable(uri)
    assert held.version() == version + 1
    ids = held.to_pyarrow_table()["image_id"].to_pylist()
    assert sorted(ids) == ["b", "c", "d", "it's"]
    assert len(set(before) & set(held.file_uris())) == 1, "the file without such a row is left alone"
    assert held.history(1)[0]["told"] == 1
    publish(table, FAILURES, [], run="r", written_ms=1, replaced=["nowhere"])
    assert DeltaTable(uri).version() == version + 1, "nothing to take out makes no commit"


def test_a_replaced_table_is_empty_and_its_old_version_stays_readable(uri):
    table = open_table(uri, FAILURES, PROVENANCE)
    add(table, uri, "a")
    other = {"run": {"weights": "w2", "vocabulary": "v1"}}
    version = open_table(uri, FAILURES, other, replace=True).version()
    assert version == 2 and image_uris(DeltaTable(uri)) == {} and provenance_of(DeltaTable(uri)) == other
    assert image_uris(DeltaTable(uri, version=1)) == {"a": "xa"}
    assert open_table(uri, FAILURES, other, replace=True).version() == 2, "it is replaced once"


def test_a_commit_whose_answer_was_lost_counts_as_made(uri, monkeypatch):
    table = open_table(uri, FAILURES, PROVENANCE)
    commit = DeltaTable.create_write_transaction

    def lost(self, *given, **named):
        commit(self, *given, **named)
        raise CommitFailedError("the answer was lost, and the second try met the first")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", lost)
    add(table, uri, "a")
    assert image_uris(DeltaTable(uri)) == {"a": "xa"}
    monkeypatch.undo()
    add(table, uri, "b")
    assert sorted(image_uris(DeltaTable(uri))) == ["a", "b"]


@pytest.mark.parametrize(
    ("ranges", "files"),
    [
        ([("a", "a")], {0}),
        ([("b", "c")], {0, 1}),
        ([("d", "d"), ("x", "z")], {1}),
        ([("ca", "cz")], {1}),
        ([("e", "e"), ("0", "9"), ("c", "f")], {1}),
        ([("m", "z")], set()),
        ([], set()),
    ],
)
def test_the_log_tells_which_files_can_hold_an_image(uri, ranges, files):
    table = open_table(uri, FAILURES, PROVENANCE)
    parts = [write_data_file(uri, failures("a", "b")), write_data_file(uri, failures("c", "e"))]
    publish(table, FAILURES, parts, run="r", written_ms=1)
    assert set(files_of(table, ranges)) == {parts[index].path for index in files}


def test_no_files_make_no_commit(uri):
    table = open_table(uri, FAILURES, PROVENANCE)
    publish(table, FAILURES, [], run="r", written_ms=1)
    assert table.version() == 0


def test_table_uris_are_absolute_or_keep_their_scheme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert table_uri("out/", "labels") == f"{tmp_path}/out/labels"
    assert table_uri("s3://bucket/out/", "labels") == "s3://bucket/out/labels"
