"""Files that lie in the language of their own format: impossible headers, bombs, circles, tables that are broken.

Every function takes a random generator and gives a file; `tests/support/hostile_images.py` gathers them.
"""

from __future__ import annotations

import functools
import io
import random
import struct
import zlib

import numpy as np
from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"


def picture(rng: random.Random, mode: str = "RGB", size: tuple[int, int] | None = None) -> Image.Image:
    """A small picture of smooth noise, so that every coder has something to do."""
    width, height = size or (rng.randint(1, 90), rng.randint(1, 90))
    noise = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.convert(mode)


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def valid(rng: random.Random, image_format: str) -> bytes:
    """A sound file of a format."""
    return encoded(picture(rng), image_format)


def jpeg_tables(rng: random.Random) -> bytes:
    """A JPEG with a broken Huffman or quantisation table, frame header, or restart interval."""
    data = bytearray(encoded(picture(rng, size=(64, 48)), "JPEG", progressive=rng.random() < 0.5))
    marker = rng.choice([b"\xff\xc4", b"\xff\xdb", b"\xff\xc0", b"\xff\xc2", b"\xff\xda"])
    start = data.find(marker)
    if start < 0:
        start = data.find(b"\xff\xc4")
    for _ in range(rng.randint(1, 8)):
        data[start + rng.randint(2, 24)] = rng.randrange(256)
    return bytes(data)


def jpeg_many_scans(rng: random.Random) -> bytes:
    """A progressive JPEG whose last scan comes hundreds of times."""
    data = encoded(picture(rng, "L", (600, 600)), "JPEG", progressive=True)
    tables, end = data.rindex(b"\xff\xc4"), data.rindex(b"\xff\xd9")
    return data[:end] + data[tables:end] * rng.choice([20, 400]) + data[end:]


def jpeg_bomb(rng: random.Random) -> bytes:
    """A JPEG whose header claims up to four gigapixels."""
    data = bytearray(encoded(picture(rng, size=(32, 32)), "JPEG"))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", rng.choice([65_500, 30_000]), rng.choice([65_500, 30_000]))
    return bytes(data)


@functools.cache
def packed_zeros(length: int) -> bytes:
    """Zeros, compressed a thousandfold."""
    return zlib.compress(bytes(length), 9)


def chunk(kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    """A chunk of a PNG; with a wrong checksum where one is given."""
    crc = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png(
    width: int, height: int, pixels: bytes, *between: bytes, bits: int = 8, colour: int = 2, laced: int = 0
) -> bytes:
    """A PNG from its parts."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, laced))
    return PNG + header + b"".join(between) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def png_bomb(rng: random.Random) -> bytes:
    """A PNG that claims up to 2^62 pixels, or has far more compressed pixels than its size."""
    zeros = packed_zeros(20_000_000)
    size = rng.choice([(2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (1, 2**31 - 1), (60_000, 60_000), (8, 8)])
    return png(*size, zeros, bits=rng.choice([8, 16]), colour=rng.choice([0, 2, 6]), laced=rng.choice([0, 1]))


def png_text(rng: random.Random) -> bytes:
    """A PNG with text that unpacks to a hundred megabytes, or comes in thousands of chunks."""
    packed = packed_zeros(rng.choice([1000, 100_000_000]))
    text = rng.choice(
        [
            chunk(b"zTXt", b"key\0\0" + packed),
            chunk(b"iTXt", b"key\0\1\0\0\0" + packed),
            chunk(b"iCCP", b"name\0\0" + packed),
            chunk(b"tEXt", b"key\0" + b"x" * 1_500_000),
            chunk(b"tEXt", b"k\0") * 5000,
            chunk(b"iTXt", b"no end"),
            chunk(b"eXIf", rng.randbytes(1000)),
        ]
    )
    return png(8, 8, zlib.compress(bytes(8 * 25)), text)


def png_checksum(rng: random.Random) -> bytes:
    """A PNG with a wrong checksum, an impossible header, or chunks missing, doubled or of impossible length."""
    sound = encoded(picture(rng), "PNG")
    header, rows = sound[8:33], zlib.compress(bytes(8 * 25))
    return rng.choice(
        [
            PNG + chunk(b"IHDR", sound[16:29], crc=1) + sound[33:],
            sound[:-16] + b"\0\0\0\0" + sound[-12:],
            PNG + header + header + sound[33:],
            PNG + sound[33:],
            PNG + header + struct.pack(">I", 0xFFFFFFFF) + b"IDAT" + bytes(50),
            PNG + header + chunk(b"IEND", b""),
            png(8, 8, rows, bits=rng.choice([3, 32]), colour=rng.choice([0, 1, 5, 7])),
            png(8, 8, rows, chunk(b"PLTE", b"abcd"), colour=3, bits=8),
            png(0, 8, rows),
            png(8, 8, rows[:-5]),
            png(8, 8, zlib.compress(b"\x09" * 200)),
            png(8, 8, rows, chunk(b"acTL", struct.pack(">II", 2**31, 0))),
        ]
    )


def tiff(*entries: tuple[int, int, int, int], following: int = 0, tail: bytes = b"") -> bytes:
    """A little-endian TIFF of one folder of tags: (tag, type, count, value or offset)."""
    folder = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    return head + folder + struct.pack("<I", following) + tail


def tiff_lies(rng: random.Random) -> bytes:
    """A TIFF whose folders form a circle, whose tiles are gigabytes, or whose tags point outside."""
    base = [(256, 4, 1, 10), (257, 4, 1, 10), (258, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    packing = (259, 3, 1, rng.choice([1, 5, 8, 7, 32773, 4, 9999]))
    strip, tail = [(273, 4, 1, 300), (279, 4, 1, 100), (278, 4, 1, 10)], bytes(600)
    big = rng.choice([40_000, 65_536, 2**31 - 1])
    return rng.choice(
        [
            tiff(*base, packing, *strip, following=8, tail=tail),
            tiff(
                *base,
                packing,
                (322, 4, 1, big),
                (323, 4, 1, big),
                (324, 4, 1, 300),
                (325, 4, 1, 100),
                tail=tail,
            ),
            tiff(*base, packing, (273, 4, 50_000, 200), (279, 4, 50_000, 200), tail=bytes(201_000)),
            tiff(*base, packing, *strip, (34665, 4, 1, 8), (330, 4, 1, 8), tail=tail),
            tiff(*base, packing, *strip, *((40_000 + n, 1, 2**32 - 1, 100) for n in range(500)), tail=tail),
            tiff((256, 4, 1, 2**32 - 1), (257, 4, 1, 2**32 - 1), *base[2:], packing, *strip, tail=tail),
            tiff((256, 4, 1, 2**31), (257, 4, 1, 0), *base[2:], packing, *strip, tail=tail),
            tiff((256, 2, 4, 0x41414141), *base[1:], packing, *strip, tail=tail),
            tiff(*base, packing, tail=tail),
            tiff(*base, (259, 3, 1, 1), (273, 4, 1, 2**32 - 1), (279, 4, 1, 2**32 - 1), tail=tail),
            b"II*\0" + struct.pack("<I", rng.choice([0, 4, 2**32 - 1])),
            b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**63),
        ]
    )


def gif_lies(rng: random.Random) -> bytes:
    """A GIF without a picture, with thousands of comments, or whose frame is larger than its screen."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 5, 5, 0x80, 0, 0) + bytes(6)
    codes = b"\x02\x02\x4c\x01\x00"
    far, huge = (
        struct.pack("<HHHHB", 65_000, 65_000, 500, 500, 0),
        struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0),
    )
    return rng.choice(
        [
            screen + b"!\xfe\x03abc\0" * 20_000 + b";",
            screen + bytes(100_000),
            screen + b"," + far + codes + b";",
            screen + b"," + huge + codes + b";",
            screen
            + b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0" * 5000
            + b","
            + struct.pack("<HHHHB", 0, 0, 5, 5, 0)
            + codes,
            screen + b"," + struct.pack("<HHHHB", 0, 0, 0, 0, 0) + codes + b";",
            screen + b"!\xf9\x04",
            b"GIF89a",
        ]
    )


def webp_lies(rng: random.Random) -> bytes:
    """A WebP whose canvas is gigapixels, whose chunks are shorter or longer than they say, or without a picture."""
    data = encoded(picture(rng), "WEBP", lossless=rng.random() < 0.5)
    canvas = struct.pack("<I", rng.choice([16_000, 65_534, 0]))[:3]
    extended = (
        b"VP8X" + struct.pack("<I", 10) + bytes([rng.choice([0, 2, 0x3E])]) + bytes(3) + canvas + canvas
    )
    broken = bytearray(data)
    broken[rng.randint(12, min(40, len(data) - 1))] ^= rng.randint(1, 255)
    return rng.choice(
        [
            data[:12] + extended + data[12:],
            data[:16] + struct.pack("<I", 2**32 - 2) + data[20:],
            data[:4] + struct.pack("<I", 4) + data[8:],
            data[:12] + b"ICCP" + struct.pack("<I", 100_000) + data[12:],
            data[:12],
            bytes(broken),
        ]
    )


def bmp_lies(rng: random.Random) -> bytes:
    """A BMP with an impossible header, or whose runs leave the picture."""
    size = rng.choice([(5, 5), (-5, 5), (5, -5), (2**31 - 1, 2**31 - 1), (0, 0), (3_000_000, 1)])
    bits, packing = rng.choice(
        [(1, 0), (4, 2), (8, 1), (8, 1), (8, 1), (16, 3), (24, 0), (32, 0), (7, 0), (24, 9)]
    )
    body = rng.choice(
        [b"\0\2\0\xff" * 30, b"\0\2\xff\xff" * 30, b"\xff\x01" * 300, b"\0\0" * 3000, bytes(200)]
    )
    colours = rng.choice([0, 256, 2**31])
    header = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, packing, len(body), 0, 0, colours, 0)
    palette = bytes(1024) if bits <= 8 else b""
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + header + palette + body


def ppm_lies(rng: random.Random) -> bytes:
    """A PPM with an impossible header, hundreds of thousands of comments, or too few pixels."""
    return rng.choice(
        [
            b"P1\n5 5\n" + b"#\n" * 200_000,
            b"P3\n7000 7000\n255\n" + b"1 " * 1000,
            b"P3\n2 2\n255\n" + b"9" * 100_000,
            b"P6\n99999999 99999999\n255\n" + bytes(10),
            b"P6\n5 5\n0\n" + bytes(75),
            b"P6\n5 5\n65536\n" + bytes(150),
            b"P5\n5 5\n7\n" + bytes(25),
            b"P6\n-5 5\n255\n" + bytes(75),
            b"P6\n" + b" " * 100_000,
            b"P6\n#" + b"x" * 100_000,
            b"P2\n3 1\n255\n1 2 -3\n",
            b"P7\nWIDTH 5\nENDHDR\n",
        ]
    )
