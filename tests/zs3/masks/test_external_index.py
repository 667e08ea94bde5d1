"""Which image a mask is for: ids, names of files, numbers; and COCO's JSON that is none."""

import json

import pytest

from zs3.masks.external_index import coco_segmentations, ids_by_name

MASK = {"size": [1, 1], "counts": [1]}


def annotated(*names, annotations=()):
    images = [{"id": number, "file_name": name, "height": 1, "width": 2} for number, name in enumerate(names)]
    return {
        "images": images,
        "annotations": [{"image_id": number, "segmentation": MASK} for number in annotations],
    }


def found(document, ids):
    return coco_segmentations("x.json", json.dumps(document).encode(), ids)


def test_an_image_is_found_by_its_id_with_or_without_extension():
    assert ids_by_name(["a", "b.v2"]) == {"a": "a", "b.v2": "b.v2"}
    assert ids_by_name(["x/1.jpg", "y/1.jpg"])["y/1"] == "y/1.jpg"
    assert "x" not in ids_by_name(["x.jpg", "x.png"]), "it would be for two"


def test_annotations_meet_images_by_file_name():
    document = annotated("val/a.jpg", "b.png", "c.jpg", annotations=[0, 1, 0])
    assert found(document, ["a", "b", "d"]) == {"a": ([MASK, MASK], [1, 2]), "b": ([MASK], [1, 2])}
    assert found(annotated("a.jpg"), ["a"]) == {"a": ([], [1, 2])}, (
        "an image without annotations has no masks"
    )
    assert list(found(annotated("x/1.jpg"), ["x/1.jpg", "y/1.jpg"])) == ["x/1.jpg"]
    del document["images"][0]["height"]
    assert found(document, ["a"])["a"] == ([MASK, MASK], None)


def test_results_meet_images_by_id_or_number():
    results = [{"image_id": one, "segmentation": MASK, "score": 0.5} for one in (139, "cat", 139, 7)]
    expected = {"000000000139": ([MASK, MASK], None), "cat": ([MASK], None), "dog": ([], None)}
    assert found(results, ["000000000139", "cat", "dog"]) == expected


@pytest.mark.parametrize(
    ("document", "ids", "message"),
    [
        (annotated("a.jpg"), ["b"], r"none of the 1 images: masks are for images called 'a\.jpg', and .* called 'b'"),
        ([], ["b"], "for images called none"),
        ([{"image_id": 1, "segmentation": MASK}], ["b"], "for images called '1'"),
        ([{"image_id": 1, "segmentation": MASK}], ["1a", "01", "001"], "of image 1, which may be '01' or '001'"),
        ([{"image_id": 1, "bbox": [0, 0, 1, 1]}], ["1"], "the result .*without a segmentation of kind list or dict"),
        (annotated("a/1.jpg", "b/1.jpg"), ["1"], "two images for the id '1', one of them 'b/1.jpg'"),
        (annotated("a.jpg", annotations=[5]), ["a"], "annotation of image 5, which is not among its images"),
        ({"images": [], "annotations": {}}, ["a"], "not COCO's JSON: expected an object with the lists"),
        ({"images": [{"id": 1}], "annotations": []}, ["a"], r"the image \{.id.: 1\}, without a file_name of kind str"),
        (["a"], ["a"], "has the result .a., without a image_id"),
        ("text", ["a"], "not COCO's JSON"),
    ],
)  # fmt: skip
def test_json_that_cannot_be_used_is_named(document, ids, message):
    with pytest.raises(ValueError, match=message):
        found(document, ids)


def test_a_file_that_is_no_json_is_named():
    for data in (b"{", b"\xff\xfe\x00", b"[" * 200_000):
        with pytest.raises(ValueError, match=r"'x\.json' is no JSON"):
            coco_segmentations("x.json", data, ["a"])
