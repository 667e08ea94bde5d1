"""Reading local files without blocking on pipes and devices."""

from __future__ import annotations

import os
from typing import Any

from zs3.files import open_local


class FileTooLargeError(ValueError):
    """A file has more bytes than any picture that would be decoded."""

    kind = "too_large"


def refuse_large(uri: str, size: int | None, max_bytes: int | None) -> None:
    """Refuse a file before it is read.

    Args:
        size: in bytes; None where it is not known.
        max_bytes: None allows any size.

    Raises:
        FileTooLargeError: it is larger than that.
    """
    if max_bytes is not None and size is not None and size > max_bytes:
        raise FileTooLargeError(
            f"{uri} has {size} bytes, more than the {max_bytes} that are read of a picture; raise --max-pixels, from "
            "which that limit follows, or leave the file out"
        )


def read_local(path: str, max_bytes: int | None = None) -> bytes:
    """The whole content of a regular file.

    Raises:
        OSError: as of `zs3.files.open_local`.
        FileTooLargeError: it is larger than `max_bytes`.
    """
    with open_local(path) as file:
        refuse_large(path, os.fstat(file.fileno()).st_size, max_bytes)
        return read_bounded(file, path, max_bytes)


def read_bounded(file: Any, uri: str, max_bytes: int | None) -> bytes:
    """All bytes of an open file, of which not more than `max_bytes` and one are read: sizes may be wrong or change.

    Raises:
        FileTooLargeError: there are more than `max_bytes`.
    """
    content = bytes(file.read() if max_bytes is None else file.read(max_bytes + 1))
    refuse_large(uri, len(content), max_bytes)
    return content
