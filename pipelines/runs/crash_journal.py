"""Images that crash their process: recorded on each machine, and given up after a few crashes.

A crash cannot be caught. Each process therefore writes the images it works on into a file of its own, on which it holds
a lock. The kernel releases the lock of a process that died, so the next process that looks at the file knows.
Ray repeats the work of a lost process: a batch that crashed is then run image by image, and an image that crashed
`MAX_CRASHES` processes alone is given up.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
import tempfile
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipelines.storage.temporary_folders import (
    lock_folder,
    private_folder,
    remove_folder,
    remove_old_folders,
)

MAX_CRASHES = 3
"""Processes that an image may crash, alone, before it is given up."""

MAX_BYTES = 1 << 24
"""Of a journal that is read."""

PREFIX = "zs3-at-work-"
"""Of the folder of a run's journals, which its random id completes."""

_NAMES = re.compile(r"\.?[0-9]+-[0-9a-f]{32}(\.crash)?")


class ImageCrashError(RuntimeError):
    """An image that was given up."""

    kind = "crash"


class CrashJournal:
    """The images that the processes of a run work on, on this machine, and those that they died with.

    Args:
        journal_id: name of the run's journals, new for each run.
        stage: name of the step; an image that crashes one step may pass another.
        root: folder for the folders of runs; by default that for temporary files.

    Raises:
        PermissionError: another user made the folder, or a link has its name.
    """

    def __init__(self, journal_id: str, stage: str, root: Path | None = None) -> None:
        folder = private_folder((root or Path(tempfile.gettempdir())) / f"{PREFIX}{journal_id}")
        self._lock = lock_folder(folder)
        self._folder = private_folder(folder / stage)
        self._name = f"{os.getpid()}-{uuid.uuid4().hex}"
        # Locked before it is visible, or another process might take it for that of a dead process.
        hidden = self._folder / f".{self._name}"
        self._file = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        hidden.rename(self._folder / self._name)
        self._crashes: dict[str, list[str]] = {}

    def enter(self, image_ids: Sequence[str]) -> None:
        """Record that this process now works on these images, and on no others."""
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(list(image_ids)).encode() if image_ids else b"", 0)

    def close(self) -> None:
        """Remove the file of this process."""
        (self._folder / self._name).unlink(missing_ok=True)
        os.close(self._file)
        os.close(self._lock)

    def crashes(self) -> tuple[Counter[str], frozenset[str]]:
        """How many processes each image crashed alone, and the images of all processes that crashed."""
        for path in self._folder.iterdir():
            known = path.name in self._crashes or path.name == self._name
            if not known and not path.name.startswith(".") and _NAMES.fullmatch(path.name):
                self._collect(path)
        alone = Counter(ids[0] for ids in self._crashes.values() if len(ids) == 1)
        return alone, frozenset(image_id for ids in self._crashes.values() for image_id in ids)

    def _collect(self, path: Path) -> None:
        """Read the file of a dead process, and rename it to .crash; leave that of a living one."""
        try:
            file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:  # another process was faster, or it is no file of ours
            return
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
                return
            if path.suffix != ".crash":
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            image_ids = _image_ids(os.pread(file, MAX_BYTES, 0))
            if not image_ids:
                path.unlink(missing_ok=True)
                return
            crash = path.with_suffix(".crash")
            path.rename(crash)
            self._crashes[crash.name] = image_ids
        except (BlockingIOError, FileNotFoundError):
            return
        finally:
            os.close(file)


def crash_error(crashes: int) -> ImageCrashError:
    """The error for an image that was given up."""
    return ImageCrashError(
        f"the process died {crashes} times while it worked on this image alone (a crash, or out of memory); look at "
        "the image, or give the run more memory, and try again with --retry-failures"
    )


def remove_journals(journal_id: str, root: Path | None = None) -> None:
    """Remove the journals of a run that has ended, and old ones of runs that were killed."""
    root = root or Path(tempfile.gettempdir())
    remove_folder(root / f"{PREFIX}{journal_id}", _NAMES)
    remove_old_folders(PREFIX, _NAMES, root)


def _image_ids(content: bytes) -> list[str]:
    """The images of a journal; none where it is damaged, as one that a full disk or a crash cut off."""
    try:
        image_ids = json.loads(content)
    except (ValueError, RecursionError):
        return []
    valid = isinstance(image_ids, list) and all(isinstance(image_id, str) for image_id in image_ids)
    return image_ids if valid else []
