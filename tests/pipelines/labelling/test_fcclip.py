"""An FC-CLIP goes through the tables: segmented once, named with any class list, tuned, scored and tried again."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest
from deltalake import DeltaTable
from PIL import Image

from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.request import EvaluateRequest
from pipelines.labelling.label import LabelRequest, label
from pipelines.labelling.name import NameRequest, name
from pipelines.labelling.retry import prepare_retry
from pipelines.labelling.segment import SegmentRequest, segment
from pipelines.tuning.request import TuneRequest
from pipelines.tuning.tune import tune
from tests.data.fcclip_networks import checkpoint_of, network_of
from tests.support.in_process import graphs_in_process
from tests.support.parity import SMALL
from zs3.checkpoint import save_checkpoint
from zs3.images.codec import encode_label_png
from zs3.inference.labeller import load_labeller
from zs3.label_rows import label_map
from zs3.tuning.grid import NamingGrid
from zs3.vocabulary import load_vocabulary


def test_names_of_a_stored_table_are_the_labels_of_the_picture(in_process, tmp_path):
    picture, recorded = SMALL("fcclip")["rn/img4/image"], checkpoint_of("rn")
    (tmp_path / "photos").mkdir()
    Image.fromarray(picture).save(tmp_path / "photos" / "a.png")
    (tmp_path / "classes.txt").write_text("dog: puppy\nsheep*\ngrass\nsky: clouds, fog\n")
    model, kept, named = (str(tmp_path / part) for part in ("model", "kept", "named"))
    save_checkpoint(tmp_path / "model", recorded.recipe, network_of("rn"), recorded.seen_classes)
    photos, classes = str(tmp_path / "photos"), str(tmp_path / "classes.txt")
    assert segment(SegmentRequest(images=photos, checkpoint=model, out=kept, store="lossless")).images == 1
    assert name(NameRequest(segments=kept, classes=classes, out=named)).images == 1
    rows = DeltaTable(f"{named}/labels").to_pyarrow_table().to_pylist()
    labels, _ = load_labeller(model, load_vocabulary(classes)).label([picture])[0]
    assert np.array_equal(label_map(rows), labels)
    assert {row["class_name"]: row["seen"] for row in rows}.items() <= {
        "dog": True, "sheep": False, "grass": True, "sky": True,
    }.items()  # fmt: skip


CLASSES = [
    {"id": 1, "name": "dog", "synonyms": ["puppy"]},
    {"id": 2, "name": "grass"},
    {"id": 3, "name": "sheep", "role": "unseen"},
    {"id": 4, "name": "sky", "synonyms": ["clouds", "fog"], "role": "unseen"},
]
IDS = ("a", "b", "c")
NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture(scope="module")
def farm(tmp_path_factory):
    """Photographs with made-up truth, a class list, a checkpoint, and their segments in the compact form."""
    root = tmp_path_factory.mktemp("farm")
    recorded, draw = checkpoint_of("rn"), np.random.default_rng(0)
    picture = SMALL("fcclip")["rn/img4/image"]
    for image_id, shift in zip(IDS, (0, 40, 80), strict=True):
        for part in ("images", "masks"):
            (root / part).mkdir(exist_ok=True)
        pixels = np.roll(picture, shift, axis=1)
        Image.fromarray(pixels).save(root / "images" / f"{image_id}.png")
        truth = (
            draw.choice([1, 2, 3, 4, 255], (9, 9))
            .repeat(100, 0)
            .repeat(100, 1)[: pixels.shape[0], : pixels.shape[1]]
        )
        (root / "masks" / f"{image_id}.png").write_bytes(encode_label_png(truth))
    (root / "classes.json").write_text(json.dumps({"name": "farm", "classes": CLASSES}))
    (root / "splits.json").write_text(json.dumps({"val": IDS}))
    save_checkpoint(root / "model", recorded.recipe, network_of("rn"), recorded.seen_classes)
    with graphs_in_process():
        segment(to_segment(root, "kept"))
    return root


def to_segment(root, out, images="images"):
    return SegmentRequest(images=str(root / images), checkpoint=str(root / "model"), out=str(root / out))


def report_of(root, out, **changes):
    values = {"dataset": "folder", "root": str(root), "split": "val", "out": str(root / out)}
    return evaluate(EvaluateRequest(**values, replicates=2, gallery=0, **changes), now=NOW)


def measures(report):
    return {group: report[group]["miou"] for group in ("seen", "unseen", "harmonic", "all")}


def test_scores_of_the_model_of_its_labels_and_of_its_segments_are_those_of_the_tables(
    ray_session, in_process, farm
):
    classes = str(farm / "classes.json")
    images, model = str(farm / "images"), str(farm / "model")
    label(LabelRequest(images=images, classes=classes, checkpoint=model, out=str(farm / "labelled")))
    by_model = report_of(farm, "by model", checkpoint=model)
    assert measures(by_model) == measures(report_of(farm, "by labels", labels=str(farm / "labelled")))
    name(NameRequest(segments=str(farm / "kept"), classes=classes, out=str(farm / "named")))
    by_segments = report_of(farm, "by segments", segments=str(farm / "kept"))
    assert measures(by_segments) == measures(report_of(farm, "by names", labels=str(farm / "named")))
    assert set(by_segments["error_split"]) >= {"predicted_names", "oracle_names"}
    # Compact masks are of 8 bits and a quarter of the size, so a few pixels at borders differ.
    assert abs(by_model["all"]["miou"] - by_segments["all"]["miou"]) < 0.5


def test_tuned_weights_of_the_ensemble_name_as_tuning_scored_them(ray_session, in_process, farm):
    grid = NamingGrid(
        image_weight_seen=(0.0, 0.4), image_weight_unseen=(0.8,), weight=None, calibration=(0.0, 0.1)
    )
    request = TuneRequest(
        segments=str(farm / "kept"),
        dataset="folder",
        root=str(farm),
        split="val",
        out=str(farm / "tuned"),
        grid=grid,
    )
    best = tune(request, now=NOW)["best"]
    assert json.loads((farm / "tuned" / "tune.json").read_text())["best"] == best
    settings = NameRequest(
        segments=str(farm / "kept"), classes=str(farm / "classes.json"), out=str(farm / "best"),
        settings=str(farm / "tuned"),
    )  # fmt: skip
    name(settings)
    report = report_of(farm, "of best", labels=str(farm / "best"))
    assert measures(report) == {group: best[group] for group in measures(report)}


def test_a_picture_that_failed_is_segmented_when_it_is_tried_again(in_process, farm):
    (farm / "some").mkdir()
    (farm / "some" / "a.png").write_bytes((farm / "images" / "a.png").read_bytes())
    (farm / "some" / "z.png").write_bytes(b"no picture yet")
    result = segment(to_segment(farm, "again", "some"))
    assert (result.images, result.failed) == (1, 1)
    (farm / "some" / "z.png").write_bytes((farm / "images" / "b.png").read_bytes())
    again = prepare_retry(str(farm / "again"))
    assert (again.failed, again.command) == (1, "segment")
    result = segment(again.request)
    assert (result.images, result.failed) == (1, 0)
    stored, again = (
        {row["image_id"]: row for row in DeltaTable(f"{farm}/{out}/segments").to_pyarrow_table().to_pylist()}
        for out in ("kept", "again")
    )
    for kept, other in (("a", "a"), ("b", "z")):
        assert stored[kept]["masks"] == again[other]["masks"]
        assert stored[kept]["image_embeddings"] == again[other]["image_embeddings"]
