"""Files that readers see whole or not at all, on this machine or in an object store."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from zs3.files import filesystem_of


def write_whole(target: str, content: bytes, partial: str | None = None) -> None:
    """Write a file at once; the arguments and errors of `whole_file`."""
    with whole_file(target, partial) as file:
        file.write(content)


@contextmanager
def whole_file(target: str, partial: str | None = None) -> Iterator[IO[bytes]]:
    """A file to write to that appears when the block ends; after an error in the block it does not appear.

    Args:
        target: local path or uri. Its folder is created.
        partial: local folder, in the target's file system, in which the file grows; by default it grows as a hidden
            file in the target's folder. A caller that gives a folder can remove what killed processes left there.

    Raises:
        ValueError: the file cannot be written.
    """
    try:
        if "://" in target:
            # Closing an fsspec file after an error would publish a part of it.
            with tempfile.NamedTemporaryFile() as local:
                yield local
                local.flush()
                filesystem, path = filesystem_of(target)
                filesystem.put_file(local.name, path)
            return
        place = Path(target)
        place.parent.mkdir(parents=True, exist_ok=True)
        hidden = place.with_name(f".{uuid.uuid4().hex}")
        if partial is not None:
            hidden = Path(partial, uuid.uuid4().hex)
            hidden.parent.mkdir(parents=True, exist_ok=True)
        with renamed_when_whole(hidden, place) as file:
            yield file
    except OSError as error:
        raise ValueError(f"cannot write {target}: {error}; is the folder writable?") from error


@contextmanager
def renamed_when_whole(hidden: Path, path: Path) -> Iterator[IO[bytes]]:
    """A local file to write to, called `hidden` until the block ends; after an error it is removed.

    Raises:
        FileExistsError: there is something called `hidden`, if only a link.
    """
    file = hidden.open("xb")
    try:
        with file:
            yield file
        hidden.replace(path)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise
