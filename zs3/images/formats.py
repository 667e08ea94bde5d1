"""Which files are read as pictures: by their names, and where a name does not tell, by their first bytes."""

from __future__ import annotations

import re
from functools import cache
from pathlib import PurePosixPath
from typing import Literal

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "HEIF")
"""The formats that are read; HEIF needs the package pillow-heif. Pillow's decoder of JPEG 2000 turns a truncated file
into a wrong picture."""

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
    ".avif", ".heic", ".heif",
)  # fmt: skip
"""Extensions of files that are read as pictures, in lower case."""

FIRST_BYTES = 64
"""Bytes of a file that `begins_image` needs."""

_WORD = re.compile(r"\.[a-z][a-z0-9]{0,9}")
_BEGINNINGS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|BM....\0\0\0\0|GIF8[79]a|II[*+]\0|MM\0[*+]|P[1-6][\s#]",
    re.DOTALL,
)
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})


def names_image(name: str) -> bool | None:
    """Whether a file is a picture by the extension of its name; None where only its content tells.

    Another extension tells that it is none. No extension, or one that is no word, as in `2019.05.01`, tells nothing.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    return False if _WORD.fullmatch(suffix) else None


def begins_image(first: bytes) -> bool:
    """Whether a file is a picture by its first bytes."""
    return _BEGINNINGS.match(first) is not None or container_format(first) is not None


def container_format(first: bytes) -> Literal["AVIF", "HEIF"] | None:
    """The format of a file in boxes (ISO 14496-12), by the brands with which it begins; None for others."""
    if first[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(first[:4], "big"), FIRST_BYTES)
    brands = {first[8:12], *(first[start : start + 4] for start in range(16, end, 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIF" if brands & _HEIF_BRANDS else None


@cache
def add_heif() -> None:
    """Let Pillow read HEIF where the package pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener()
