"""Colours and sizes of pictures in a report: a class has the same colour in every picture of every report."""

import base64
import colorsys
import io

import numpy as np
from PIL import Image

# H W pixels

_GOLDEN = 0.6180339887498949
_TONES = ((0.52, 0.78), (0.68, 0.62), (0.38, 0.85), (0.58, 0.45))
"""Lightness and saturation, in turn: neighbouring hues that come up again differ in tone."""


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


def shrunk(pixels: np.ndarray, side_px: int) -> np.ndarray:
    """At most `side_px` wide and high, the sides in proportion; colours are averaged, class ids picked."""
    height, width = pixels.shape[:2]
    if max(height, width) <= side_px:
        return pixels
    new_height, new_width = (max(1, round(side * side_px / max(height, width))) for side in (height, width))
    if pixels.ndim == 3:
        small = Image.fromarray(pixels).resize(
            (new_width, new_height), Image.Resampling.BILINEAR, reducing_gap=3
        )
        return np.asarray(small)
    rows = ((np.arange(new_height) + 0.5) * height / new_height).astype(int)
    columns = ((np.arange(new_width) + 0.5) * width / new_width).astype(int)
    return pixels[rows[:, None], columns]


def jpeg_data_uri(pixels_HW3: np.ndarray, *, quality: int = 80) -> str:
    """A JPEG as text that a page shows without any other file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels_HW3).save(buffer, "JPEG", quality=quality, optimize=True)
    return _data_uri("image/jpeg", buffer.getvalue())


def png_data_uri(index_HW: np.ndarray, colours: list[tuple[int, int, int, int]]) -> str:
    """A picture of at most four colours, some of them see-through, as text that a page shows without any other file.

    Args:
        index_HW: (H, W) uint8, places in `colours`.
        colours: red, green, blue and opacity, 0..255.
    """
    picture = Image.fromarray(index_HW).convert("P")
    picture.putpalette([channel for entry in colours for channel in entry[:3]])
    buffer = io.BytesIO()
    opacities = bytes(entry[3] for entry in colours)
    picture.save(buffer, "PNG", bits=2, optimize=True, transparency=opacities)
    return _data_uri("image/png", buffer.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    """A file as an address that holds all of it."""
    return f"data:{kind};base64," + base64.b64encode(content).decode("ascii")
