"""Files count once they are committed, and only then; a table belongs to one run."""

import json

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from pipelines.commit import forget, image_uris, open_table, provenance_of, publish, table_uri, write_part
from zs3.tables import FAILURES, LABELS

PROVENANCE = {"run": {"weights": "w1", "vocabulary": "v1"}, "note": "anything"}


def failures(*ids):
    names = ("uri", "stage", "error_type", "message", "run")
    return pa.Table.from_pylist(
        [{"image_id": i, **dict.fromkeys(names, f"x{i}")} for i in ids], schema=FAILURES
    )


@pytest.fixture
def uri(tmp_path):
    return table_uri(str(tmp_path / "out"), "failures")


def add(table, uri, *ids):
    publish(table, FAILURES, [write_part(uri, failures(*ids))], run="r", written_ms=1)


def test_a_new_table_is_empty_and_says_whose_it_is(uri):
    table = open_table(uri, FAILURES, PROVENANCE)
    assert image_uris(table) == {}
    assert provenance_of(DeltaTable(uri)) == PROVENANCE
    assert table.metadata().name == "failures"


def test_written_files_count_only_once_committed(uri):
    table = open_table(uri, FAILURES, PROVENANCE)
    waiting = write_part(uri, failures("a", "b"))
    assert image_uris(DeltaTable(uri)) == {}
    publish(table, FAILURES, [waiting], run="r", written_ms=1)
    assert image_uris(DeltaTable(uri)) == {"a": "xa", "b": "xb"}
    assert json.loads(waiting.stats)["maxValues"]["image_id"] == "b"


def test_duckdb_reads_the_table_past_orphans_and_half_written_files(uri, tmp_path):
    table = open_table(uri, FAILURES, PROVENANCE)
    add(table, uri, "a")
    write_part(uri, failures("orphan"))
    (tmp_path / "out" / "failures" / "part-broken.parquet").write_bytes(b"PAR1")
    t = DeltaTable(uri).to_pyarrow_dataset()
    assert duckdb.sql("SELECT image_id FROM t").fetchall() == [("a",)]
    assert t.schema.field("image_id").nullable is False


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
    (tmp_path / "out/failures/_delta_log/00000000000000000000.json").write_text("{broken")
    with pytest.raises(ValueError, match="cannot read the table"):
        open_table(uri, FAILURES, PROVENANCE)


def test_storage_that_refuses_a_commit_is_named_and_nothing_changes(uri, tmp_path):
    table = open_table(uri, FAILURES, PROVENANCE)
    waiting = write_part(uri, failures("a"))
    log = tmp_path / "out/failures/_delta_log"
    log.rename(log.with_name("away"))
    log.write_text("a file where the log was")
    with pytest.raises(ValueError, match="cannot write to"):
        publish(table, FAILURES, [waiting], run="r", written_ms=1)
    log.unlink()
    log.with_name("away").rename(log)
    assert image_uris(DeltaTable(uri)) == {}


def test_forgotten_images_can_be_written_again(uri):
    table = open_table(uri, FAILURES, PROVENANCE)
    add(table, uri, "it's", "b")
    forget(table, ["it's"])
    assert image_uris(DeltaTable(uri)) == {"b": "xb"}
    add(table, uri, "it's")
    assert sorted(image_uris(DeltaTable(uri))) == ["b", "it's"]


def test_no_files_make_no_commit(uri):
    table = open_table(uri, FAILURES, PROVENANCE)
    publish(table, FAILURES, [], run="r", written_ms=1)
    assert table.version() == 0


def test_table_uris_are_absolute_or_keep_their_scheme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert table_uri("out/", "labels") == f"{tmp_path}/out/labels"
    assert table_uri("s3://bucket/out/", "labels") == "s3://bucket/out/labels"
