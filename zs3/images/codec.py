"""Pictures in and out: bytes to upright RGB pixels, label maps to PNG and back, and the ids of listed images.

Nothing here reads a file or the network; callers read bytes and add the uri to errors.
"""

# H W pixels

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zs3.images.formats import FORMATS, add_heif, container_format
from zs3.images.header_checks import ImageError, Kind, check_header, prepared
from zs3.images.time_limit import TimeLimitError, call_within

Alpha = Literal["white", "drop"]
"""What becomes of transparency. white: the picture is laid on white, as it is mostly shown; drop: it is ignored, as in
the published code, so that colours appear which the file hides."""

DEFAULT_MAX_PIXELS = 50_000_000
"""Largest picture that is decoded by default: 150 MB as RGB, beyond most cameras."""

_LIMIT_S, _LIMIT_S_PER_PIXEL = 10.0, 2e-7
"""CPU time that decoding may take: a part for each picture, and one for each pixel that it may have. At the default
size 20 s; photographs of that size take one or two."""

_ORIENTATION_TAG = 0x0112
_STRIP_PIXELS = 4_000_000
_EIGHT_BITS = ((np.arange(65536, dtype=np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
"""Grey of 16 bits → the nearest of 8."""

# Hostile files make Pillow warn thousands of times, and Python keeps each text for ever. An ImageError reports what
# matters.
warnings.filterwarnings("ignore", module=r"PIL\.")

_UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}


def decode(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, alpha: Alpha = "white") -> NDArray[np.uint8]:
    """Upright RGB pixels of an encoded picture, (H, W, 3) uint8, contiguous.

    The EXIF orientation is applied. Grey, palette and CMYK become RGB; 16-bit grey is scaled from 0..65535
    to 0..255; the first of several frames is taken; colour profiles are ignored. The size is checked before any pixel
    is decoded.

    Args:
        data: the whole file, in one of `formats.FORMATS`.
        max_pixels: largest H * W accepted.
        alpha: what becomes of transparency.

    Raises:
        ImageError: with its `kind`; it may also take far longer than any picture.
    """
    try:
        return call_within(
            _LIMIT_S + _LIMIT_S_PER_PIXEL * max_pixels, lambda: _decoded(data, max_pixels, alpha)
        )
    except TimeLimitError as error:
        raise ImageError(
            "unsupported", f"decoding the file of {len(data)} bytes {error}; save it anew"
        ) from error


def _decoded(data: bytes, max_pixels: int, alpha: Alpha) -> NDArray[np.uint8]:
    image = _opened(data, max_pixels)
    try:
        # Pixels first: reading a PNG's orientation would load them too, and hide damage.
        pixels = _rgb(image, alpha)
        orientation = _orientation(image)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # damaged files make Pillow raise nearly any type
        raise _unreadable(data, image.format, error) from error
    del image  # frees its pixels before an upright copy is made
    return np.ascontiguousarray(_UPRIGHT.get(orientation, lambda pixels: pixels)(pixels))


def keeps_size_when_turned(start: bytes) -> bool:
    """Whether the EXIF orientation of a picture changes its pixels but not its size, so that sizes cannot tell a truth
    of the upright picture from one of the file's own raster.

    Args:
        start: the beginning of the file; a header that is not in it, or damaged, counts as none.
    """
    try:
        with Image.open(BytesIO(start), formats=[name for name in FORMATS if name != "PPM"]) as image:
            orientation, (width, height) = _orientation(image), image.size
    except Exception:
        return False
    return orientation in (2, 3, 4) or (orientation in (5, 6, 7, 8) and width == height)


def encode_label_png(
    labels_HW: NDArray[np.integer], palette: NDArray[np.uint8] | None = None, *, wide: bool = False
) -> bytes:
    """A PNG whose value at each pixel is the label: palette mode up to 255, 16-bit grey up to 65535.

    Args:
        labels_HW: (H, W) integers in 0..65535.
        palette: (N, 3) uint8 colours of the labels 0..N-1, N <= 256; by default the colours of PASCAL VOC.
            A 16-bit PNG has none.
        wide: 16 bits even if 8 would do, so that all files of a set are alike.

    Raises:
        ValueError: labels of another shape or outside 0..65535.
    """
    labels_HW = np.asarray(labels_HW)
    if labels_HW.ndim != 2 or labels_HW.size == 0 or labels_HW.dtype.kind not in "iu":
        raise ValueError(
            f"labels are {labels_HW.dtype} of shape {labels_HW.shape}, expected integers of shape (H, W)"
        )
    low, high = int(labels_HW.min()), int(labels_HW.max())
    if low < 0 or high > 65535:
        raise ValueError(
            f"labels span {low}..{high}, but a PNG holds 0..65535; map ignored pixels to the ignore id first"
        )
    if high > 255 or wide:
        image = Image.fromarray(labels_HW.astype(np.uint16))
    else:
        # All 256 entries, so that the file keeps 8 bits per pixel, which every reader understands.
        colours = voc_palette()
        if palette is not None:
            colours[: len(palette)] = palette
        image = Image.fromarray(labels_HW.astype(np.uint8))
        image.putpalette(colours.tobytes())
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def decode_label_png(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> NDArray[np.int32]:
    """The values stored in a label PNG, (H, W) int32: palette indices, or grey of 1 to 16 bits.

    Raises:
        ImageError: it is not a PNG, holds colours instead of labels, or is too large or damaged.
    """
    image = _opened(data, max_pixels)
    if image.format != "PNG" or image.mode not in ("P", "L", "1", "I;16", "I"):
        raise ImageError(
            "unsupported",
            f"a label map has to be a palette or grey PNG, this is {image.format} of mode {image.mode}; "
            f"save the class ids themselves, not colours",
        )
    try:
        labels_HW = np.array(image).astype(np.int32)
    except MemoryError:
        raise
    except Exception as error:
        raise _unreadable(data, image.format, error) from error
    bits_per_sample, colour_type = data[24], data[25]
    if image.mode == "L" and colour_type == 0 and bits_per_sample < 8:
        labels_HW //= 255 // (2**bits_per_sample - 1)  # Pillow stretches 2- and 4-bit grey to 0..255
    return labels_HW


def voc_palette() -> NDArray[np.uint8]:
    """(256, 3) uint8: the colours of the labels 0..255 in PASCAL VOC."""
    return voc_colours(np.arange(256))


def voc_colours(labels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """(..., 3) uint8 colours of labels by the rule of PASCAL VOC: a label's bits go to R, G and B in turn.

    Every label below 2^24 has a colour of its own. Source: VOClabelcolormap of the VOC 2012 development kit.
    """
    colours = np.zeros((*np.shape(labels), 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            value = (np.asarray(labels) >> (3 * bit + channel)) & 1
            colours[..., channel] |= (value << (7 - bit)).astype(np.uint8)
    return colours


def image_ids(relative_paths: Sequence[str]) -> list[str]:
    """Ids of listed images: file names without folder and extension if all of those are unique, else relative paths.

    Args:
        relative_paths: paths relative to the listing's root, `/` between parts.
    """
    stems = [PurePosixPath(path).stem for path in relative_paths]
    return stems if max(Counter(stems).values(), default=1) == 1 else list(relative_paths)


def _opened(data: bytes, max_pixels: int) -> Image.Image:
    """A picture whose header is checked and whose pixels are not decoded yet.

    Formats are tried here and not by `Image.open`, whose size limit is global to the process.
    """
    if not data:
        raise ImageError("unreadable", "the file is empty (0 bytes), expected a picture")
    Image.init()
    add_heif()
    container = container_format(data)
    for name in [container] if container else FORMATS:
        if name not in Image.OPEN:
            continue
        factory, accept = Image.OPEN[name]
        if accept is not None and accept(data[:16]) is not True:
            continue
        try:
            image = factory(BytesIO(prepared(data, name)), "")
            check_header(image, data, max_pixels)
        except (ImageError, MemoryError):
            raise
        except Exception as error:
            raise _unreadable(data, name, error) from error
        return image
    if container:
        package = "zs3[heif] or pillow-heif" if container == "HEIF" else "a Pillow that has it"
        raise ImageError(
            "unsupported", f"the file is {container}, which Pillow does not read here; install {package}"
        )
    raise ImageError(
        "unsupported",
        f"the file ({len(data)} bytes, starting {data[:8]!r}) is in none of the formats {', '.join(FORMATS)}",
    )


def _unreadable(data: bytes, image_format: str | None, error: Exception) -> ImageError:
    message = str(error) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):  # some readers have a limit of their own
        return ImageError(
            "too_large", f"the {image_format} file claims a picture that is too large: {message}"
        )
    cut = "truncated" in message.lower() or "not enough image data" in message.lower()
    kind: Kind = "truncated" if cut else "unreadable"
    return ImageError(kind, f"the {image_format} file of {len(data)} bytes cannot be decoded: {message}")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged metadata does not make sound pixels unusable
        return 1


def _rgb(image: Image.Image, alpha: Alpha) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 pixels, converted in strips, so that no second picture of full size is made."""
    image.load()
    if image.mode in ("I", "F"):
        raise ImageError(
            "unsupported", f"32-bit pixels (mode {image.mode}) have no known range; save 8 or 16 bits"
        )
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    if rows >= height:
        return _strip_rgb(image, alpha)
    pixels_HW3 = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        pixels_HW3[top:bottom] = _strip_rgb(image.crop((0, top, width, bottom)), alpha)
    return pixels_HW3


def _strip_rgb(image: Image.Image, alpha: Alpha) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        grey_HW = _EIGHT_BITS[np.array(image)]
        return np.repeat(grey_HW[..., None], 3, axis=2)
    if alpha == "white" and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))
