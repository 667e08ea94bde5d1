"""A table that has lost something is refused by all that reads it; repaired, it gets back every row, once."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import pipelines.runs.lease
from jobs import repair as command
from pipelines.evaluation.outputs import commit_scores
from pipelines.labelling.segments_table import stored_segments
from pipelines.runs.committer import Committer
from pipelines.runs.repair import repair
from pipelines.runs.status import status
from pipelines.tables.damage import DamagedTableError
from pipelines.tables.delta_reader import data_files, existing_table, image_uris, row_batches
from pipelines.tables.label_table import failed_images, open_labels
from tests.support.in_process import IDS, add, rows_table, work_of
from zs3.files import filesystem_of
from zs3.tables import LABELS, SCORES, SEGMENTS


def run(out, *parts, **tables):
    """A run that commits parts, each given as (ids with results, ids that fail)."""
    work = work_of(out, **tables)
    committer = Committer(work)
    committer.begin()
    for done, failed in parts:
        add(committer, work, done, failed)
        committer.commit()
    committer.release()


def ids(out, name):
    return sorted(image_uris(existing_table(f"{out}/{name}")))


def remove(out, name, index=0):
    """Delete a data file; its name."""
    path = sorted(path for path, _ in data_files(existing_table(f"{out}/{name}")))[index]
    filesystem, folder = filesystem_of(f"{out}/{name}")
    filesystem.rm_file(f"{folder}/{path}")
    return path


@pytest.mark.parametrize(
    ("results", "schema", "readers"),
    [("labels", LABELS, [open_labels]), ("segments", SEGMENTS, [stored_segments])],
    ids=["labels", "segments"],
)
def test_a_deleted_file_is_named_by_every_reader_and_its_rows_are_made_again(out, results, schema, readers):
    run(out, ("a", ""), ("b", "c"), results=results, schema=schema)
    path = remove(out, results)
    (lost,) = set(IDS[:2]) - {row["image_id"] for row in rows_left(out, results)}
    for read in (*readers, status, lambda out: work_of(out, results, schema)):
        with pytest.raises(
            DamagedTableError, match=rf"{results} is damaged: its file {path} is not there; `zs3 repair"
        ):
            read(out)
    (found,) = repair(out, dry_run=True)
    assert (found.table, found.files, found.rows, found.images, found.entries) == (results, (path,), 1, 1, ())
    with pytest.raises(DamagedTableError):
        status(out)
    assert repair(out) == [found] and repair(out) == []
    (state,) = status(out)
    assert (state.done, state.failed, state.left, state.state) == (1, 1, 1, "stopped")
    work = work_of(out, results, schema)
    assert [image_id for image_id, _ in work.pending] == [lost]
    run(out, (lost, ""), results=results, schema=schema)
    assert (ids(out, results), ids(out, "failures")) == (["a", "b"], ["c"])
    assert sum(batch.num_rows for batch in row_batches(existing_table(f"{out}/{results}"), ["image_id"])) == 2
    assert status(out)[0].state == "complete"


def rows_left(out, name):
    """The rows in the files that are still there."""
    table = existing_table(f"{out}/{name}", check=False)
    filesystem, folder = filesystem_of(f"{out}/{name}")
    for path, _ in data_files(table):
        if filesystem.exists(f"{folder}/{path}"):
            with filesystem.open(f"{folder}/{path}") as file:
                yield from pq.read_table(file, columns=["image_id"]).to_pylist()


def test_a_cut_file_of_failures_is_named_and_its_images_are_tried_again(tmp_path):
    out = str(tmp_path)
    run(out, ("ab", "c"))
    (path, size) = data_files(existing_table(f"{out}/failures"))[0]
    (tmp_path / "failures" / path).write_bytes(b"PAR1")
    with pytest.raises(
        DamagedTableError, match=rf"failures is damaged: its file {path} has 4 bytes, expected {size}"
    ):
        list(failed_images(out))
    (found,) = repair(out)
    assert (found.table, found.rows, found.images) == ("failures", 1, 1)
    assert [image_id for image_id, _ in work_of(out).pending] == ["c"]
    (state,) = status(out)
    assert (state.done, state.failed, state.left) == (2, 0, 1)


@pytest.mark.parametrize("keep", [0, 1, 400], ids=["empty", "one line", "cut in a line"])
def test_an_entry_of_the_log_that_is_not_whole_is_named_and_moved_aside(tmp_path, monkeypatch, capsys, keep):
    out = str(tmp_path)
    run(out, ("a", ""))
    work = work_of(out)
    committer = Committer(work)
    committer.begin()
    add(committer, work, "b", "c")
    committer.commit()  # and is killed
    monkeypatch.setattr(pipelines.runs.lease, "_in_use", set())
    entry = max((tmp_path / "labels" / "_delta_log").glob("*.json"))
    content = entry.read_text()
    entry.write_text(content.splitlines()[0] + "\n" if keep == 1 else content[:keep])
    before = entry.read_bytes()
    for read in (open_labels, status, work_of):
        with pytest.raises(
            DamagedTableError, match=f"the entry {entry.name} of its log is empty or cut; `zs3 repair"
        ):
            read(out)
    assert command.main(["--out", out, "--json"]) == 0
    (loss,) = json.loads(capsys.readouterr().out)["tables"]
    where = {"table": "labels", "uri": f"{out}/labels", "checkpoints": []}
    assert loss == {**where, "entries": [int(entry.stem)], "files": [], "rows": None, "images": None}
    assert (tmp_path / "labels" / "_damaged" / entry.name).read_bytes() == before
    assert ids(out, "labels") == ["a"]
    (state,) = status(out)
    assert (state.done, state.failed, state.left, state.state) == (1, 1, 1, "stopped")
    run(out, ("b", ""))
    assert (ids(out, "labels"), ids(out, "failures"), status(out)[0].state) == (["a", "b"], ["c"], "complete")


@pytest.mark.parametrize("keep", [0, 100, -9], ids=["empty", "cut", "without its end"])
def test_a_checkpoint_of_the_log_that_cannot_be_read_is_named_and_moved_and_no_row_is_lost(
    tmp_path, keep, capsys
):
    out = str(tmp_path)
    run(out, ("a", ""))
    existing_table(f"{out}/labels").create_checkpoint()
    run(out, ("b", "c"))
    (checkpoint,) = (tmp_path / "labels" / "_delta_log").glob("*.checkpoint.parquet")
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    with pytest.raises(
        DamagedTableError, match=rf"the checkpoint {checkpoint.name} of its log cannot be read; `zs3"
    ):
        status(out)
    (found,) = repair(out, dry_run=True)
    assert (found.table, found.checkpoints, found.entries, found.files) == (
        "labels", (checkpoint.name,), (), (),
    )  # fmt: skip
    assert checkpoint.exists()
    assert command.main(["--out", out]) == 0
    assert f"checkpoints         {checkpoint.name}; they only repeat" in capsys.readouterr().out
    assert repair(out) == [] and ids(out, "labels") == ["a", "b"] and ids(out, "failures") == ["c"]
    assert (tmp_path / "labels" / "_damaged" / checkpoint.name).exists()


def test_a_damaged_checkpoint_whose_entries_are_gone_is_told_and_nothing_is_changed(tmp_path):
    run(str(tmp_path), ("a", ""))
    existing_table(f"{tmp_path}/labels").create_checkpoint()
    log = tmp_path / "labels" / "_delta_log"
    (checkpoint,) = log.glob("*.checkpoint.parquet")
    checkpoint.write_bytes(b"PAR1")
    (log / "00000000000000000000.json").unlink()
    for read in (status, repair):
        with pytest.raises(
            ValueError, match=r"is damaged, and the entry 0+\.json, which it repeats, is not there"
        ):
            read(str(tmp_path))
    assert checkpoint.exists()


def test_a_log_whose_first_entry_is_gone_is_moved_aside_as_a_whole(tmp_path):
    out = str(tmp_path)
    run(out, ("ab", "c"))
    (tmp_path / "labels" / "_delta_log" / f"{0:020}.json").write_text("")
    with pytest.raises(DamagedTableError, match="is empty or cut"):
        work_of(out)
    repair(out)
    assert [image_id for image_id, _ in work_of(out).pending] == ["a", "b"]
    run(out, ("ab", ""))
    assert (ids(out, "labels"), ids(out, "failures")) == (["a", "b"], ["c"])


def test_results_that_are_gone_as_a_whole_are_not_called_done(tmp_path, capsys):
    out = str(tmp_path)
    run(out, ("abc", ""))
    shutil.rmtree(tmp_path / "labels")
    with pytest.raises(
        DamagedTableError, match=r"labels is damaged: it is gone, while .*shards lists images as done"
    ):
        work_of(out)
    assert command.main(["--out", out]) == 0
    assert "lists images as done, and the table of their results is gone" in capsys.readouterr().out
    assert len(work_of(out).pending) == 3


def test_scores_are_dropped_as_a_whole(tmp_path):
    out = str(tmp_path)
    rows = rows_table(SCORES, [{"image_id": "a"}])
    commit_scores(out, [rows], {})
    path = remove(out, "scores")
    with pytest.raises(DamagedTableError, match=f"scores is damaged: its file {path} is not there"):
        existing_table(f"{out}/scores")
    (found,) = repair(out)
    assert (found.table, found.rows, found.images) == ("scores", 1, 1)
    assert data_files(existing_table(f"{out}/scores")) == []
    commit_scores(out, [rows], {})
    (batch,) = row_batches(existing_table(f"{out}/scores"), ["image_id"])
    assert batch["image_id"].to_pylist() == ["a"]


def test_the_command_shows_what_it_would_drop_and_then_drops_it(tmp_path, capsys):
    out = str(tmp_path)
    run(out, ("a", ""), ("b", "c"))
    path = remove(out, "labels")
    versions = existing_table(f"{out}/labels", check=False).version()
    assert command.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert text.index("--out") < text.index("--dry-run")
    assert command.main(["--out", out, "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{out}/labels:",
        f"  files               {path}, 1 row of 1 image",
        "nothing was changed: this was a dry run",
    ]
    assert existing_table(f"{out}/labels", check=False).version() == versions
    assert command.main(["--out", out]) == 0
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .startswith("dropped; run the command that made the tables again")
    )
    assert command.main(["--out", out]) == 0
    assert capsys.readouterr().out == "nothing is lost\n"
    assert command.main(["--out", str(tmp_path / "nowhere")]) == 1
    assert "no table below" in capsys.readouterr().err


def test_a_run_that_is_still_on_is_named_and_nothing_is_changed(tmp_path):
    out = str(tmp_path)
    work = work_of(out)
    committer = Committer(work)
    committer.begin()
    add(committer, work, "ab")
    committer.commit()
    remove(out, "labels")
    with pytest.raises(ValueError, match=r"another run writes"):
        repair(out)
    assert len(data_files(existing_table(f"{out}/labels", check=False))) == 1
    assert not Path(out, "labels", "_damaged").exists()


def test_a_file_whose_content_is_damaged_is_named_by_who_reads_it(tmp_path):
    out = str(tmp_path)
    run(out, ("ab", ""))
    ((path, size),) = data_files(existing_table(f"{out}/labels"))
    (tmp_path / "labels" / path).write_bytes(bytes(size))
    with pytest.raises(
        ValueError, match=rf"cannot read .*labels/{path}, a file of a table: .*delete it: `zs3 repair`"
    ):
        open_labels(out)


def test_no_code_reads_tables_through_the_delta_library(repo):
    """After an error its threads call Python while the interpreter ends, and half of such processes die of it."""
    files = [path for layer in ("jobs", "pipelines", "zs3") for path in (repo / layer).rglob("*.py")]
    reading = {path.name for path in files if ".to_pyarrow_" in path.read_text()}
    assert reading == {"run_output.py"}, "in a query for the Python of users"
