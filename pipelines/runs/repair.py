"""Drops what damaged tables have lost, so that they can be read, and the next run makes it again.

A lost file leaves its table in one transaction. A broken entry of the log is copied to `_damaged/` in the folder of the
table, and an entry without content takes its place: what it recorded counts as never committed. A broken checkpoint of
the log, which only repeats its entries, is moved there. The table `shards` is
emptied, as it may call lost images done; the next run then looks for the rows of every image.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from deltalake import DeltaTable

from pipelines.runs.lease import MAX_ENTRIES, wait_for_lease
from pipelines.tables.damage import broken_checkpoints, broken_entries, lost_files
from pipelines.tables.delta_reader import (
    data_files,
    existing_table,
    file_uri,
    log_entries,
    provenance_of,
    read_data_file,
    row_counts,
    table_folder,
    table_uri,
)
from pipelines.tables.delta_writer import drop_files, move_checkpoints, replace_broken_entries, rewrite
from zs3.tables import SHARDS

RESULTS = ("labels", "segments")
"""Tables of results; the table `failures` lies next to them."""

TABLES = (*RESULTS, "failures", "shards", "scores")
"""Tables that commands write below an --out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What a table has lost, or that `shards` lists images as done whose table is gone; the keys of `--json`."""

    table: str
    uri: str
    entries: tuple[int, ...]
    """Versions whose entry in the log is empty or cut."""
    checkpoints: tuple[str, ...]
    """Checkpoints of the log that cannot be read. They only repeat its entries."""
    files: tuple[str, ...]
    """Files that the log names and that are not there or cut."""
    rows: int | None
    """In these files; None where an entry of the log is lost."""
    images: int | None
    """In these files; None where that is not known."""


def repair(out: str, *, dry_run: bool = False) -> list[Loss]:
    """Drop what the tables below `out` have lost; the tables that have lost something.

    Args:
        out: the --out of a run, or of an evaluation.
        dry_run: only look.

    Raises:
        FileNotFoundError: there is no table.
        ValueError: another process writes the run, or a table cannot be read or written to.
    """
    uris = {name: table_uri(out, name) for name in TABLES}
    checkpoints = {name: broken_checkpoints(uri) for name, uri in uris.items()}
    if not dry_run:
        for name, uri in uris.items():
            move_checkpoints(uri, checkpoints[name])
    broken = {name: broken_entries(uri, read_all=True) for name, uri in uris.items()}
    tables = {name: _opened(uri, bool(broken[name] or checkpoints[name])) for name, uri in uris.items()}
    if not any(broken.values()) and not any(checkpoints.values()) and not any(tables.values()):
        raise FileNotFoundError(f"no table below {out}; expected the --out of a run, or of an evaluation")
    for name in RESULTS:
        if not dry_run and (table := tables[name]) is not None:
            wait_for_lease(table, out)
    losses = {}
    for name, table in tables.items():
        lost = lost_files(table_folder(table), dict(data_files(table))) if table else {}
        if broken[name] or checkpoints[name] or lost:
            loss = _loss(name, uris[name], table, broken[name], tuple(lost))
            losses[name] = replace(loss, checkpoints=tuple(checkpoints[name]))
    shards = tables["shards"]
    if (
        shards
        and data_files(shards)
        and not any(tables[name] or broken[name] or checkpoints[name] for name in RESULTS)
    ):
        losses.setdefault("shards", _loss("shards", uris["shards"], None, (), ()))
    if not dry_run:
        for name in losses:
            replace_broken_entries(uris[name], broken[name], written_ms=_now_ms())
        tables = {name: existing_table(uri, check=False) for name, uri in uris.items()}
        if losses.keys() - {"scores"}:
            _empty_shards(tables["shards"])
        _drop(tables, losses)
    return list(losses.values())


def _opened(uri: str, broken: bool) -> DeltaTable | None:
    """A table; None if there is none, or its broken log cannot be read."""
    try:
        return existing_table(uri, check=False)
    except ValueError:
        if not broken:
            raise
        return None


def _loss(
    name: str, uri: str, table: DeltaTable | None, entries: Collection[int], files: tuple[str, ...]
) -> Loss:
    rows = images = None
    if table is not None and not entries:
        counts = row_counts(table)
        rows = sum(counts[path] for path in files)
        progress = _progress(table) if name == "labels" else None
        if name not in (*RESULTS, "shards") or name == "segments":
            images = rows
        elif progress:
            images = max(0, progress["done"] - _images(table, files))
    return Loss(
        table=name, uri=uri, entries=tuple(entries), checkpoints=(), files=files, rows=rows, images=images
    )


def _drop(tables: Mapping[str, DeltaTable | None], losses: Mapping[str, Loss]) -> None:
    """Remove the lost files from the log, with the counts that `zs3 status` prints; results come last."""
    failures = tables["failures"]
    for name in ("scores", "failures", *RESULTS):
        table = tables[name]
        if table is None or not (name in losses or (name in RESULTS and "failures" in losses)):
            continue
        # A part of the scores would give other numbers.
        paths = losses[name].files if name in losses else ()
        if name == "scores":
            paths = tuple(path for path, _ in data_files(table))
        progress = None if name == "scores" else _progress(table) or (failures and _progress(failures))
        if progress and name in RESULTS:
            counts = {"done": _images(table, paths), "failed": _images(failures, ())}
            progress = {**progress, **counts, "this_run": 0, "of": 0, "seconds": 0.0}
        drop_files(
            table,
            paths,
            run=str(provenance_of(table).get("digest", "repair")),
            written_ms=_now_ms(),
            commit_metadata={"progress": progress} if progress and name in RESULTS else {},
        )


def _empty_shards(table: DeltaTable | None) -> None:
    if table is not None:
        digest = str(provenance_of(table).get("digest", ""))
        rewrite(table, SHARDS, SHARDS.empty_table(), run=digest, written_ms=_now_ms())


def _progress(table: DeltaTable) -> dict[str, Any] | None:
    """The counts of the newest commit that has some."""
    entries = log_entries(table, MAX_ENTRIES)
    return next((entry["progress"] for entry in entries if "progress" in entry), None)


def _images(table: DeltaTable | None, without: Collection[str]) -> int:
    """Images in the files of a table, except some; all rows of an image are in one file."""
    if table is None:
        return 0
    folder = table_folder(table)
    return sum(
        len(read_data_file(file_uri(folder, path), ["image_id"])["image_id"].unique())
        for path, _ in data_files(table)
        if path not in without
    )


def _now_ms() -> int:
    return int(time.time() * 1000)
