"""Naming without segments: the class of every pixel from the logits of the cells around it (pixel-level baseline)."""

# C class, H W picture pixels, h w cells of the embedding grid, n rows of a strip
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CellLogits:
    """What the baseline knows of one picture under one class list."""

    logits_Chw: Tensor
    """(C, h, w) float32 logits on the grid of the padded network input."""
    covered_hw: tuple[float, float]
    """How many rows and columns of cells the picture covers; the rest is padding."""
    height: int
    """Of the picture as it was given, in pixels."""
    width: int


def probability_strips(cells: CellLogits, *, strip_rows: int = 64) -> Iterator[Tensor]:
    """(C, n, W) probabilities of the classes, strip by strip from the top.

    Logits are resized bilinearly from the cells to the picture, then a softmax over the classes is taken, strip by
    strip, so memory grows with classes × strip and not with classes × pixels. The strip height changes rounding alone.
    """
    left, right, across = _between(cells.width, cells.covered_hw[1], cells.logits_Chw.shape[2])
    above, below, down = _between(cells.height, cells.covered_hw[0], cells.logits_Chw.shape[1])
    for start in range(0, cells.height, strip_rows):
        rows = slice(start, start + strip_rows)
        logits = torch.lerp(
            cells.logits_Chw[:, above[rows]], cells.logits_Chw[:, below[rows]], down[rows][None, :, None]
        )
        yield torch.lerp(logits[:, :, left], logits[:, :, right], across).softmax(dim=0)


def paint_pixels(
    cells: CellLogits, seen_C: Tensor, calibration: float, *, strip_rows: int = 64
) -> tuple[Tensor, Tensor]:
    """The best class of every pixel and its score: the probability, less γ for seen classes (SPNet's calibration).

    Args:
        seen_C: (C,) bool. calibration: γ, in [0, 1].

    Returns:
        (H, W) int64 class index, the first on ties, and (H, W) float32 score.
    """
    handicap_C11 = (seen_C.float() * calibration)[:, None, None]
    painted = [
        (strip - handicap_C11).max(dim=0) for strip in probability_strips(cells, strip_rows=strip_rows)
    ]
    return torch.cat([strip.indices for strip in painted]), torch.cat([strip.values for strip in painted])


def _between(pixels: int, covered: float, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each pixel of an axis the two cells it lies between and the share of the second (half-pixel centres)."""
    position = ((torch.arange(pixels, dtype=torch.float64) + 0.5) * (covered / pixels) - 0.5).clamp(min=0)
    first = position.floor().long().clamp(max=cells - 1)
    return first, (first + 1).clamp(max=cells - 1), (position - first).float()
