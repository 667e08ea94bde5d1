"""The labelling graph on a small Ray: nothing is lost, nothing is done twice, whatever is killed."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from PIL import Image

from pipelines.execution import ActorPlan
from pipelines.labelling.image_stage import PIXELS, read_and_decode
from pipelines.labelling.label import LabelActor, label, prepare_label
from pipelines.runs.rows import MAX_CONSECUTIVE_FAILURES
from pipelines.runs.run import Chunk
from pipelines.tables.delta_writer import open_table, publish, write_data_file
from tests.support.colour_labeller import (
    GREEN,
    SMALL,
    colours,
    expected,
    make_photos,
    picture,
    request_for,
    table,
)
from tests.support.in_process import ONE
from tests.support.listings import list_images, pending_table
from zs3.config import digest_of
from zs3.tables import LABELS
from zs3.vocabulary import load_vocabulary


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path, 10)


def labelled_before(request, count, model):
    """Put the first images of a request into its table without a run."""
    plan = prepare_label(request, model)
    stored = open_table(f"{request.out}/labels", LABELS, plan.work.target.provenance)
    rows = expected(Path(request.images), {image_id for image_id, _ in list(plan.work.pending)[:count]})
    part = write_data_file(f"{request.out}/labels", pa.Table.from_pylist(rows, schema=LABELS))
    publish(stored, LABELS, [part], run=plan.info.digest, written_ms=0)


def an_actor(photos, model, run="w"):
    actors = ActorPlan(num_actors=1, gpus=0, cpus=1, per_machine=1, threads=None)
    vocabulary = load_vocabulary(str(photos.parent / "classes.txt"))
    return LabelActor(model=model, checkpoint="colours", vocabulary=vocabulary, run=run, actors=actors)


def decoded(photos):
    ids, uris = zip(*list_images(str(photos)))
    refs = pa.table({"image_id": list(ids), "uri": list(uris)})
    return pa.concat_tables(read_and_decode(refs, max_pixels=1000, run="w"))


def test_every_image_ends_in_labels_or_in_failures_and_a_rerun_does_the_rest(ray_session, photos):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(photos / "cut.jpg")
    (photos / "cut.jpg").write_bytes((photos / "cut.jpg").read_bytes()[:1500])
    picture(photos / "green.png", corner=GREEN)
    Image.new("RGB", (200, 100)).save(photos / "wide.png")
    listing = photos / "list.txt"
    listing.write_text("\n".join([*sorted(path.name for path in photos.iterdir()), "gone.jpg"]))
    classes, seen = str(photos.parent / "classes.txt"), []
    request = request_for(photos, images=str(listing), max_pixels=10_000)

    result = label(request, SMALL, model=colours(), on_progress=seen.append)

    assert (result.images, result.failed, result.skipped) == (10, 4, 0)
    assert result.images_per_second == pytest.approx(10 / result.seconds)
    assert result.startup_seconds > 0
    assert (seen[-1].done, seen[-1].failed, seen[-1].total, seen[-1].remaining_s) == (14, 4, 14, 0)
    assert {row["image_id"]: (row["stage"], row["error_type"]) for row in table(request, "failures")} == {
        "cut": ("decode", "truncated"),
        "gone": ("read", "FileNotFoundError"),
        "green": ("label", "RuntimeError"),
        "wide": ("decode", "too_large"),
    }
    assert table(request) == expected(photos, {f"i{index}" for index in range(10)}, etags=False)
    assert DeltaTable(f"{request.out}/labels").version() > 1, "commits come as the run goes"

    picture(photos / "green.png", 5)
    (photos / "cut.jpg").write_bytes((photos / "i1.png").read_bytes())
    nothing = label(request, SMALL, model=colours())
    assert (nothing.images, nothing.failed, nothing.skipped, nothing.failed_before) == (0, 0, 14, 4)
    second = label(
        request_for(photos, images=str(listing), classes=classes, retry_failures=True, max_pixels=100_000),
        SMALL,
        model=colours(),
    )
    assert (second.images, second.failed, second.skipped, second.failed_before) == (3, 1, 10, 0)
    assert [(row["image_id"], row["attempts"]) for row in table(request, "failures")] == [("gone", 2)]
    assert [row for row in table(request) if row["image_id"] != "cut"] == expected(photos, etags=False)


def test_a_killed_actor_loses_nothing_and_a_finished_run_starts_nothing(
    ray_session, photos, tmp_path, monkeypatch
):
    for index in range(10, 23):
        picture(photos / f"i{index}.png", index)
    request, flag = request_for(photos), tmp_path / "killed-once"
    result = label(request, SMALL, model=colours(kill_once=str(flag)))
    assert flag.exists()
    assert (result.images, result.failed) == (23, 0)
    assert table(request) == expected(photos)

    monkeypatch.setattr(
        "pipelines.runs.run.start_ray", lambda execution: pytest.fail("started Ray for nothing")
    )
    second = label(request, SMALL, model=colours())
    assert (second.images, second.failed, second.skipped, second.images_per_second) == (0, 0, 23, 0.0)


def test_a_checkpoint_that_is_not_there_is_found_before_images_are_listed(photos, monkeypatch):
    monkeypatch.setattr(
        "pipelines.labelling.image_stage.catalogue_of", lambda *_: pytest.fail("listed images")
    )
    with pytest.raises(ValueError, match="checkpoint 'nowhere' has no"):
        prepare_label(request_for(photos, checkpoint="nowhere"))


def test_decoding_stays_apart_from_the_actors(ray_session, photos):
    from ray.data._internal.logical.optimizers import get_execution_plan

    plan = prepare_label(request_for(photos), colours())
    chunk = Chunk(images=pending_table(plan.work), total=len(plan.work.pending), journal_id="n")
    dataset = plan.graph(SMALL)(chunk)
    operator, operators = get_execution_plan(dataset._logical_plan)[0].dag, []
    while operator.input_dependencies:
        operators.append(operator.name)
        operator = operator.input_dependencies[0]
    assert operators == ["MapBatches(write_tables)", "MapBatches(LabelActor)", "MapBatches(read_and_decode)"]


def test_an_actor_keeps_the_rows_of_an_image_together_and_batches_change_nothing(photos):
    picture(photos / "green.png", corner=GREEN)
    actor, pixels = an_actor(photos, colours()), decoded(photos)
    together = actor(pixels).drop_columns("started").to_pylist()
    alone = [actor(pixels.slice(i, 1)).drop_columns("started").to_pylist()[0] for i in range(len(together))]
    assert together == alone
    assert [bool(row["labels"]) != bool(row["failures"]) for row in together] == [True] * 11


def test_an_actor_whose_model_fails_on_everything_gives_up(photos):
    for path in photos.iterdir():
        picture(path, corner=GREEN)
    actor, pixels = an_actor(photos, colours()), decoded(photos)
    for _ in range(MAX_CONSECUTIVE_FAILURES // 10):
        assert all(row["failures"] for row in actor(pixels).to_pylist())
    with pytest.raises(
        RuntimeError, match=f"failed on {MAX_CONSECUTIVE_FAILURES} images in a row.*green makes it fail"
    ):
        actor(pixels)


def test_an_actor_with_another_model_than_the_planned_one_gives_up(photos):
    with pytest.raises(RuntimeError, match="has digest other here, but the run was planned with w"):
        an_actor(photos, colours(weights="other"))


def test_dropped_transparency_is_another_run_and_the_default_is_the_run_of_before(photos):
    Image.new("RGBA", (4, 3), (250, 0, 0, 0)).save(photos / "clear.png")
    assert prepare_label(request_for(photos), colours()).work.target.provenance["run"] == {"weights": "w"}
    plan = prepare_label(request_for(photos, alpha="drop"), colours())
    assert plan.work.target.provenance["run"] == {"weights": "w", "alpha": "drop"}
    assert (plan.labeller_digest, plan.info.digest) == ("w", digest_of({"weights": "w", "alpha": "drop"}))
    refs = pa.table({"image_id": ["clear"], "uri": [str(photos / "clear.png")]})
    (row,) = next(plan.image_run().read(refs)).to_pylist()
    assert row["pixels"] == bytes([250, 0, 0]) * 12
    actor = LabelActor(**plan.image_run().arguments(ONE))
    assert (
        actor(pa.Table.from_pylist([row], schema=PIXELS))["labels"][0][0]["run"].as_py() == plan.info.digest
    )
    labelled_before(request_for(photos), 1, colours())
    with pytest.raises(ValueError, match="alpha"):
        prepare_label(request_for(photos, alpha="drop"), colours())


def test_a_table_of_another_run_is_refused_before_anything_is_done(photos):
    labelled_before(request_for(photos), 1, colours())
    with pytest.raises(
        ValueError, match=r"made with a different weights \(w there, v now\); choose another --out"
    ):
        label(request_for(photos), SMALL, model=colours(weights="v"))
    assert not (photos.parent / "out" / "failures").exists()


def test_an_id_that_means_another_image_is_refused(photos, tmp_path):
    labelled_before(request_for(photos), 1, colours())
    (tmp_path / "others").mkdir()
    picture(tmp_path / "others" / "i0.png")
    with pytest.raises(ValueError, match="already holds labels of an image called 'i0'"):
        prepare_label(request_for(photos, images=str(tmp_path / "others")), colours())


def test_a_plan_counts_what_is_done_and_writes_nothing(photos):
    assert (len(prepare_label(request_for(photos, limit=4), colours()).work.pending)) == 4
    assert not (photos.parent / "out").exists()
    labelled_before(request_for(photos), 3, colours())
    plan = prepare_label(request_for(photos, limit=4), colours())
    assert (len(plan.work.pending), plan.work.skipped, plan.work.retried) == (1, 3, 0)


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
def test_a_request_that_cannot_be_carried_out_is_named_and_writes_nothing(
    photos, monkeypatch, changes, error, message
):
    monkeypatch.chdir(photos.parent)
    Path("file").write_text("x")
    with pytest.raises(error, match=message):
        label(request_for(photos, **changes), SMALL, model=colours())
    assert not Path("out").exists()
