"""Lists the images of a source: a folder, a glob, a text file, a Parquet table or one image.

Images come as a stream, page by page, so a bucket of any size fits. The stream may repeat images and has no order;
`pipelines.runs.catalogue` sorts it. Local paths become plain absolute paths; uris keep their scheme (`s3://`, `gs://`).
"""

from __future__ import annotations

import functools
import io
import itertools
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
from fsspec.utils import glob_translate

from pipelines.storage.objects import describe_error, open_file, uri_of, with_retries
from zs3.addresses import local_path
from zs3.files import filesystem_of, open_local
from zs3.images.formats import FIRST_BYTES, IMAGE_SUFFIXES, begins_image, names_image
from zs3.wording import shortened

LISTED = pa.schema({"uri": pa.string(), "etag": pa.string()})
"""An image of a source. etag identifies its content without reading it: the store's ETag, or size and time of
modification; empty where the source gives neither."""

ROWS_PER_BATCH = 8192

OPENED_AT_ONCE = 64
"""Files that are opened together, where their names do not tell whether they are images."""

MAX_KINDS = 20
"""Kinds of other files that are counted one by one; the rest are counted together."""

REST = "others"

MAX_LINE = 1 << 16
"""Bytes of a line of a list; keys of object stores have at most 1024."""

WILDCARDS = "*?["


def listed_images(
    source: str, other_files: Counter[str] | None = None
) -> tuple[str, Iterator[pa.RecordBatch]]:
    """The root folder of a source (empty where it has none), and its images as batches of `LISTED`.

    Args:
        source: a folder (searched with its subfolders), a glob, a `.txt` file of uris (one per line, relative to the
            file's folder), a `.parquet` file or folder with a column `uri` and maybe `etag`, or one image.
        other_files: gets, while the stream is read, the number of files of each extension in a folder that are no
            images; "" counts those without one, `REST` those of kinds beyond `MAX_KINDS`.

    Raises:
        FileNotFoundError: the source does not exist.
        ValueError: it is of no known kind; raised while the stream is read: it names no image.
    """
    filesystem, path = filesystem_of(source)
    empty_list = f"{source!r} lists no image; expected one uri a line, or a column 'uri' that is not empty"
    if source.endswith(".parquet") and (filesystem.isfile(path) or filesystem.isdir(path)):
        return "", _batches(_images_in_parquet(source, filesystem, path), empty_list)
    if filesystem.isdir(path):
        others = Counter() if other_files is None else other_files
        return uri_of(filesystem, path), _batches(_images_in_folder(source, filesystem, path, others))
    if filesystem.exists(path):
        if local_path(source) is not None and not filesystem.isfile(path):
            raise ValueError(
                f"{source!r} is a pipe or a device; expected a folder, a glob, or a regular file"
            )
        suffix = PurePosixPath(path).suffix.lower()
        if suffix == ".txt":
            return "", _batches(_images_in_text(filesystem, path), empty_list)
        if suffix in IMAGE_SUFFIXES:
            return "", _batches([(uri_of(filesystem, path), _etag(filesystem.info(path)))])
        raise ValueError(
            f"{source!r} is a file of kind {suffix or 'unknown'!r}; expected a folder, a glob, an image, "
            f".txt or .parquet"
        )
    if any(mark in source for mark in WILDCARDS):
        no_match = f"no file matches {source!r}; is its folder right, and the glob quoted?"
        return "", _batches(_images_of_glob(filesystem, path), no_match)
    raise FileNotFoundError(
        f"{source!r} does not exist; expected a folder, a glob, a .txt file of uris or a .parquet table"
    )


_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
"""Types of a column of uris; one without a value has none."""

Images = Iterator[tuple[str, str]]
"""The uri and etag of each image."""


def _batches(images: Iterable[tuple[str, str]], no_image: str = "") -> Iterator[pa.RecordBatch]:
    """Images in batches."""
    stream, empty = iter(images), True
    while block := list(itertools.islice(stream, ROWS_PER_BATCH)):
        empty = False
        uris = [_utf8(uri) for uri, _ in block]
        yield pa.RecordBatch.from_arrays(
            [pa.array(uris, pa.string()), pa.array([etag for _, etag in block], pa.string())], schema=LISTED
        )
    if empty:
        raise ValueError(no_image)


def _utf8(name: str) -> str:
    """A name as valid text: bytes that are not UTF-8 are escaped, so that reading the file becomes a failure."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def files_in_words(other_files: Mapping[str, int], most: int = 5) -> str:
    """The most frequent kinds of files that are no images, as `12 of kind .json, 3 without extension`."""
    counts = sorted(other_files.items(), key=lambda entry: -entry[1])
    words = {"": "without extension", REST: "of further kinds"}
    parts = [f"{count:,} {words.get(kind, f'of kind {kind}')}" for kind, count in counts[:most]]
    rest = sum(count for _, count in counts[most:])
    return ", ".join([*parts, *([f"{rest:,} of further kinds"] if rest else [])])


def _images_in_folder(
    source: str, filesystem: fsspec.AbstractFileSystem, path: str, other_files: Counter[str]
) -> Images:
    """Images below a folder, without hidden files and folders."""
    empty = True
    for name, info, is_image in _told_apart(filesystem, _visible_files(filesystem, path)):
        if is_image:
            empty = False
            yield uri_of(filesystem, name), _etag(info)
        else:
            kind = "" if names_image(name) is None else PurePosixPath(name).suffix.lower()
            other_files[kind if kind in other_files or len(other_files) < MAX_KINDS else REST] += 1
    if empty:
        raise ValueError(
            f"no image below {source!r} (it holds {files_in_words(other_files) or 'nothing at all'}); expected files "
            "such as .jpg, .png, .webp or .tif"
        )


Files = Iterator[tuple[str, dict[str, Any]]]
"""The path and the metadata of each file."""


def _told_apart(
    filesystem: fsspec.AbstractFileSystem, files: Files
) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Each file with whether it is an image; some files are opened together where their names do not tell."""
    unknown: list[tuple[str, dict[str, Any]]] = []

    def opened() -> Iterator[tuple[str, dict[str, Any], bool]]:
        with ThreadPoolExecutor(OPENED_AT_ONCE) as pool:
            beginnings = pool.map(lambda file: _beginning(filesystem, *file), unknown)
            yield from ((*file, begins_image(first)) for file, first in zip(unknown, beginnings, strict=True))
        unknown.clear()

    for name, info in files:
        if (is_image := names_image(name)) is not None:
            yield name, info, is_image
            continue
        unknown.append((name, info))
        if len(unknown) == OPENED_AT_ONCE:
            yield from opened()
    if unknown:
        yield from opened()


def _beginning(filesystem: fsspec.AbstractFileSystem, name: str, info: Mapping[str, Any]) -> bytes:
    """The first bytes of a file; none where it cannot be read."""
    if not info.get(
        "size", info.get("Size")
    ):  # also a broken link; stores refuse to read a part of an empty file
        return b""
    try:
        if "file" in _protocols(filesystem):
            with open_local(name) as file:
                return file.read(FIRST_BYTES)
        return bytes(
            with_retries(
                lambda: filesystem.cat_file(name, start=0, end=FIRST_BYTES), uri_of(filesystem, name)
            )
        )
    except OSError:
        return b""


def _images_of_glob(filesystem: fsspec.AbstractFileSystem, path: str) -> Images:
    """Files that match a pattern, without hidden ones."""
    if _is_s3(filesystem):
        pattern = re.compile(glob_translate(path))
        folder = path[: min(path.find(mark) for mark in WILDCARDS if mark in path)].rpartition("/")[0]
        matching = (pair for pair in _s3_keys(filesystem, folder) if pattern.match(pair[0]))
    else:
        names = (name for name in filesystem.glob(path) if not filesystem.isdir(name))
        matching = ((str(name), _info(filesystem, name)) for name in names)
    for name, info in matching:
        if not PurePosixPath(name).name.startswith("."):
            yield uri_of(filesystem, name), _etag(info)


def _images_in_text(filesystem: fsspec.AbstractFileSystem, path: str) -> Images:
    """The uris in a text file, one per line; blank lines are skipped, relative paths start at the file's folder."""
    folder = uri_of(filesystem, path).rpartition("/")[0]
    with open_file(uri_of(filesystem, path)) as raw, io.BufferedReader(raw) as file:  # type: ignore[type-var]
        for number, line in enumerate(iter(functools.partial(file.readline, MAX_LINE + 1), b""), 1):
            origin = f"list {uri_of(filesystem, path)!r}, line {number}"
            if len(line) > MAX_LINE:
                raise ValueError(f"{origin} has more than {MAX_LINE} bytes; expected one uri a line")
            try:
                name = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{origin}: {shortened(line)} is not UTF-8 text; save the list as UTF-8"
                ) from error
            if name:
                yield _absolute_uri(name, folder), ""


def _images_in_parquet(source: str, filesystem: fsspec.AbstractFileSystem, path: str) -> Images:
    """The columns `uri` and `etag` of a Parquet file or folder."""
    try:
        dataset = pyarrow.dataset.dataset(path, filesystem=filesystem, format="parquet")
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{source!r} is no Parquet table: {describe_error(error)}; write it again"
        ) from error
    if "uri" not in dataset.schema.names:
        raise ValueError(f"{source!r} has the columns {dataset.schema.names}; expected one named 'uri'")
    kind = dataset.schema.field("uri").type
    text = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not any(is_kind(text) for is_kind in _TEXTS):
        raise ValueError(f"{source!r} has a column 'uri' of the type {kind}; expected texts, one uri each")
    folder = uri_of(filesystem, path).rpartition("/")[0]
    columns = [name for name in LISTED.names if name in dataset.schema.names]
    for (
        name
    ) in dataset.files:  # one by one: after an error, threads of the dataset abort the process when it ends
        try:
            with open_file(uri_of(filesystem, name)) as file:
                table = pq.ParquetFile(file)
                known = [column for column in columns if column in table.schema_arrow.names]
                for batch in table.iter_batches(ROWS_PER_BATCH, columns=known):
                    for row in batch.to_pylist():
                        if row.get("uri"):
                            yield _absolute_uri(row["uri"], folder), str(row.get("etag") or "")
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(
                f"{uri_of(filesystem, name)!r} is damaged: {describe_error(error)}; write it again"
            ) from error


def _absolute_uri(name: str, folder: str) -> str:
    """A name with a scheme or a leading slash as it is; another one below the folder of its listing."""
    uri = name if "://" in name or name.startswith("/") else f"{folder}/{name}"
    path = local_path(uri)
    return uri if path is None else os.path.normpath(path)


def _visible_files(filesystem: fsspec.AbstractFileSystem, path: str) -> Files:
    """Every file below a folder that is not hidden, with its metadata."""
    if _is_s3(filesystem):
        files = _s3_keys(filesystem, path)
    elif "file" in _protocols(filesystem):
        files = _local_files(path)
    else:
        files = iter(filesystem.find(path, detail=True).items())
    return (pair for pair in files if "/." not in pair[0].removeprefix(path))


def _local_files(folder: str) -> Files:
    """Files below a local folder, one folder at a time.

    Links are followed. A folder is listed once, wherever links lead: under its own path before any link's, and under
    the first of several links.
    """
    folders, links, visited = [folder], list[str](), set[tuple[int, int]]()
    while folders or links:
        if not folders:
            links.remove(first := min(links))
            folders.append(first)
        status = os.stat(current := folders.pop())  # noqa: PTH116 -- a Path of each folder costs more than its listing
        if (place := (status.st_dev, status.st_ino)) in visited:
            continue
        visited.add(place)
        with os.scandir(current) as entries:
            for entry in entries:
                if _is_folder(entry):
                    if not entry.name.startswith("."):
                        (links if entry.is_symlink() else folders).append(entry.path)
                    continue
                try:
                    status = entry.stat()
                except OSError:  # a broken or circular link: reading it becomes a failure
                    yield entry.path, {}
                    continue
                if not stat.S_ISDIR(status.st_mode):
                    yield entry.path, {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; a circular link is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _s3_keys(filesystem: Any, path: str) -> Files:
    """Keys of a bucket below a prefix, page by page; `find` would keep all of them in memory."""
    bucket, _, prefix = path.strip("/").partition("/")
    arguments = {"Bucket": bucket, "Prefix": f"{prefix.rstrip('/')}/" if prefix else ""}
    while True:
        page = with_retries(lambda: filesystem.call_s3("list_objects_v2", **arguments), f"s3://{bucket}")
        for entry in page.get("Contents", ()):
            if not entry["Key"].endswith("/"):
                yield f"{bucket}/{entry['Key']}", entry
        if not page.get("IsTruncated"):
            return
        arguments["ContinuationToken"] = page["NextContinuationToken"]


def _info(filesystem: fsspec.AbstractFileSystem, name: str) -> dict[str, Any]:
    """The metadata of a file; empty for a broken or circular link, whose reading becomes a failure."""
    try:
        return dict(filesystem.info(name))
    except OSError:
        return {}


def _etag(info: dict[str, Any]) -> str:
    """The store's checksum of a file, or else its size and time of modification; empty where there is neither."""
    for key in ("ETag", "etag", "md5Hash", "content_md5"):
        if info.get(key):
            return str(info[key]).strip('"')
    if "mtime_ns" in info:
        return f"{info['size']}-{info['mtime_ns']}"
    if "mtime" in info and "ino" in info:  # fsspec's own listing of this machine, whose times are floats
        path = info["name"]
        status = Path(path).stat() if Path(path).exists() else None
        return f"{status.st_size}-{status.st_mtime_ns}" if status else ""
    return ""


def _is_s3(filesystem: Any) -> bool:
    return "s3" in _protocols(filesystem) and hasattr(filesystem, "call_s3")


def _protocols(filesystem: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
