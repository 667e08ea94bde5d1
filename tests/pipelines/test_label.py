"""The labelling graph on a small Ray: nothing is lost, nothing is done twice, whatever is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
from deltalake import DeltaTable
from PIL import Image

from pipelines.commit import image_uris
from pipelines.execution import Execution
from pipelines.label import LabelRequest, label, label_graph, plan_label
from pipelines.label_actor import HOPELESS
from pipelines.label_plan import Description, Model
from zs3.tables import label_map

RED, BLUE, GREEN = (250, 0, 0), (0, 0, 250), (0, 250, 0)
"""Red is class 1, blue is class 2, and the fake model fails on a green corner."""


def colours(*, weights="w", kill_once=None, fails_always=False, delay_s=0.0):
    """A model that names pixels by colour; nested, so that it travels to workers by value.

    Args:
        weights: what its digest is made of.
        kill_once: a file; the process that finds it absent makes it and dies as if killed.
        fails_always: it fails on every picture.
        delay_s: seconds it takes for a picture.
    """

    def load(checkpoint, vocabulary, device):
        class Colours:
            seen = {1: True, 2: False}
            digest = weights

            def label(self, pictures):
                if fails_always or any(tuple(picture[0, 0]) == (0, 250, 0) for picture in pictures):
                    raise RuntimeError("green makes it fail")
                if kill_once and len(pictures) < 4 and not os.path.exists(kill_once):
                    open(kill_once, "w").close()
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(delay_s * len(pictures))
                return [(np.where(p[..., 0] > 127, 1, 2).astype(np.int32), {1: 0.5, 2: 0.25}) for p in pictures]

        return Colours()

    def describe(checkpoint, vocabulary):
        return Description(digest=weights, provenance={"weights": weights}, seen={1: True, 2: False})

    return Model(load=load, describe=describe)


SMALL = Execution(batch_size=2, images_per_block=3, images_per_file=4, commit_interval_s=0.0)


def picture(path, index=0, corner=None):
    """A red and blue picture whose border lies at `index`."""
    pixels = np.full((8, 12, 3), BLUE, np.uint8)
    pixels[:, : index % 13] = RED
    if corner:
        pixels[0, 0] = corner
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(10):
        picture(folder / f"i{index}.png", index)
    (tmp_path / "classes.txt").write_text("red\nblue *\n")
    return folder


def request_for(photos, out="out", **changes):
    values = {"images": str(photos), "classes": str(photos.parent / "classes.txt"), "checkpoint": "colours"}
    return LabelRequest(**{**values, "out": str(photos.parent / out), **changes})


def table(request, name):
    return DeltaTable(f"{request.out}/{name}").to_pyarrow_table().to_pylist()


def rows(request, name="labels"):
    """What a table holds, in an order of its own."""
    return sorted(json.dumps({**row, "rle": repr(row.get("rle"))}, sort_keys=True) for row in table(request, name))


def test_every_image_ends_in_labels_or_in_failures_and_a_rerun_does_the_rest(ray_session, photos):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(photos / "whole.jpg")
    (photos / "cut.jpg").write_bytes((photos / "whole.jpg").read_bytes()[:1500])
    (photos / "whole.jpg").unlink()
    picture(photos / "poison.png", corner=GREEN)
    Image.new("RGB", (200, 100)).save(photos / "big.png")
    listing = photos / "list.txt"
    listing.write_text("\n".join([*sorted(path.name for path in photos.iterdir()), "gone.jpg"]))
    seen = []
    request = request_for(listing, classes=str(photos.parent / "classes.txt"), max_pixels=10_000)

    result = label(request, SMALL, model=colours(), on_progress=seen.append)

    assert (result.images, result.failed, result.skipped) == (10, 4, 0)
    assert result.images_per_second == pytest.approx(10 / result.seconds)
    assert result.startup_seconds > 0
    assert (seen[-1].done, seen[-1].failed, seen[-1].total, seen[-1].remaining_s) == (14, 4, 14, 0)
    reasons = {row["image_id"]: (row["stage"], row["error_type"]) for row in table(request, "failures")}
    assert reasons == {
        "cut": ("decode", "truncated"),
        "gone": ("read", "FileNotFoundError"),
        "poison": ("label", "RuntimeError"),
        "big": ("decode", "too_large"),
    }
    by_image = {}
    for row in table(request, "labels"):
        by_image.setdefault(row["image_id"], []).append(row)
    assert sorted(by_image) == [f"i{index}" for index in range(10)]
    for image_id, held in by_image.items():
        pixels = np.asarray(Image.open(photos / f"{image_id}.png"))
        np.testing.assert_array_equal(label_map(held), np.where(pixels[..., 0] > 127, 1, 2))
    assert {(row["class_id"], row["class_name"], row["seen"], row["score"], row["run"]) for row in table(request, "labels")} == {
        (1, "red", True, 0.5, "w"),
        (2, "blue", False, 0.25, "w"),
    }
    assert DeltaTable(f"{request.out}/labels").version() > 1, "commits come as the run goes"

    picture(photos / "poison.png", 5)
    (photos / "cut.jpg").write_bytes((photos / "i1.png").read_bytes())
    again = label(request, SMALL, model=colours())
    assert (again.images, again.failed, again.skipped) == (2, 2, 10)
    assert sorted(row["image_id"] for row in table(request, "failures")) == ["big", "gone"]

    before = rows(request)
    raised = label(request_for(listing, classes=request.classes, limit=2), SMALL, model=colours())
    assert (raised.images, raised.failed, raised.skipped) == (1, 0, 1), "a raised limit of pixels is no other run"
    assert len(rows(request)) == len(before) + 1
    assert [row["image_id"] for row in table(request, "failures")] == ["gone"]


def test_nothing_left_to_do_starts_nothing(ray_session, photos, monkeypatch):
    request = request_for(photos, limit=2)
    label(request, SMALL, model=colours())
    monkeypatch.setattr("pipelines.label.start_ray", lambda execution: pytest.fail("started Ray for nothing"))
    again = label(request, SMALL, model=colours())
    assert (again.images, again.failed, again.skipped, again.images_per_second) == (0, 0, 2, 0.0)


def test_a_killed_actor_loses_nothing_and_settings_of_execution_change_nothing(ray_session, photos, tmp_path):
    for index in range(10, 23):
        picture(photos / f"i{index}.png", index)
    killed, calm = request_for(photos, "killed"), request_for(photos, "calm")
    flag = str(tmp_path / "killed-once")
    result = label(killed, SMALL, model=colours(kill_once=flag))
    assert Path(flag).exists()
    assert (result.images, result.failed) == (23, 0)
    label(calm, Execution(batch_size=5, images_per_block=50), model=colours())
    assert rows(killed) == rows(calm)


SCRIPT = """
import sys
sys.path[:0] = {path!r}
from tests_pipelines_label import SMALL, colours, request_for
from pathlib import Path
from pipelines.label import label
label(request_for(Path({photos!r})), SMALL, model=colours(delay_s=0.2))
"""


def test_a_killed_driver_is_continued_to_the_same_rows(ray_session, photos, tmp_path):
    for index in range(10, 30):
        picture(photos / f"i{index}.png", index)
    (tmp_path / "tests_pipelines_label.py").write_text(Path(__file__).read_text())
    script = SCRIPT.format(path=[str(tmp_path)], photos=str(photos))
    request, whole = request_for(photos), request_for(photos, "whole")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    driver = subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 120
        labels = f"{request.out}/labels"
        while not (DeltaTable.is_deltatable(labels) and DeltaTable(labels).version() >= 1):
            assert driver.poll() is None, driver.stderr.read().decode()
            assert time.monotonic() < deadline, "the driver committed nothing"
            time.sleep(0.05)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        driver.stderr.close()
    held = len(image_uris(DeltaTable(labels)))
    assert 0 < held < 30

    result = label(request, SMALL, model=colours())
    assert (result.images, result.skipped) == (30 - held, held)
    label(whole, SMALL, model=colours())
    assert rows(request) == rows(whole)


def test_a_model_that_fails_on_everything_stops_the_run(ray_session, photos):
    for index in range(10, HOPELESS + 3):
        picture(photos / f"i{index}.png", index)
    request = request_for(photos)
    with pytest.raises(ray.exceptions.RayError, match="green makes it fail"):
        label(request, SMALL, model=colours(fails_always=True))
    assert table(request, "labels") == []


def test_a_model_other_than_the_planned_one_stops_the_run(ray_session, photos):
    other = Model(load=colours(weights="other").load, describe=colours().describe)
    with pytest.raises(ray.exceptions.RayError, match="was planned with w"):
        label(request_for(photos), SMALL, model=other)


def test_decoding_stays_apart_from_the_actors(ray_session, photos):
    from ray.data._internal.logical.optimizers import get_execution_plan

    dataset = label_graph(plan_label(request_for(photos), colours()), colours(), SMALL)
    operators = []
    operator = get_execution_plan(dataset._logical_plan)[0].dag
    while operator.input_dependencies:
        operators.append(operator.name)
        operator = operator.input_dependencies[0]
    assert operators == ["MapBatches(write_tables)", "MapBatches(LabelActor)", "MapBatches(read_and_decode)"]


def test_a_table_of_another_run_is_refused_before_anything_is_done(ray_session, photos):
    label(request_for(photos, limit=1), SMALL, model=colours())
    with pytest.raises(ValueError, match=r"made with a different weights \(w there, v now\); choose another --out"):
        label(request_for(photos), SMALL, model=colours(weights="v"))


def test_an_id_that_means_another_image_is_refused(ray_session, photos, tmp_path):
    label(request_for(photos, limit=1), SMALL, model=colours())
    (tmp_path / "others").mkdir()
    picture(tmp_path / "others" / "i0.png")
    with pytest.raises(ValueError, match="already holds labels of an image called 'i0'"):
        plan_label(request_for(photos, images=str(tmp_path / "others")), colours())
    (photos / "sub").mkdir()
    picture(photos / "sub" / "i0.png")
    with pytest.raises(ValueError, match=r"in this listing its id is 'i0\.png'"):
        plan_label(request_for(photos), colours())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": "gone"}, FileNotFoundError, "'gone' does not exist"),
        ({"classes": "gone.txt"}, FileNotFoundError, r"class list 'gone\.txt' is neither"),
        ({"out": "file"}, ValueError, "file is a file, expected a folder"),
        ({"out": "file/below"}, ValueError, "file is a file, expected a folder"),
        ({"max_pixels": 0}, ValueError, "max_pixels is 0"),
    ],
)
def test_a_request_that_cannot_be_carried_out_is_named_and_writes_nothing(photos, monkeypatch, changes, error, message):
    monkeypatch.chdir(photos.parent)
    Path("file").write_text("x")
    with pytest.raises(error, match=message):
        label(request_for(photos, **changes), SMALL, model=colours())
    assert not Path("out").exists()


def test_a_plan_writes_nothing(photos):
    plan = plan_label(request_for(photos, limit=4), colours())
    assert (len(plan.todo), plan.skipped, plan.retried) == (4, 0, frozenset())
    assert not (photos.parent / "out").exists()


def test_an_actor_keeps_the_rows_of_an_image_together_and_batches_change_nothing(photos):
    from pipelines.execution import ActorPlan
    from pipelines.label_actor import LabelActor
    from pipelines.sources import list_images, read_and_decode
    from zs3.vocabulary import load_vocabulary

    picture(photos / "poison.png", corner=GREEN)
    actors = ActorPlan(num_actors=1, gpus=0, cpus=1, per_machine=1, threads=None)
    vocabulary = load_vocabulary(str(photos.parent / "classes.txt"))
    actor = LabelActor(model=colours(), checkpoint="c", vocabulary=vocabulary, run="w", actors=actors)
    ids, uris = zip(*list_images(str(photos)))
    refs = pa.table({"image_id": list(ids), "uri": list(uris)})
    pixels = pa.concat_tables(read_and_decode(refs, max_pixels=1000, run="w"))
    together = actor(pixels).drop_columns("started").to_pylist()
    alone = [actor(pixels.slice(i, 1)).drop_columns("started").to_pylist()[0] for i in range(len(ids))]
    assert together == alone
    assert [bool(row["labels"]) != bool(row["failures"]) for row in together] == [True] * len(ids)
