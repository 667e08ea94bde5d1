"""A run that is killed at any instant, and started again, ends with the tables of an uninterrupted one."""

import os
import signal
import subprocess
import sys

import pytest
import ray

from pipelines.labelling.label import label, prepare_label
from tests.support.colour_labeller import SMALL, colours, expected, picture, request_for, table

DRIVER = [
    "driver with files that are not committed",
    "driver before a file is written",
    "driver during a commit",
    "driver between the tables",
    "driver after a commit",
]
WORKERS = ["worker before a file is written", "worker after a file is written", "actor"]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(14):
        picture(folder / f"i{index}.png", index)
    (folder / "bad.jpg").write_bytes(b"no picture")
    (tmp_path / "classes.txt").write_text("red\nblue *\n")
    return folder


def run(repo, photos, points, flags, address):
    """A run of its own process in which each of the points was met; its exit code."""
    environment = {**os.environ, "PYTHONPATH": str(repo), "RAY_ADDRESS": address}
    if not address:
        del environment["RAY_ADDRESS"]
        environment["RAY_health_check_period_ms"] = "1000"  # 3000 by default, of which five are waited for
    command = [
        sys.executable,
        str(repo / "tests" / "support" / "killed_driver.py"),
        str(photos),
        str(flags),
        *points,
    ]
    with (photos.parent / "driver.log").open("ab") as log:
        done = subprocess.run(command, env=environment, stdout=log, stderr=log, timeout=300)
    met = [point for point in points if (flags / point).exists()]
    assert met == points, (photos.parent / "driver.log").read_text()[-3000:]
    return done.returncode


def assert_complete(photos):
    """The tables are those of an uninterrupted run, and nothing is work to do."""
    request = request_for(photos)
    assert table(request) == expected(photos)
    (failure,) = table(request, "failures")
    assert (failure["image_id"], failure["stage"], failure["attempts"]) == ("bad", "decode", 1)
    work = prepare_label(request, colours()).work
    assert (len(work.pending), work.skipped, work.failed_before) == (0, 15, 1)
    assert sum(row["images"] for row in table_of_shards(request)) == 15


def table_of_shards(request):
    from deltalake import DeltaTable

    return DeltaTable(f"{request.out}/shards").to_pyarrow_table().to_pylist()


def test_a_driver_that_is_killed_at_every_point_in_turn_is_continued_to_the_same_tables(
    ray_session, repo, photos, tmp_path
):
    address = ray.get_runtime_context().gcs_address
    first, *others = DRIVER
    assert run(repo, photos, [first], tmp_path, address) == -signal.SIGKILL
    (tmp_path / "in process").touch()  # what is left of a driver does not depend on where its tasks were
    for point in others:
        assert run(repo, photos, [point], tmp_path, address) == -signal.SIGKILL, point
    result = label(request_for(photos), SMALL, model=colours())
    assert result.images + result.failed + result.skipped == 15 and result.skipped < 15
    assert_complete(photos)


def test_workers_that_are_killed_are_replaced_and_the_run_ends_as_if_nothing_had_been(
    ray_session, repo, photos, tmp_path
):
    address = ray.get_runtime_context().gcs_address
    assert run(repo, photos, WORKERS, tmp_path, address) == 0
    assert_complete(photos)


def test_a_run_whose_raylet_is_killed_is_continued_to_the_same_tables(ray_session, repo, photos, tmp_path):
    assert run(repo, photos, ["raylet"], tmp_path, "") != 0
    label(request_for(photos), SMALL, model=colours())
    assert_complete(photos)


TERMINATED_DRIVER = """
import os, signal, sys
import pipelines.runs.committer
from jobs import label
from tests.support.colour_labeller import colours
from tests.support.killed_driver import around

def once():
    if not once.sent:
        once.sent = True
        os.kill(os.getpid(), signal.SIGTERM)

once.sent = False
around(pipelines.runs.committer.Committer, "commit", before=once)
sys.exit(label.main(sys.argv[1:], model=colours()))
"""


def test_a_driver_that_gets_sigterm_during_a_commit_finishes_it_and_ends_with_one_line(
    repo, photos, tmp_path
):
    request = request_for(photos)
    command = [
        sys.executable,
        "-c",
        TERMINATED_DRIVER,
        "--images",
        request.images,
        "--classes",
        request.classes,
    ]
    command += ["--checkpoint", request.checkpoint, "--out", request.out]
    command += ["--commit-interval-s", "0", "--images-per-file", "4", "--batch-size", "2"]
    environment = {**os.environ, "PYTHONPATH": str(repo)}
    environment.pop("RAY_ADDRESS", None)
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 143, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last == "zs3: ended by SIGTERM; what was finished is kept, and the same command continues it"
    assert "Traceback" not in ended.stderr and "SIGTERM received" not in ended.stderr
    assert 0 < len(table(request)) < len(expected(photos))
