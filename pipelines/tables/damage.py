"""What a table has lost: files that its log names and that are not there or cut, and entries of the log that are not
whole.

The Delta library takes an empty entry for a commit without content, and notices a missing file when somebody reads it.
So a table is compared with the listing of its folder when it is opened; of its content only the newest entry is read.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.storage.objects import open_file, read_bytes, with_retries
from zs3.files import filesystem_of

_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\b.*\.parquet")

ACTIONS = "actions"
"""Key of a commit's metadata: how many files it adds and removes, so that a cut entry is recognised."""


class DamagedTableError(ValueError):
    """A table has lost files or entries of its log."""

    def __init__(self, uri: str, reason: str) -> None:
        out = uri.rpartition("/")[0]
        super().__init__(
            f"the table {uri} is damaged: {reason}; `zs3 repair --out {shlex.quote(out)}` drops what is lost, and the "
            "next run makes it again"
        )


def broken_entries(uri: str, *, read_all: bool = False) -> list[int]:
    """Versions whose entry in the log is empty, or the newest that is cut; those before a checkpoint do not count.

    Args:
        uri: of the table; where there is none, there is no broken entry.
        read_all: read every entry, and not only the newest.
    """
    sizes = _sizes(f"{uri}/_delta_log")
    checkpoints = [int(match[1]) for name in sizes if (match := _CHECKPOINT.fullmatch(name)) and sizes[name]]
    after = max(checkpoints, default=-1)
    entries = sorted(int(match[1]) for name in sizes if (match := _ENTRY.fullmatch(name)))
    entries = [version for version in entries if version > after]
    read = entries if read_all else entries[-1:]
    return [
        version
        for version in entries
        if not sizes[entry_name(version)] or (version in read and not _is_whole(f"{uri}/_delta_log", version))
    ]


def broken_checkpoints(uri: str) -> list[str]:
    """Names of the checkpoints in the log of a table that cannot be read; reads them all.

    A checkpoint repeats the entries before it, so nothing is lost with it as long as they are there.

    Raises:
        ValueError: entries that a broken checkpoint repeats are not there.
    """
    log = f"{uri}/_delta_log"
    names = _sizes(log)
    versions = {name: int(match[1]) for name in names if (match := _CHECKPOINT.fullmatch(name))}
    broken = [name for name in sorted(versions) if not _is_parquet(f"{log}/{name}")]
    for name in broken:
        whole = (
            version for other, version in versions.items() if other not in broken and version < versions[name]
        )
        needed = range(max(whole, default=-1) + 1, versions[name] + 1)
        if missing := [version for version in needed if entry_name(version) not in names]:
            raise ValueError(
                f"{log}/{name} is damaged, and the entry {entry_name(missing[0])}, which it repeats, is not there; "
                "restore one of them from a backup, or begin again with another --out"
            )
    return broken


def lost_files(folder: str, sizes: Mapping[str, int]) -> dict[str, str]:
    """File → what is wrong, for files of a table that are not there, or have another size than the log says.

    Args:
        folder: of the table.
        sizes: path in the log → bytes.
    """
    listed = _sizes(folder) if sizes else {}
    lost = {}
    for path, size in sizes.items():
        there = listed.get(path)
        if there is None and "/" in path:  # in a subfolder, or elsewhere, as those of a copied table
            there = _size(path.removeprefix("file://") if "://" in path else f"{folder}/{path}")
        if there is None:
            lost[path] = "is not there"
        elif there != size:
            lost[path] = f"has {there} bytes, expected {size}"
    return lost


def entry_name(version: int) -> str:
    """The name of the file of a log entry."""
    return f"{version:020}.json"


def _is_whole(log: str, version: int) -> bool:
    """Whether an entry holds JSON values, and as many files as it says."""
    try:
        actions: list[dict[str, Any]] = [
            json.loads(line) for line in read_bytes(f"{log}/{entry_name(version)}").splitlines()
        ]
    except ValueError:
        return False
    info: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    files = sum("add" in action or "remove" in action for action in actions)
    return bool(actions) and info.get(ACTIONS, files) == files


def _is_parquet(uri: str) -> bool:
    """Whether a file of Parquet can be read."""
    try:
        with open_file(uri) as file:
            pq.ParquetFile(file).read()
    except (pa.ArrowInvalid, OSError):
        return False
    return True


def _sizes(folder: str) -> dict[str, int]:
    """Name → bytes of the files in a folder; empty where there is none."""
    filesystem, path = filesystem_of(folder)

    def listed() -> list[dict[str, Any]]:
        filesystem.invalidate_cache(path)
        try:
            return list(filesystem.ls(path, detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return []

    entries = with_retries(listed, folder)
    return {str(entry["name"]).rpartition("/")[2]: int(entry["size"] or 0) for entry in entries}


def _size(uri: str) -> int | None:
    """Bytes of a file; None where there is none."""
    filesystem, path = filesystem_of(uri)
    try:
        return int(filesystem.info(path)["size"])
    except FileNotFoundError:
        return None
