"""One random crop of an image and its labels, as the released training code of ZegFormer or FC-CLIP takes it.

Order: resize, crop, colour jitter, flip, pad. Images are resized bilinearly, labels by nearest neighbour.
Hue and saturation go through Pillow's 8-bit HSV (256 hues) instead of OpenCV's (180 hues).
"""

# H W pixels of the picture, C C pixels of the crop

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from PIL import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How training crops are drawn."""

    crop_px: int = 512
    """Side of the square crop in pixels; 512 for VOC and ADE20K-Full, 640 for COCO-Stuff."""
    short_edges_px: tuple[int, ...] = ()
    """Lengths to draw the resized short edge from, in pixels. Empty: `scale_range` decides."""
    scale_range: tuple[float, float] = (0.5, 2.0)
    """Without `short_edges_px`: minimum and maximum of the resized short edge relative to `crop_px`, log-uniform."""
    fit_range: tuple[float, float] | None = field(default=None, metadata={"later": True})
    """Instead of both: the long edge is `crop_px` times a uniform number of this range, and crops of pictures that are
    longer lie at one share of the free room along both axes (FC-CLIP's large-scale jitter)."""
    max_long_edge_px: int = 2048
    """The resized long edge is at most this; the short edge gives way."""
    crop_on_label_tries: int = 1
    """Maximum number of crops to draw until one contains a wanted label; 1 takes the first."""
    brightness: float = 32.0
    """Maximum brightness shift, in grey levels. 0 for all four turns jitter off."""
    contrast: float = 0.5
    """Contrast and saturation factors are drawn from 1 ± this."""
    saturation: float = 0.5
    """See `contrast`."""
    hue_degrees: float = 36.0
    """Maximum hue shift, in degrees of the colour circle (OpenCV's ±18 of 180)."""
    flip_probability: float = 0.5
    """Probability of a left-right flip."""
    pad_value: int = 128
    """Grey level of padding, before normalisation."""
    ignore_id: int = 255
    """Label of padding."""


def short_edges(crop_px: int, first: int, last: int) -> tuple[int, ...]:
    """The published choices int(x * 0.1 * crop_px), x = first … last; VOC, ADE 5 … 20, COCO-Stuff 5 … 15."""
    return tuple(int(x * 0.1 * crop_px) for x in range(first, last + 1))


def resized_size(height: int, width: int, short_edge_px: float, max_long_edge_px: float) -> tuple[int, int]:
    """(height, width) with the short edge of a given length, but the long edge at most `max_long_edge_px`."""
    scale = min(short_edge_px / min(height, width), max_long_edge_px / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def _nearest(start: int, length: int, new_size: int, old_size: int) -> np.ndarray:
    """(length,) source index of each of `length` resized pixels from `start` on, nearest neighbour."""
    centres = (np.arange(start, start + length) + 0.5) * (old_size / new_size)
    return np.minimum(centres.astype(np.int64), old_size - 1)


def random_crop(
    image: np.ndarray,
    labels: np.ndarray,
    settings: Augmentation,
    rng: np.random.Generator,
    wanted_ids: Collection[int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A crop of the resized image and labels, at most crop_px a side; only what is cropped gets resized."""
    height, width = labels.shape
    longest_px: float = settings.max_long_edge_px
    if settings.fit_range is not None:
        short_edge_px, longest_px = np.inf, settings.crop_px * rng.uniform(*settings.fit_range)
    elif settings.short_edges_px:
        short_edge_px = float(rng.choice(settings.short_edges_px))
    else:
        low, high = np.log(settings.scale_range)
        short_edge_px = settings.crop_px * float(np.exp(rng.uniform(low, high)))
    new_height, new_width = resized_size(height, width, short_edge_px, longest_px)
    crop_height, crop_width = min(settings.crop_px, new_height), min(settings.crop_px, new_width)
    for _ in range(max(1, settings.crop_on_label_tries)):
        if settings.fit_range is None:
            top = int(rng.integers(new_height - crop_height + 1))
            left = int(rng.integers(new_width - crop_width + 1))
        else:
            share = rng.random()
            top, left = round(share * (new_height - crop_height)), round(share * (new_width - crop_width))
        rows = _nearest(top, crop_height, new_height, height)
        columns = _nearest(left, crop_width, new_width, width)
        cropped_labels = labels[rows[:, None], columns]
        if wanted_ids is None and (cropped_labels != settings.ignore_id).any():
            break
        if wanted_ids is not None and np.isin(cropped_labels, list(wanted_ids)).any():
            break
    y_scale, x_scale = height / new_height, width / new_width
    bottom, right = min((top + crop_height) * y_scale, height), min((left + crop_width) * x_scale, width)
    cropped = Image.fromarray(image).resize(
        (crop_width, crop_height),
        Image.Resampling.BILINEAR,
        box=(left * x_scale, top * y_scale, right, bottom),
    )
    return np.asarray(cropped), cropped_labels


def _linear(image: np.ndarray, factor: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """uint8 factor * image + shift, clipped to 0..255; by table, since there are only 256 inputs."""
    return np.clip(np.arange(256) * factor + shift, 0, 255).astype(np.uint8)[image]


def jitter_colour(image: np.ndarray, settings: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """SSD colour jitter: brightness, then contrast before or after saturation and hue, each half the time.

    Args:
        image: (H, W, 3) uint8 RGB.
    """

    def contrast(pixels: np.ndarray) -> np.ndarray:
        if rng.random() < 0.5:
            return _linear(pixels, factor=rng.uniform(1 - settings.contrast, 1 + settings.contrast))
        return pixels

    def saturation_and_hue(pixels: np.ndarray) -> np.ndarray:
        factor = rng.uniform(1 - settings.saturation, 1 + settings.saturation) if rng.random() < 0.5 else 1.0
        degrees = rng.uniform(-settings.hue_degrees, settings.hue_degrees) if rng.random() < 0.5 else 0.0
        turn = round(degrees / 360 * 256)
        if factor == 1.0 and turn == 0:
            return pixels
        hsv = np.array(Image.fromarray(pixels).convert("HSV"))
        hsv[..., 0] += np.uint8(turn % 256)
        hsv[..., 1] = _linear(hsv[..., 1], factor=factor)
        return np.asarray(Image.fromarray(hsv, mode="HSV").convert("RGB"))

    if rng.random() < 0.5:
        image = _linear(image, shift=rng.uniform(-settings.brightness, settings.brightness))
    if rng.random() < 0.5:
        return saturation_and_hue(contrast(image))
    return contrast(saturation_and_hue(image))


def pad(image: np.ndarray, labels: np.ndarray, settings: Augmentation) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels padded right and at the bottom to crop_px x crop_px, with grey and the ignore id."""
    height, width = labels.shape
    padded = np.full((settings.crop_px, settings.crop_px, 3), settings.pad_value, dtype=np.uint8)
    padded_labels = np.full((settings.crop_px, settings.crop_px), settings.ignore_id, dtype=labels.dtype)
    padded[:height, :width] = image
    padded_labels[:height, :width] = labels
    return padded, padded_labels


def augment(
    image: np.ndarray,
    labels: np.ndarray,
    settings: Augmentation,
    rng: np.random.Generator,
    *,
    wanted_ids: Collection[int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A random training crop: (C, C, 3) uint8 and (C, C) labels of the same dtype, C = crop_px.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) integers; the result contains only these and the ignore id.
        settings: how crops are drawn.
        rng: the only source of randomness.
        wanted_ids: labels of which a crop should contain a pixel (the seen classes), see `crop_on_label_tries`;
            None: any label except the ignore id.

    Raises:
        ValueError: image and labels differ in size, or the label dtype cannot hold the ignore id.
    """
    if image.shape != (*labels.shape, 3) or image.dtype != np.uint8:
        raise ValueError(
            f"image is {image.dtype} of shape {image.shape}, labels have shape {labels.shape}; "
            "expected a uint8 image (H, W, 3) and labels (H, W)"
        )
    if not np.iinfo(labels.dtype).min <= settings.ignore_id <= np.iinfo(labels.dtype).max:
        raise ValueError(f"labels are {labels.dtype}, which cannot hold the ignore id {settings.ignore_id}")
    image, labels = random_crop(image, labels, settings, rng, wanted_ids)
    if settings.brightness or settings.contrast or settings.saturation or settings.hue_degrees:
        image = jitter_colour(image, settings, rng)
    if rng.random() < settings.flip_probability:
        image, labels = image[:, ::-1], labels[:, ::-1]
    return pad(image, labels, settings)
