"""Forecasts against real runs: of bytes the very ones that a run then writes and reads, of images those left to do."""

import json
import re

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from PIL import Image

from jobs import plan as door
from pipelines.execution import ActorPlan, Execution
from pipelines.forecast.forecast import forecast, label_work, seconds_of, segment_work
from pipelines.forecast.measure import Measured, measure
from pipelines.forecast.sample import draw
from pipelines.labelling.image_stage import read_and_decode
from pipelines.labelling.label import LabelActor, LabelRequest, prepare_label
from pipelines.labelling.segment import SegmentRequest
from pipelines.runs.catalogue import Catalogue
from pipelines.runs.resume import PendingImages
from pipelines.runs.rows import WORK
from tests.servers.object_store import LIMITED_BUCKET
from tests.support.colour_labeller import colours
from tests.support.in_process import run_here
from tests.support.listings import pending_table
from tests.support.stored_segments import grouping

ONE = ActorPlan(num_actors=1, gpus=0, cpus=1, per_machine=1, threads=1)


def measured_here(make_actor, read, images, actors):
    """As `measure_on_ray`, in this process."""
    return measure(make_actor, read, images)


@pytest.fixture
def here(monkeypatch):
    """No Ray: machines as this one has."""
    monkeypatch.setattr("pipelines.forecast.forecast.start_ray", lambda execution: True)
    monkeypatch.setattr("pipelines.forecast.forecast.cluster_nodes", lambda: [{"CPU": 3.0}])


@pytest.fixture
def photos(tmp_path):
    """Pictures of noise whose sides and so labels are of very different sizes, and one that is none."""
    folder, random = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for index in range(150):
        height, width = random.integers(8, 60, 2)
        red_HW = np.kron(random.integers(0, 2, (height // 4 + 1, width // 4 + 1)), np.ones((4, 4)))[
            :height, :width
        ]
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[..., 0], pixels[..., 2] = 250 * red_HW, 250 * (1 - red_HW)
        Image.fromarray(pixels).save(folder / f"i{index:03}.png")
    (folder / "bad.png").write_bytes(b"no picture")
    (tmp_path / "classes.txt").write_text("red\nblue *\n")
    return folder


def request_for(photos, **changes):
    values = {"images": str(photos), "classes": str(photos.parent / "classes.txt"), "checkpoint": "colours"}
    return LabelRequest(**{**values, "out": str(photos.parent / "out"), **changes})


def labelled_here(request, per_file):
    """Label in this process, with as many images in a file."""
    plan = prepare_label(request, colours())
    pictures = pa.concat_tables(
        read_and_decode(pending_table(plan.work), max_pixels=request.max_pixels, run=plan.work.target.digest)
    )
    actor = LabelActor(
        model=colours(),
        checkpoint="colours",
        vocabulary=plan.vocabulary,
        run=plan.work.target.digest,
        actors=ONE,
    )
    return run_here(pictures, actor, plan.work, size=per_file)


def bytes_of(table):
    return sum(pa.table(DeltaTable(table).get_add_actions()).column("size_bytes").to_pylist())


@pytest.mark.parametrize("per_file", [16, 50])
@pytest.mark.parametrize("seed", range(3))
def test_the_interval_holds_the_bytes_that_a_run_writes(here, photos, per_file, seed):
    request, execution = request_for(photos), Execution(images_per_file=per_file)
    told = forecast(
        lambda: label_work(request, colours()), execution, sample=40, seed=seed, measuring=measured_here
    )
    assert (told.images, told.sample, told.strata, told.by_size) == (151, 40, 5, True)
    assert not (photos.parent / "out").exists(), "nothing is written"
    result = labelled_here(request, per_file)
    written = bytes_of(f"{request.out}/labels")
    assert told.bytes_written.low <= written <= told.bytes_written.high
    assert told.bytes_written.estimate == pytest.approx(written, rel=0.25)
    read = sum(path.stat().st_size for path in photos.iterdir())
    assert told.bytes_read.low == told.bytes_read.estimate == told.bytes_read.high == read
    # Of time only that it is of this world: other processes share the machine.
    assert 0 < told.seconds.low <= told.seconds.estimate <= told.seconds.high
    assert told.seconds.estimate < 1000 * result.seconds + 1000
    assert told.actor_hours.estimate == pytest.approx(told.seconds.estimate / 3600)
    assert told.gpu_hours.high == 0 and told.startup_s > 0


def test_what_is_done_is_not_forecast_and_all_of_few_are_measured(here, photos):
    labelled_here(request_for(photos, limit=140), 16)
    work = lambda: label_work(request_for(photos), colours())  # noqa: E731
    told = forecast(work, sample=64, measuring=measured_here)
    assert (told.images, told.skipped, told.sample, told.strata) == (11, 140, 11, 1)
    before = bytes_of(f"{photos.parent}/out/labels")
    labelled_here(request_for(photos), 16)
    more = bytes_of(f"{photos.parent}/out/labels") - before
    assert told.bytes_written.low <= more <= told.bytes_written.high
    assert told.bytes_written.estimate == pytest.approx(more, rel=5e-3), (
        "one file of the same rows in another order"
    )
    nothing = forecast(work, measuring=lambda *_: pytest.fail("measured nothing"))
    assert (nothing.images, nothing.skipped, nothing.seconds.high) == (0, 151, 0)


@pytest.mark.parametrize("store", ["compact", "lossless"])
def test_segments_are_forecast_too(here, photos, store):
    from pipelines.labelling.segment import SegmentActor, prepare_segment

    request = SegmentRequest(
        images=str(photos), checkpoint="colours", out=str(photos.parent / "kept"), store=store, limit=100
    )
    told = forecast(
        lambda: segment_work(request, grouping()),
        Execution(images_per_file=25),
        sample=48,
        measuring=measured_here,
    )
    plan = prepare_segment(request, grouping())
    pictures = pa.concat_tables(
        read_and_decode(pending_table(plan.work), max_pixels=10_000, run=plan.work.target.digest)
    )
    actor = SegmentActor(
        model=grouping(),
        checkpoint="colours",
        store=store,
        run=plan.work.target.digest,
        exporter_digest=plan.exporter_digest,
        actors=ONE,
    )
    run_here(pictures, actor, plan.work, size=25)
    assert told.bytes_written.low <= bytes_of(f"{request.out}/segments") <= told.bytes_written.high


def test_failures_of_the_sample_are_counted(here, photos):
    for path in sorted(photos.iterdir())[:75]:
        path.write_bytes(b"no picture")
    told = forecast(lambda: label_work(request_for(photos), colours()), sample=151, measuring=measured_here)
    assert told.failed_in_sample == 75


def todo_of(images, etags=None):
    """What is to do of so many images, of which none is done."""
    rows = [
        {"image_id": f"{i}", "uri": f"/none/{i:05}", "etag": etags(i) if etags else ""} for i in range(images)
    ]
    catalogue = Catalogue([pa.RecordBatch.from_pylist(rows)])
    catalogue.connection.execute(
        "CREATE TABLE pending AS SELECT image_id, uri, etag, shard, 0 AS attempts, false AS again FROM images"
    )
    return PendingImages(catalogue)


def test_a_sample_is_of_each_stratum_by_size_and_by_seed():
    sizes = np.random.default_rng(1).integers(1, 1_000_000, 500).tolist()
    todo = todo_of(500, lambda i: f"{sizes[i]}-1700000000000000000")
    drawn = draw(todo, 32, 0)
    assert drawn.by_size and drawn.all_bytes == sum(sizes) and sum(drawn.sizes) == 500
    assert sorted(drawn.strata) == sorted([0, 1, 2, 3] * 8)
    order = np.argsort(sizes)
    weights = 1 + np.array(sizes)[order] / np.mean(sizes)
    band = np.empty(500)
    band[order] = np.floor(4 * (np.cumsum(weights) - weights / 2) / weights.sum())
    assert drawn.sizes == tuple(np.bincount(band.astype(int))) and drawn.sizes[0] > drawn.sizes[3]
    assert drawn.strata == tuple(band[int(uri[-5:])] for uri in drawn.images["uri"].to_pylist())
    assert drawn.images.equals(draw(todo, 32, 0).images)
    assert not drawn.images.equals(draw(todo, 32, 1).images)
    assert drawn.images.schema == WORK


@pytest.mark.parametrize(
    "etag", ["", "0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef-12"]
)
def test_without_sizes_a_sample_is_of_each_stretch_of_the_listing(etag):
    drawn = draw(todo_of(100, lambda i: etag), 16, 0)
    assert not drawn.by_size and drawn.all_bytes is None
    for stratum, uri in zip(drawn.strata, drawn.images["uri"].to_pylist(), strict=True):
        assert int(uri[-5:]) // 50 == stratum


def test_gpus_wait_for_the_slower_and_cpus_for_both():
    drawn = draw(todo_of(4), 4, 0)
    measured = Measured(load_s=0.0, decode_s=(1.0,) * 4, model_s=(3.0,) * 4, done=pa.table({}))
    on_cpus = ActorPlan(num_actors=2, gpus=0, cpus=4, per_machine=1, threads=None)
    assert seconds_of(drawn, measured, on_cpus, 8.0).estimate == pytest.approx((12 + 4 / 4) / 2)
    on_gpus = ActorPlan(num_actors=2, gpus=1, cpus=1, per_machine=1, threads=None)
    assert seconds_of(drawn, measured, on_gpus, 8.0).estimate == pytest.approx(12 / 2)
    many = ActorPlan(num_actors=12, gpus=1, cpus=1, per_machine=12, threads=None)
    assert seconds_of(drawn, measured, many, 13.0).estimate == pytest.approx(4 / 2), "two decoding tasks"


def test_sizes_of_objects_are_asked_of_the_sample_alone(object_store, tmp_path):
    from pipelines.storage.objects import filesystem_of

    filesystem, path = filesystem_of(f"s3://{LIMITED_BUCKET}/plan")
    for index in range(20):
        filesystem.pipe_file(f"{path}/{index:02}.png", b"x" * (100 + index))
    (tmp_path / "classes.txt").write_text("red\nblue *\n")
    request = request_for(tmp_path / "none", images=f"s3://{LIMITED_BUCKET}/plan")
    plan = prepare_label(request, colours())
    told = draw(plan.work.pending, 20, 0).bytes_read()
    assert told.estimate == told.low == sum(range(100, 120))
    some = draw(plan.work.pending, 16, 0).bytes_read()
    assert some.low <= sum(range(100, 120)) <= some.high and some.low < some.high


def arguments(*more, images="photos"):
    return ["--images", str(images), "--checkpoint", "colours", "--out", "out", *more]


def test_the_door_measures_on_ray_and_tells_people_and_scripts(ray_session, photos, monkeypatch, capfd):
    monkeypatch.chdir(photos.parent)
    models = {"label": colours(), "segment": grouping()}
    labels = arguments("--classes", "classes.txt", "--sample", "16")
    assert door.main([*labels, "--json"], models=models) == 0
    told = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (told["images"], told["sample"], told["stratified_by"], told["actors"]) == (151, 16, "size", 1)
    for name in ("seconds", "actor_hours", "gpu_hours", "bytes_read", "bytes_written"):
        assert told[name]["low"] <= told[name]["estimate"] <= told[name]["high"]
    assert door.main(labels, models=models) == 0
    text = capfd.readouterr().out
    assert "151 to label, 0 done before" in text and "16 in 2 strata by file size" in text
    assert re.search(r"written +[\d.]+ kB \([\d.]+ kB to [\d.]+ kB\) of labels", text)
    assert door.main(arguments("--verb", "segment", "--sample", "4"), models=models) == 0
    assert "151 to segment" in capfd.readouterr().out
    assert not (photos.parent / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "--classes is missing"),
        (["--classes", "classes.txt", "--store", "lossless"], "--store is nothing for --verb label"),
        (["--verb", "segment", "--classes", "classes.txt"], "--classes is nothing for --verb segment"),
        (["--classes", "classes.txt", "--sample", "1"], "sample is 1; expected at least 2"),
        (["--classes", "gone.txt"], "class list 'gone.txt' is neither"),
    ],
)
def test_what_cannot_be_planned_is_named_in_one_line(here, photos, monkeypatch, capsys, more, message):
    monkeypatch.chdir(photos.parent)
    assert door.main(arguments(*more), models={"label": colours(), "segment": grouping()}) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
