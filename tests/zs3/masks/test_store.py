"""Masks come back from disk: bit for bit, or close enough; and what is damaged is refused."""

import resource

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zs3.masks.compact import STEP, decode_low_rank, encode_low_rank
from zs3.masks.store import STORES, decode_masks, encode_masks, mask_store

PADDED, RESIZED = (64, 96), (50, 90)


def masks(seed, *, count=5, size=(16, 24), scale=20.0, noise=0.05):
    """Smooth logits: a few random waves, mixed."""
    draw = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]), indexing="ij")
    waves = [np.sin(2 * np.pi * (a * y + b * x + c)) for a, b, c in draw.uniform(-2, 2, (4, 3))]
    mixed = np.einsum("kr,rhw->khw", draw.normal(size=(count, 4)), np.stack(waves))
    return (scale * mixed + draw.normal(scale=noise, size=mixed.shape)).astype(np.float32)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 9))
def test_lossless_masks_come_back_bit_for_bit_where_the_picture_is(seed, count):
    logits = masks(seed, count=count)
    again = decode_masks(
        encode_masks(logits, PADDED, RESIZED, "lossless"), logits.shape, PADDED, RESIZED, "lossless"
    )
    assert again.dtype == np.float32
    rows, columns = 13 + 1, 23 + 1  # cells up to the middle of the last picture pixel, and the next one
    assert np.array_equal(logits[:, :rows, :columns], again[:, :rows, :columns])


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 40), step=st.sampled_from([0.05, STEP, 0.5]))
def test_compact_masks_are_right_to_a_step(seed, count, step):
    logits = masks(seed, count=count)
    again = decode_low_rank(encode_low_rank(logits, step), logits.shape)
    assert again.dtype == np.float32
    error = np.abs(again - logits)
    # A mask mixes R planes with weights of length 1, each off by half a step at most: sqrt(R) / 2 steps for the few
    # planes that are kept, and the planes left out hold less than step / sqrt(12) each. 3 steps would not pass a plane
    # that is lost or doubled, which is off by tens of logits.
    assert error.max(initial=0) < 3 * step
    assert count == 0 or np.sqrt((error**2).mean()) < step


def test_the_number_of_masks_hardly_changes_the_size():
    few, many = (len(encode_low_rank(masks(0, count=count, noise=0.001))) for count in (8, 32))
    assert many < 1.5 * few


def test_masks_of_a_huge_range_take_a_larger_step():
    logits = masks(1, scale=1e6)
    again = decode_low_rank(encode_low_rank(logits), logits.shape)
    assert np.abs(again - logits).max() < 1e-4 * np.abs(logits).max()


@pytest.mark.parametrize("store", list(STORES))
@pytest.mark.parametrize("damage", ["cut", "longer", "empty", "other shape", "noise"])
def test_damaged_masks_are_refused(store, damage):
    logits = masks(3)
    data, shape = encode_masks(logits, PADDED, RESIZED, store), logits.shape
    data = {
        "cut": data[:-9],
        "longer": data + b"tail",
        "empty": b"",
        "noise": bytes(np.random.default_rng(0).integers(0, 256, len(data), np.uint8)),
    }.get(damage, data)
    if damage == "other shape":
        shape = (shape[0] + 1, *shape[1:])
    with pytest.raises(ValueError, match=f"in the store '{store}' cannot be read as . masks of"):
        decode_masks(data, shape, PADDED, RESIZED, store)


def test_what_is_no_mask_or_store_is_named():
    with pytest.raises(ValueError, match="no mask store is called 'best'; there are: compact, lossless"):
        mask_store("best")
    with pytest.raises(ValueError, match="not finite; is the checkpoint sound"):
        encode_masks(np.full((1, 16, 24), np.nan, np.float32), PADDED, RESIZED, "compact")


@pytest.mark.parametrize("store", ["compact", "lossless", "hard"])
@pytest.mark.parametrize(
    "data", [b"\0" * 6, b"\xff\xff\0\0\x80\x3f", b"\x01\0\0\0\x01\0\0\x0000", b"\x28\xb5\x2f\xfd\x20\x08\0"]
)
@pytest.mark.parametrize("shape", [(100, 4096, 4096), (15, 4096, 4096)])
def test_a_few_bytes_take_no_memory_for_the_masks_that_they_claim(store, data, shape):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        masks = decode_masks(data, shape, (16384, 16384), (16384, 16384), store)
    except ValueError as error:
        assert "is the segments table damaged?" in str(error)
    else:
        assert data == b"\0" * 6 and store == "compact" and masks.shape == shape, (
            "no component: all logits are 0"
        )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes"
