"""`zs3 retry`: makes the request that the tables store again, for the images that failed and for no others."""

import json

import pyarrow as pa
import pytest

from jobs import label as label_command
from jobs import name as name_command
from jobs import retry as command
from jobs import segment as segment_command
from pipelines.labelling.retry import prepare_retry
from pipelines.runs.status import status
from pipelines.tables.delta_writer import open_table, publish, write_data_file
from tests.support.colour_labeller import GREEN, colours, picture
from tests.support.stored_segments import grouping, naming
from zs3.tables import FAILURES, LABELS


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for index in range(6):
        picture(tmp_path / "photos" / f"i{index}.png", index)
    for index in (1, 4):
        (tmp_path / "photos" / f"i{index}.png").write_bytes(b"no picture")
    (tmp_path / "classes.txt").write_text("red\nblue *\n")
    return tmp_path / "photos"


def labelled(*more):
    argv = [
        "--images",
        "photos",
        "--classes",
        "classes.txt",
        "--checkpoint",
        "colours",
        "--out",
        "run",
        *more,
    ]
    return label_command.main(argv, model=colours())


def retried(capfd, *more, out="run"):
    """Exit code, result and standard error of a retry."""
    models = {"label": colours(), "segment": grouping(), "name": naming()}
    code = command.main(["--out", out, "--json", *more], models=models)
    out_text, err = capfd.readouterr()
    return code, json.loads(out_text) if out_text else None, err


def test_label_tries_only_what_failed_until_nothing_has(in_process, photos, tmp_path, monkeypatch, capfd):
    assert labelled("--limit", "5") == 3
    assert labelled() == 3, "a trial of some images, then all"
    picture(photos / "i1.png", 1)
    (photos / "new.png").write_bytes((photos / "i0.png").read_bytes())
    capfd.readouterr()
    monkeypatch.chdir("/")
    out = str(tmp_path / "run")
    code, result, err = retried(capfd, "--batch-size", "2", out=out)
    assert code == 3
    assert (result["images"], result["failed"], result["skipped"]) == (1, 1, 4)
    assert "zs3 label of what failed: 2" in err and "1 image labelled, 1 failed" in err
    (state,) = status(out)
    assert (state.listed, state.done, state.failed, state.left) == (7, 5, 1, 1)

    picture(photos / "i4.png", 4)
    code, result, err = retried(capfd, out=out)
    assert (code, result["images"], result["failed"]) == (0, 1, 0)
    code, result, err = retried(capfd, out=out)
    assert (code, result["images"], result["skipped"]) == (0, 0, 6)
    assert "nothing to try again: no image failed" in err


def test_segment_and_name_are_asked_for_as_they_were(in_process, photos, capfd):
    picture(photos / "i2.png", corner=GREEN)
    to_segment = ["--images", "photos", "--checkpoint", "colours", "--store", "lossless", "--out", "kept"]
    assert segment_command.main(to_segment, model=grouping()) == 3
    to_name = [
        "--segments",
        "kept",
        "--classes",
        "classes.txt",
        "--naming.calibration",
        "0.25",
        "--out",
        "named",
    ]
    assert name_command.main(to_name, model=naming()) == 0
    picture(photos / "i1.png", 1)
    picture(photos / "i2.png", 2)
    capfd.readouterr()
    code, result, err = retried(capfd, out="kept")
    assert (code, result["images"], result["failed"]) == (3, 2, 1)
    assert "zs3 segment of what failed: 3" in err
    code, result, _ = retried(capfd, out="named")
    assert (code, result["images"], result["skipped"]) == (0, 0, 3)


def test_failures_of_other_images_than_those_of_the_tables_are_told(in_process, photos, tmp_path, capfd):
    assert labelled() == 3
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "j.png").write_bytes(b"no picture")
    more = ["--images", "more", "--classes", "classes.txt", "--checkpoint", "colours", "--out", "run"]
    assert label_command.main(more, model=colours()) == 3
    for index in (1, 4):
        picture(photos / f"i{index}.png", index)
    capfd.readouterr()
    code, result, err = retried(capfd)
    assert (code, result["images"], result["failed"]) == (3, 2, 0)
    assert "not among the images that the tables were started with: 1" in err


def tables_with(request, image="i1"):
    """Tables of one failure, which say that they were asked for like this."""
    provenance = {"run": {"weights": "w"}, "digest": "w", **({"asked": request} if request else {})}
    open_table("run/labels", LABELS, provenance)
    table = open_table("run/failures", FAILURES, provenance)
    row = {name: image for name in FAILURES.names} | {"attempts": 1}
    part = write_data_file("run/failures", pa.Table.from_pylist([row], schema=FAILURES))
    publish(table, FAILURES, [part], run="w", written_ms=0)


@pytest.mark.parametrize(
    ("request_values", "message"),
    [
        (None, "run/failures does not say what was asked for; give the command that made it once more"),
        ({"verb": "paint"}, "run/failures was asked for by 'paint'; expected label, segment, name"),
        ({"verb": "label", "brush": 1}, "keeps a request of another version of zs3"),
        (
            {"verb": "label", "images": "gone", "classes": "classes.txt", "checkpoint": "c", "out": "run"},
            "'gone' does not exist",
        ),
        (
            {"verb": "label", "images": "photos", "classes": "gone.txt", "checkpoint": "c", "out": "run"},
            "class list 'gone.txt' is neither a file nor a shipped name",
        ),
    ],
)
def test_what_cannot_be_asked_again_is_named_in_one_line(photos, capfd, request_values, message):
    tables_with(request_values)
    code, result, err = retried(capfd)
    errors = [line for line in err.splitlines() if line.startswith("zs3: error")]
    assert code == 1 and result is None
    assert len(errors) == 1 and message in errors[0]


def test_a_changed_class_list_is_refused(photos, capfd):
    values = {"verb": "label", "images": "photos", "classes": "classes.txt", "checkpoint": "c", "out": "run"}
    tables_with(values)
    models = {"label": colours(weights="other")}
    assert command.main(["--out", "run"], models=models) == 1
    assert "holds another run, made with a different weights (w there, other now)" in capfd.readouterr().err


def test_no_table_is_named_in_one_line(tmp_path, capfd):
    code, result, err = retried(capfd, out=str(tmp_path / "none"))
    assert (code, result) == (1, None) and "no table at" in err and err.count("\n") == 1


def test_a_limit_holds_if_it_held_last(photos):
    values = {
        "verb": "label", "images": "photos", "classes": "classes.txt", "checkpoint": "c", "out": "run", "limit": 3,
    }  # fmt: skip
    tables_with(values)
    assert prepare_retry("run").request.limit is None, "no commit says how many images were listed"
    table = open_table("run/failures", FAILURES, {"run": {"weights": "w"}})
    row = {name: "i2" for name in FAILURES.names} | {"attempts": 1}
    part = write_data_file("run/failures", pa.Table.from_pylist([row], schema=FAILURES))
    progress = {"listing": "l", "listed": 3, "done": 1, "failed": 2, "this_run": 3, "of": 3, "seconds": 1.0}
    publish(table, FAILURES, [part], run="w", written_ms=0, commit_metadata={"progress": progress})
    assert prepare_retry("run").request.limit == 3


def test_help_names_what_it_reads(capsys):
    assert command.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "--out" in text and "--storage-options" in text and "--num-actors" in text
    assert "--retry-failures" not in text and "--limit" not in text
