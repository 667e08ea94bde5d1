"""Label maps and their errors as layers over a photograph, one small picture for each class.

A page can then show or hide a class without reading any pixel. Colour is never the only sign: each region has an
outline and a number that the legend repeats, and errors are striped.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt

from zs3.report.overlays import colour, png_data_uri

# H W pixels

_CLEAR, _LINE, _DARK, _BRIGHT = (0, 0, 0, 0), (255, 255, 255, 255), (18, 18, 24, 255), (255, 214, 51, 255)
_VEIL = (236, 236, 236, 200)
_STRIPES = 36
"""Pairs of stripes along the longer side: in a picture shown 270 pixels wide each is 4 wide, which the eye can part."""
_MARK_SHARE = 0.0015
"""Share of the picture's pixels; its number would hide a smaller region."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A part of a picture that is shown or hidden as one."""

    classes: tuple[int, ...]
    """Ids of the classes that it shows; none for a layer that is always shown."""
    uri: str
    """A PNG of the whole picture's size, transparent elsewhere."""
    mark: tuple[float, float] | None = None
    """Where its number stands, in percent of width and height; none where there is no room."""


def region_layers(labels_HW: np.ndarray, shown_HW: np.ndarray) -> tuple[Layer, ...]:
    """A layer for each class, in its colour with a white outline; ascending ids.

    Args:
        labels_HW: (H, W) integer class ids.
        shown_HW: (H, W) bool, which pixels belong to any region.
    """
    return tuple(
        Layer(
            classes=(int(class_id),),
            uri=png_data_uri(_outlined(region_HW), [_CLEAR, (*colour(int(class_id)), 255), _LINE]),
            mark=_mark(region_HW),
        )
        for class_id in np.unique(labels_HW[shown_HW])
        for region_HW in [(labels_HW == class_id) & shown_HW]
    )


def error_layers(
    truth_HW: np.ndarray, prediction_HW: np.ndarray, counted_HW: np.ndarray
) -> tuple[Layer, ...]:
    """A layer of dark and bright stripes for each true class and the class that it was taken for.

    Args:
        truth_HW, prediction_HW: (H, W) integer class ids.
        counted_HW: (H, W) bool, which pixels count.
    """
    height, width = truth_HW.shape
    wrong_HW = counted_HW & (truth_HW != prediction_HW)
    step = max(1.5, max(height, width) / _STRIPES / 2)
    across = np.add.outer(np.arange(height), np.arange(width)) / np.sqrt(2)
    stripe_HW = (across // step % 2).astype(np.uint8) + 1
    stripe_HW[_edge(wrong_HW)] = 1
    pairs = np.unique(np.stack([truth_HW[wrong_HW], prediction_HW[wrong_HW]], axis=1), axis=0)
    return tuple(
        Layer(
            classes=(int(true), int(taken)),
            uri=png_data_uri(np.where(part_HW, stripe_HW, 0).astype(np.uint8), [_CLEAR, _DARK, _BRIGHT]),
        )
        for true, taken in pairs
        for part_HW in [wrong_HW & (truth_HW == true) & (prediction_HW == taken)]
    )


def ignored_layer(ignored_HW: np.ndarray) -> Layer | None:
    """A pale veil over the pixels that do not count; none where all do."""
    if not ignored_HW.any():
        return None
    return Layer(classes=(), uri=png_data_uri(ignored_HW.astype(np.uint8), [_CLEAR, _VEIL]))


def _outlined(region_HW: np.ndarray) -> np.ndarray:
    """(H, W) uint8: 0 outside, 1 inside, 2 on the outline."""
    return np.where(_edge(region_HW), 2, region_HW).astype(np.uint8)


def _edge(region_HW: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels of the region with a neighbour outside; the picture's border is no outline."""
    padded = np.pad(region_HW, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return region_HW & ~inner


def _mark(region_HW: np.ndarray) -> tuple[float, float] | None:
    """The middle of the widest place of a region, in percent of width and height; none in a tiny one."""
    if region_HW.mean() < _MARK_SHARE:
        return None
    depth = distance_transform_edt(np.pad(region_HW, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    height, width = region_HW.shape
    return round(100 * (int(column) + 0.5) / width, 1), round(100 * (int(row) + 0.5) / height, 1)
