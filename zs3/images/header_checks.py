"""Cheap checks of a picture's file before it is decoded.

A file of a kilobyte can claim a tile of gigabytes or ten thousand passes over the picture: decoders allocate and
compute by numbers other than the picture's size.
"""

from __future__ import annotations

import re
import struct
from typing import Literal

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

Kind = Literal["unreadable", "truncated", "too_large", "unsupported"]

MAX_SCANS = 256
"""Passes over a JPEG. Encoders write about ten; at the largest default size, each costs some 20 ms."""

MIN_PIXELS_PER_PIECE = 64
"""Average pixels of a TIFF's tile; the format's smallest tiles have 256. Pieces of single rows are allowed too."""

MAX_CHUNKS, BYTES_PER_CHUNK = 1000, 1024
"""A PNG has at most this many chunks, and one for each of so many bytes. Encoders put 8 KiB of pixels into a chunk."""

_TILE_WIDTH, _TILE_LENGTH = 322, 323
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""JPEG markers without a segment."""


class ImageError(ValueError):
    """A picture that cannot be used; `kind` is unreadable, truncated, too_large or unsupported."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind: Kind = kind

    def __reduce__(self) -> tuple[type[ImageError], tuple[Kind, str]]:
        return type(self), (self.kind, str(self))


def prepared(data: bytes, image_format: str) -> bytes:
    """The file for Pillow's reader of this format, usually unchanged.

    Raises:
        ImageError: decoding it would take far more passes than any picture needs, or it is cut off and its decoder
            would not see that.
    """
    if image_format == "JPEG":
        _refuse_many_scans(data)
    elif image_format == "PNG":
        _has_png_end(data)
    elif image_format in ("AVIF", "HEIF"):
        _refuse_cut_boxes(data, image_format)
    elif image_format == "PPM" and data[:2] in (b"P1", b"P2", b"P3"):
        # Pillow copies the rest of a block for each comment in it: seconds for a megabyte.
        return re.sub(rb"#[^\r\n]*", b"", data)
    return data


def check_header(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """Refuse a picture by its header.

    Raises:
        ImageError: it, or a tile of it, has more than `max_pixels`; it has too many pieces; a PNG lacks its end.
    """
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            "too_large",
            f"the picture is {width}x{height} = {width * height} pixels, more than the limit of "
            f"{max_pixels}; raise it with --max-pixels, or make the picture smaller",
        )
    if image.format == "PNG" and not _has_png_end(data):
        # Pillow accepts a missing end, but a chunk after the pixels may hold the orientation.
        raise ImageError(
            "truncated", f"the PNG stops after {len(data)} bytes without its end; copy or download it again"
        )
    if isinstance(image, TiffImageFile):
        _refuse_huge_tiles(image, max_pixels)


def _refuse_huge_tiles(image: TiffImageFile, max_pixels: int) -> None:
    width, height = image.size
    tile_width, tile_height = (int(image.tag_v2.get(tag, 0)) for tag in (_TILE_WIDTH, _TILE_LENGTH))
    if tile_width * tile_height > max_pixels:
        raise ImageError(
            "too_large",
            f"the picture is {width}x{height}, but its tiles are {tile_width}x{tile_height}, more than the limit of "
            f"{max_pixels} pixels; save it anew",
        )
    max_pieces = 4 * height + width * height // MIN_PIXELS_PER_PIECE
    if len(image.tile) > max_pieces:
        raise ImageError(
            "unsupported",
            f"the picture of {width}x{height} pixels is in {len(image.tile)} pieces, "
            f"expected at most {max_pieces}; save it anew",
        )


def _has_png_end(data: bytes) -> bool:
    """Whether the chunks of a PNG end with its last one; an ImageError if there are too many."""
    position, chunks, max_chunks = len(_PNG_SIGNATURE), 0, MAX_CHUNKS + len(data) // BYTES_PER_CHUNK
    while position + 12 <= len(data):
        chunks += 1
        if chunks > max_chunks:
            raise ImageError(
                "unsupported",
                f"the PNG of {len(data)} bytes has more than {max_chunks} chunks, each read on its own; save it anew",
            )
        (length,) = struct.unpack_from(">I", data, position)
        ends = data[position + 4 : position + 8] == b"IEND"
        position += 12 + length
        if ends and position <= len(data):
            return True
    return False


def _refuse_cut_boxes(data: bytes, image_format: str) -> None:
    """Refuse a file whose last box (ISO 14496-12) is longer than what is left of it; of 0 bytes is one without end.

    What begins like no box was appended, and is ignored.
    """
    position = 0
    while position < len(data) and data[position + 4 : position + 8].isalnum():
        size = int.from_bytes(data[position : position + 4], "big")
        if size == 1:
            size = int.from_bytes(data[position + 8 : position + 16], "big")
        if size == 0:
            return
        position += max(size, 8)
    if position > len(data):
        raise ImageError(
            "truncated",
            f"the {image_format} file stops after {len(data)} bytes, expected {position}; copy or download it again",
        )


def _refuse_many_scans(data: bytes) -> None:
    """Count the scans of a JPEG up to its end; appended data, such as a film, is ignored."""
    if data.count(b"\xff\xda") <= MAX_SCANS:  # fast, and true of nearly every file
        return
    scans, marker = 0, re.compile(rb"\xff+([^\x00\xff])")
    match = marker.search(data)
    while match and match[1] != b"\xd9":
        kind, position = match[1][0], match.end()
        if kind not in _STANDALONE:
            position += int.from_bytes(data[position : position + 2], "big")
        scans += kind == 0xDA
        if scans > MAX_SCANS:
            raise ImageError(
                "unsupported", f"the JPEG has more than {MAX_SCANS} scans, expected about ten; save it anew"
            )
        match = marker.search(data, position)
