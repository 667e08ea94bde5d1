"""Files of others: only regular files are read, with a limit, and text and JSON are checked."""

from __future__ import annotations

import codecs
import errno
import json
import os
import stat
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from zs3.addresses import checked_scheme, is_web, local_path, read_web

MAX_TEXT_BYTES = 256 << 20
"""Largest file of settings, names or ids that is read; a million ids take some 40 MB."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


def filesystem_of(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a local path, as it is written, or of a uri, and the path in it.

    fsspec's own `url_to_fs` splits names at `::`.

    Raises:
        ValueError: the scheme is not read (`addresses`), or its driver is missing.
    """
    path = local_path(uri)
    if path is not None:
        return fsspec.filesystem("file"), os.path.normpath(Path(path).expanduser().absolute())
    scheme = checked_scheme(uri)
    try:
        kind = fsspec.get_filesystem_class(scheme)
        return fsspec.filesystem(scheme, **kind._get_kwargs_from_urls(uri)), kind._strip_protocol(uri)
    except (ValueError, ImportError) as error:
        raise ValueError(
            f"cannot open {uri!r}: {error}; expected a local path or a uri such as s3://bucket/folder"
        ) from error


def open_local(path: str) -> IO[bytes]:
    """A regular file of this machine, to be read; symbolic links are followed.

    Pipes, for which a reader would wait, and devices such as /dev/zero, which never end, are refused.

    Raises:
        OSError: it does not exist, is not a regular file, or cannot be read.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "is not a regular file", path)
    return file


def read_file(uri: str, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """The whole content of a regular file or an object, of which not more than `max_bytes` and one are read.

    Args:
        uri: local path or uri.

    Raises:
        OSError: it does not exist, is not a regular file, or cannot be read.
        ValueError: it has more bytes.
    """
    content = first_bytes(uri, max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(
            f"{uri} has more than the {max_bytes} bytes that are read of such a file; is it the right one?"
        )
    return content


def first_bytes(uri: str, count: int) -> bytes:
    """The first bytes of a regular file or an object.

    Raises:
        OSError: as of `read_file`.
    """
    if is_web(uri):
        return read_web(uri, count - 1)
    filesystem, path = filesystem_of(uri)
    if not isinstance(filesystem, LocalFileSystem):
        with filesystem.open(path, "rb") as file:
            return bytes(file.read(count))
    with open_local(path) as file:
        # Python takes memory for all bytes that are asked for.
        return file.read(min(count, os.fstat(file.fileno()).st_size + 1))


def decoded(data: bytes, origin: str) -> str:
    """The text of a file: UTF-8, or what its byte order mark tells.

    Args:
        origin: what messages call the file.

    Raises:
        ValueError: it is in another encoding, or is no text.
    """
    encoding = next((name for mark, name in _BOMS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{origin}, line {line}: byte {data[error.start]:#04x} is not {encoding.upper()} text; save the file as "
            "UTF-8"
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"{origin}, line {line}: a zero byte is no text; save the file as UTF-8")
    return text


def parsed_json(data: bytes, origin: str, repair: str = "") -> Any:
    """The value in a file of JSON.

    Args:
        origin: what messages call the file.
        repair: what the user should do if it is damaged; the caller's own message may say it.

    Raises:
        ValueError: it is no text, no JSON, or nested more deeply than Python can read.
    """
    text = decoded(data, origin)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        problem = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{origin} is not valid JSON: {problem}{repair and f'; {repair}'}") from error
