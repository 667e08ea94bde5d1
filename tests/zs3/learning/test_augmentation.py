"""Augmentation moves picture and labels together, invents no label, and repeats itself for a seed."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from zs3.learning.augmentation import (
    Augmentation,
    augment,
    jitter_colour,
    random_crop,
    resized_size,
    short_edges,
)

STILL = Augmentation(crop_px=64, brightness=0, contrast=0, saturation=0, hue_degrees=0)
SIZES = [(48, 80), (80, 48), (64, 64), (1, 1), (3, 500), (200, 7)]


def scene(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose red channel tells its label: four quarters of grey levels 0, 50, 100, 150."""
    labels = np.zeros((height, width), np.uint8)
    labels[height // 2 :] += 1
    labels[:, width // 2 :] += 2
    return np.repeat((labels * 50)[..., None], 3, axis=2), labels


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(5))
def test_the_crop_has_its_size_and_no_label_that_was_not_there(size: tuple[int, int], seed: int) -> None:
    image, labels = scene(*size)
    settings = Augmentation(crop_px=64)
    crop, crop_labels = augment(image, labels, settings, np.random.default_rng(seed))
    assert crop.shape == (64, 64, 3) and crop.dtype == np.uint8
    assert crop_labels.shape == (64, 64) and crop_labels.dtype == labels.dtype
    assert set(np.unique(crop_labels)) <= set(np.unique(labels)) | {255}


@pytest.mark.parametrize("seed", range(20))
def test_labels_and_image_move_together(seed: int) -> None:
    image, labels = scene(60, 90)
    crop, crop_labels = augment(image, labels, STILL, np.random.default_rng(seed))
    expected = np.where(crop_labels == 255, 128, crop_labels * np.int64(50))
    # Away from borders between quarters, where resizing mixes them, the picture names the label exactly.
    off = np.abs(crop[..., 0] - expected) > 0
    assert off.mean() < 0.08
    flat = crop[8:, 8:, 0][(crop_labels[8:, 8:] != crop_labels[:-8, :-8])]
    assert off.sum() <= max(8 * 64, flat.size)


def test_the_same_seed_gives_the_same_crop_and_another_seed_another() -> None:
    image, labels = scene(60, 90)
    settings = Augmentation(crop_px=64)
    one, two, other = (augment(image, labels, settings, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1])
    assert not np.array_equal(one[0], other[0])


def test_inputs_are_left_alone() -> None:
    image, labels = scene(60, 90)
    image.flags.writeable = labels.flags.writeable = False
    for seed in range(8):
        augment(image, labels, Augmentation(crop_px=64), np.random.default_rng(seed))


def test_resizing_only_the_crop_equals_cropping_the_resized_image() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    labels = rng.integers(0, 9, (50, 70)).astype(np.int32)
    for short_edge in (32, 50, 77, 130):
        settings = replace(STILL, crop_px=30, short_edges_px=(short_edge,))
        crop, crop_labels = random_crop(image, labels, settings, np.random.default_rng(1))
        height, width = resized_size(50, 70, short_edge, 2048)
        whole = np.asarray(
            Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR), dtype=int
        )
        whole_labels = np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
        differences = [
            (int(np.abs(whole[top : top + 30, left : left + 30] - crop).max()), top, left)
            for top in range(height - 29)
            for left in range(width - 29)
        ]
        worst, top, left = min(differences)
        # Pillow rounds filter weights of a box and of the whole alike, up to one grey level.
        assert worst <= 1
        # A centre on the border of two pixels may go either way; a shift of half a pixel moves a third.
        assert (whole_labels[top : top + 30, left : left + 30] != crop_labels).mean() < 0.04


def test_published_short_edges_and_sizes() -> None:
    assert short_edges(512, 5, 20)[:3] == (256, 307, 358) and short_edges(512, 5, 20)[-1] == 1024
    assert len(short_edges(640, 5, 15)) == 11
    assert resized_size(375, 500, 512, 2048) == (512, 683)
    assert resized_size(100, 1000, 512, 2048) == (205, 2048)
    assert resized_size(1, 5000, 10, 100)[0] == 1


def test_a_small_image_is_padded_right_and_below_with_grey_and_ignore() -> None:
    image, labels = scene(20, 40)
    settings = replace(STILL, short_edges_px=(20,), flip_probability=1.0)
    crop, crop_labels = augment(image, labels, settings, np.random.default_rng(0))
    assert np.array_equal(crop[:20, :40], image[:, ::-1]) and np.array_equal(
        crop_labels[:20, :40], labels[:, ::-1]
    )
    assert (crop[20:] == 128).all() and (crop[:, 40:] == 128).all()
    assert (crop_labels[20:] == 255).all() and (crop_labels[:, 40:] == 255).all()


def test_retrying_finds_the_wanted_label() -> None:
    image, labels = np.zeros((256, 256, 3), np.uint8), np.full((256, 256), 255, np.uint8)
    labels[:128] = 7
    labels[200:, 200:] = 3
    settings = replace(STILL, crop_px=32, short_edges_px=(256,))

    def hits(tries: int, wanted: list[int] | None) -> int:
        found = 0
        for seed in range(40):
            drawn = replace(settings, crop_on_label_tries=tries)
            _, crop_labels = augment(image, labels, drawn, np.random.default_rng(seed), wanted_ids=wanted)
            found += bool(np.isin(crop_labels, [3, 7] if wanted is None else wanted).any())
        return found

    assert hits(1, None) < 40 and hits(50, None) == 40
    assert hits(1, [3]) < 10 and hits(500, [3]) == 40


def test_a_picture_without_the_wanted_label_still_gives_a_crop() -> None:
    image, labels = scene(60, 90)
    settings = replace(STILL, crop_on_label_tries=5)
    assert augment(image, labels, settings, np.random.default_rng(0), wanted_ids=[77])[0].shape == (64, 64, 3)


def test_jitter_of_a_grey_picture_keeps_it_grey_and_moves_its_brightness() -> None:
    image = np.full((4, 4, 3), 100, np.uint8)
    levels = set()
    for seed in range(60):
        jittered = jitter_colour(image, Augmentation(), np.random.default_rng(seed))
        assert (jittered == jittered[..., :1]).all()
        levels.add(int(jittered[0, 0, 0]))
    assert min(levels) < 70 and max(levels) > 130 and 100 in levels
    assert min(levels) >= (100 - 32) // 2 - 1 and max(levels) <= (100 + 32) * 3 // 2 + 1


def test_hue_alone_turns_red_by_no_more_than_its_limit() -> None:
    image = np.full((4, 4, 3), (200, 0, 0), np.uint8)
    settings = Augmentation(brightness=0, contrast=0, saturation=0)
    hues = set()
    for seed in range(60):
        jittered = jitter_colour(image, settings, np.random.default_rng(seed))
        hue = int(np.asarray(Image.fromarray(jittered).convert("HSV"))[0, 0, 0])
        hues.add(hue if hue < 128 else hue - 256)
        assert jittered.max() == 200
    assert -27 <= min(hues) < -10 and 10 < max(hues) <= 27 and 0 in hues


def test_mismatched_or_ill_typed_input_is_refused() -> None:
    image, labels = scene(20, 40)
    with pytest.raises(ValueError, match=r"\(20, 40, 3\), labels have shape \(20, 39\)"):
        augment(image, labels[:, 1:], STILL, np.random.default_rng(0))
    with pytest.raises(ValueError, match="cannot hold the ignore id 65535"):
        augment(image, labels, replace(STILL, ignore_id=65535), np.random.default_rng(0))


def test_large_scale_jitter_fits_the_long_edge_and_crops_at_one_share_of_the_room() -> None:
    rows, columns = np.indices((40, 80), dtype=np.int32)
    image = np.zeros((40, 80, 3), np.uint8)
    half = replace(STILL, fit_range=(0.5, 0.5), short_edges_px=(7,))
    assert random_crop(image, rows, half, np.random.default_rng(0))[1].shape == (16, 32)
    twice = replace(STILL, fit_range=(2.0, 2.0))  # 64 x 128, of which 64 x 64 is taken
    tops = [random_crop(image, rows, twice, np.random.default_rng(seed))[1][0, 0] for seed in range(8)]
    lefts = [random_crop(image, columns, twice, np.random.default_rng(seed))[1][0, 0] for seed in range(8)]
    assert set(tops) == {0} and len(set(lefts)) > 4
    thrice = replace(STILL, crop_px=16, fit_range=(10.0, 10.0))  # 80 x 160: rooms of 64 and 144
    for seed in range(8):
        top, left = (
            int(random_crop(image, place, thrice, np.random.default_rng(seed))[1][0, 0])
            for place in (rows, columns)
        )
        assert abs(top / 32 - left / 72) <= 1 / 32
