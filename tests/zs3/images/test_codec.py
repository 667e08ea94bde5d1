"""Pictures and label maps: any file gives the right pixels or an error, never wrong pixels."""

import pickle
import struct
import warnings
import zlib
from io import BytesIO
from itertools import pairwise
from typing import get_args

import numpy as np
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image, ImageOps

from zs3.images.codec import (
    ImageError,
    decode,
    decode_label_png,
    encode_label_png,
    image_ids,
    keeps_size_when_turned,
    voc_palette,
)
from zs3.images.header_checks import Kind

SIZES = arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)


def picture(height: int = 37, width: int = 53) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 6 % 256, columns * 4 % 256, (rows * columns) % 256], axis=-1).astype(np.uint8)


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def grey_png(rows: list[bytes], width: int, bits: int) -> bytes:
    """A grey PNG with packed rows, which Pillow itself does not write below 8 bits."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\x00" + row for row in rows))
    chunks = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", pixels), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def assert_rgb(pixels: NDArray[np.uint8]) -> None:
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


def boxed(image_format: str, **options: object) -> bytes:
    """A picture as AVIF or HEIF, whose encoders have a lossless mode."""
    if image_format == "HEIF":
        pillow_heif.register_heif_opener()
        options |= {"quality": -1, "chroma": 444, "matrix_coefficients": 0}
    else:
        options |= {"quality": 100, "subsampling": "4:4:4"}
    return encoded(Image.fromarray(picture()), image_format, **options)


@pytest.mark.parametrize("image_format", ["AVIF", "HEIF"])
def test_avif_and_heif_give_the_pixels_back(image_format: str) -> None:
    pixels = decode(boxed(image_format))
    assert_rgb(pixels)
    # At quality 100 AVIF still converts to YCbCr and back, which is off by 3 here.
    assert np.abs(pixels.astype(int) - picture()).max() <= (3 if image_format == "AVIF" else 0)


@pytest.mark.parametrize("image_format", ["AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_avif_and_heif_come_out_upright(image_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode(boxed(image_format, exif=exif.tobytes()))
    expected = np.rot90(picture(), {3: 2, 6: -1}[orientation])
    assert pixels.shape == expected.shape and np.abs(pixels.astype(int) - expected).max() <= 3


@pytest.mark.parametrize("image_format", ["AVIF", "HEIF"])
def test_avif_and_heif_cut_at_any_byte_are_refused(image_format: str) -> None:
    data = boxed(image_format)
    for length in range(12, len(data), 7):
        with pytest.raises(ImageError) as refusal:
            decode(data[:length])
        assert refusal.value.kind in ("truncated", "unreadable")


def test_heif_without_its_package_is_refused_with_the_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    monkeypatch.setattr("zs3.images.codec.add_heif", lambda: None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    with pytest.raises(
        ImageError, match=r"is HEIF, which Pillow does not read here; install zs3\[heif\]"
    ) as refusal:
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert refusal.value.kind == "unsupported"


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_give_the_pixels_back(image_format: str) -> None:
    options = {"lossless": True} if image_format == "WEBP" else {}
    pixels = decode(encoded(Image.fromarray(picture()), image_format, **options))
    assert_rgb(pixels)
    np.testing.assert_array_equal(pixels, picture())


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photograph_comes_out_upright(image_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(picture()), image_format, exif=exif)
    expected = np.array(ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB"))
    pixels = decode(data)
    assert_rgb(pixels)
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.shape[:2] == ((37, 53) if orientation <= 4 else (53, 37))


def test_an_orientation_behind_the_pixels_of_a_png_counts() -> None:
    data = encoded(Image.fromarray(picture()), "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    end = len(data) - 12
    rotated = data[:end] + png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\x00\x00")) + data[end:]
    np.testing.assert_array_equal(decode(rotated), np.rot90(picture(), -1))


@pytest.mark.parametrize(("size", "hidden"), [((40, 30), {2, 3, 4}), ((30, 30), {2, 3, 4, 5, 6, 7, 8})])
def test_an_orientation_that_sizes_cannot_show_is_told_from_the_start_of_a_file(
    size: tuple[int, int], hidden: set[int]
) -> None:
    found = set()
    for orientation in range(1, 10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(Image.new("RGB", size), "JPEG", exif=exif)
        if keeps_size_when_turned(data[:-20]):
            found.add(orientation)
    assert found == hidden
    assert not keeps_size_when_turned(b"") and not keeps_size_when_turned(b"\xff\xd8\xff\xe1broken")


def test_an_impossible_orientation_leaves_the_picture_as_it_is() -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    data = encoded(Image.fromarray(picture()), "PNG", exif=exif)
    np.testing.assert_array_equal(decode(data), picture())


def test_grey_palette_and_one_bit_become_rgb() -> None:
    grey = Image.fromarray(picture()[..., 0])
    np.testing.assert_array_equal(decode(encoded(grey, "PNG")), np.repeat(picture()[..., :1], 3, axis=2))
    palette = Image.fromarray(picture()).quantize(256)
    np.testing.assert_array_equal(decode(encoded(palette, "PNG")), np.array(palette.convert("RGB")))
    np.testing.assert_array_equal(decode(encoded(palette, "GIF")), np.array(palette.convert("RGB")))
    one_bit = Image.fromarray(picture()[..., 0] > 90)
    assert set(np.unique(decode(encoded(one_bit, "PNG")))) == {0, 255}


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(image_format: str) -> None:
    grey = np.array([[0, 257, 32896, 65535], [128, 129, 65406, 65407]], dtype=np.uint16)
    pixels = decode(encoded(Image.fromarray(grey), image_format))
    np.testing.assert_array_equal(pixels[..., 0], np.rint(grey / 257.0))
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])


def test_cmyk_becomes_rgb() -> None:
    cmyk = Image.fromarray(picture()).convert("CMYK")
    pixels = decode(encoded(cmyk, "JPEG", quality=95))
    assert_rgb(pixels)
    # JPEG at quality 95 on this pattern is off by 3.0 on average; inverted ink would be off by over 80.
    assert np.abs(pixels.astype(int) - picture()).mean() < 6


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF"])
def test_what_is_transparent_is_laid_on_white(image_format: str) -> None:
    alpha = np.zeros((37, 53, 1), np.uint8)
    alpha[:, 20:] = 255
    rgba = np.concatenate([picture(), alpha], axis=2)
    options = {"lossless": True} if image_format == "WEBP" else {}
    pixels = decode(encoded(Image.fromarray(rgba), image_format, **options))
    assert (pixels[:, :20] == 255).all()
    np.testing.assert_array_equal(pixels[:, 20:], picture()[:, 20:])


def test_dropped_transparency_shows_the_hidden_colours() -> None:
    alpha = np.zeros((37, 53, 1), np.uint8)
    rgba = Image.fromarray(np.concatenate([picture(), alpha], axis=2))
    np.testing.assert_array_equal(decode(encoded(rgba, "PNG"), alpha="drop"), picture())
    palette = Image.fromarray(np.array([[0, 1]], np.uint8))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    pixels = decode(encoded(palette, "PNG", transparency=0), alpha="drop")
    np.testing.assert_array_equal(pixels, [[[10, 20, 30], [40, 50, 60]]])


def test_grey_with_alpha_and_palette_with_a_transparent_entry_are_read() -> None:
    grey_alpha = np.stack([picture()[..., 0], np.full((37, 53), 255, np.uint8)], axis=-1)
    pixels = decode(encoded(Image.fromarray(grey_alpha), "PNG"))
    np.testing.assert_array_equal(pixels[..., 0], picture()[..., 0])
    palette = Image.fromarray(np.array([[0, 1]], np.uint8))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    pixels = decode(encoded(palette, "PNG", transparency=0))
    np.testing.assert_array_equal(pixels, [[[255, 255, 255], [40, 50, 60]]])


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_one_pixel_is_a_picture(image_format: str) -> None:
    pixels = decode(encoded(Image.new("RGB", (1, 1), "white"), image_format))
    np.testing.assert_array_equal(pixels, np.full((1, 1, 3), 255, np.uint8))


def test_of_several_frames_the_first_is_taken() -> None:
    frames = [Image.new("RGB", (8, 5), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(data)[0, 0], [255, 0, 0])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Truncated File Read")
@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
    ],
)
def test_a_file_cut_at_any_byte_is_refused_and_never_a_wrong_picture(
    image_format: str, options: dict[str, object]
) -> None:
    data = encoded(Image.fromarray(picture(17, 13)), image_format, **options)
    whole = decode(data)
    refused = 0
    for length in range(len(data)):
        try:
            pixels = decode(data[:length])
        except ImageError:
            refused += 1
        else:
            np.testing.assert_array_equal(pixels, whole, err_msg=f"cut after {length} of {len(data)} bytes")
    # Measured: the last two bytes of a GIF (end of the data, end of the file) and the padding byte of a BMP.
    assert refused >= len(data) - 2


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_half_a_file_is_called_truncated_or_unreadable(image_format: str) -> None:
    data = encoded(Image.fromarray(picture()), image_format)
    with pytest.raises(ImageError, match=rf"{image_format}|PNG stops after") as caught:
        decode(data[: len(data) // 2])
    assert caught.value.kind in ("truncated", "unreadable")


def decoded(data: bytes, **options: int) -> NDArray[np.uint8] | ImageError:
    """The pixels of a file, or the error that refuses it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return decode(data, **options)
    except ImageError as error:
        return error


def damaged(data: bytes, place: int, mask: int = 255) -> bytes:
    """The file with some bits of one byte turned."""
    return data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]


@pytest.mark.parametrize("image_format", ["PPM", "TIFF"])
def test_a_damaged_byte_of_uncompressed_pixels_changes_that_value_alone(image_format: str) -> None:
    data = encoded(Image.fromarray(picture(9, 7)), image_format)
    start = len(data) - 9 * 7 * 3
    for value in range(9 * 7 * 3):
        expected = picture(9, 7)
        expected.ravel()[value] ^= 85
        np.testing.assert_array_equal(decoded(damaged(data, start + value, 85)), expected)


@pytest.mark.parametrize(
    ("image_format", "places", "kinds"),
    [
        ("PNG", range(8), {"unsupported"}),  # the signature
        ("PNG", range(8, 33), {"truncated", "unreadable"}),  # the header chunk, which has a checksum
        ("PNG", range(33, 41), {"truncated", "unreadable"}),  # length and name of the chunk of pixels
        ("JPEG", range(3), {"unsupported"}),
        ("WEBP", range(4), {"unsupported"}),
        ("WEBP", range(8, 16), {"unsupported"}),
        ("GIF", range(6), {"unsupported"}),
        ("BMP", range(2), {"unsupported"}),
        ("BMP", range(30, 34), {"unreadable"}),  # the kind of compression
    ],
)
def test_a_damaged_byte_before_the_pixels_is_refused(
    image_format: str, places: range, kinds: set[str]
) -> None:
    data = encoded(Image.fromarray(picture()), image_format)
    for place in places:
        outcome = decoded(damaged(data, place))
        assert isinstance(outcome, ImageError), f"byte {place} of the {image_format} does not matter"
        assert outcome.kind in kinds


def test_damage_in_the_pixels_of_a_png_leaves_the_rows_before_it() -> None:
    data = encoded(Image.fromarray(picture()), "PNG")
    start = data.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", data[start - 8 : start - 4])
    refused = 0
    for place in range(start, start + length, 3):
        outcome = decoded(damaged(data, place))
        if isinstance(outcome, ImageError):
            assert outcome.kind in ("truncated", "unreadable")
            refused += 1
            continue
        # What zlib gives before it reads the damaged byte, in whole rows of one filter byte and 3 x 53 values.
        rows = len(zlib.decompressobj().decompress(data[start:place])) // (1 + 3 * 53)
        np.testing.assert_array_equal(outcome[:rows], picture()[:rows], err_msg=f"damage at byte {place}")
    assert refused > length // 6, "the checks of zlib find more than half of it"


def test_damage_in_a_jpeg_leaves_the_blocks_before_it() -> None:
    data = encoded(Image.fromarray(picture(64, 48)), "JPEG", subsampling=0, restart_marker_rows=1)
    whole = decode(data)
    # Blocks are 8 pixels high; a restart marker ends each row of them.
    markers = [
        place for place in range(len(data) - 1) if data[place] == 0xFF and 0xD0 <= data[place + 1] <= 0xD7
    ]
    assert len(markers) == 7
    changed = 0
    for row, (first, last) in enumerate(pairwise([*markers, len(data) - 2]), start=1):
        for place in range(first + 2, last, 5):
            outcome = decoded(damaged(data, place))
            if isinstance(outcome, ImageError):
                assert outcome.kind in ("truncated", "unreadable", "unsupported")
                continue
            np.testing.assert_array_equal(
                outcome[: 8 * row], whole[: 8 * row], err_msg=f"damage at byte {place}"
            )
            changed += not np.array_equal(outcome, whole)
    assert changed > 0, "no damage changed a pixel; is the scan where this test looks?"


@settings(deadline=None)
@given(st.data())
def test_any_damage_ends_in_pixels_within_the_limit_or_in_one_line(data: st.DataObject) -> None:
    source = encoded(
        Image.fromarray(picture(9, 7)), data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "TIFF"]))
    )
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(source) - 1))
        source = damaged(source, place, data.draw(st.integers(0, 255)))
    outcome = decoded(source, max_pixels=10_000)
    if isinstance(outcome, ImageError):
        assert outcome.kind in get_args(Kind) and "\n" not in str(outcome)
    else:
        assert_rgb(outcome)
        assert outcome.size <= 3 * 10_000


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (b"", "unreadable", "the file is empty"),
        (b"<html>not found</html>", "unsupported", "22 bytes, starting b'<html>no'"),
        (b"\xff\xd8\xff", "unreadable", "JPEG file of 3 bytes"),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes, kind: str, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        decode(data)
    assert caught.value.kind == kind


def test_a_huge_picture_is_refused_by_its_header_with_size_limit_and_setting() -> None:
    header = struct.pack(">IIBBBBB", 12000, 9000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"no pixels follow")
    with pytest.raises(
        ImageError, match=r"12000x9000 = 108000000 pixels.* 50000000; raise it with --max-pixels"
    ) as it:
        decode(data)
    assert it.value.kind == "too_large"
    with pytest.raises(ImageError) as it:
        decode(data, max_pixels=108_000_000)
    assert it.value.kind == "truncated"


def test_the_limit_can_be_raised_beyond_the_one_of_pillow_and_lowered() -> None:
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"no pixels follow")
    with warnings.catch_warnings(), pytest.raises(ImageError) as caught:
        warnings.simplefilter("error")
        decode(data, max_pixels=400_000_000)
    assert caught.value.kind == "truncated"
    with pytest.raises(ImageError, match="limit of 1960"):
        decode(encoded(Image.fromarray(picture()), "JPEG"), max_pixels=37 * 53 - 1)
    assert decode(encoded(Image.fromarray(picture()), "JPEG"), max_pixels=37 * 53).shape == (37, 53, 3)


def test_pixels_of_unknown_range_are_refused() -> None:
    with pytest.raises(ImageError, match="no known range") as caught:
        decode(encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"))
    assert caught.value.kind == "unsupported"


def test_an_image_error_keeps_its_kind_between_processes() -> None:
    copy = pickle.loads(pickle.dumps(ImageError("too_large", "the picture is large")))
    assert (copy.kind, str(copy)) == ("too_large", "the picture is large")


@settings(deadline=None)
@given(arrays.arrays(np.uint8, SIZES))
def test_labels_of_eight_bits_survive_a_png(labels: NDArray[np.uint8]) -> None:
    data = encode_label_png(labels)
    np.testing.assert_array_equal(decode_label_png(data), labels)
    assert Image.open(BytesIO(data)).mode == "P"


@settings(deadline=None)
@given(arrays.arrays(np.int64, SIZES, elements=st.integers(0, 65535)))
def test_labels_of_sixteen_bits_survive_a_png(labels: NDArray[np.int64]) -> None:
    decoded = decode_label_png(encode_label_png(labels))
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, labels)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_packed_grey_labels_keep_their_values(bits: int) -> None:
    top = min(2**bits, 16) - 1
    values = np.arange(8) % (top + 1)
    packed = np.packbits(np.unpackbits(values.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :].ravel())
    np.testing.assert_array_equal(decode_label_png(grey_png([packed.tobytes()], 8, bits))[0], values)


def test_packed_palette_labels_keep_their_values() -> None:
    image = Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8))
    image.putpalette([0, 0, 0, 9, 9, 9, 99, 99, 99, 7, 7, 7])
    np.testing.assert_array_equal(decode_label_png(encoded(image, "PNG", bits=2)), [[0, 1, 2, 3]])


def test_a_palette_of_ones_own_colours_the_labels() -> None:
    data = encode_label_png(np.array([[1, 255]]), palette=np.array([[0, 0, 0], [1, 2, 3]], np.uint8))
    np.testing.assert_array_equal(decode(data), [[[1, 2, 3], [224, 224, 192]]])


def test_the_palette_is_the_one_of_voc() -> None:
    colours = voc_palette()
    assert colours[[0, 1, 2, 15, 20, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [192, 128, 128],
        [0, 64, 128],
        [224, 224, 192],
    ]


@pytest.mark.parametrize("labels", [[[-1]], [[65536]], [[0.5]], [1, 2], [[]]])
def test_labels_a_png_cannot_hold_are_refused(labels: list[object]) -> None:
    with pytest.raises(ValueError, match="labels"):
        encode_label_png(np.array(labels))


@pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
def test_colours_are_no_labels(image_format: str) -> None:
    with pytest.raises(ImageError, match="save the class ids themselves, not colours"):
        decode_label_png(encoded(Image.fromarray(picture()), image_format))


def test_a_cut_label_png_is_refused_at_any_byte() -> None:
    data = encode_label_png(np.arange(77).reshape(7, 11))
    for length in range(len(data)):
        with pytest.raises(ImageError):
            decode_label_png(data[:length])


@pytest.mark.parametrize(
    ("paths", "ids"),
    [
        ([], []),
        (["a.jpg", "b/c.d.png"], ["a", "c.d"]),
        (["x/a.jpg", "y/a.jpg", "b.jpg"], ["x/a.jpg", "y/a.jpg", "b.jpg"]),
        (["a.jpg", "a.png"], ["a.jpg", "a.png"]),
    ],
)
def test_ids_are_file_names_where_unique_else_paths(paths: list[str], ids: list[str]) -> None:
    assert image_ids(paths) == ids
