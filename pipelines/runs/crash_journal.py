"""Images that bring their process down: found on this machine, and left out after a few tries.

A crash cannot be caught, so each process writes down which images it is at, in a file of its own that it holds a lock
on. The kernel lets go of the lock of a process that died, however it died; whoever comes next finds the file and knows.
Ray repeats the work of a lost process, so a batch that was lost once is done image by image, and an image that was lost
alone `TRIES` times is given up.
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

TRIES = 3
"""Processes that an image may take down, alone, before it is given up."""

FORGOTTEN_S = 7 * 24 * 3600
"""Age in seconds of the notes of a run that this machine did not see the end of, after which they are removed."""


class ImageCrashError(RuntimeError):
    """What is told of an image that was given up."""

    kind = "crash"


class CrashJournal:
    """What the processes of one run on this machine are at, and were at when they died.

    Args:
        run: name of the run, new for each.
        stage: what is being done; an image that crashes one stage says nothing of another.
        root: where notes lie; a folder for temporary files by default.
    """

    def __init__(self, run: str, stage: str, root: Path | None = None) -> None:
        self._root = root or journals_folder()
        self._folder = self._root / run / stage
        self._folder.mkdir(parents=True, exist_ok=True)
        self._name = f"{os.getpid()}-{uuid.uuid4().hex}"
        # Locked before it can be seen, or another process might take it for a dead one's.
        hidden = self._folder / f".{self._name}"
        self._file = os.open(hidden, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        hidden.rename(self._folder / self._name)
        self._crashes: dict[str, list[str]] = {}

    def at(self, images: Sequence[str]) -> None:
        """Note that this process is now at these images, and at no others."""
        note = json.dumps(list(images)).encode() if images else b""
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, note, 0)

    def close(self) -> None:
        """Take this process's note away."""
        (self._folder / self._name).unlink(missing_ok=True)
        os.close(self._file)

    def crashes(self) -> tuple[Counter[str], frozenset[str]]:
        """How many processes died with each image alone, and the images of all that died with any."""
        for path in self._folder.iterdir():
            if path.name.startswith(".") or path.name in self._crashes or path.name == self._name:
                continue
            if path.suffix == ".crash":
                self._crashes[path.name] = json.loads(path.read_text())
            else:
                self._collect(path)
        alone = Counter(images[0] for images in self._crashes.values() if len(images) == 1)
        return alone, frozenset(image for images in self._crashes.values() for image in images)

    def _collect(self, path: Path) -> None:
        """Turn the note of a dead process into that of a crash; leave that of a living one."""
        try:
            file = os.open(path, os.O_RDWR)
        except FileNotFoundError:  # another process was faster
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            note = os.pread(file, 1 << 24, 0)
            if not note:
                path.unlink(missing_ok=True)
                return
            images = json.loads(note)
            crash = path.with_suffix(".crash")
            path.rename(crash)
            self._crashes[crash.name] = images
        except (BlockingIOError, FileNotFoundError):
            return
        finally:
            os.close(file)


def given_up(deaths: int) -> ImageCrashError:
    """Why an image is not tried again."""
    return ImageCrashError(
        f"the process died {deaths} times while it worked on this image alone (a crash, or out of memory); look at the "
        "image, or give the run more memory, and try again with --retry-failures"
    )


def journals_folder() -> Path:
    """Where the notes of this user's runs lie on this machine."""
    return Path(tempfile.gettempdir()) / f"zs3-at-work-{os.getuid()}"


def remove_journals(run: str, root: Path | None = None) -> None:
    """Remove the notes of a run that has ended, and those of runs that nobody saw the end of."""
    root = root or journals_folder()
    shutil.rmtree(root / run, ignore_errors=True)
    for other in root.iterdir() if root.is_dir() else ():
        if time.time() - other.stat().st_mtime > FORGOTTEN_S:
            shutil.rmtree(other, ignore_errors=True)
