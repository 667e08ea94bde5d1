"""A thousand hostile images from a seed: damaged, lying, odd and badly named, as a crawl of the web holds them.

Every class of damage is a function of a random generator that gives a file; names are a class of their own. The same
seed gives the same files.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.support import hostile_formats as formats
from tests.support.hostile_formats import PNG, encoded, picture, valid

FORMATS = {
    "jpg": "JPEG",
    "png": "PNG",
    "gif": "GIF",
    "webp": "WEBP",
    "bmp": "BMP",
    "tif": "TIFF",
    "ppm": "PPM",
}

Maker = Callable[[random.Random], bytes]


def write_hostile_images(folder: Path, *, seed: int = 0, count: int = 1000) -> list[Path]:
    """Write images into a folder, one of each class in turn, and give their paths; a tenth has a hostile name too."""
    paths = []
    for index in range(count):
        kind, make = list(CLASSES.items())[index % len(CLASSES)]
        rng = random.Random(f"{seed} {index}")
        name = hostile_name(rng, index) if index % 10 == 3 else f"{index:04d} {kind}.{rng.choice([*FORMATS])}"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make(rng))
        paths.append(path)
    return paths


def write_special_files(folder: Path) -> list[Path]:
    """Entries that look like images by their names and are no files, or none that can be read."""
    folder.mkdir(parents=True, exist_ok=True)
    loop, other, gone = folder / "loop.jpg", folder / "other loop.jpg", folder / "dangling.png"
    loop.symlink_to(other)
    other.symlink_to(loop)
    gone.symlink_to(folder / "nowhere.png")
    (folder / "folder.jpg").mkdir()
    locked = folder / "locked.png"
    locked.write_bytes(valid(random.Random(0), "PNG"))
    locked.chmod(0)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zeros.bmp").symlink_to("/dev/zero")
    (folder / "terminal.gif").symlink_to("/dev/null")
    (folder / "parent.jpg").symlink_to(folder)
    return sorted(folder.iterdir())


def hostile_name(rng: random.Random, index: int) -> str:
    """A relative path that ends in an image's suffix, unlike any other of this index."""
    stems = [
        "with  spaces ", "it's \"quoted\"", "new\nline", "tab\tand\rreturn", "grüße 图像 צילום 🦓", "e\u0301 and é",
        "percent%20%2F%00", "#hash?query=1&a=b;", "back\\slash", "$(touch x)`ls`", "-rf", "*[a-z]?{b}", "a:b|c<d>",
        "\u202egpj.exe", "zero\u200bwidth", "'; DROP TABLE labels; --", "=1+1", "null", "..dots..", "x" * 200,
        "ж" * 110, "%s%n%d", "\x7f\x01", "~home", "s3:", "a,b,\"c\"",
    ]  # fmt: skip
    stem = stems[(index // 10) % len(stems)]
    suffix = rng.choice([*FORMATS, "JPG", "JpEg", "TIFF"])
    deep = "/".join([stem[:100] + str(index)] + ["d" * 200] * 4) if index % 100 == 13 else f"names {index}"
    return f"{deep}/{stem}{index}.{suffix}"


def any_valid(rng: random.Random) -> bytes:
    """A sound file of any format, some in the variants of their coder."""
    image_format = rng.choice([*FORMATS.values()])
    options: dict[str, object] = {}
    if image_format == "JPEG":
        options = {"progressive": rng.random() < 0.5, "quality": rng.randint(1, 100)}
    if image_format == "TIFF":
        options = {"compression": rng.choice(["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])}
    if image_format == "WEBP":
        options = {"lossless": rng.random() < 0.5}
    return encoded(picture(rng), image_format, **options)


def cut(rng: random.Random) -> bytes:
    """Cut anywhere: within the signature, the header, the pixels, or just before the end."""
    data = any_valid(rng)
    within = [(1, 8), (8, min(60, len(data))), (len(data) // 4, len(data)), (len(data) - 4, len(data))]
    low, high = rng.choice(within)
    return data[: rng.randint(min(low, high), max(low, high))]


def flipped(rng: random.Random) -> bytes:
    """Some bytes are others."""
    data = bytearray(any_valid(rng))
    for _ in range(rng.randint(1, 20)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def hole(rng: random.Random) -> bytes:
    """A stretch of it is zeros, as after a lost block of a disk."""
    data = bytearray(any_valid(rng))
    start = rng.randrange(len(data))
    length = min(rng.randint(1, 4096), len(data) - start)
    data[start : start + length] = bytes(length)
    return bytes(data)


def spliced(rng: random.Random) -> bytes:
    """The head of one file and the tail of another."""
    head, tail = any_valid(rng), any_valid(rng)
    return head[: rng.randrange(len(head))] + tail[rng.randrange(len(tail)) :]


def doubled(rng: random.Random) -> bytes:
    """Two files in one, or one with a long tail that is no picture."""
    return any_valid(rng) + rng.choice(
        [any_valid, lambda rng: rng.randbytes(9000), lambda rng: bytes(20_000)]
    )(rng)


def no_picture(rng: random.Random) -> bytes:
    """Something else under the name of an image."""
    return rng.choice(
        [
            b"",
            bytes(rng.randint(1, 10_000)),
            rng.randbytes(rng.randint(1, 5000)),
            b"<html><body>404 Not Found</body></html>",
            b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            b"%PDF-1.7\n",
            b"PK\x03\x04" + bytes(200),
            b"\x00\x00\x00\x20ftypavif" + bytes(100),
            b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(100),
            b"\x7fELF" + bytes(100),
            b"\xef\xbb\xbf",
        ]
    )


def wrong_magic(rng: random.Random) -> bytes:
    """The signature of one format before the body of another."""
    signatures = [
        b"\xff\xd8\xff",
        PNG,
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
        b"BM",
        b"II*\0",
        b"MM\0*",
        b"P6",
        b"P1",
    ]
    return rng.choice(signatures) + any_valid(rng)[rng.randint(2, 12) :]


def odd_mode(rng: random.Random) -> bytes:
    """Modes that a labeller meets rarely."""
    modes = {
        "JPEG": ["L", "CMYK"],
        "PNG": ["1", "L", "LA", "P", "RGBA", "I;16"],
        "TIFF": ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"],
        "GIF": ["1", "L", "P"],
        "WEBP": ["RGBA", "L"],
        "BMP": ["1", "L", "P", "RGBA"],
        "PPM": ["1", "L", "I;16"],
    }
    image_format = rng.choice([*modes])
    return encoded(picture(rng, rng.choice(modes[image_format])), image_format)


def animated(rng: random.Random) -> bytes:
    """Many frames, of which the first counts."""
    size = (rng.randint(1, 40), rng.randint(1, 40))
    frames = [picture(rng, size=size) for _ in range(rng.choice([2, 5, 40]))]
    return encoded(
        frames[0], rng.choice(["GIF", "WEBP", "PNG", "TIFF"]), save_all=True, append_images=frames[1:]
    )


def exif_junk(rng: random.Random) -> bytes:
    """Metadata of 64 KB that is noise, lies about its length, or gives an orientation that does not exist."""
    exif = Image.Exif()
    exif[0x0112] = rng.choice([0, 9, 77, 65535, 6])
    exif[0x010E] = "x" * rng.choice([0, 60_000])
    raw = exif.tobytes()
    raw = rng.choice(
        [raw, raw[: rng.randrange(6, len(raw))], b"Exif\0\0" + rng.randbytes(60_000), b"Exif\0\0II*\0"]
    )
    return encoded(picture(rng), rng.choice(["JPEG", "WEBP", "PNG"]), exif=raw)


def profile_junk(rng: random.Random) -> bytes:
    """A colour profile that is noise."""
    profile = rng.choice([b"", rng.randbytes(300), rng.randbytes(90_000), bytes(128)])
    return encoded(picture(rng), rng.choice(["JPEG", "PNG", "WEBP", "TIFF"]), icc_profile=profile)


CLASSES: dict[str, Maker] = {
    "sound": any_valid,
    "cut": cut,
    "flipped": flipped,
    "hole": hole,
    "spliced": spliced,
    "doubled": doubled,
    "no picture": no_picture,
    "wrong magic": wrong_magic,
    "odd mode": odd_mode,
    "animated": animated,
    "exif": exif_junk,
    "profile": profile_junk,
    "jpeg tables": formats.jpeg_tables,
    "jpeg scans": formats.jpeg_many_scans,
    "jpeg bomb": formats.jpeg_bomb,
    "png bomb": formats.png_bomb,
    "png text": formats.png_text,
    "png checksum": formats.png_checksum,
    "tiff": formats.tiff_lies,
    "gif": formats.gif_lies,
    "webp": formats.webp_lies,
    "bmp": formats.bmp_lies,
    "ppm": formats.ppm_lies,
}
"""Class of damage → a maker of files of it. `sound` files have to come out as they are."""
