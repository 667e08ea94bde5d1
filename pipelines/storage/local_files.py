"""Reading local files without blocking on pipes and devices."""

from __future__ import annotations

import errno
import os
import stat


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
    """The whole content of a regular file; symbolic links are followed.

    Pipes, for which a reader would wait, and devices such as /dev/zero, which never end, are refused.

    Raises:
        OSError: it does not exist, is not a regular file, or cannot be read.
        FileTooLargeError: it is larger than `max_bytes`.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", path)
        refuse_large(path, status.st_size, max_bytes)
        return file.read()
