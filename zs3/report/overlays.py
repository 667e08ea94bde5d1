"""Label maps painted over photographs: a class has the same colour in every picture of every report."""

import base64
import colorsys
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

# H W pixels

_GOLDEN = 0.6180339887498949
_TONES = ((0.52, 0.78), (0.68, 0.62), (0.38, 0.85), (0.58, 0.45))
"""Lightness and saturation, in turn: neighbouring hues that come up again differ in tone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LegendEntry:
    """One class of one picture: iou in percent within it, none where its truth does not hold the class."""

    name: str
    colour: str
    seen: bool
    iou: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryItem:
    """One image of the gallery: three pictures as data URIs, and its mean IoU over its own true classes."""

    image_id: str
    kind: str
    miou: float
    width: int
    height: int
    photo: str
    truth: str
    prediction: str
    legend: tuple[LegendEntry, ...]


def colour(class_id: int) -> tuple[int, int, int]:
    """The fixed colour of a class, channels 0..255; unlabelled and unknown classes (below 0) are grey."""
    if class_id < 0:
        return (64, 64, 64)
    hue = (class_id * _GOLDEN + 0.02) % 1.0
    lightness, saturation = _TONES[(class_id // 5) % len(_TONES)]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, saturation)
    return (round(255 * red), round(255 * green), round(255 * blue))


def hex_colour(class_id: int) -> str:
    """The fixed colour as #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*colour(class_id))


def overlay(
    photo_HW3: np.ndarray,
    labels_HW: np.ndarray,
    void_HW: np.ndarray,
    *,
    void_strength: float,
    strength: float = 0.62,
) -> np.ndarray:
    """The photograph tinted by class, with light lines between classes; (H, W, 3) uint8.

    Args:
        photo_HW3: (H, W, 3) uint8.
        labels_HW: (H, W) integer class ids.
        void_HW: (H, W) bool, True where the truth does not count: shown grey and pale.
        void_strength: how much of the class colour void pixels still get, in [0, 1].
        strength: how much of the class colour the other pixels get, in [0, 1].
    """
    ids, index = np.unique(labels_HW, return_inverse=True)
    tint = np.array([colour(int(class_id)) for class_id in ids], np.float32)[index.reshape(labels_HW.shape)]
    base = photo_HW3.astype(np.float32)
    grey = 0.55 * base.mean(axis=2, keepdims=True) + 0.45 * 255
    base = np.where(void_HW[..., None], grey, base)
    share = np.where(void_HW, void_strength, strength)[..., None].astype(np.float32)
    painted = base * (1 - share) + tint * share
    regions = np.where(void_HW & (void_strength == 0), np.iinfo(np.int32).min, labels_HW)
    painted[_borders(regions) | _borders(void_HW)] = (255, 255, 255)
    return painted.round().astype(np.uint8)


def shrunk(pixels: np.ndarray, width_px: int) -> np.ndarray:
    """At most `width_px` wide, the sides in proportion; colours are averaged, class ids picked."""
    height, width = pixels.shape[:2]
    if width <= width_px:
        return pixels
    new_height = max(1, round(height * width_px / width))
    if pixels.ndim == 3:
        small = Image.fromarray(pixels).resize(
            (width_px, new_height), Image.Resampling.BILINEAR, reducing_gap=3
        )
        return np.asarray(small)
    rows = ((np.arange(new_height) + 0.5) * height / new_height).astype(int)
    columns = ((np.arange(width_px) + 0.5) * width / width_px).astype(int)
    return pixels[rows[:, None], columns]


def jpeg_data_uri(pixels_HW3: np.ndarray, *, quality: int = 80) -> str:
    """A JPEG as text that an <img> shows without any other file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels_HW3).save(buffer, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _borders(labels_HW: np.ndarray) -> np.ndarray:
    """(H, W) bool, True on the upper or left pixel of every step between two labels."""
    border = np.zeros(labels_HW.shape, bool)
    border[:-1] |= labels_HW[:-1] != labels_HW[1:]
    border[:, :-1] |= labels_HW[:, :-1] != labels_HW[:, 1:]
    return border
