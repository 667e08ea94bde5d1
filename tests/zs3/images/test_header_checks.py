"""What a file may ask of its reader: tiles, pieces, scans and comments are checked before they cost anything."""

import random
import zlib
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.hostile_formats import encoded, packed_zeros, picture, tiff
from zs3.images import codec
from zs3.images.codec import decode
from zs3.images.header_checks import MAX_SCANS, ImageError

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:PIL"
)  # pytest undoes what zs3.images.codec asks for

PLAIN = [(256, 4, 1, 10), (257, 4, 1, 10), (258, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
"""Tags of a grey TIFF of ten by ten pixels, without those that say where the pixels are."""


def progressive(scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = encoded(picture(random.Random(0), "L", (64, 48)), "JPEG", progressive=True)
    tables, end = data.rindex(b"\xff\xc4"), data.rindex(b"\xff\xd9")
    return data[:end] + data[tables:end] * scans + data[end:]


def test_tiles_larger_than_a_picture_may_be_are_refused() -> None:
    tiles = [(322, 4, 1, 40_000), (323, 4, 1, 40_000), (324, 4, 1, 300), (325, 4, 1, 1000)]
    data = tiff(*PLAIN, (259, 3, 1, 8), *tiles, tail=bytes(150) + packed_zeros(1_000_000))
    with pytest.raises(
        ImageError, match=r"10x10, but its tiles are 40000x40000.* limit of 50000000"
    ) as caught:
        decode(data)
    assert caught.value.kind == "too_large"


def test_a_tiff_in_more_pieces_than_pixels_is_refused() -> None:
    pieces = [(259, 3, 1, 1), (278, 4, 1, 1), (273, 4, 5000, 200), (279, 4, 5000, 200)]
    with pytest.raises(ImageError, match="in 5000 pieces, expected at most 41"):
        decode(tiff(*PLAIN, *pieces, tail=bytes(21_000)))


@pytest.mark.parametrize(
    "options", [{"tile": True}, {"strip_size": 1}, {"compression": "tiff_lzw", "strip_size": 1}]
)
def test_a_tiff_in_many_small_pieces_is_read(options: dict[str, object]) -> None:
    image = picture(random.Random(1), size=(70, 50))
    sizes = {"tiffinfo": {322: 16, 323: 16}} if "tile" in options else options
    data = encoded(image, "TIFF", **{"compression": "tiff_adobe_deflate", **sizes})
    np.testing.assert_array_equal(decode(data), np.asarray(image))


def test_a_jpeg_of_many_scans_is_refused_and_a_film_behind_it_does_not_count() -> None:
    with pytest.raises(ImageError, match="more than 256 scans") as caught:
        decode(progressive(MAX_SCANS))
    assert caught.value.kind == "unsupported"
    sound = progressive(5)
    np.testing.assert_array_equal(decode(sound + b"\xff\xda" * 1000), decode(sound))


def test_an_end_hidden_in_a_comment_does_not_end_the_count() -> None:
    data = progressive(MAX_SCANS)
    comment = b"\xff\xfe\x00\x06\xff\xd9\xff\xd9"
    with pytest.raises(ImageError, match="more than 256 scans"):
        decode(data[:2] + comment + data[2:])


def test_a_png_of_many_chunks_is_refused_and_one_of_many_small_ones_read() -> None:
    data = encoded(picture(random.Random(0), size=(64, 48)), "PNG")
    empty = b"\0\0\0\0tEXt\0\0\0\0"
    with pytest.raises(ImageError, match="more than 1016 chunks, each read on its own") as refusal:
        decode(data[:33] + empty * 1100 + data[33:])
    assert refusal.value.kind == "unsupported"
    sound = b"\0\0\0\2tEXta\0" + zlib.crc32(b"tEXta\0").to_bytes(4, "big")
    np.testing.assert_array_equal(decode(data[:33] + sound * 500 + data[33:]), decode(data))


def test_comments_of_a_plain_ppm_are_skipped() -> None:
    data = b"P3\n# made by hand\n2 1 # wide\n255\n# red\n255 0 0\r# then # blue\n0 0 255\n"
    np.testing.assert_array_equal(decode(data), [[[255, 0, 0], [0, 0, 255]]])
    np.testing.assert_array_equal(decode(b"P1\n2 1\n" + b"#\n" * 100_000 + b"01\n"), [[[255] * 3, [0] * 3]])


def test_a_limit_of_the_format_itself_is_called_too_large() -> None:
    data = encoded(Image.new("RGB", (8, 8)), "WEBP", lossless=True)
    canvas = b"\xfe\xff\x00"
    extended = b"VP8X\x0a\0\0\0\x02\0\0\0" + canvas + canvas
    with pytest.raises(ImageError, match="WEBP file claims a picture that is too large") as caught:
        decode(data[:12] + extended + data[12:])
    assert caught.value.kind == "too_large"


@pytest.mark.parametrize(
    ("mode", "image_format"),
    [
        ("RGB", "PNG"), ("RGBA", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("1", "PNG"), ("I;16", "PNG"),
        ("CMYK", "TIFF"), ("RGB", "JPEG"), ("P", "GIF"), ("RGBA", "WEBP"), ("I;16", "TIFF"),
    ],
)  # fmt: skip
def test_pixels_do_not_depend_on_the_strips_they_are_converted_in(
    monkeypatch: pytest.MonkeyPatch, mode: str, image_format: str
) -> None:
    data = encoded(picture(random.Random(2), mode, (37, 53)), image_format)
    whole = decode(data)
    monkeypatch.setattr(codec, "_STRIP_PIXELS", 5 * 37)
    strips: list[tuple[int, ...]] = []
    plain = codec._strip_rgb
    monkeypatch.setattr(codec, "_strip_rgb", lambda image, alpha: recorded(plain(image, alpha), strips))
    np.testing.assert_array_equal(decode(data), whole)
    assert strips == [(5, 37, 3)] * 10 + [(3, 37, 3)]


def recorded(strip: NDArray[np.uint8], shapes: list[tuple[int, ...]]) -> NDArray[np.uint8]:
    shapes.append(strip.shape)
    return strip


def test_a_transparent_palette_stays_transparent_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    palette = Image.fromarray(np.array([[0, 1]] * 9, np.uint8))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    file = BytesIO()
    palette.save(file, "PNG", transparency=0)
    monkeypatch.setattr(codec, "_STRIP_PIXELS", 4)
    np.testing.assert_array_equal(decode(file.getvalue()), [[[255, 255, 255], [40, 50, 60]]] * 9)
