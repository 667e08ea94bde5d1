"""External masks: recognised by what lies at a uri, read with the pictures, and part of what defines a run."""

import json

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pipelines.execution import Execution
from pipelines.labelling.external_masks import list_masks, read_with_masks
from pipelines.labelling.name import NameRequest, name, prepare_name
from pipelines.labelling.segment import SegmentRequest, prepare_segment, segment
from tests.pipelines.labelling.test_name import rows_in
from tests.support.listings import list_images
from tests.support.stored_segments import grouping, naming
from zs3.images.codec import encode_label_png
from zs3.label_rows import label_map
from zs3.masks.binary import unpack_masks
from zs3.segmentation.table import NEEDED, segments_at

SMALL = Execution(batch_size=2, images_per_block=3, images_per_file=4, commit_interval_s=0.0)
IDS = ("a", "b", "c")


def truth(image_id):
    """Red on the left, blue on the right, and a strip at the top that is neither."""
    labels = np.full((8, 12), 2)
    labels[:, : 3 + IDS.index(image_id)] = 1
    labels[0] = 0
    return labels


@pytest.fixture
def photos(tmp_path):
    """Three photographs, and their masks in every form."""
    for folder in ("photos", "labels", *(f"masks/{image_id}" for image_id in IDS)):
        (tmp_path / folder).mkdir(parents=True)
    images, annotations = [], []
    for number, image_id in enumerate(IDS):
        labels = truth(image_id)
        pixels = np.zeros((8, 12, 3), np.uint8)
        pixels[labels == 1, 0], pixels[labels == 2, 2] = 250, 250
        Image.fromarray(pixels).save(tmp_path / f"photos/{image_id}.png")
        (tmp_path / f"labels/{image_id}.png").write_bytes(encode_label_png(labels))
        images.append({"id": number, "file_name": f"{image_id}.png", "height": 8, "width": 12})
        for value in (1, 2):
            mask = labels == value
            Image.fromarray(mask).save(tmp_path / f"masks/{image_id}/{value}.png")
            code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
            code["counts"] = code["counts"].decode()
            annotations.append({"image_id": number, "segmentation": code})
    coco = {"images": images, "annotations": annotations}
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    results = [entry | {"image_id": IDS[entry["image_id"]]} for entry in annotations]
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "classes.txt").write_text("red\nblue *\n")
    return tmp_path / "photos"


def read(photos, masks, **changes):
    refs = list_images(str(photos))
    masks_there = list_masks(str(photos.parent / masks), [image_id for image_id, _ in refs])
    columns = [*map(list, zip(*refs)), [masks_there.of_image.get(image_id, "") for image_id, _ in refs]]
    table = pa.table(dict(zip(("image_id", "uri", "masks_at"), columns)))
    return pa.concat_tables(read_with_masks(table, **{"max_pixels": 1000, "run": "r"} | changes)).to_pylist()


def to_segment(photos, masks="labels", **changes):
    here = photos.parent
    values = {
        "images": str(photos),
        "checkpoint": "colours",
        "out": str(here / "kept"),
        "masks": masks and str(here / masks),
    }
    return SegmentRequest(**values | changes)


@pytest.mark.parametrize("masks", ["labels", "masks", "coco.json", "results.json"])
def test_every_form_gives_the_same_masks(photos, masks):
    for row in read(photos, masks):
        assert row["failures"] == [] and len(row["pixels"]) == 8 * 12 * 3
        given = unpack_masks(row["masks"], 8, 12)
        labels = truth(row["image_id"])
        assert np.array_equal(given, np.where(np.stack([labels == 1, labels == 2]), 127, -127))


def test_masks_that_cannot_be_used_fail_their_image_alone(photos):
    labels = photos.parent / "labels"
    (labels / "a.png").write_bytes(encode_label_png(np.ones((12, 8), np.int32)))
    (labels / "b.png").unlink()
    (photos / "bad.jpg").write_bytes(b"no picture")
    rows = {row["image_id"]: row for row in read(photos, "labels")}
    assert [len(rows[image_id]["failures"]) for image_id in ("a", "b", "bad", "c")] == [1, 1, 1, 0]
    failures = {image_id: row["failures"][0] for image_id, row in rows.items() if row["failures"]}
    assert [failures[image_id]["stage"] for image_id in ("a", "b", "bad")] == ["masks", "masks", "decode"]
    assert [failures[image_id]["error_type"] for image_id in ("a", "b")] == ["wrong_size", "missing"]
    assert "labels/a.png is 12 x 8, but its picture is 8 x 12" in failures["a"]["message"]
    assert "--masks has none for image 'b'; add them" in failures["b"]["message"]
    assert rows["a"]["pixels"] == b"" and rows["c"]["pixels"]


def test_damaged_and_missing_files_are_rows(photos):
    masks = photos.parent / "masks"
    (masks / "a/1.png").write_bytes((masks / "a/1.png").read_bytes()[:-20])
    refs = list_images(str(photos))
    masks_there = list_masks(str(masks), [image_id for image_id, _ in refs])
    (masks / "b/2.png").unlink()
    table = pa.table(
        {
            "image_id": list(IDS),
            "uri": [uri for _, uri in refs],
            "masks_at": list(masks_there.of_image.values()),
        }
    )
    a, b, c = pa.concat_tables(read_with_masks(table, max_pixels=1000, run="r")).to_pylist()
    assert a["failures"][0]["error_type"] == "truncated" and "masks/a/1.png: " in a["failures"][0]["message"]
    assert b["failures"][0]["error_type"] == "FileNotFoundError" and c["failures"] == []


def test_an_image_without_any_mask_is_no_failure(photos):
    (photos.parent / "labels/a.png").write_bytes(encode_label_png(np.zeros((8, 12), np.int32)))
    results = json.loads((photos.parent / "results.json").read_text())
    (photos.parent / "results.json").write_text(json.dumps(results[2:]))
    for masks in ("labels", "results.json"):
        row = read(photos, masks)[0]
        assert row["failures"] == [] and len(unpack_masks(row["masks"], 8, 12)) == 0


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("gone", FileNotFoundError, "no masks at '.*gone'; expected COCO's JSON, a folder"),
        ("empty", ValueError, "no PNG below '.*empty'; expected <image id>.png"),
        (
            "strange",
            ValueError,
            "for none of the 3 images: masks are for images called 'x'.*are called 'a', 'b', 'c'",
        ),
        ("mixed", ValueError, "holds both label PNGs .*a.png. and folders of masks .*b/1.png"),
        ("classes.txt", ValueError, "classes.txt' is not valid JSON"),
    ],
)
def test_what_is_no_masks_for_these_images_is_named_before_anything_runs(photos, source, error, message):
    here = photos.parent
    for folder in ("empty", "strange", "mixed/b"):
        (here / folder).mkdir(parents=True)
    for copy in ("strange/x.png", "mixed/a.png", "mixed/b/1.png"):
        (here / copy).write_bytes((here / "labels/a.png").read_bytes())
    with pytest.raises(error, match=message):
        prepare_segment(to_segment(photos, source), grouping())


def test_masks_that_give_no_segment_are_refused_and_binary_ones_are_read(photos):
    labels = photos.parent / "labels"
    for image_id in IDS:
        (labels / f"{image_id}.png").write_bytes(encode_label_png(np.zeros((8, 12), np.int32)))
    with pytest.raises(
        ValueError, match=r"3 PNGs below '.*labels' give no segment for any image: none has a value"
    ):
        list_masks(str(labels), IDS)
    (labels / "a.png").unlink()
    Image.fromarray(np.where(truth("a") == 1, 255, 0).astype(np.uint8)).save(labels / "A.PNG", "PNG")
    row = read(photos, "labels")[0]
    assert np.array_equal(unpack_masks(row["masks"], 8, 12) > 0, [truth("a") == 1])
    for mask in (photos.parent / "masks").rglob("*.png"):
        Image.fromarray(np.zeros((8, 12), np.uint8)).save(mask)
    with pytest.raises(ValueError, match=r"6 PNGs .* none has a pixel above 0"):
        list_masks(str(photos.parent / "masks"), IDS)


def test_coco_as_people_write_it_gives_masks_and_a_warning_with_the_annotation(photos, caplog):
    square = [0, 0, 4, 0, 4, 4, 0, 4]
    document = {
        "images": [{"id": 1, "file_name": "A.PNG", "height": 0, "width": None}],
        "annotations": [
            {"id": 1, "image_id": 1, "bbox": [0, 0, 4, 4]},
            {"id": 2, "image_id": 1, "segmentation": [square, [5, 5]]},
            {"id": 3, "image_id": 1, "segmentation": square},
            {"id": 4, "image_id": 1, "segmentation": [[5, 5]]},
        ],
    }
    (photos.parent / "coco.json").write_text(json.dumps(document))
    row = read(photos, "coco.json")[0]
    inside = np.zeros((8, 12), bool)
    inside[:4, :4] = True
    assert row["failures"] == []
    assert np.array_equal(unpack_masks(row["masks"], 8, 12) > 0, [inside] * 3)
    assert [message.partition("1 annotation ")[2] for message in caplog.messages] == [
        "without a mask, of which the box is used: 1",
        "used without parts that are no polygon: 2",
        "that cannot be used, left out: 4",
    ]


def test_masks_lie_at_uris_too(photos):
    store = fsspec.filesystem("memory")
    store.pipe(
        {
            f"/proposals/{image_id}.png": (photos.parent / f"labels/{image_id}.png").read_bytes()
            for image_id in IDS
        }
    )
    store.pipe("/proposals/.hidden/a.png", b"")
    try:
        masks_there = list_masks("memory://proposals", IDS)
        table = pa.table(
            {"image_id": ["a"], "uri": [str(photos / "a.png")], "masks_at": [masks_there.of_image["a"]]}
        )
        (row,) = pa.concat_tables(read_with_masks(table, max_pixels=1000, run="r")).to_pylist()
        assert row["failures"] == [] and len(unpack_masks(row["masks"], 8, 12)) == 2
        assert masks_there.digest == list_masks(str(photos.parent / "labels"), IDS).digest
    finally:
        store.rm("/proposals", recursive=True)


def test_other_masks_are_another_run(photos):
    plain = prepare_segment(to_segment(photos, masks=None), grouping())
    first = prepare_segment(to_segment(photos), grouping())
    assert (
        plain.work.target.digest == plain.exporter_digest == first.exporter_digest != first.work.target.digest
    )
    assert set(first.work.target.provenance["run"]) == {*plain.work.target.provenance["run"], "proposals"}
    assert (
        prepare_segment(to_segment(photos, limit=1), grouping()).work.target.digest
        == first.work.target.digest
    )
    (photos.parent / "labels/a.png").write_bytes(encode_label_png(truth("b")))
    assert prepare_segment(to_segment(photos), grouping()).work.target.digest != first.work.target.digest


@pytest.mark.parametrize("masks", ["labels", "coco.json"])
def test_given_masks_are_segmented_named_and_left_alone(in_process, photos, masks):
    here, request = photos.parent, to_segment(photos, masks)
    result = segment(request, SMALL, model=grouping())
    assert (result.images, result.failed) == (3, 0)
    second = segment(request, SMALL, model=grouping())
    assert (second.images, second.failed, second.skipped) == (0, 0, 3)
    rows = rows_in(here / "kept", "segments")
    assert {
        (row["mask_store"], row["num_segments"], row["mask_height"], row["mask_width"]) for row in rows
    } == {("hard", 2, 8, 12)}
    stored = segments_at(pa.Table.from_pylist(rows).select(NEEDED), 0)
    assert np.array_equal(stored.mask_logits_Khw.numpy() > 0, np.stack([truth("a") == 1, truth("a") == 2]))

    request = NameRequest(
        segments=str(here / "kept"), classes=str(here / "classes.txt"), out=str(here / "named")
    )
    result = name(request, SMALL, model=naming())
    assert (result.images, result.failed) == (3, 0)
    for image_id in IDS:
        labels = label_map([row for row in rows_in(here / "named", "labels") if row["image_id"] == image_id])
        true = truth(image_id)
        assert np.array_equal(labels[true > 0], true[true > 0])
    assert len(prepare_name(request, naming()).work.pending) == 0
    with pytest.raises(ValueError, match="made with a different proposals"):
        segment(to_segment(photos, "masks"), SMALL, model=grouping())
