"""Where images come from: the listing of a folder, a glob, a text file or a Parquet table, and reading one of
them.

Paths on this machine stay plain absolute paths; all else keeps its scheme (`s3://`, `gs://`, …). Credentials
and endpoints come from the environment alone, so nothing secret travels in a task.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs

from zs3.images import decode, image_ids
from zs3.tables import FAILURES, failure_row

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2"}
)
"""What counts as an image in a folder; globs and lists are taken as they are."""

ARROW_SCHEMES = frozenset({"s3", "gs"})
"""Object stores that Arrow reads several times faster than fsspec (440 against 160 objects a second)."""

READS_AT_ONCE = 8
"""Files that one task reads at the same time; object stores answer late, not slowly."""

PIXELS = pa.schema(
    {
        "image_id": pa.string(),
        "uri": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "pixels": pa.large_binary(),
        "failures": pa.list_(pa.struct(list(FAILURES))),
    }
)
"""A decoded image on its way to an actor: the bytes of (H, W, 3) uint8 RGB, or one row of `failures` and no
pixels."""


def list_images(source: str, limit: int | None = None) -> list[tuple[str, str]]:
    """(image id, uri) of every image that `source` names, in order of their uris, the first `limit` of them.

    An id is the file name without folder and extension where those are unique in the whole listing; otherwise
    every id is the path relative to the listing's root: the folder itself, or the deepest folder that holds
    all. The limit is applied last, so it changes no id.

    Args:
        source: a folder (searched with its subfolders), a glob, a `.txt` file of uris (one a line, relative
            to the file's folder), a `.parquet` file or folder with a column `uri`, or one image.
        limit: how many images to take; none takes all.

    Raises:
        ValueError: nothing is there, no image is among it, or the limit is not positive.
        FileNotFoundError: the source does not exist.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; expected at least 1, or leave it out to take every image")
    root, uris = _uris(source)
    uris = sorted(set(uris))
    folder = root or _common_folder(uris)
    ids = image_ids([uri.removeprefix(folder).lstrip("/") for uri in uris])
    return list(zip(ids, uris, strict=True))[:limit]


def read_bytes(uri: str) -> bytes:
    """The whole content of one file.

    Raises:
        OSError: it is not there or cannot be read.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return Path(uri).read_bytes()
    if scheme in ARROW_SCHEMES:
        with _arrow_filesystem(scheme, rest.partition("/")[0]).open_input_stream(rest) as stream:
            return bytes(stream.read())
    with fsspec.open(uri, "rb") as file:
        return bytes(file.read())


def read_and_decode(refs: pa.Table, *, max_pixels: int, run: str) -> Iterator[pa.Table]:
    """One table of one row (`PIXELS`) per image, one at a time, so that memory stays with one picture.

    Args:
        refs: columns image_id and uri.
        max_pixels: pictures of more pixels are refused before they are decoded.
        run: digest that failure rows carry.
    """
    pairs = list(zip(refs["image_id"].to_pylist(), refs["uri"].to_pylist(), strict=True))
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        contents = pool.map(_content, (uri for _, uri in pairs))
        for (image_id, uri), content in zip(pairs, contents, strict=True):
            row: dict[str, Any] = {"image_id": image_id, "uri": uri, "height": 0, "width": 0, "pixels": b""}
            try:
                if isinstance(content, Exception):
                    raise content
                pixels_HW3 = decode(content, max_pixels=max_pixels)
                row |= {
                    "height": pixels_HW3.shape[0],
                    "width": pixels_HW3.shape[1],
                    "pixels": pixels_HW3.tobytes(),
                }
                row["failures"] = []
            except Exception as error:  # whatever is wrong with one file must not stop the others
                stage = "read" if isinstance(content, Exception) else "decode"
                row["failures"] = [failure_row(image_id, uri, stage, error, run)]
            yield pa.Table.from_pylist([row], schema=PIXELS)


def _content(uri: str) -> bytes | Exception:
    """The content of a file, or why there is none."""
    try:
        return read_bytes(uri)
    except Exception as error:  # each storage library raises its own
        return error


@functools.cache
def _arrow_filesystem(scheme: str, bucket: str) -> pyarrow.fs.FileSystem:
    """One connection pool per process and bucket."""
    return pyarrow.fs.FileSystem.from_uri(f"{scheme}://{bucket}")[0]


def _uris(source: str) -> tuple[str, list[str]]:
    """The listing's root (empty if it has none of its own) and the uris in it."""
    filesystem, path = filesystem_of(source)
    if source.endswith(".parquet") and filesystem.exists(path):
        return "", _parquet_uris(source, filesystem, path)
    if filesystem.isdir(path):
        return uri_of(filesystem, path), _folder_uris(source, filesystem, path)
    if filesystem.exists(path):
        suffix = PurePosixPath(path).suffix.lower()
        if suffix == ".txt":
            return "", _text_uris(source, filesystem, path)
        if suffix in IMAGE_SUFFIXES:
            return "", [uri_of(filesystem, path)]
        raise ValueError(
            f"{source!r} is a file of kind {suffix or 'unknown'!r}; expected a folder, a glob, an image, "
            f".txt or .parquet"
        )
    if any(mark in source for mark in "*?["):
        found = [name for name in filesystem.glob(path) if not PurePosixPath(name).name.startswith(".")]
        uris = [uri_of(filesystem, name) for name in found if not filesystem.isdir(name)]
        if not uris:
            raise ValueError(f"no file matches {source!r}; is its folder right, and the glob quoted?")
        return "", uris
    raise FileNotFoundError(
        f"{source!r} does not exist; expected a folder, a glob, a .txt file of uris or a .parquet table"
    )


def _folder_uris(source: str, filesystem: fsspec.AbstractFileSystem, path: str) -> list[str]:
    """Images below a folder, hidden files and folders left out."""
    found = [name for name in filesystem.find(path) if "/." not in name.removeprefix(path)]
    images = [
        uri_of(filesystem, name) for name in found if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES
    ]
    if not images:
        kinds = Counter(PurePosixPath(name).suffix.lower() or "none" for name in found).most_common(3)
        seen = ", ".join(f"{count} of kind {kind}" for kind, count in kinds) or "nothing at all"
        raise ValueError(
            f"no image below {source!r} (it holds {seen}); expected files such as .jpg, .png, .webp or .tif"
        )
    return images


def _text_uris(source: str, filesystem: fsspec.AbstractFileSystem, path: str) -> list[str]:
    """Uris of a text file, one a line; blank lines are skipped, relative paths start at the file's folder."""
    lines = [line.strip() for line in filesystem.cat_file(path).decode("utf-8-sig").splitlines()]
    return _anchored(source, [line for line in lines if line], uri_of(filesystem, path))


def _parquet_uris(source: str, filesystem: fsspec.AbstractFileSystem, path: str) -> list[str]:
    """The column `uri` of a Parquet file or folder."""
    dataset = pyarrow.dataset.dataset(path, filesystem=filesystem, format="parquet")
    if "uri" not in dataset.schema.names:
        raise ValueError(f"{source!r} has the columns {dataset.schema.names}; expected one named 'uri'")
    values = dataset.to_table(columns=["uri"])["uri"].to_pylist()
    return _anchored(source, [value for value in values if value], uri_of(filesystem, path))


def _anchored(source: str, names: list[str], listing: str) -> list[str]:
    """Names as uris: those with a scheme or a leading slash as they are, others below the listing's
    folder."""
    if not names:
        raise ValueError(
            f"{source!r} lists no image; expected one uri a line, or a column 'uri' that is not empty"
        )
    folder = listing.rpartition("/")[0]
    below = [name if "://" in name or name.startswith("/") else f"{folder}/{name}" for name in names]
    return [
        name if "://" in name else os.path.normpath(name)
        for name in (n.removeprefix("file://") for n in below)
    ]


def filesystem_of(source: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a uri and the path in it; a missing driver is named."""
    if "://" not in source:
        source = str(Path(source).expanduser().absolute())
    try:
        filesystem, path = fsspec.core.url_to_fs(os.path.normpath(source) if "://" not in source else source)
    except (ValueError, ImportError) as error:
        raise ValueError(
            f"cannot open {source!r}: {error}; expected a local path or a uri such as s3://bucket/folder"
        ) from error
    return filesystem, path


def uri_of(filesystem: fsspec.AbstractFileSystem, path: str) -> str:
    """A path of a file system as the uri that workers open."""
    return str(filesystem.unstrip_protocol(path)).removeprefix("file://")


def _common_folder(uris: list[str]) -> str:
    """The deepest folder that holds every uri."""
    folders = [uri.split("/")[:-1] for uri in uris]
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*folders))
    return "/".join(parts[0] for parts in shared)
