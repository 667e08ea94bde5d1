"""Which image a mask is for: ids, names of files, numbers; and COCO's JSON that is none."""

import json

import pytest

from zs3.masks.external_index import ImagesByName, ReadAnnotations, coco_segmentations, ids_by_name

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
    assert found(annotated("a.jpg", "b.jpg", annotations=[1]), ["a", "b"])["a"] == ([], [1, 2]), (
        "an image without annotations has no masks"
    )
    document_of_1 = annotated("x/1.jpg", annotations=[0])
    assert list(found(document_of_1, ["x/1.jpg", "y/1.jpg"])) == ["x/1.jpg"]
    for height in (0, None):
        document["images"][0]["height"] = height
        assert found(document, ["a"])["a"] == ([MASK, MASK], None), "the picture's size counts"
    del document["images"][0]["height"]
    assert found(document, ["a"])["a"] == ([MASK, MASK], None)


def test_a_name_is_found_in_any_case_and_form_of_accents_unless_two_images_fit():
    names = ImagesByName(["x", "caf\u00e9", "Y", "y"])
    assert [names.get(name) for name in ("X", "CAFE\u0301", "Y", "y", "z")] == [
        "x",
        "caf\u00e9",
        "Y",
        "y",
        None,
    ]
    assert ImagesByName(["Y", "y.v2", "Y.V2"]).get("Y.v2") is None
    document = annotated("X.PNG", annotations=[0])
    assert found(document, ["x"]) == {"x": ([MASK], [1, 2])}
    assert found([{"image_id": "X", "segmentation": MASK}], ["x"])["x"] == ([MASK], None)


SQUARE = [2, 2, 30, 2, 30, 20, 2, 20]


@pytest.mark.parametrize(
    ("annotation", "expected", "lines"),
    [
        ({"bbox": [2, 2, 28, 18]}, [SQUARE], "1 annotation without a mask, of which the box is used: 7"),
        ({"segmentation": [], "bbox": [2, 2, 28, 18]}, [SQUARE], "the box is used: 7"),
        ({"segmentation": [[5, 5]], "bbox": [2, 2, 28, 18]}, [SQUARE], "the box is used: 7"),
        ({"segmentation": [SQUARE, [5, 5]]}, [SQUARE], "used without parts that are no polygon: 7"),
        ({"segmentation": SQUARE}, [SQUARE], ""),
        ({"segmentation": [[5, 5]]}, None, "that cannot be used, left out: 7"),
        ({"segmentation": None}, None, "left out: 7"),
        ({"segmentation": [["a"] * 6], "bbox": [1, 1, 0, 4]}, None, "left out: 7"),
        ({"segmentation": [[0, 0, float("nan"), 0, 2, 2]]}, None, "left out: 7"),
        (
            {"image_id": 99, "segmentation": [SQUARE]},
            None,
            r"left out: 7 (of image 99, which is not in the file)",
        ),
    ],
)
def test_annotations_are_used_as_people_write_them_and_what_cannot_be_used_is_counted(
    annotation, expected, lines
):
    document = annotated("a.jpg", annotations=[0])
    document["annotations"].append({"id": 7, "image_id": 0, **annotation})
    read = ReadAnnotations()
    masks, _ = coco_segmentations("x.json", json.dumps(document).encode(), ["a"], read)["a"]
    assert masks == [MASK] + ([] if expected is None else [expected])
    assert lines in " ".join(read.lines()) and len(read.lines()) == bool(lines)


def test_results_meet_images_by_id_or_number():
    results = [{"image_id": one, "segmentation": MASK, "score": 0.5} for one in (139, "cat", 139, 7)]
    expected = {"000000000139": ([MASK, MASK], None), "cat": ([MASK], None), "dog": ([], None)}
    assert found(results, ["000000000139", "cat", "dog"]) == expected


@pytest.mark.parametrize(
    ("document", "ids", "message"),
    [
        (annotated("a.jpg"), ["b"], r"none of the 1 image: masks are for images called 'a\.jpg', and .* called 'b'"),
        ([], ["b"], "for images called none"),
        ([{"image_id": 1, "segmentation": MASK}], ["b"], "for images called '1'"),
        ([{"image_id": 1, "segmentation": MASK}], ["1a", "01", "001"], "of image 1, which may be '01' or '001'"),
        ([{"image_id": 1}], ["1"], "gives no mask for any of the 1 image .* 1 annotation that cannot be used"),
        (annotated("a.jpg"), ["a"], "gives no mask for any of the 1 image .* it has no annotations of them"),
        (annotated("a/1.jpg", "b/1.jpg"), ["1"], "two images for the id '1', one of them 'b/1.jpg'"),
        (annotated("a.jpg", annotations=[5]), ["a"], "left out: number 0 in the file .of image 5, which is not in"),
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
        with pytest.raises(
            ValueError, match=r"'x\.json'(, line 1: byte 0x00 is not UTF-16| is not valid JSON)"
        ):
            coco_segmentations("x.json", data, ["a"])
