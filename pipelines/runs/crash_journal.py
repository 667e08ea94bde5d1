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
import shutil
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

MAX_CRASHES = 3
"""Processes that an image may crash, alone, before it is given up."""

MAX_AGE_S = 7 * 24 * 3600
"""Age in seconds after which the journals of a run that did not remove them are removed."""


class ImageCrashError(RuntimeError):
    """An image that was given up."""

    kind = "crash"


class CrashJournal:
    """The images that the processes of a run work on, on this machine, and those that they died with.

    Args:
        journal_id: name of the run's journals, new for each run.
        stage: name of the step; an image that crashes one step may pass another.
        root: folder of journals; by default one for temporary files.
    """

    def __init__(self, journal_id: str, stage: str, root: Path | None = None) -> None:
        self._folder = (root or journals_folder()) / journal_id / stage
        self._folder.mkdir(parents=True, exist_ok=True)
        self._name = f"{os.getpid()}-{uuid.uuid4().hex}"
        # Locked before it is visible, or another process might take it for that of a dead process.
        hidden = self._folder / f".{self._name}"
        self._file = os.open(hidden, os.O_RDWR | os.O_CREAT, 0o600)
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

    def crashes(self) -> tuple[Counter[str], frozenset[str]]:
        """How many processes each image crashed alone, and the images of all processes that crashed."""
        for path in self._folder.iterdir():
            if path.name.startswith(".") or path.name in self._crashes or path.name == self._name:
                continue
            if path.suffix == ".crash":
                self._crashes[path.name] = json.loads(path.read_text())
            else:
                self._collect(path)
        alone = Counter(ids[0] for ids in self._crashes.values() if len(ids) == 1)
        return alone, frozenset(image_id for ids in self._crashes.values() for image_id in ids)

    def _collect(self, path: Path) -> None:
        """Rename the file of a dead process to .crash; leave that of a living one."""
        try:
            file = os.open(path, os.O_RDWR)
        except FileNotFoundError:  # another process was faster
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            content = os.pread(file, 1 << 24, 0)
            if not content:
                path.unlink(missing_ok=True)
                return
            image_ids = json.loads(content)
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


def journals_folder() -> Path:
    """The folder of this user's journals on this machine."""
    return Path(tempfile.gettempdir()) / f"zs3-at-work-{os.getuid()}"


def remove_journals(journal_id: str, root: Path | None = None) -> None:
    """Remove the journals of a run that has ended, and old ones of runs that were killed."""
    root = root or journals_folder()
    shutil.rmtree(root / journal_id, ignore_errors=True)
    for folder in root.iterdir() if root.is_dir() else ():
        if time.time() - folder.stat().st_mtime > MAX_AGE_S:
            shutil.rmtree(folder, ignore_errors=True)
