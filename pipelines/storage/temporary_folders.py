"""Folders of this user in the folder for temporary files, which other users write to as well.

A folder is used only if it is private: a true folder of this user that nobody else can enter. Only files that are
provably of this program are removed there.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

MAX_AGE_S = 7 * 24 * 3600
"""Age in seconds after which the folders of a run that was killed are removed."""


def private_folder(path: Path) -> Path:
    """Make a folder that only this user can enter, or check the one that is there; returns it.

    Raises:
        PermissionError: it is a link, or another user owns it or can enter it.
    """
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or not _is_private(status):
        raise PermissionError(
            f"{path} is no private folder of this user (a link, or others may enter it); remove it, or set TMPDIR to a "
            "folder of your own"
        )
    return path


def lock_folder(path: Path) -> int:
    """Keep `remove_old_folders` from a folder until the returned file descriptor is closed or the process ends."""
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def remove_old_folders(prefix: str, names: re.Pattern[str], parent: Path | None = None) -> None:
    """Remove the folders of runs that were killed more than `MAX_AGE_S` ago.

    Args:
        prefix: of their names.
        names, parent: as for `remove_folder`; by default the parent is the folder for temporary files.
    """
    for path in (parent or Path(tempfile.gettempdir())).glob(f"{prefix}*"):
        with suppress(OSError):
            if time.time() - path.lstat().st_mtime <= MAX_AGE_S:
                continue
            file = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held while the run lives
                remove_folder(path, names)
            finally:
                os.close(file)


def remove_folder(path: Path, names: re.Pattern[str]) -> None:
    """Remove a private folder with its files and its private subfolders; whatever else is in it stays, and so does it.

    Args:
        names: of its files, matched in full. Only regular files of this user are removed.
    """
    with suppress(OSError):
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if not _is_private(os.fstat(folder)):
                return
            _empty(folder, names)
        finally:
            os.close(folder)
        path.rmdir()


def _empty(folder: int, names: re.Pattern[str]) -> None:
    """Remove the files of an open folder. Names are looked up in it, so a link that takes its place leads nowhere."""
    for name in os.listdir(folder):
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if status.st_uid != os.getuid():
            continue
        if stat.S_ISREG(status.st_mode) and names.fullmatch(name):
            os.unlink(name, dir_fd=folder)
        elif stat.S_ISDIR(status.st_mode) and _is_private(status):
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            try:
                _empty(inner, names)
            finally:
                os.close(inner)
            with suppress(OSError):
                os.rmdir(name, dir_fd=folder)


def _is_private(status: os.stat_result) -> bool:
    return status.st_uid == os.getuid() and not status.st_mode & 0o077
