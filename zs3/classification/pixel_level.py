"""Label maps of the pixel-level baseline: the class of a pixel from the logits of the cells around it."""

# C class, H W picture pixels, h w cells of the embedding grid, n rows of a strip
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from zs3.classification.semantic_map import neighbours


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CellLogits:
    """The baseline's output for one picture under one class list."""

    logits_Chw: Tensor
    """(C, h, w) float32 logits on the grid of the padded network input."""
    covered_hw: tuple[float, float]
    """Rows and columns of cells that the picture covers; the others are padding."""
    height: int
    """Of the picture, in pixels."""
    width: int


def probability_strips(cells: CellLogits, *, strip_rows: int = 64) -> Iterator[Tensor]:
    """(C, n, W) probabilities of the classes, strip by strip from the top.

    Logits are resized bilinearly from the cells to the picture, then a softmax over the classes is taken. Memory grows
    with classes × strip, not with classes × pixels; the strip height changes only rounding.
    """
    (covered_h, covered_w), (_, cells_h, cells_w) = cells.covered_hw, cells.logits_Chw.shape
    left, right, across = neighbours(torch.arange(cells.width), covered_w / cells.width, cells_w)
    above, below, down = neighbours(torch.arange(cells.height), covered_h / cells.height, cells_h)
    for start in range(0, cells.height, strip_rows):
        rows = slice(start, start + strip_rows)
        logits = torch.lerp(
            cells.logits_Chw[:, above[rows]], cells.logits_Chw[:, below[rows]], down[rows][None, :, None]
        )
        yield torch.lerp(logits[:, :, left], logits[:, :, right], across).softmax(dim=0)


def pixel_semantic_map(
    cells: CellLogits, seen_C: Tensor, calibration: float, *, strip_rows: int = 64
) -> tuple[Tensor, Tensor]:
    """The best class of every pixel, with γ subtracted from seen classes (SPNet's calibration), and its probability
    without γ.

    Args:
        seen_C: (C,) bool. calibration: γ, in [0, 1].

    Returns:
        (H, W) int64 class index, the first on ties, and (H, W) float32 probability.
    """
    offsets_C11 = (seen_C.float() * calibration)[:, None, None]
    labels, own = [], []
    for strip in probability_strips(cells, strip_rows=strip_rows):
        labels.append((strip - offsets_C11).max(dim=0).indices)
        own.append(strip.gather(0, labels[-1][None])[0])
    return torch.cat(labels), torch.cat(own)
