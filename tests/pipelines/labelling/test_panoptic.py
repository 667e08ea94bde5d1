"""Panoptic labels: a row for each instance, alike from pictures and stored segments, and whole in exported files."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from deltalake import DeltaTable
from PIL import Image
from pycocotools.coco import COCO

from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.request import EvaluateRequest
from pipelines.export.export import ExportRequest, export
from pipelines.labelling.label import LabelRequest, label
from pipelines.labelling.name import NameRequest, name
from pipelines.labelling.segment import SegmentRequest, segment
from pipelines.runs.status import status
from pipelines.tables.label_table import open_labels
from tests.data.fcclip_networks import checkpoint_of, network_of, recorded_vocabulary
from tests.support.parity import SMALL, facts
from zs3.checkpoint import save_checkpoint
from zs3.classification.classifier import SegmentClassifier
from zs3.classification.panoptic import panoptic_map
from zs3.images.codec import encode_label_png
from zs3.inference.labeller import load_segmenter
from zs3.label_rows import label_map
from zs3.metrics import PROTOCOLS, confusion, scores
from zs3.vocabulary import Vocabulary


@pytest.fixture
def places(tmp_path):
    """Photograph, checkpoint and class list, in whose words every class of the recordings that is a thing is one."""
    recorded = checkpoint_of("rn")
    (tmp_path / "photos").mkdir()
    Image.fromarray(SMALL("fcclip")["rn/img4/image"]).save(tmp_path / "photos" / "7.png")
    save_checkpoint(tmp_path / "model", recorded.recipe, network_of("rn"), recorded.seen_classes)
    (tmp_path / "classes.json").write_text(json.dumps(vocabulary().to_json()))
    return {"images": str(tmp_path / "photos"), "checkpoint": str(tmp_path / "model")}


def vocabulary() -> Vocabulary:
    entries = zip(recorded_vocabulary().classes, facts("fcclip")["things"], strict=True)
    return Vocabulary(
        name="recorded", classes=tuple(replace(entry, thing=bool(thing)) for entry, thing in entries)
    )


def rows_of(out):
    return DeltaTable(f"{out}/labels").to_pyarrow_table().to_pylist()


def test_pictures_and_stored_segments_give_the_same_instances_and_exports_keep_them(
    in_process, places, tmp_path
):
    classes = str(tmp_path / "classes.json")
    kept, named, labelled = (str(tmp_path / part) for part in ("kept", "named", "labelled"))
    segment(SegmentRequest(**places, out=kept, store="lossless"))
    assert name(NameRequest(segments=kept, classes=classes, out=named, naming={"output": "panoptic"})).images
    assert label(LabelRequest(**places, classes=classes, out=labelled, panoptic=True)).images == 1
    rows = rows_of(named)
    assert rows == rows_of(labelled)
    assert label(LabelRequest(**places, classes=classes, out=labelled, panoptic=True)).images == 0
    assert [table.state for table in status(labelled)] == ["complete"]

    checkpoint = checkpoint_of("rn")
    (segments,) = load_segmenter(
        checkpoint, checkpoint.recipe.segmenting, device=torch.device("cpu")
    ).segment([SMALL("fcclip")["rn/img4/image"]])
    classifier = SegmentClassifier(checkpoint, vocabulary(), device=torch.device("cpu"))
    things = torch.tensor([entry.thing for entry in vocabulary().classes])
    owners, found = panoptic_map(segments, classifier.scores(segments), things)
    masks = {one.id: owners.numpy() == one.id for one in found}
    expected = sorted((one.class_index + 1, int(masks[one.id].sum()), one.is_thing) for one in found)
    assert expected == sorted((row["class_id"], row["area"], row["instance_id"] is not None) for row in rows)
    assert {thing for *_, thing in expected} == {False, True} and open_labels(named).rows == len(rows)

    classes_HW = label_map(rows)
    (tmp_path / "out").mkdir()
    for kind in ("coco", "panoptic", "png"):
        export(ExportRequest(labels=named, to=kind, out=str(tmp_path / "out" / kind)))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "png" / "7.png")), classes_HW)
    coco = COCO(str(tmp_path / "out" / "coco" / "coco.json"))
    flags = {entry.id: int(entry.thing) for entry in vocabulary().classes}
    assert {category["id"]: category["isthing"] for category in coco.cats.values()} == flags
    content = json.loads((tmp_path / "out" / "panoptic" / "panoptic.json").read_text())
    assert {category["id"]: category["isthing"] for category in content["categories"]} == flags
    ids_HW = np.asarray(Image.open(tmp_path / "out" / "panoptic" / "panoptic" / "7.png")).astype(int) @ [
        1, 256, 65536,
    ]  # fmt: skip
    (annotation,) = content["annotations"]
    of_panoptic = [(one["category_id"], ids_HW == one["id"]) for one in annotation["segments_info"]]
    of_coco = [(one["category_id"], coco.annToMask(one).astype(bool)) for one in coco.anns.values()]
    truth = [(one.class_index + 1, masks[one.id]) for one in found]
    assert as_set(of_panoptic) == as_set(of_coco) == as_set(truth)
    assert len(of_panoptic) == len(of_coco) == len(truth)


def as_set(segments):
    return {(class_id, mask.tobytes()) for class_id, mask in segments}


def test_a_list_without_things_is_refused_before_anything_is_written(in_process, places, tmp_path):
    (tmp_path / "classes.txt").write_text("dog\nsky\n")
    request = LabelRequest(
        **places, classes=str(tmp_path / "classes.txt"), out=str(tmp_path / "run"), panoptic=True
    )
    with pytest.raises(ValueError, match=r'says of no class that it is a thing.*"thing": true'):
        label(request)
    assert not (tmp_path / "run").exists()


def test_instances_are_scored_as_the_classes_of_their_map(ray_session, in_process, places, tmp_path):
    (tmp_path / "images").symlink_to(tmp_path / "photos")
    (tmp_path / "masks").mkdir()
    height, width, _ = SMALL("fcclip")["rn/img4/image"].shape
    ids = [entry.id for entry in vocabulary().classes]
    truth_HW = np.random.default_rng(0).choice([*ids, 255], (height, width)).astype(np.int32)
    (tmp_path / "masks" / "7.png").write_bytes(encode_label_png(truth_HW))
    (tmp_path / "splits.json").write_text(json.dumps({"val": ["7"]}))
    classes, kept, named = (str(tmp_path / part) for part in ("classes.json", "kept", "named"))
    segment(SegmentRequest(**places, out=kept, store="lossless"))
    name(NameRequest(segments=kept, classes=classes, out=named, naming={"output": "panoptic"}))
    with pytest.raises(
        ValueError, match="holds panoptic label maps, and this run makes semantic ones; choose"
    ):
        name(NameRequest(segments=kept, classes=classes, out=named))
    found = confusion(truth_HW, label_map(rows_of(named)), ignore_id=255)
    expected = scores(found, vocabulary().classes, PROTOCOLS["zs3"])
    for source in ({"labels": named}, {"segments": kept, "naming": {"output": "panoptic"}}):
        request = EvaluateRequest(
            **source, dataset="folder", root=str(tmp_path), split="val", out=str(tmp_path / next(iter(source))),
            replicates=2,
        )  # fmt: skip
        report = evaluate(request, now=datetime(2026, 1, 2, tzinfo=UTC))
        assert expected.all > 0
        for group in ("seen", "unseen", "all"):
            value = getattr(expected, group)
            assert report[group]["miou"] == (None if np.isnan(value) else pytest.approx(value)), source
