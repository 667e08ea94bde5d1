"""Files that readers see whole or not at all, on this machine or in an object store."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import fsspec


def write_whole(target: str, content: bytes, partial: str | None = None) -> None:
    """Write a file at once; its folder is made where it is missing.

    Args:
        target: local path or uri.
        content: of the file.
        partial: as for `whole_file`.

    Raises:
        ValueError: it cannot be written.
    """
    with whole_file(target, partial) as file:
        file.write(content)


@contextmanager
def whole_file(target: str, partial: str | None = None) -> Iterator[IO[bytes]]:
    """A file to write to, which takes its place when the block ends; after an error nothing does.

    Args:
        target: local path or uri. Its folder is made where it is missing.
        partial: local folder, in the file system of the target, in which the file grows; by default it grows, hidden,
            beside its target. Whoever names a folder may remove what killed processes left there.

    Raises:
        ValueError: it cannot be written.
    """
    try:
        if "://" in target:
            with tempfile.NamedTemporaryFile() as held:
                yield held
                held.flush()
                filesystem, path = fsspec.url_to_fs(target)
                filesystem.put_file(
                    held.name, path
                )  # closing an fsspec file after an error would publish its half
            return
        place = Path(target)
        place.parent.mkdir(parents=True, exist_ok=True)
        hidden = place.with_name(f".{place.name}.{os.getpid()}")
        if partial is not None:
            hidden = Path(partial, uuid.uuid4().hex)
            hidden.parent.mkdir(parents=True, exist_ok=True)
        try:
            with hidden.open("wb") as file:
                yield file
            hidden.replace(place)
        except BaseException:
            hidden.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ValueError(f"cannot write {target}: {error}; is the folder writable?") from error


def without_partial(partial: str) -> None:
    """Remove what processes that were killed left in a folder of parts."""
    shutil.rmtree(partial, ignore_errors=True)
