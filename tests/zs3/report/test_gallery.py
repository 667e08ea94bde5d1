"""The pictures of a report show what was labelled, part by part, and fit into one file whatever is asked for."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from zs3.metrics import PROTOCOLS, UNKNOWN, UNLABELLED
from zs3.report import page
from zs3.report.gallery import (
    GALLERY_BYTES,
    KINDS,
    MAX_IMAGES,
    MAX_SIDE_PX,
    MIN_SIDE_PX,
    GalleryItem,
    fitting,
    gallery_item,
    picture_side,
)
from zs3.report.layers import error_layers, ignored_layer, region_layers
from zs3.report.overlays import colour
from zs3.vocabulary import ClassEntry, Vocabulary

DATA = Vocabulary(
    name="farm",
    classes=(
        ClassEntry(id=0, name="background", role="background"),
        ClassEntry(id=7, name="cat"),
        ClassEntry(id=9, name="cow", role="unseen"),
    ),
)


def pixels(uri: str) -> np.ndarray:
    """(H, W, 4) of a picture that a page holds."""
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGBA"))


def farm(side: int = 40, kind: str = "best", image_id: str = "a", limit: int = MAX_SIDE_PX) -> GalleryItem:
    """Background above, cat below; of the cat a part was called cow, another nothing."""
    truth_HW = np.full((side, side), 7, np.int32)
    truth_HW[: side // 4] = 0
    prediction_HW = truth_HW.copy()
    prediction_HW[:, side // 2 :] = 9
    prediction_HW[-2:, :] = UNLABELLED
    photo = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    return gallery_item(photo, truth_HW, prediction_HW, DATA, image_id=image_id, kind=kind, side_px=limit)


def test_each_class_is_a_layer_in_its_colour_and_clear_elsewhere() -> None:
    labels_HW = np.repeat([[3, 5]], 8, axis=0).repeat(8, axis=1)
    first, second = region_layers(labels_HW, np.ones((8, 16), bool))
    assert (first.classes, second.classes) == ((3,), (5,))
    for layer, columns in ((first, slice(0, 8)), (second, slice(8, 16))):
        opaque_HW = pixels(layer.uri)[..., 3] == 255
        expected = np.zeros((8, 16), bool)
        expected[:, columns] = True
        assert (opaque_HW == expected).all()
    assert tuple(pixels(first.uri)[4, 2]) == (*colour(3), 255)
    assert tuple(pixels(first.uri)[4, 7]) == (255, 255, 255, 255)  # the outline, inside the region


def test_the_number_of_a_region_stands_within_it_and_tiny_regions_have_none() -> None:
    labels_HW = np.zeros((60, 60), np.int32)
    labels_HW[10:50, 20:30] = 1
    labels_HW[0, 0] = 2
    layers = {layer.classes[0]: layer.mark for layer in region_layers(labels_HW, np.ones((60, 60), bool))}
    assert layers[2] is None
    for class_id in (0, 1):
        x, y = layers[class_id] or (0, 0)
        assert labels_HW[int(y * 0.6), int(x * 0.6)] == class_id


def test_wrong_pixels_are_striped_in_dark_and_bright_and_named_by_both_classes() -> None:
    truth_HW = np.zeros((72, 72), np.int32)
    prediction_HW = truth_HW.copy()
    prediction_HW[:36] = 1
    prediction_HW[:36, :36] = 2
    counted_HW = np.ones((72, 72), bool)
    counted_HW[:, 60:] = False
    layers = error_layers(truth_HW, prediction_HW, counted_HW)
    assert [layer.classes for layer in layers] == [(0, 1), (0, 2)]
    drawn = np.max([pixels(layer.uri) for layer in layers], axis=0)
    assert ((drawn[..., 3] == 255) == (counted_HW & (truth_HW != prediction_HW))).all()
    light = drawn[drawn[..., 3] == 255][:, :3].mean(axis=1)
    assert light.min() < 30 and light.max() > 150  # told apart without any colour
    assert 0.3 < (light > 100).mean() < 0.6


def test_what_does_not_count_is_veiled_and_a_picture_without_it_has_no_veil() -> None:
    assert ignored_layer(np.zeros((4, 4), bool)) is None
    void_HW = np.eye(4, dtype=bool)
    layer = ignored_layer(void_HW)
    assert layer is not None and ((pixels(layer.uri)[..., 3] > 0) == void_HW).all()


def test_a_gallery_item_tells_every_class_in_its_layers_and_how_much_is_wrong() -> None:
    item = farm(limit=20)
    assert (item.width, item.height) == (20, 20)
    assert [(entry.class_id, entry.name, entry.seen) for entry in item.legend] == [
        (7, "cat", True),
        (9, "cow", False),
        (UNLABELLED, "no label", True),
        (0, "background", True),
    ]
    assert item.legend[0].iou == pytest.approx(100 * 28 * 20 / (30 * 40))
    assert item.wrong == pytest.approx(100 * (1 - 28 * 20 / (30 * 40)))
    assert {layer.classes for layer in item.errors} == {(7, 9), (7, UNLABELLED)}
    assert item.void is not None and [layer.classes for layer in item.truth] == [(7,)]
    other = gallery_item(
        np.zeros((4, 4, 3), np.uint8),
        np.full((4, 4), 7),
        np.full((4, 4), UNKNOWN),
        DATA,
        image_id="b",
        kind="worst",
    )
    assert [entry.name for entry in other.legend] == ["cat", "other class"] and other.void is None


def test_where_background_is_a_class_it_is_no_region_but_taken_for_another_it_is_wrong() -> None:
    truth_HW = np.zeros((8, 8), np.int32)
    truth_HW[4:] = 7
    prediction_HW = np.full((8, 8), UNLABELLED, np.int32)
    prediction_HW[2:] = 7
    photo = np.zeros((8, 8, 3), np.uint8)
    item = gallery_item(
        photo, truth_HW, prediction_HW, DATA, image_id="a", kind="best", protocol=PROTOCOLS["voc21"]
    )
    assert item.void is None and item.wrong == 25.0
    assert [layer.classes for layer in item.truth] == [layer.classes for layer in item.prediction] == [(7,)]
    assert [layer.classes for layer in item.errors] == [(0, 7)]
    assert [(entry.name, entry.iou) for entry in item.legend] == [
        ("background", 50.0),
        ("cat", pytest.approx(200 / 3)),
    ]
    assert item.miou == pytest.approx((50 + 200 / 3) / 2)


def test_an_image_without_a_counted_pixel_is_still_drawn() -> None:
    nothing = np.zeros((6, 6), np.int32)
    item = gallery_item(np.zeros((6, 6, 3), np.uint8), nothing, nothing, DATA, image_id="a", kind="random")
    assert item.wrong == 0.0 and item.errors == () and "nothing" in page.render(small_report(), [item])


def test_the_more_pictures_the_smaller_until_no_more_are_drawn() -> None:
    sides = [picture_side(count) for count in (0, 1, 12, 100, MAX_IMAGES, 10 * MAX_IMAGES)]
    assert sides[:3] == [MAX_SIDE_PX] * 3 and sides == sorted(sides, reverse=True)
    assert MAX_SIDE_PX > sides[3] > sides[4] == sides[5] == MIN_SIDE_PX


def small_report(**changes: object) -> dict:
    """The least that a page needs."""
    scores = {key: {"miou": 1.0} for key in ("seen", "unseen", "harmonic", "all")}
    values = {
        **scores, "title": "t", "pixel_accuracy": 1.0, "mean_accuracy": 1.0, "images": 60, "pixels": 1, "classes": [],
        "absent": [], "protocol": PROTOCOLS["zs3"].to_json(), "missing": {}, "notes": [], "diagnostics": [],
        "provenance": {"settings": {"gallery": 60}},
    }  # fmt: skip
    return values | changes


def test_a_page_never_exceeds_its_limit_keeps_some_of_each_kind_and_says_what_it_left_out() -> None:
    """Noise for photographs, whose JPEGs are as large as they get."""
    items = [farm(200, kind, f"{kind} {k}") for kind in KINDS for k in range(20)]
    whole = page.render(small_report(), items)
    assert "60 were requested" not in whole and all(item.image_id in whole for item in items)
    limit = len(whole.encode()) // 3
    text = page.render(small_report(), items, limit_bytes=limit)
    assert limit // 2 < len(text.encode()) <= limit
    kept = [item.image_id for item in items if f">{item.image_id}<" in text]
    assert f"60 were requested, and {len(kept)} are shown" in text
    counts = [sum(name.startswith(kind) for name in kept) for kind in KINDS]
    assert min(counts) >= 1 and max(counts) - min(counts) <= 1 and f">{KINDS[0]} 0<" in text
    none = page.render(small_report(), items, limit_bytes=1000)
    assert "60 were requested" not in none and 'class="item"' not in none


def test_images_fit_by_their_own_size() -> None:
    items = [replace(farm(), image_id=str(k), kind=KINDS[k % 3]) for k in range(6)]
    assert fitting(items, 6 * items[0].size) == items
    assert fitting(items, 3 * items[0].size) == items[:3]
    assert fitting(items, 0) == [] and GALLERY_BYTES < page.MAX_BYTES
