"""Segment once, name many: what is stored names like what was never stored, and runs lose and double nothing."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from deltalake import DeltaTable
from PIL import Image

from pipelines.execution import ActorPlan, Execution
from pipelines.labelling.image_stage import read_and_decode
from pipelines.labelling.label import LabelActor, LabellerFactory, describe_labeller
from pipelines.labelling.name import (
    NameActor,
    NameRequest,
    describe_classifier,
    load_classifier,
    name,
    prepare_name,
)
from pipelines.labelling.segment import (
    SegmentActor,
    SegmentExporterFactory,
    SegmentRequest,
    describe_segment_exporter,
    prepare_segment,
    segment,
)
from pipelines.labelling.segments_table import one_actor_per_core, read_segments
from pipelines.runs.catalogue import catalogue_of
from pipelines.runs.rows import MAX_CONSECUTIVE_FAILURES
from pipelines.tables.delta_writer import open_table, publish, write_data_file
from tests.support.colour_labeller import GREEN, SMALL, make_photos, picture
from tests.support.in_process import graphs_in_process
from tests.support.stored_segments import grouping, naming
from zs3.checkpoint import save_checkpoint
from zs3.config import digest_of
from zs3.nets.zegformer import ZegFormer
from zs3.tables import SEGMENTS
from zs3.vocabulary import load_vocabulary

ONE = ActorPlan(num_actors=1, gpus=0, cpus=1, per_machine=1, threads=1)


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path, 10)


def to_segment(photos, out="kept", **changes):
    values = {
        "images": str(photos),
        "checkpoint": "colours",
        "out": str(photos.parent / out),
        "store": "lossless",
    }
    return SegmentRequest(**{**values, **changes})


def to_name(photos, out="named", **changes):
    here = photos.parent
    values = {"segments": str(here / "kept"), "classes": str(here / "classes.txt"), "out": str(here / out)}
    return NameRequest(**{**values, **changes})


def rows_in(out, table):
    """The rows of a table, in an order of their own."""
    rows = DeltaTable(f"{out}/{table}").to_pyarrow_table().to_pylist()
    return sorted(rows, key=lambda row: (row["image_id"], row.get("class_id", 0)))


def decoded(photos):
    refs = pa.Table.from_batches(catalogue_of(str(photos)).rows())
    return pa.concat_tables(read_and_decode(refs, max_pixels=100_000, run="w"))


def segments_of(photos, model, run, checkpoint="colours", actors=ONE):
    """The rows of `segments` of all photographs, made in this process, as a table."""
    actor = SegmentActor(
        model=model, checkpoint=checkpoint, store="lossless", run=run, exporter_digest=run, actors=actors
    )
    lists = actor(decoded(photos))["segments"].combine_chunks()
    return pa.Table.from_struct_array(lists.flatten()).cast(SEGMENTS)


def segmented_before(photos, model):
    """The segments table, without a run: all photographs in two files."""
    plan = prepare_segment(to_segment(photos), model)
    stored = open_table(plan.work.target.uris["segments"], SEGMENTS, plan.work.target.provenance)
    rows = segments_of(photos, model, plan.work.target.digest)
    parts = [
        write_data_file(plan.work.target.uris["segments"], part) for part in (rows.slice(0, 6), rows.slice(6))
    ]
    publish(stored, SEGMENTS, parts, run=plan.work.target.digest, written_ms=0)
    return rows


def interrupt(progress):
    """Stops a run as soon as some of its images are committed."""
    raise KeyboardInterrupt


def test_interrupted_runs_continue_to_the_tables_of_uninterrupted_ones(ray_session, photos):
    picture(photos / "unlucky.png", corner=GREEN)
    model = grouping()
    with pytest.raises(KeyboardInterrupt):
        segment(to_segment(photos), SMALL, model=model, on_progress=interrupt)
    done = len(rows_in(photos.parent / "kept", "segments"))
    assert 0 < done < 10
    result = segment(to_segment(photos), SMALL, model=model)
    assert (result.images, result.failed, result.skipped) == (10 - done, 1, done)
    assert [(row["image_id"], row["stage"]) for row in rows_in(photos.parent / "kept", "failures")] == [
        ("unlucky", "segment")
    ]
    (photos / "unlucky.png").unlink()
    expected = segments_of(photos, model, prepare_segment(to_segment(photos), model).work.target.digest)
    assert rows_in(photos.parent / "kept", "segments") == expected.sort_by("image_id").to_pylist()

    with pytest.raises(KeyboardInterrupt):
        name(to_name(photos), SMALL, model=naming(), on_progress=interrupt)
    done = len({row["image_id"] for row in rows_in(photos.parent / "named", "labels")})
    assert 0 < done < 10
    result = name(to_name(photos), SMALL, model=naming())
    assert (result.images, result.failed, result.skipped) == (10 - done, 0, done)
    with graphs_in_process():
        straight = name(to_name(photos, out="straight"), Execution(batch_size=5), model=naming())
    assert (straight.images, straight.failed, straight.skipped) == (10, 0, 0)
    labels = rows_in(photos.parent / "named", "labels")
    assert labels == rows_in(photos.parent / "straight", "labels")
    assert {row["image_id"] for row in labels} == {f"i{index}" for index in range(10)}


def test_labels_are_names_of_stored_segments_bit_for_bit_under_one_digest(tmp_path, tiny_recipe):
    torch.manual_seed(1)
    checkpoint = str(tmp_path / "model")
    save_checkpoint(Path(checkpoint), tiny_recipe, ZegFormer(tiny_recipe.model), ["dog", "sheep", "grass"])
    draw = np.random.default_rng(2)
    (tmp_path / "photos").mkdir()
    for index, size in enumerate(((40, 70), (90, 61), (33, 33))):
        Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)).save(
            tmp_path / "photos" / f"{index}.png"
        )
    (tmp_path / "classes.txt").write_text("dog\nsheep*\ngrass\nsofa: couch, settee\n")
    vocabulary = load_vocabulary(str(tmp_path / "classes.txt"))

    two = replace(ONE, threads=2)
    described = describe_labeller(checkpoint, vocabulary)
    labelled = LabelActor(
        model=LabellerFactory(), checkpoint=checkpoint, vocabulary=vocabulary, run=described.digest,
        actors=two,
    )(decoded(tmp_path / "photos"))  # fmt: skip

    parts = describe_segment_exporter(checkpoint, "lossless")
    stored = segments_of(
        tmp_path / "photos", SegmentExporterFactory(), digest_of(parts), checkpoint=checkpoint, actors=two
    )
    info = describe_classifier(checkpoint, vocabulary, {}, parts)
    classifier = pickle.loads(pickle.dumps(load_classifier(checkpoint, vocabulary, {})))
    named = NameActor(classifier=classifier, vocabulary=vocabulary, run=info.digest, threads=1)(stored)

    assert info == described
    rows = named.select(["image_id", "labels", "failures"]).to_pylist()
    assert labelled.select(["image_id", "labels", "failures"]).to_pylist() == rows
    assert all(row["labels"] for row in rows)


def test_names_depend_on_neither_batch_nor_order(photos):
    rows = segments_of(photos, grouping(), digest_of(grouping().describe("", "lossless")))
    vocabulary = load_vocabulary(str(photos.parent / "classes.txt"))
    actor = NameActor(classifier=naming().load("", vocabulary, {}), vocabulary=vocabulary, run="r", threads=1)
    together = actor(rows)["labels"].to_pylist()
    backwards = actor(rows.take(list(range(rows.num_rows))[::-1]))["labels"].to_pylist()
    alone = [actor(rows.slice(index, 1))["labels"].to_pylist()[0] for index in range(rows.num_rows)]
    assert together == alone == backwards[::-1]


def test_damaged_segments_of_an_image_fail_alone(photos):
    rows = segments_of(photos, grouping(), digest_of(grouping().describe("", "lossless"))).to_pylist()
    rows[3]["masks"] = rows[3]["masks"][:-4]
    rows[4]["void_logits"] = rows[4]["void_logits"][:1]
    vocabulary = load_vocabulary(str(photos.parent / "classes.txt"))
    actor = NameActor(classifier=naming().load("", vocabulary, {}), vocabulary=vocabulary, run="r", threads=1)
    outcome = actor(pa.Table.from_pylist(rows, schema=SEGMENTS)).to_pylist()
    assert [bool(row["labels"]) for row in outcome] == [True] * 3 + [False] * 2 + [True] * 5
    messages = [row["failures"][0] for row in outcome[3:5]]
    assert [row["stage"] for row in messages] == ["name", "name"]
    assert "is the segments table damaged?" in messages[0]["message"]
    assert "2 segments and 1 void logits" in messages[1]["message"]


def test_a_classifier_that_fails_on_everything_stops_the_run(photos):
    for index in range(10, MAX_CONSECUTIVE_FAILURES):
        picture(photos / f"i{index}.png", index)
    rows = segments_of(photos, grouping(), digest_of(grouping().describe("", "lossless")))
    vocabulary = load_vocabulary(str(photos.parent / "classes.txt"))
    classifier = naming(broken=True).load("", vocabulary, {})
    with pytest.raises(
        RuntimeError, match=f"failed on {MAX_CONSECUTIVE_FAILURES} images in a row.*no name for this"
    ):
        NameActor(classifier=classifier, vocabulary=vocabulary, run="r", threads=1)(rows)


def test_only_wanted_rows_of_a_file_are_read(photos, tmp_path):
    rows = segmented_before(photos, grouping())
    files = pa.table({"file": list(prepare_name(to_name(photos), naming()).files)})
    ids = rows["image_id"].to_pylist()
    read = pa.concat_tables(read_segments(files, wanted=frozenset([ids[1], ids[7]])))
    assert sorted(read["image_id"].to_pylist()) == sorted([ids[1], ids[7]])
    assert "run" not in read.column_names
    assert list(read_segments(files, wanted=frozenset())) == []


def test_another_class_list_or_setting_is_another_table_of_the_same_segments(photos):
    segmented_before(photos, grouping())
    first = prepare_name(to_name(photos), naming())
    open_table(first.work.target.uris["labels"], first.work.target.schema, first.work.target.provenance)
    (photos.parent / "others.txt").write_text("blue\nred\n")
    for changes in ({"classes": str(photos.parent / "others.txt")}, {"naming": {"weight": 0.5}}):
        with pytest.raises(ValueError, match=r"made with a different (class list|naming)"):
            prepare_name(to_name(photos, **changes), naming())
        plan = prepare_name(to_name(photos, out="other", **changes), naming())
        assert len(plan.work.pending) == 10, "the segments serve every class list and setting"
    assert len(prepare_segment(to_segment(photos), grouping()).work.pending) == 0, "and are not made again"


def test_other_weights_invalidate_the_segments_and_say_so(photos, tmp_path, tiny_recipe):
    segmented_before(photos, grouping())
    with pytest.raises(ValueError, match=r"made with a different checkpoint \(w there, v now\)"):
        prepare_segment(to_segment(photos), grouping("v"))
    checkpoint = str(tmp_path / "model")
    save_checkpoint(Path(checkpoint), tiny_recipe, ZegFormer(tiny_recipe.model), ["dog"])
    with pytest.raises(
        ValueError, match=r"made with the checkpoint w, but .*model' is .* now.*segment the images"
    ):
        prepare_name(to_name(photos, checkpoint=checkpoint))


def test_a_plan_reads_where_the_checkpoint_was(photos):
    segmented_before(photos, grouping())
    assert prepare_name(to_name(photos), naming()).checkpoint == "colours"
    assert prepare_name(to_name(photos, checkpoint="moved"), naming()).checkpoint == "moved"
    assert len(prepare_name(to_name(photos, limit=4), naming()).work.pending) == 4
    assert not (photos.parent / "named").exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"segments": "gone"}, FileNotFoundError, "no segments table at .*gone or .*gone/segments"),
        ({"segments": "labels"}, ValueError, "no segments table of this version of zs3: it has no column"),
        ({"segments": "empty"}, ValueError, "is empty; did the segmenting run fail"),
        ({"classes": "gone.txt"}, FileNotFoundError, r"class list 'gone\.txt' is neither"),
        ({"limit": 0}, ValueError, "limit is 0"),
    ],
)
def test_a_request_that_cannot_be_carried_out_is_named(photos, monkeypatch, changes, error, message):
    monkeypatch.chdir(photos.parent)
    segmented_before(photos, grouping())
    plan = prepare_segment(to_segment(photos, out="empty"), grouping())
    open_table(plan.work.target.uris["segments"], SEGMENTS, plan.work.target.provenance)
    named = prepare_name(to_name(photos), naming())
    open_table(str(photos.parent / "labels"), named.work.target.schema, named.work.target.provenance)
    with pytest.raises(error, match=message):
        prepare_name(to_name(photos, **changes), naming())


def test_what_cannot_be_segmented_is_named(photos):
    with pytest.raises(ValueError, match="no mask store is called 'best'; there are: compact, lossless"):
        prepare_segment(to_segment(photos, store="best"), grouping())
    with pytest.raises(ValueError, match="max_pixels is 0"):
        prepare_segment(to_segment(photos, max_pixels=0), grouping())


def test_naming_takes_one_actor_of_one_cpu_per_core_and_no_gpu():
    execution = one_actor_per_core(Execution(), [{"CPU": 9.0, "GPU": 2.0}, {"CPU": 8.0}])
    assert (execution.num_actors, execution.cpus_per_actor, execution.gpus_per_actor) == (16, 1.0, 0.0)
    execution = one_actor_per_core(Execution(num_actors=3), [{"CPU": 2.0}])
    assert (execution.num_actors, execution.cpus_per_actor) == (3, 1.0)


def test_another_class_list_names_stored_segments_anew_in_a_new_version(in_process, photos):
    segmented_before(photos, grouping())
    assert name(to_name(photos), SMALL, model=naming()).images == 10
    version = DeltaTable(str(photos.parent / "named" / "labels")).version()
    (photos.parent / "classes.txt").write_text("ruby\nsapphire *\n")
    with pytest.raises(ValueError, match=r"different class list .*--replace"):
        name(to_name(photos), SMALL, model=naming())
    result = name(to_name(photos, replace=True), SMALL, model=naming())
    assert (result.images, result.skipped) == (10, 0)
    assert {row["class_name"] for row in rows_in(photos.parent / "named", "labels")} == {"ruby", "sapphire"}
    old = DeltaTable(str(photos.parent / "named" / "labels"), version=version).to_pyarrow_table()
    assert set(old["class_name"].to_pylist()) == {"red", "blue"}
    assert name(to_name(photos, replace=True), SMALL, model=naming()).images == 0
