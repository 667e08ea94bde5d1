"""Boxes and crops against those of the published code, and what must not change them."""

from typing import get_args

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate, pad

from zs3.config import SegmentSettings
from zs3.encoders.masked_crops import Style, boxes_from_masks, masked_crops, segment_embeddings
from zs3.segmentation.segmenter import normalise_and_pad, resize

# Measured worst case 3.2e-5 (interpolation weights of float32 box coordinates, values up to 2): a box or mask
# that is off by one pixel moves values by 0.1 and more.
CROP_TOLERANCE = 1e-4
# The tiny random CLIP multiplies crop differences; measured 1e-4 on logits of up to +-30.
LOGIT_TOLERANCE = 1e-3
STYLES = {"crop_and_mask": ("cropmask", 4), "crop": ("crop", 4), "mask": ("mask", 8)}

STAGES = [
    ("small", "img0/", 128),
    ("small", "img3/", 64),
    ("full", "img0/", 128),
    ("full", "img2/", 128),
    ("full", "img3/", 64),
]
"""Recordings, picture and its short side; the small set has no masks of img2."""


def prepared(recording, record, number, short_side_px, logits_Khw, padded_hw, encoder) -> tuple:
    """The normalised, padded picture and the mask logits at its size."""
    height, width = (int(value) for value in padded_hw)
    settings = SegmentSettings(short_side_px=short_side_px, max_side_px=512)
    resized = resize(recording[f"{record}image{number}"], settings)
    image = normalise_and_pad(resized, encoder.image_mean, encoder.image_std, 1)
    image = pad(image, (0, width - image.shape[2], 0, height - image.shape[1]))
    logits = interpolate(
        torch.from_numpy(logits_Khw)[None], size=(height, width), mode="bilinear", align_corners=False
    )[0]
    return image, logits


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("index", [0, 1])
def test_boxes_crops_and_logits_of_handmade_masks_equal_the_recorded_ones(
    index: int, style: str, recordings, recorded_encoder
) -> None:
    handmade = recordings("handmade")
    image, logits = prepared(
        handmade, "", index, 128, handmade["pred_masks"][index], handmade["padded_hw"], recorded_encoder
    )
    inside = logits > 0
    assert np.array_equal(inside.sum((1, 2)).numpy(), handmade["mask_area_px"][index])
    boxes = boxes_from_masks(inside)
    assert np.array_equal(boxes.numpy(), handmade["boxes"][index])
    crops = masked_crops(image, logits if style == "mask" else inside, boxes, 224, style)
    key, step = STYLES[style]
    assert handmade.worst(f"{key}/crops{index}_s{step}", crops[:, :, ::step, ::step]) < CROP_TOLERANCE
    assert handmade.worst(f"{key}/crops_mean{index}", crops.mean((2, 3))) < CROP_TOLERANCE
    assert handmade.worst(f"{key}/crops_std{index}", crops.std((2, 3))) < CROP_TOLERANCE
    text = torch.from_numpy(recordings("network")["text/test_clip"])
    scaled = recorded_encoder.logit_scale * recorded_encoder.encode_images(crops) @ text.T
    assert handmade.worst(f"{key}/clip_logits{index}", scaled) < LOGIT_TOLERANCE


@pytest.mark.parametrize(("recordings", "record", "short_side_px"), STAGES, indirect=["recordings"])
def test_boxes_and_clip_features_of_predicted_masks_equal_the_recorded_ones(
    record: str, short_side_px: int, recordings, recorded_encoder
) -> None:
    network = recordings("network")
    masks, size = network[f"{record}pred_masks"], network[f"{record}padded_hw"]
    image, logits = prepared(network, record, "", short_side_px, masks, size, recorded_encoder)
    inside = logits > 0
    # Where a logit of the recording lies within rounding of zero, a pixel may fall on either side.
    same = inside.sum((1, 2)).numpy() == network[f"{record}mask_area_px"]
    assert same.mean() > 0.8

    def worst(key: str, ours: torch.Tensor) -> float:
        """Over the segments with the recorded masks."""
        return network.worst_by_row(f"{record}{key}", ours)[same[: len(ours)]].max()

    boxes = boxes_from_masks(inside)
    assert worst("boxes", boxes) == 0
    crops = masked_crops(image, inside, boxes, 224, "crop_and_mask")
    if f"{record}crops_mean" in network:
        assert worst("crops_first4", crops[:4]) < CROP_TOLERANCE
        assert worst("crops_mean", crops.mean((2, 3))) < CROP_TOLERANCE
        assert worst("crops_std", crops.std((2, 3))) < CROP_TOLERANCE
    features = recorded_encoder.encode_images(crops)
    assert worst("clip_image_feat", features) < 1e-4
    text = torch.from_numpy(network["text/test_clip"])
    assert worst("clip_logits", recorded_encoder.logit_scale * features @ text.T) < LOGIT_TOLERANCE


def blobs(count: int = 5, height: int = 60, width: int = 90) -> tuple[torch.Tensor, torch.Tensor]:
    """A random picture and overlapping rectangles in it."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(3, height, width, generator=generator)
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for k in range(count):
        masks[k, 5 + 3 * k : 25 + 6 * k, 10 * k : 10 * k + 30] = True
    return image, masks


def test_a_box_is_the_first_and_last_index_and_a_mask_without_area_gets_the_whole_picture() -> None:
    masks = torch.zeros(4, 8, 10, dtype=torch.bool)
    masks[0, 2:5, 3:9] = True
    masks[1, 4, :] = True
    masks[2, 1, 1] = True
    assert boxes_from_masks(masks).tolist() == [[3, 2, 8, 4], [0, 0, 10, 8], [0, 0, 10, 8], [0, 0, 10, 8]]


def test_logits_and_their_signs_give_the_same_boxes() -> None:
    _, masks = blobs()
    assert torch.equal(boxes_from_masks(masks), boxes_from_masks(masks.float() - 0.5))


@pytest.mark.parametrize("style", ["crop_and_mask", "mask", "square_and_mask"])
def test_pixels_outside_the_mask_do_not_matter(style: str) -> None:
    image, masks = blobs()
    boxes = boxes_from_masks(masks)
    if style == "mask":
        masks = masks.float() * 2 - 1
    changed = image + 7.0 * (~(masks > 0)).all(dim=0)
    crops, crops_of_changed = (masked_crops(x, masks, boxes, 32, style) for x in (image, changed))
    # Resizing the whole picture mixes neighbours across the mask's border: that style may differ there.
    if style != "mask":
        assert torch.equal(crops, crops_of_changed)
    assert torch.equal(crops == 0, crops_of_changed == 0)


@pytest.mark.parametrize("style", get_args(Style))
def test_permuting_the_segments_permutes_the_crops_and_each_alone_gives_the_same(style: str) -> None:
    image, masks = blobs()
    boxes = boxes_from_masks(masks)
    crops = masked_crops(image, masks, boxes, 32, style)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.equal(masked_crops(image, masks[order], boxes[order], 32, style), crops[order])
    alone = [masked_crops(image, masks[k : k + 1], boxes[k : k + 1], 32, style)[0] for k in range(5)]
    assert torch.equal(torch.stack(alone), crops)


def test_a_square_keeps_the_shape_of_a_segment_and_a_stretched_crop_does_not() -> None:
    image = torch.ones(3, 100, 100)
    masks = torch.zeros(1, 100, 100, dtype=torch.bool)
    masks[0, 40:51, 20:61] = True
    boxes = boxes_from_masks(masks)
    filled = [
        float((masked_crops(image, masks, boxes, 64, style)[0, 0] > 0.5).float().mean())
        for style in ("crop_and_mask", "square_and_mask")
    ]
    # A bar of 41 x 11 in a square of 1.2 x 40; the crop cuts its last row and column.
    assert filled == [pytest.approx(1.0, abs=0.01), pytest.approx(41 * 11 / 48**2, abs=0.03)]


def test_dimmed_and_blurred_crops_keep_the_segment_as_it_is() -> None:
    image, masks = blobs()
    boxes = boxes_from_masks(masks)
    inside = masked_crops(image * 0 + 1, masks, boxes, 32, "crop_and_mask") == 1
    plain = masked_crops(image, masks, boxes, 32, "crop")
    for style in ("crop_and_dim", "crop_and_blur"):
        crops = masked_crops(image, masks, boxes, 32, style)
        assert torch.equal(crops[inside], plain[inside])
    masks[:, :20, :20] = False
    masks[0, 30:40, 5:30] = True
    boxes[0] = torch.tensor([0, 0, 40, 45])
    dimmed = masked_crops(image, masks[:1], boxes[:1], 32, "crop_and_dim")
    assert dimmed.abs().sum() < masked_crops(image, masks[:1], boxes[:1], 32, "crop").abs().sum()


def test_parts_that_do_not_fit_and_unknown_styles_are_refused() -> None:
    image, masks = blobs()
    boxes = boxes_from_masks(masks)
    with pytest.raises(ValueError, match="must agree"):
        masked_crops(image[:, 1:], masks, boxes, 32, "crop")
    with pytest.raises(ValueError, match="must agree"):
        masked_crops(image, masks, boxes[1:], 32, "crop")
    with pytest.raises(ValueError, match="no crop style is called 'zoom'"):
        masked_crops(image, masks, boxes, 32, "zoom")  # type: ignore[arg-type]


class MeanColour:
    """A stand-in encoder: a crop's embedding is the direction of its mean colour."""

    image_size_px, image_dim = 16, 3

    def encode_images(self, crops_N3SS: torch.Tensor) -> torch.Tensor:
        rows = crops_N3SS.mean((2, 3)) + 1.0
        return rows / rows.norm(dim=-1, keepdim=True)

    def average_views(self, views_VNE: torch.Tensor, shares_V: torch.Tensor | None = None) -> torch.Tensor:
        return torch.nn.functional.normalize(views_VNE.sum(dim=0), dim=-1)


def test_the_embedding_of_a_segment_does_not_depend_on_its_batch_and_no_segment_gives_no_row() -> None:
    image, masks = blobs()
    styles = ("crop", "crop_and_mask")
    whole = segment_embeddings(image, masks, MeanColour(), styles)  # type: ignore[arg-type]
    parts = [segment_embeddings(image, part, MeanColour(), styles) for part in (masks[:2], masks[2:])]  # type: ignore[arg-type]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-6)
    assert torch.allclose(whole.norm(dim=-1), torch.ones(5))
    none = segment_embeddings(image, masks[:0], MeanColour(), styles)  # type: ignore[arg-type]
    assert none.shape == (0, 3)
    with pytest.raises(ValueError, match="at least one crop style"):
        segment_embeddings(image, masks, MeanColour(), ())  # type: ignore[arg-type]
