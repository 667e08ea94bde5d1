"""Segments survive the table: bit for bit in the lossless store, rounded in the compact one."""

import pyarrow as pa
import pytest
import torch

from zs3.segmentation.segments import Segments
from zs3.segmentation.table import ROUNDED_TO, segments_at, segments_row
from zs3.tables import SEGMENTS

FIELDS = ("mask_logits_Khw", "query_embeddings_KD", "image_embeddings_KE", "no_object_logits_K")


def some_segments(count=3, *, image_dim=5):
    draw = torch.Generator().manual_seed(count)
    normal = lambda *shape: torch.randn(*shape, generator=draw)  # noqa: E731
    return Segments(
        mask_logits_Khw=normal(count, 8, 16),
        query_embeddings_KD=torch.nn.functional.normalize(normal(count, 7), dim=1),
        image_embeddings_KE=torch.nn.functional.normalize(normal(count, image_dim), dim=1),
        no_object_logits_K=normal(count),
        padded_hw=(32, 64),
        resized_hw=(32, 64),
        height=37,
        width=53,
    )


def stored(segments, store):
    row = segments_row("a", "a.jpg", segments, 0.5, "r", store=store)
    return pa.Table.from_pylist([row, row], schema=SEGMENTS)


@pytest.mark.parametrize("segments", [some_segments(), some_segments(1), some_segments(2, image_dim=0)])
def test_lossless_segments_come_back_bit_for_bit(segments):
    again = segments_at(stored(segments, "lossless"), 1)
    for field in FIELDS:
        assert torch.equal(getattr(again, field), getattr(segments, field)), field
    assert (again.padded_hw, again.resized_hw, again.height, again.width) == ((32, 64), (32, 64), 37, 53)


def test_a_picture_without_segments_is_a_row_too():
    empty = some_segments(0)
    again = segments_at(stored(empty, "compact"), 0)
    assert again.mask_logits_Khw.shape == (0, 8, 16)
    assert again.no_object_logits_K.shape == (0,)


def test_compact_segments_are_close():
    segments = some_segments()
    again = segments_at(stored(segments, "compact"), 0)
    assert torch.equal(again.no_object_logits_K, segments.no_object_logits_K)
    for field in ("query_embeddings_KD", "image_embeddings_KE"):
        error = (getattr(again, field) - getattr(segments, field)).abs().max()
        assert 0 < error <= 0.5 / ROUNDED_TO + 1e-7  # half a step, and the rounding of a float32 near 1


def test_values_that_are_not_finite_are_refused():
    segments = some_segments()
    segments.image_embeddings_KE[0, 0] = float("nan")
    with pytest.raises(ValueError, match="embeddings hold values that are not finite"):
        stored(segments, "lossless")


def test_rows_whose_parts_do_not_fit_are_refused():
    table = stored(some_segments(), "lossless")
    row = table.to_pylist()[0]
    for changes, message in (
        ({"void_logits": row["void_logits"][:2]}, "3 segments and 2 void logits"),
        ({"query_embeddings": row["query_embeddings"][:2]}, "3 segments and 2 embeddings"),
        ({"query_embeddings": [[1.0], [1.0, 2.0], [1.0]]}, "3 segments and 3 embeddings of 4 numbers"),
        ({"num_segments": 2}, "cannot be read as 2 masks"),
        ({"mask_store": "lost"}, "no mask store is called 'lost'"),
    ):
        with pytest.raises(ValueError, match=message):
            segments_at(pa.Table.from_pylist([row | changes], schema=SEGMENTS), 0)
