"""Label maps become rows and come back exactly; the tables say whose they are."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from zs3 import tables
from zs3.images.codec import ImageError
from zs3.label_rows import INSTANCE_BITS, class_ids, label_map, label_rows
from zs3.tables import FAILURES, LABELS, PANOPTIC_LABELS, failure_row

NAMES = {0: "sky", 1: "cat", 2: "dog", 254: "last", 300: "far"}
SEEN = {0: True, 1: True, 2: False, 254: True, 300: False}
SCORED = dict.fromkeys(NAMES, 0.5)


def rows_of(label_map_HW, ignore_id=65535):
    return label_rows(
        "a", "/a.jpg", np.asarray(label_map_HW), NAMES, SEEN, SCORED, "run", ignore_id=ignore_id
    )


maps = hnp.arrays(
    np.int32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.sampled_from([0, 1, 2, 254, 300, 65535]),
)


@settings(deadline=None, max_examples=60)
@given(maps)
def test_a_map_comes_back_exactly_from_its_rows(label_map_HW):
    rebuilt = label_map(rows_of(label_map_HW), ignore_id=65535)
    assert rebuilt.dtype == np.int32
    np.testing.assert_array_equal(rebuilt, label_map_HW)


@settings(deadline=None, max_examples=60)
@given(maps)
def test_area_and_box_agree_with_counting_pixels(label_map_HW):
    for row in rows_of(label_map_HW):
        region = label_map_HW == row["class_id"] if row["class_name"] else np.zeros_like(label_map_HW, bool)
        assert row["area"] == region.sum()
        if row["area"]:
            ys, xs = np.nonzero(region)
            x, y = int(xs.min()), int(ys.min())
            assert row["bbox"] == [x, y, int(xs.max()) - x + 1, int(ys.max()) - y + 1]


@settings(deadline=None, max_examples=30)
@given(maps)
def test_rows_survive_the_schema_and_any_order(label_map_HW):
    rows = pa.Table.from_pylist(rows_of(label_map_HW)[::-1], schema=LABELS).to_pylist()
    np.testing.assert_array_equal(label_map(rows, ignore_id=65535), label_map_HW)


def test_an_image_where_nothing_was_labelled_keeps_one_row_with_its_size():
    (row,) = rows_of(np.full((3, 5), 255), ignore_id=255)
    assert (row["class_name"], row["area"], row["height"], row["width"]) == ("", 0, 3, 5)
    np.testing.assert_array_equal(label_map([row]), np.full((3, 5), 255))


def test_run_lengths_are_what_pycocotools_reads():
    cat, dog = rows_of([[1, 1, 2], [2, 2, 2]])
    np.testing.assert_array_equal(
        coco_mask.decode({"size": [2, 3], "counts": cat["rle"]}), [[1, 1, 0], [0, 0, 0]]
    )
    assert (cat["seen"], dog["seen"]) == (True, False)


def test_a_class_without_a_name_is_refused():
    with pytest.raises(ValueError, match=r"class ids 7 that have no name"):
        rows_of([[1, 7]])


@pytest.mark.parametrize("shape", [(0, 4), (3,), (2, 2, 1)])
def test_a_map_that_is_no_plane_is_refused(shape):
    with pytest.raises(ValueError, match="expected \\(height, width\\)"):
        rows_of(np.zeros(shape, np.int32))


def test_an_image_labelled_twice_is_refused():
    with pytest.raises(ValueError, match="overlap"):
        label_map(rows_of([[1, 1], [2, 2]]) + rows_of([[1, 2], [1, 2]]))


@pytest.mark.parametrize(
    ("code", "reason"),
    [(b"03", "do not add up"), (b"0=", "do not add up"), (b"", "damaged"), (b"P", "damaged")],
)
def test_run_lengths_that_do_not_fill_the_picture_are_refused(code, reason):
    """pycocotools would leave the other pixels as they were in memory, or write behind the picture."""
    (row,) = rows_of([[1, 1], [1, 1]])
    with pytest.raises(
        ValueError, match=rf"rle of class 1 of image 'a' is damaged: .*{reason}.*label the image again"
    ):
        label_map([{**row, "rle": code}])


def test_a_claimed_size_is_compared_with_the_run_lengths_before_memory_is_taken():
    (row,) = rows_of([[1, 1], [1, 1]])
    tracemalloc.start()
    with pytest.raises(ValueError, match="do not add up to the 900000000 pixels"):
        label_map([{**row, "height": 30000, "width": 30000}])
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@settings(deadline=None, max_examples=30)
@given(maps, hnp.arrays(np.int64, (12, 12), elements=st.integers(0, 3)))
def test_a_panoptic_map_has_a_row_for_each_instance_and_gives_back_its_map_of_classes(classes_HW, instances):
    height, width = classes_HW.shape
    instances_HW = np.where(np.isin(classes_HW, [1, 2]), instances[:height, :width], 0)
    panoptic_HW = classes_HW.astype(np.int64) + (instances_HW << INSTANCE_BITS)
    np.testing.assert_array_equal(class_ids(panoptic_HW), classes_HW)
    scores = {int(value): float(value >> INSTANCE_BITS) / 4 for value in np.unique(panoptic_HW)}
    rows = label_rows("a", "/a.jpg", panoptic_HW, NAMES, SEEN, scores, "run", ignore_id=65535)
    np.testing.assert_array_equal(label_map(rows, ignore_id=65535), classes_HW)
    stored = pa.Table.from_pylist(rows, schema=PANOPTIC_LABELS).to_pylist()
    for row in stored if (classes_HW != 65535).any() else ():
        instance = row["instance_id"] or 0
        assert row["area"] == ((classes_HW == row["class_id"]) & (instances_HW == instance)).sum() > 0
        assert row["score"] == instance / 4 and (row["instance_id"] is None) == (instance == 0)
    pairs = [(row["class_id"], row["instance_id"] or 0) for row in stored]
    assert pairs == sorted(set(pairs))


def test_rows_of_two_images_are_refused():
    first, second = rows_of([[1, 1]]), rows_of([[2, 2]])
    with pytest.raises(ValueError, match="one image and one size"):
        label_map([*first, {**second[0], "image_id": "b"}])
    with pytest.raises(ValueError, match="no rows"):
        label_map([])


def test_a_failure_says_its_kind_in_one_line():
    row = failure_row("a", "/a.jpg", "decode", ImageError("truncated", "cut\n  short"), "run")
    assert (row["error_type"], row["message"]) == ("truncated", "cut short")
    assert failure_row("a", "/a.jpg", "read", KeyError(), "run")["error_type"] == "KeyError"
    assert pa.Table.from_pylist([row], schema=FAILURES).num_rows == 1


def test_every_schema_carries_its_name_and_version():
    schemas = [one for one in vars(tables).values() if isinstance(one, pa.Schema)]
    held = {(one.metadata[b"zs3.table"], one.metadata[b"zs3.version"]): one for one in schemas}
    versions = sorted((name.decode(), int(version)) for name, version in held)
    assert versions == [
        ("failures", 2), ("labels", 2), ("labels", 3), ("scores", 2), ("segments", 2), ("shards", 1),
    ]  # fmt: skip
    assert [field.name for schema in held.values() for field in schema if field.nullable] == ["instance_id"]
