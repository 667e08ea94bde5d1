"""Masks out of what others wrote: label PNGs, a PNG for each mask, COCO's JSON; and what is refused."""

import io
import resource

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from zs3.images.codec import ImageError, encode_label_png
from zs3.masks.binary import MAX_CELLS
from zs3.masks.external import ExternalMaskError, masks_of_coco, masks_of_label_png, masks_of_pngs

SIZE = (6, 8)
BLOCK = np.zeros(SIZE, bool)
BLOCK[1:4, 2:7] = True


def compressed(mask):
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": code["counts"].decode()}


def grey_png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(("values", "void"), [((1, 7, 254), 255), ((1, 255, 300), 65535)])
def test_every_value_of_a_label_png_but_0_and_void_is_a_mask(values, void):
    labels = np.random.default_rng(0).choice([0, *values, void], SIZE)
    masks = list(masks_of_label_png(encode_label_png(labels), SIZE, "a.png", max_pixels=100))
    assert len(masks) == 3
    for mask, value in zip(masks, values):
        assert np.array_equal(mask, labels == value)


@pytest.mark.parametrize(
    "pixels", [np.where(BLOCK, 255, 0).astype(np.uint8), np.where(BLOCK, 65535, 0).astype(np.uint16),
               np.where(BLOCK, 255, 0).astype(np.uint16), BLOCK],
)  # fmt: skip
def test_a_binary_mask_is_one_mask(pixels):
    (mask,) = masks_of_label_png(grey_png(pixels), SIZE, "a.png", max_pixels=100)
    assert np.array_equal(mask, BLOCK)


def test_labels_with_a_palette_of_0_and_void_alone_are_no_mask():
    labels = encode_label_png(np.where(BLOCK, 255, 0))
    assert list(masks_of_label_png(labels, SIZE, "a.png", max_pixels=100)) == []


def test_an_outline_that_would_take_gigabytes_is_refused_before_it_is_drawn():
    outline = [number % 2 * 3000 if axis else number * 0.1 for number in range(20_000) for axis in (0, 1)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ExternalMaskError, match="its outline of 59997000 pixels is longer than"):
        list(masks_of_coco([[outline]], (3000, 3000), "x"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kilobytes"


def test_what_is_not_0_is_inside_and_an_empty_mask_is_left_out():
    grey, one_bit = np.where(BLOCK, 200, 0).astype(np.uint8), grey_png(BLOCK)
    files = [("1.png", grey_png(grey)), ("2.png", grey_png(np.zeros(SIZE, np.uint8))), ("3.png", one_bit)]
    masks = list(masks_of_pngs(files, SIZE, max_pixels=100))
    assert len(masks) == 2 and all(np.array_equal(mask, BLOCK) for mask in masks)


def test_coco_s_three_ways_to_write_a_mask_mean_the_same():
    uncompressed = {"size": list(SIZE), "counts": [13, 3, 3, 3, 3, 3, 3, 3, 3, 3, 8]}
    outline = [[2, 1, 7, 1, 7, 4, 2, 4]]
    masks = list(
        masks_of_coco(
            [compressed(BLOCK), uncompressed, outline, compressed(~BLOCK)], SIZE, "x", json_hw=[6, 8]
        )
    )
    assert all(np.array_equal(mask, BLOCK) for mask in masks[:3])
    assert np.array_equal(masks[3], ~BLOCK)


def test_parts_of_a_polygon_are_one_mask_and_nothing_is_none():
    parts = [[0, 0, 2, 0, 2, 2, 0, 2], [4, 4, 6, 4, 6, 6, 4, 6]]
    (mask,) = masks_of_coco([parts, [], compressed(np.zeros(SIZE, bool))], SIZE, "x")
    assert mask.sum() == 8 and mask[0, 0] and mask[5, 5]


@pytest.mark.parametrize(
    ("segmentation", "kind", "message"),
    [
        (
            compressed(np.ones((8, 6), bool)),
            "wrong_size",
            "mask 0 of 1 in x is 8 x 6, but its picture is 6 x 8",
        ),
        ({"size": [6, 8], "counts": "0160"}, "damaged", "do not add up to the 48 pixels"),
        ({"size": [6, 8], "counts": [10, 10]}, "damaged", "do not add up to the 48 pixels"),
        ({"size": [6, 8], "counts": "\x00ä"}, "damaged", "cannot be read"),
        ({"counts": [48]}, "damaged", "size"),
        ([[1, 1, 3, 3]], "damaged", "4 numbers; expected x and y of at least three corners"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "damaged", "leads far out of the picture"),
        ([[0, 0, float("nan"), 0, 2, 2]], "damaged", "leads far out of the picture"),
        ([["a"] * 6], "damaged", "cannot be read"),
        ("polygon", "damaged", "cannot be read"),
    ],
)
def test_segmentations_that_cannot_be_used_are_named(segmentation, kind, message):
    with pytest.raises(ExternalMaskError, match=message) as caught:
        list(masks_of_coco([segmentation], SIZE, "x"))
    assert caught.value.kind == kind


def test_masks_of_another_picture_name_both_sizes():
    label = encode_label_png(np.ones((8, 6), np.int32))
    for masks in (
        lambda: masks_of_label_png(label, SIZE, "a.png", max_pixels=100),
        lambda: masks_of_pngs([("a.png", label)], SIZE, max_pixels=100),
        lambda: masks_of_coco([], SIZE, "a.png", json_hw=[8, 6]),
    ):
        with pytest.raises(
            ExternalMaskError, match=r"a\.png is 8 x 6, but its picture is 6 x 8 .*make the masks for"
        ):
            list(masks())


def test_pngs_are_checked_before_they_are_decoded():
    with pytest.raises(
        ImageError, match=r"^a\.png: the picture is 30x30 = 900 pixels, more than the limit of 100"
    ):
        masks_of_label_png(encode_label_png(np.ones((30, 30), np.int32)), SIZE, "a.png", max_pixels=100)
    with pytest.raises(ImageError, match=r"^a\.png: a label map has to be a palette or grey PNG"):
        list(masks_of_pngs([("a.png", grey_png(np.zeros((*SIZE, 3), np.uint8)))], SIZE, max_pixels=100))


def test_more_masks_than_fit_into_memory_are_refused():
    size = (1 << 15, 1 << 14)
    assert 2 * size[0] * size[1] == MAX_CELLS
    with pytest.raises(
        ExternalMaskError, match="x has 3 masks; of a picture of 32768 x 16384, 2 fit into memory"
    ):
        list(masks_of_coco([[]] * 3, size, "x"))
