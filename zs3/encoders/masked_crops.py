"""The paper's image branch: each segment is cut out of the picture for an image-text encoder.

Boxes and the styles `crop_and_mask`, `crop` and `mask` are those of the released code
(`mask_former/mask_former_model.py`), with its quirks. The other styles are ours;
benchmarks/model/naming_on_true_masks.py compares them.
"""

# K segment, H W pixels, S crop side in pixels, E embedding

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch.nn.functional import interpolate
from torchvision.ops import roi_align

if TYPE_CHECKING:
    from zs3.encoders.base import Encoder

Style = Literal[
    "crop_and_mask",
    "crop",
    "mask",
    "crop_and_dim",
    "crop_and_blur",
    "square",
    "square_and_mask",
    "square_and_dim",
]
MARGIN_PX = 2
SQUARE_GROWTH = 1.2
DIM = 0.4
BLUR_CELL_PX = 16


def boxes_from_masks(masks_KHW: torch.Tensor) -> torch.Tensor:
    """(K, 4) float32 boxes (xmin, ymin, xmax, ymax): the first and last column and row of each mask.

    As published, indices are inclusive and nothing is added, so that a crop loses the last row and column, and a box
    without area (empty mask, one row, one column) becomes the whole picture (0, 0, W, H).

    Args:
        masks_KHW: bool, or logits, which are inside the mask above 0.
    """
    inside_KHW = _inside(masks_KHW)
    height, width = inside_KHW.shape[-2:]
    columns_KW, rows_KH = inside_KHW.any(dim=1), inside_KHW.any(dim=2)
    boxes = torch.stack(
        [_first(columns_KW), _first(rows_KH), _last(columns_KW), _last(rows_KH)],
        dim=1,
    ).float()
    whole = torch.tensor([0, 0, width, height], dtype=boxes.dtype, device=boxes.device)
    has_area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])) != 0
    return torch.where((has_area & columns_KW.any(dim=1))[:, None], boxes, whole)


def masked_crops(
    image_3HW: torch.Tensor,
    masks_KHW: torch.Tensor,
    boxes_K4: torch.Tensor,
    size_px: int,
    style: Style,
) -> torch.Tensor:
    """(K, 3, S, S) float32 crop of each segment for the encoder.

    * `crop_and_mask`: the box, stretched to a square, all outside the mask at 0: the encoder's mean colour.
    * `crop`: the box, stretched to a square, with its surroundings.
    * `mask`: the whole picture resized to a square, all outside the mask (resized alike) at 0.
    * `crop_and_dim`, `crop_and_blur`: as `crop`, the surroundings at 0.4 of their contrast, or blurred.
    * `square`, `square_and_mask`, `square_and_dim`: a square around the box, 1.2 times its longer side, not
      stretched; 0 beyond the picture.

    One segment is cut out at a time, so memory beyond the result is one picture.

    Args:
        image_3HW: normalised for the encoder, padding included.
        masks_KHW: bool, or logits, which are inside the mask above 0. As published, style `mask` takes the sign of
            logits after resizing them; a bool mask counts as -1 and 1.
        boxes_K4: xyxy in pixels, see `boxes_from_masks`.
        size_px: S.

    Raises:
        ValueError: unknown style, or parts of different sizes.
    """
    if image_3HW.shape[-2:] != masks_KHW.shape[-2:] or len(boxes_K4) != len(masks_KHW):
        raise ValueError(
            f"image {tuple(image_3HW.shape)}, masks {tuple(masks_KHW.shape)}, boxes {tuple(boxes_K4.shape)} "
            "must agree in height and width, and in the number of segments"
        )
    blurred = _blurred(image_3HW) if style == "crop_and_blur" else image_3HW
    crops = [
        _one_crop(image_3HW, blurred, mask_HW, box_4, size_px, style)
        for mask_HW, box_4 in zip(masks_KHW, boxes_K4)
    ]
    return torch.stack(crops) if crops else image_3HW.new_zeros(0, 3, size_px, size_px)


def picture_crop(image_3HW: torch.Tensor, size_px: int) -> torch.Tensor:
    """(3, S, S) float32: the whole picture, stretched to a square.

    Args:
        image_3HW: normalised for the encoder, without padding.
    """
    return interpolate(
        image_3HW[None], size=(size_px, size_px), mode="bilinear", antialias=True, align_corners=False
    )[0]


def segment_embeddings(
    image_3HW: torch.Tensor, masks_KHW: torch.Tensor, encoder: Encoder, styles: Sequence[Style]
) -> torch.Tensor:
    """(K, E) float32 unit rows: the encoder's embedding of each segment, averaged over several crop styles.

    All crops of a style go through the encoder at once.

    Args:
        image_3HW: normalised for the encoder.
        masks_KHW: bool, or logits, which are inside the mask above 0.
        styles: one or more.
    """
    if not styles:
        raise ValueError(f"segments need at least one crop style; choose from {', '.join(get_args(Style))}")
    if not len(masks_KHW):
        return image_3HW.new_zeros(0, encoder.image_dim)
    boxes_K4, size_px = boxes_from_masks(masks_KHW), encoder.image_size_px
    views = [
        encoder.encode_images(masked_crops(image_3HW, masks_KHW, boxes_K4, size_px, style))
        for style in styles
    ]
    return views[0] if len(views) == 1 else encoder.average_views(torch.stack(views))


def _one_crop(
    image_3HW: torch.Tensor,
    blurred_3HW: torch.Tensor,
    mask_HW: torch.Tensor,
    box_4: torch.Tensor,
    size_px: int,
    style: Style,
) -> torch.Tensor:
    if style == "mask":
        logits_HW = mask_HW if mask_HW.is_floating_point() else mask_HW.float() * 2 - 1
        both = torch.cat([image_3HW, logits_HW[None].to(image_3HW.dtype)])
        small = interpolate(both[None], size=(size_px, size_px), mode="bilinear", align_corners=False)[0]
        return small[:3] * (small[3:] > 0)
    if style not in get_args(Style):
        raise ValueError(f"no crop style is called {style!r}; choose one of {', '.join(get_args(Style))}")
    if style.startswith("square"):
        box_4 = _square(box_4)
    window, box_in_window = _window(box_4, image_3HW.shape[-2], image_3HW.shape[-1])
    picture, inside = image_3HW[:, *window], _inside(mask_HW[window])
    if style.endswith("_mask"):
        picture = picture * inside
    elif style.endswith("_dim"):
        picture = picture * (DIM + (1 - DIM) * inside)
    elif style.endswith("_blur"):
        picture = torch.where(inside, picture, blurred_3HW[:, *window])
    return roi_align(picture[None], [box_in_window[None]], output_size=size_px, aligned=True)[0]


def _square(box_4: torch.Tensor) -> torch.Tensor:
    """The square around a box's centre with 1.2 times its longer side."""
    centre = (box_4[:2] + box_4[2:]) / 2
    half = (box_4[2:] - box_4[:2]).max() * (SQUARE_GROWTH / 2)
    return torch.cat([centre - half, centre + half])


def _blurred(image_3HW: torch.Tensor) -> torch.Tensor:
    """The picture's means over cells of 16 pixels, interpolated back to its size."""
    height, width = image_3HW.shape[-2:]
    cells = (max(height // BLUR_CELL_PX, 1), max(width // BLUR_CELL_PX, 1))
    small = interpolate(image_3HW[None], size=cells, mode="area")
    return interpolate(small, size=(height, width), mode="bilinear", align_corners=False)[0]


def _window(box_4: torch.Tensor, height: int, width: int) -> tuple[tuple[slice, slice], torch.Tensor]:
    """The part of the picture that interpolation within a box reads, and the box in its coordinates."""
    xmin, ymin, xmax, ymax = (float(value) for value in box_4)
    left, top = max(int(xmin) - MARGIN_PX, 0), max(int(ymin) - MARGIN_PX, 0)
    right, bottom = min(int(xmax) + 1 + MARGIN_PX, width), min(int(ymax) + 1 + MARGIN_PX, height)
    offset = torch.tensor([left, top, left, top], dtype=box_4.dtype, device=box_4.device)
    return (slice(top, bottom), slice(left, right)), box_4 - offset


def _inside(masks: torch.Tensor) -> torch.Tensor:
    return masks if masks.dtype == torch.bool else masks > 0


def _first(flags_KN: torch.Tensor) -> torch.Tensor:
    """(K,) index of the first True of each row; 0 where there is none."""
    return flags_KN.to(torch.uint8).argmax(dim=1)


def _last(flags_KN: torch.Tensor) -> torch.Tensor:
    """(K,) index of the last True of each row."""
    return flags_KN.shape[1] - 1 - flags_KN.flip(1).to(torch.uint8).argmax(dim=1)
