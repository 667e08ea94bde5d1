"""Reading a file of this machine without being held up by what only looks like one."""

from __future__ import annotations

import errno
import os
import stat


def read_local(path: str) -> bytes:
    """The whole content of a regular file, links followed.

    A pipe would be waited for, and a device such as /dev/zero never ends: both are refused.

    Raises:
        OSError: it is not there, is no regular file, or cannot be read.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "is no regular file", path)
        return file.read()


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
