"""Scoring segments is naming them and scoring the labels, and tells where the error is."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from deltalake import DeltaTable
from PIL import Image

from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.from_segments import SegmentsSource
from pipelines.evaluation.request import EvaluateRequest
from pipelines.execution import Execution
from pipelines.labelling.name import NameRequest, SegmentClassifierFactory, name
from pipelines.tables.delta_writer import open_table, publish, write_data_file
from tests.support.in_process import graphs_in_process
from zs3.checkpoint import load_checkpoint, save_checkpoint
from zs3.evaluation.oracles import ORACLES
from zs3.images.codec import encode_label_png
from zs3.inference.segment_exporter import SegmentExporter
from zs3.metrics import PROTOCOLS
from zs3.nets.zegformer import ZegFormer
from zs3.segmentation.table import segments_row
from zs3.tables import SEGMENTS
from zs3.tuning.settings_file import Tuned
from zs3.vocabulary import load_vocabulary

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SMALL = Execution(batch_size=2, cpus_per_actor=0.5, num_actors=1)
IDS = [f"p{index}" for index in range(5)]
CLASSES = [
    {"id": 0, "name": "ground", "role": "background"},
    {"id": 1, "name": "dog"},
    {"id": 2, "name": "grass"},
    {"id": 3, "name": "sheep", "role": "unseen"},
    {"id": 4, "name": "sofa", "role": "unseen"},
]


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_recipe):
    """A checkpoint that was never trained, a data set of noise, and the rows of its segments."""
    root = tmp_path_factory.mktemp("world")
    torch.manual_seed(1)
    recipe = replace(tiny_recipe, naming=replace(tiny_recipe.naming, calibration=0.02))
    save_checkpoint(root / "model", recipe, ZegFormer(recipe.model), ["dog", "grass"])
    for part in ("images", "masks"):
        (root / "data" / part).mkdir(parents=True)
    draw = np.random.default_rng(2)
    exporter = SegmentExporter(load_checkpoint(str(root / "model")), "compact", device=torch.device("cpu"))
    rows = []
    for image_id, size in zip(IDS, ((40, 70), (90, 61), (33, 33), (64, 48), (50, 50)), strict=True):
        pixels = draw.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "data" / "images" / f"{image_id}.png")
        truth = draw.choice([0, 1, 2, 3, 4, 255], (9, 7)).repeat(10, 0).repeat(10, 1)[: size[0], : size[1]]
        (root / "data" / "masks" / f"{image_id}.png").write_bytes(encode_label_png(truth))
        ((segments, apart),) = exporter.segment([pixels])
        uri = str(root / "data" / "images" / f"{image_id}.png")
        rows.append(segments_row(image_id, uri, segments, apart, exporter.digest, store="compact"))
    (root / "data" / "classes.json").write_text(json.dumps({"name": "noise", "classes": CLASSES}))
    (root / "data" / "splits.json").write_text(json.dumps({"val": IDS, "few": IDS[1:]}))
    stored(root, rows, "kept", provenance=exporter.provenance)
    return root, rows, exporter.provenance


def stored(root, rows, out, *, provenance):
    """A segments table with these rows in two files."""
    uri = str(root / out / "segments")
    held = open_table(uri, SEGMENTS, {"checkpoint": str(root / "model"), "digest": "d", "run": provenance})
    table = pa.Table.from_pylist(rows, schema=SEGMENTS)
    publish(
        held,
        SEGMENTS,
        [write_data_file(uri, part) for part in (table.slice(0, 2), table.slice(2))],
        run="r",
        written_ms=0,
    )
    return str(root / out)


def run(root, out, **changes):
    values = {"dataset": "folder", "root": str(root / "data"), "split": "val", "replicates": 20, "gallery": 3}
    return evaluate(EvaluateRequest(**{**values, "out": str(out), **changes}), SMALL, now=NOW)


def scores_rows(out):
    rows = DeltaTable(f"{out}/scores").to_pyarrow_table().to_pylist()
    return sorted(rows, key=lambda row: row["image_id"])


def test_scoring_segments_equals_naming_them_and_scoring_the_labels(ray_session, world, tmp_path):
    root, *_ = world
    changes = {"weight": 0.6, "calibration": 0.01}
    named = NameRequest(
        segments=str(root / "kept"),
        classes=str(root / "data" / "classes.json"),
        out=str(tmp_path / "named"),
        naming=changes,
    )
    with graphs_in_process():
        name(named, SMALL)
        labels = run(root, tmp_path / "first", labels=str(tmp_path / "named"), protocol="all")
    report = run(root, tmp_path / "second", segments=str(root / "kept"), naming=changes, protocol="all")
    assert scores_rows(tmp_path / "first") == scores_rows(tmp_path / "second")
    split = report.pop("error_split")
    assert [entry["title"] for entry in report.pop("diagnostics")] == [
        "Oracle names", "True masks", "Oracle group",
    ]  # fmt: skip
    masks, _ = labels.pop("diagnostics")
    first, second = labels["provenance"].pop("labels"), report["provenance"].pop("labels")
    assert (first["runs"], first["run"]) == (second["runs"], second["run"])
    assert second["segments"]["uri"].endswith("kept/segments") and second["naming"] == changes
    assert labels == report

    predicted = split["predicted_names"]
    assert {key: predicted[key] for key in ("seen", "unseen", "harmonic", "all")} == {
        key: report[key]["miou"] for key in ("seen", "unseen", "harmonic", "all")
    }
    assert [entry["iou"] for entry in predicted["classes"]] == [entry["iou"] for entry in report["classes"]]
    assert tuple(split)[1:] == ORACLES
    assert split["oracle_names"]["pixel_accuracy"] >= predicted["pixel_accuracy"]
    assert split["oracle_group"]["pixel_accuracy"] >= predicted["pixel_accuracy"]
    assert masks["title"] == "Masks alone"
    pages = [(tmp_path / out / "report.html").read_text() for out in ("first", "second")]
    assert [page.count("data:image/jpeg") for page in pages] == [3, 3]
    assert "IoU by class" not in pages[0] and "IoU by class" in pages[1]
    assert not (tmp_path / "second" / "labels").exists()


def test_the_order_of_rows_and_of_classes_changes_no_number(ray_session, in_process, world, tmp_path):
    root, rows, provenance = world
    lines = "\n".join(entry["name"] + ("*" if "role" in entry else "") for entry in reversed(CLASSES[1:]))
    (tmp_path / "turned.txt").write_text(lines)
    first = run(root, tmp_path / "first", segments=str(root / "kept"), gallery=0)
    (tmp_path / "model").symlink_to(root / "model")
    turned = stored(tmp_path, rows[::-1], "turned", provenance=provenance)
    second = run(root, tmp_path / "second", segments=turned, gallery=0, classes=str(tmp_path / "turned.txt"))
    assert first["error_split"] == second["error_split"]


def test_tuned_settings_are_taken_and_say_where_they_were_tuned(world, tmp_path):
    root, _, provenance = world
    tuned = Tuned(
        changes={"calibration": 0.3}, checkpoint=provenance["checkpoint"], tuned_on={"title": "other val"}
    )
    (tmp_path / "tune.json").write_text(json.dumps(tuned.to_json()))
    request = NameRequest(
        segments=str(root / "kept"), classes="voc", out=str(tmp_path), settings=str(tmp_path / "tune.json")
    )
    arguments = (load_vocabulary("voc"), PROTOCOLS["zs3"], SegmentClassifierFactory(), SMALL)
    source = SegmentsSource(request, *arguments)
    assert source.classifier().settings.calibration == 0.3
    assert source.labels.provenance["tuning"] == {"title": "other val"}
    (tmp_path / "tune.json").write_text(json.dumps(replace(tuned, checkpoint="f" * 64).to_json()))
    with pytest.raises(ValueError, match="tuned for the checkpoint ffffffffffff, and the segments are of"):
        SegmentsSource(request, *arguments)


def refused(root, out, **changes):
    """The message with which an evaluation stops, after which no report may be there."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        run(root, out, **changes)
    assert not list(Path(out).glob("report.*")) and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_damaged_row_is_named_with_its_reason_and_can_be_left_out(ray_session, in_process, world, tmp_path):
    root, rows, provenance = world
    broken = [{**row, "masks": row["masks"][:-3]} if row["image_id"] == "p3" else row for row in rows]
    (tmp_path / "model").symlink_to(root / "model")
    kept = stored(tmp_path, broken, "broken", provenance=provenance)
    told = refused(root, tmp_path / "out", segments=kept)
    assert "1 of 5 images of data val have no segments (p3; 1 of them could not be segmented or named" in told
    assert "'p3' because: masks of" in told and "is the segments table damaged?" in told
    report = run(root, tmp_path / "out", segments=kept, allow_missing=True, gallery=0)
    assert "is the segments table damaged?" in report["failures"]["p3"]
    assert report["images"] == 4 and report["missing"]["without_labels"]["ids"] == ["p3"]


def test_images_of_another_split_are_named_and_cost_nothing(ray_session, in_process, world, tmp_path):
    root, *_ = world
    told = refused(root, tmp_path / "out", segments=str(root / "kept"), split="few")
    assert "0 of 4 images" in told and "1 segmented image is not in it (p0)" in told
    assert "segment the rest, or score the 4" in told


def test_a_truth_that_cannot_be_read_is_named(ray_session, in_process, world, tmp_path):
    root, *_ = world
    (tmp_path / "data" / "masks").mkdir(parents=True)
    for part in ("images", "classes.json", "splits.json"):
        (tmp_path / "data" / part).symlink_to(root / "data" / part)
    for image_id in IDS:
        whole = (root / "data" / "masks" / f"{image_id}.png").read_bytes()
        kept = whole[: len(whole) // 2] if image_id == "p2" else whole
        (tmp_path / "data" / "masks" / f"{image_id}.png").write_bytes(kept)
    told = refused(tmp_path, tmp_path / "out", segments=str(root / "kept"))
    assert "1 of 5 images cannot be scored: image 'p2': " in told


def test_segments_of_other_weights_are_refused(ray_session, in_process, world, tiny_recipe, tmp_path):
    root, *_ = world
    save_checkpoint(tmp_path / "other", tiny_recipe, ZegFormer(tiny_recipe.model), ["dog"])
    told = refused(root, tmp_path / "out", segments=str(root / "kept"), checkpoint=str(tmp_path / "other"))
    assert "the segments were made with the checkpoint" in told
    assert "no segments table at" in refused(root, tmp_path / "out", segments=str(tmp_path / "gone"))
    told = refused(root, tmp_path / "out", segments=str(root / "kept"), naming={"lambda": 1.0})
    assert "no naming setting 'lambda'" in told
