"""Exported files give back the label maps that they were made of."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zs3.export.coco import categories, image_entry, regions
from zs3.export.colours import MAX_ID, class_colours, colour_png
from zs3.export.cvat import label_lines
from zs3.export.panoptic import segments_info, union_box
from zs3.export.paths import PARTIAL, picture_name, relative_path
from zs3.export.png import VOID_8, VOID_16, needs_16_bits, png_bytes
from zs3.images.codec import voc_palette
from zs3.label_rows import INSTANCE_BITS, label_rows


def test_a_palette_file_gives_back_its_label_map() -> None:
    map_HW = np.random.default_rng(0).integers(0, 256, (31, 47)).astype(np.int32)
    image = Image.open(io.BytesIO(png_bytes(map_HW, ignore_id=255, wide=False)))
    assert image.mode == "P"
    assert image.getpalette() == voc_palette().ravel().tolist()
    assert np.array_equal(np.asarray(image), map_HW)


def test_a_wide_file_keeps_class_255_apart_from_unlabelled() -> None:
    map_HW = np.array([[0, 255, 846], [-1, 254, 256]], dtype=np.int32)
    image = Image.open(io.BytesIO(png_bytes(map_HW, ignore_id=-1, wide=True)))
    assert np.array_equal(np.asarray(image), np.where(map_HW == -1, VOID_16, map_HW))


def test_an_id_that_would_read_as_unlabelled_is_refused() -> None:
    with pytest.raises(ValueError, match=r"do not fit a PNG of 8 bits; expected 0\.\.254"):
        png_bytes(np.array([[255]]), ignore_id=-1, wide=False)
    assert needs_16_bits(VOID_8) and not needs_16_bits(VOID_8 - 1)


def test_class_colours_begin_as_those_of_voc_differ_from_each_other_and_are_never_black() -> None:
    ids = np.arange(3000)
    colours = class_colours(ids)
    assert colours[[1, 2, 15, 255]].tolist() == voc_palette()[[1, 2, 15, 255]].tolist()
    assert len({tuple(colour) for colour in colours.tolist()}) == 3000 and colours.any(axis=1).all()
    assert class_colours(np.array(MAX_ID)).any()
    with pytest.raises(ValueError, match="have no colour"):
        class_colours(np.array([MAX_ID + 1]))


@given(st.integers(0, 2**32 - 1))
def test_the_colours_of_a_file_give_back_its_label_map(seed: int) -> None:
    draws = np.random.default_rng(seed)
    ids = np.array([-1, 0, 3, 255, 846])
    map_HW = draws.choice(ids, (4, 5)).repeat(3, 0).repeat(2, 1)
    image = Image.open(io.BytesIO(colour_png(map_HW, ignore_id=-1)))
    assert image.mode == "RGB"
    by_colour = {tuple(class_colours(np.array(one)).tolist()): one for one in ids[1:].tolist()}
    by_colour[0, 0, 0] = -1
    back = [[by_colour[tuple(pixel)] for pixel in row] for row in np.asarray(image).tolist()]
    assert np.array_equal(back, map_HW)


@pytest.mark.parametrize(
    "image_id", ["", "/a", "../a", "a/../b", "a//b", "a/", "./a", "c:a", "a\\b", "a\0", f"{PARTIAL}/a"]
)
def test_an_id_that_leads_out_of_the_folder_is_refused(image_id: str) -> None:
    with pytest.raises(ValueError, match="cannot be a file name"):
        relative_path(image_id, ".png")


def test_folders_of_an_id_become_subfolders() -> None:
    assert relative_path("train/2007.a", ".png") == "train/2007.a.png"


def test_a_class_without_a_category_is_named() -> None:
    rows = label_rows("a", "u", np.array([[3]]), {3: "owl"}, {}, {3: 1.0}, "run")
    with pytest.raises(ValueError, match="class 'owl' of image 'a' is not among the 0 categories"):
        regions(rows, {})


def test_an_image_without_labels_has_no_region_and_no_segment() -> None:
    rows = label_rows("a", "u", np.full((2, 3), 255), {}, {}, {}, "run")
    assert regions(rows, {}) == [] and segments_info(rows, {}) == []


def test_names_of_one_category_are_one_segment_that_holds_the_boxes_of_all() -> None:
    map_HW = np.full((6, 8), 255)
    map_HW[0, 1:3], map_HW[4:, 6] = 1, 2
    rows = label_rows("a", "u", map_HW, {1: "couch", 2: "sofa"}, {}, {1: 0.5, 2: 0.5}, "run")
    (segment,) = segments_info(rows, {"couch": 18, "sofa": 18})
    assert (segment["category_id"], segment["area"], segment["bbox"]) == (18, 4, [1, 0, 6, 6])
    assert union_box([[2, 3, 4, 5]]) == [2, 3, 4, 5]


def test_instances_of_one_class_are_segments_and_regions_of_their_own() -> None:
    map_HW = np.full((6, 8), 255)
    map_HW[0], map_HW[2:4, :2], map_HW[5, 5:] = 3, 1 + (1 << INSTANCE_BITS), 1 + (2 << INSTANCE_BITS)
    scores = dict.fromkeys(map_HW.ravel().tolist(), 0.5)
    rows = label_rows("a", "u", map_HW, {1: "cat", 3: "sky"}, {}, scores, "run")
    found = [
        (one["category_id"], one["area"], one["bbox"]) for one in segments_info(rows, {"cat": 1, "sky": 3})
    ]
    assert found == [(3, 8, [0, 0, 8, 1]), (1, 4, [0, 2, 2, 2]), (1, 3, [5, 5, 3, 1])]
    assert len({one["id"] for one in segments_info(rows, {"cat": 1, "sky": 3})}) == 3
    assert [(one["category_id"], one["area"]) for one in regions(rows, {"cat": 1, "sky": 3})] == [
        (1, 4), (1, 3), (3, 8),
    ]  # fmt: skip
    things = categories([("cat", 1), ("sky", 3)], things={1})
    assert [(one["supercategory"], one["isthing"]) for one in things] == [("thing", 1), ("stuff", 0)]


@pytest.mark.parametrize(
    ("image_id", "uri", "name", "file"),
    [
        ("cat", "s3://b/x/cat.jpg", "cat", "cat.jpg"),
        ("x/cat.jpg", "s3://b/x/cat.jpg", "x/cat", "x/cat.jpg"),
        ("2007.v2", "/data/2007.v2.png", "2007.v2", "2007.v2.png"),
        ("odd", "/data/odd", "odd", "odd"),
    ],
)
def test_other_tools_find_the_picture_by_its_file(image_id: str, uri: str, name: str, file: str) -> None:
    assert picture_name(image_id, uri) == name
    assert image_entry(image_id, uri, 2, 3)["file_name"] == file


def test_labels_of_cvat_have_colours_and_names_that_its_file_cannot_hold_are_refused() -> None:
    assert label_lines([("background", 0), ("cat", 1), ("dog house", 2)]).splitlines()[1:] == [
        "background:0,0,0::",
        "cat:128,0,0::",
        "dog house:0,128,0::",
    ]
    for name in ("a:b", "#a", "a\nb"):
        with pytest.raises(ValueError, match="rename it"):
            label_lines([(name, 1)])


def test_categories_are_stuff_and_have_colours_where_asked() -> None:
    plain, coloured = categories([("cat", 1)]), categories([("cat", 1)], {1: (128, 0, 0)})
    assert plain == [{"id": 1, "name": "cat", "supercategory": "stuff", "isthing": 0}]
    assert coloured == [{**plain[0], "color": [128, 0, 0]}]
