"""`ray job submit` against a real job server: logs, exit codes, and a job that is stopped and submitted again.

The head is one of its own beside the session's Ray; the checkpoint is tiny and has learnt nothing.
"""

import json
import shlex
import time

import numpy as np
import pytest
import torch
from deltalake import DeltaTable
from PIL import Image
from ray.job_submission import JobStatus

from tests.servers.ray_head import RayHead
from zs3.checkpoint import save_checkpoint
from zs3.nets.zegformer import ZegFormer

IMAGES = 60
PATIENCE_S = 300.0
"""How long a job may take before something must be wrong; not a measure of speed."""


@pytest.fixture(scope="module")
def head():
    try:
        with RayHead() as running:
            yield running
    except RuntimeError as error:
        pytest.skip(f"no Ray head can be started here: {error}")


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_recipe):
    """A folder with photographs, one of them broken, classes and a checkpoint."""
    folder = tmp_path_factory.mktemp("job")
    torch.manual_seed(0)
    save_checkpoint(folder / "model", tiny_recipe, ZegFormer(tiny_recipe.model), ["dog", "sheep"])
    (folder / "classes.txt").write_text("dog\nsheep\ncat *\n")
    (folder / "photos").mkdir()
    generator = np.random.default_rng(0)
    for index in range(IMAGES - 1):
        pixels = generator.integers(0, 256, (96, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"i{index:03d}.png")
    (folder / "photos" / "zbroken.png").write_bytes(b"no picture")
    return folder


def command(place, *more, images="photos"):
    """`python jobs/label.py …` as one line."""
    return shlex.join(
        ["python", "jobs/label.py", "--images", str(place / images), "--classes", str(place / "classes.txt"),
         "--checkpoint", str(place / "model"), "--out", str(place / "run"), "--images-per-block", "4",
         "--images-per-file", "4", "--commit-interval-s", "0", "--num-actors", "1", "--cpus-per-actor", "1",
         "--threads", "1", "--json", *more]
    )  # fmt: skip


def submitted(head, repo, entrypoint):
    return head.client().submit_job(entrypoint=entrypoint, runtime_env={"working_dir": str(repo)})


def ended(head, job):
    """What the server says of a job once it has ended, and its logs."""
    deadline = time.monotonic() + PATIENCE_S
    while not head.client().get_job_status(job).is_terminal():
        assert time.monotonic() < deadline, head.client().get_job_logs(job)
        time.sleep(0.2)
    return head.client().get_job_info(job), head.client().get_job_logs(job)


def result_in(logs):
    """The JSON line of a finished run."""
    (line,) = [line for line in logs.splitlines() if line.startswith("{")]
    return json.loads(line)


def labelled(place):
    """Image id → how many rows name it and one class; empty as long as there is no table."""
    uri = str(place / "run" / "labels")
    if not DeltaTable.is_deltatable(uri):
        return {}
    rows = DeltaTable(uri).to_pyarrow_table(columns=["image_id", "class_id"]).to_pylist()
    seen = {}
    for row in rows:
        key = (row["image_id"], row["class_id"])
        seen[key] = seen.get(key, 0) + 1
    return seen


def test_a_job_that_cannot_start_ends_with_one_and_one_line(head, place, repo):
    info, logs = ended(head, submitted(head, repo, command(place, images="gone")))
    assert (info.status, info.driver_exit_code) == (JobStatus.FAILED, 1)
    errors = [line for line in logs.splitlines() if line.startswith("zs3: error:")]
    assert len(errors) == 1
    assert "gone' does not exist" in errors[0]
    assert "Traceback" not in logs


def test_a_stopped_job_is_continued_to_a_complete_table_and_ends_with_zero(head, place, repo):
    job = submitted(head, repo, command(place))
    deadline = time.monotonic() + PATIENCE_S
    while not labelled(place):
        assert time.monotonic() < deadline, head.client().get_job_logs(job)
        assert not head.client().get_job_status(job).is_terminal(), head.client().get_job_logs(job)
        time.sleep(0.02)
    head.client().stop_job(job)
    info, _ = ended(head, job)
    assert info.status == JobStatus.STOPPED
    held = {image for image, _ in labelled(place)}
    assert 0 < len(held) < IMAGES - 1

    (place / "photos" / "zbroken.png").write_bytes((place / "photos" / "i000.png").read_bytes())
    info, logs = ended(head, submitted(head, repo, command(place)))
    assert (info.status, info.driver_exit_code) == (JobStatus.SUCCEEDED, 0), logs
    result = result_in(logs)
    assert (result["images"] + result["skipped"], result["failed"], result["skipped"]) == (
        IMAGES,
        0,
        len(held),
    )
    rows = labelled(place)
    assert {image for image, _ in rows} == {*(f"i{index:03d}" for index in range(IMAGES - 1)), "zbroken"}
    assert set(rows.values()) == {1}, "no image is labelled twice"
