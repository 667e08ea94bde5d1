"""Given masks: run lengths come back exactly, agree with pycocotools, and are refused where they are damaged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from zs3.masks.binary import mask_of_runs, pack_masks, run_lengths, unpack_masks
from zs3.masks.store import BINARY, decode_masks, encode_masks

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def some_masks(seed, size, count=3):
    """Masks of long and of short runs, and an empty and a full one."""
    draw = np.random.default_rng(seed)
    noise = draw.random((count, *size)) < draw.random((count, 1, 1))
    return [*noise, np.zeros(size, bool), np.ones(size, bool)]


@given(seed=st.integers(0, 2**32 - 1), size=SIZES)
def test_masks_come_back_as_logits_whose_probability_is_0_or_1(seed, size):
    masks = some_masks(seed, size)
    again = unpack_masks(pack_masks(iter(masks)), *size)
    assert again.dtype == np.int8
    assert np.array_equal(again, np.where(np.stack(masks), 127, -127))


@given(seed=st.integers(0, 2**32 - 1), size=SIZES)
def test_compressed_run_lengths_are_read_as_pycocotools_writes_them(seed, size):
    for mask in some_masks(seed, size):
        code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        assert np.array_equal(mask_of_runs(run_lengths(code["counts"]), *size), mask)


@given(code=st.binary(max_size=30), characters=st.binary(max_size=30))
def test_any_bytes_are_a_mask_or_a_value_error(code, characters):
    for data in (code, bytes(48 + byte % 64 for byte in characters)):
        try:
            mask = mask_of_runs(run_lengths(data), 6, 8)
        except ValueError:
            continue
        assert mask.shape == (6, 8)


@pytest.mark.parametrize(
    "lengths", [[10, 10], [10, 39], [10, -10, 48], [2**62, 2**62, 2**62, 2**62, 48], [1.5, 46.5]]
)
def test_run_lengths_that_do_not_fill_the_picture_are_refused(lengths):
    with pytest.raises(ValueError, match="run lengths"):
        mask_of_runs(lengths, 6, 8)


def test_the_hard_store_keeps_given_masks_and_refuses_damage():
    size = (20, 30)
    logits = np.where(np.stack(some_masks(0, size)), np.int8(127), np.int8(-127))
    data = encode_masks(logits, size, size, BINARY)
    assert np.array_equal(decode_masks(data, logits.shape, size, size, BINARY), logits)
    for broken, shape in (
        (data[:-3], logits.shape),
        (data + b"0", logits.shape),
        (b"", logits.shape),
        (data, (4, *size)),
    ):
        with pytest.raises(ValueError, match=r"in the store 'hard' cannot be read as . masks of"):
            decode_masks(broken, shape, size, size, BINARY)
