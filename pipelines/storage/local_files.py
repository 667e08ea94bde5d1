"""Reading a file of this machine without being held up by what only looks like one."""

from __future__ import annotations

import errno
import os
import stat


class FileTooLargeError(ValueError):
    """A file of more bytes than any picture that would be decoded."""

    kind = "too_large"


def refuse_large(uri: str, size: int | None, most: int | None) -> None:
    """Refuse a file before it is read.

    Args:
        size: in bytes, where it is known.
        most: bytes that may be read; none allows all.

    Raises:
        FileTooLargeError: it has more.
    """
    if most is not None and size is not None and size > most:
        raise FileTooLargeError(
            f"{uri} has {size} bytes, more than the {most} that are read of a picture; raise --max-pixels, which that "
            "follows from, or leave the file out"
        )


def read_local(path: str, most: int | None = None) -> bytes:
    """The whole content of a regular file, links followed.

    A pipe would be waited for, and a device such as /dev/zero never ends: both are refused.

    Args:
        most: as of `refuse_large`.

    Raises:
        OSError: it is not there, is no regular file, or cannot be read.
        FileTooLargeError: it has more bytes than may be read.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "is no regular file", path)
        refuse_large(path, os.fstat(file.fileno()).st_size, most)
        return file.read()


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
