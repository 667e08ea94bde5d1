"""Commits the files of a run to its tables, on the driver: results first, then failures, then finished shards.

Wherever a run is stopped, an image with a row is done, and a shard in the table `shards` has only such images.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from pipelines.runs.catalogue import Shard
from pipelines.runs.lease import Lease, busy, give_up, new_lease, newest_lease, wait_for_lease
from pipelines.runs.resume import RemainingWork
from pipelines.tables.delta_reader import data_files, existing_table, row_batches
from pipelines.tables.delta_writer import (
    ConflictError,
    DataFile,
    commit_entry,
    open_table,
    publish,
    rewrite,
    write_data_file,
)
from zs3.tables import SHARDS
from zs3.wording import map_texts, redacted

MAX_SHARD_FILES = 32
"""Files of the table `shards` at which they are merged into one."""


class Committer:
    """Collects what was written, and commits it when `run.run_table` asks (every `Execution.commit_interval_s`).

    It opens the tables, and creates those that do not exist.

    Args:
        work: the tables and the images to process.

    Raises:
        ValueError: a table cannot be created, or holds another run.
    """

    def __init__(self, work: RemainingWork) -> None:
        self._work, self._target = work, work.target
        self._lease: Lease | None = None
        self._renewed = 0.0
        results = existing_table(self._target.uris[self._target.results])
        if results is not None and self._writes:
            wait_for_lease(results, self._target.out)
        provenance = {  # names of classes are no places
            key: value if key in ("run", "vocabulary") else map_texts(value, redacted)
            for key, value in self._target.provenance.items()
        }
        self._tables = {
            name: open_table(self._target.uris[name], schema, provenance, replace=work.replaces)
            for name, schema in self._target.all_schemas.items()
        }
        self._versions = {name: table.version() for name, table in self._tables.items()}
        self._files: dict[str, list[DataFile]] = {name: [] for name in self._target.schemas}
        self._replaced_ids: set[str] = set()
        self._unfinished = work.pending.by_shard() if work.open_shards else {}
        self._finished = [number for number in work.open_shards if number not in self._unfinished]
        self.images = 0
        """Images with results, in this run."""
        self.failed = 0
        """Images that failed, in this run."""
        self._began, self._began_utc = time.monotonic(), time.time()
        self._first = float("inf")

    @property
    def done(self) -> int:
        """Images processed in this run, including failures."""
        return self.images + self.failed

    @property
    def seconds(self) -> float:
        """Since the first image reached a model; 0 before that is known."""
        return max(0.0, time.monotonic() - self._first)

    def begin(self) -> None:
        """Take the lease with the first commit, then repair what an earlier run left between two transactions.

        Raises:
            ConflictError: another process writes the run.
            ValueError: another one has written it since its tables were read.
        """
        if not self._writes:
            return
        self._lease = new_lease()
        with self._owned():
            self._renew()
            self._repair()

    def _repair(self) -> None:
        work = self._work
        for name, read in work.versions.items():
            if self._versions[name] not in (read, read + (read < 0 or work.replaces)):
                raise ValueError(
                    f"another run has changed {self._target.uris[name]} while this one was looking for what remains; "
                    "run this again"
                )
        if work.stale_failures:
            self._publish("failures", [], work.stale_failures)
        if work.changed:
            # The rows of changed images are replaced later; until then no shard may list them as done.
            rewrite(
                self._tables["shards"],
                SHARDS,
                work.done_shards,
                run=self._target.digest,
                written_ms=_now_ms(),
            )

    def renew(self, min_age_s: float = 0.0) -> None:
        """Renew the lease in the log, if that is `min_age_s` ago.

        Raises:
            ConflictError: another process has taken it.
        """
        if self._lease is None or time.monotonic() - self._renewed < min_age_s:
            return
        with self._owned():
            self._renew()

    def release(self) -> None:
        """Give the lease back, if this run still has it."""
        if self._lease is None:
            return
        give_up(self._lease.id)
        self._lease = replace(self._lease, released=True)
        with suppress(Exception):  # then it ends with this process, or after `lease.LEASE_S`
            self._renew()
        self._lease = None

    def add(self, written: Mapping[str, Any]) -> None:
        """Add one row of `rows.WRITTEN`."""
        self.images += written["images"]
        self.failed += written["failed"]
        # Other machines can only say what their clocks show, and a clock may be set while the run is on.
        first = self._began + written["started"] - self._began_utc
        self._first = min(self._first, max(self._began, first), time.monotonic())
        self._replaced_ids.update(written["replaced"])
        for file in written["files"]:
            values = {field.name: file[field.name] for field in fields(DataFile)}
            self._files[file["table"]].append(DataFile(**values))
        for shard in written["shards"]:
            if shard in self._unfinished:
                self._unfinished[shard] -= 1
                if not self._unfinished[shard]:
                    del self._unfinished[shard]
                    self._finished.append(shard)

    def commit(self) -> None:
        """Make everything that was added part of the tables.

        The table of results comes first, and gets an entry also where it has no files: so a process that has lost the
        lease adds nothing to the others.

        Raises:
            ConflictError: another process has taken the lease.
        """
        replaced, self._replaced_ids = frozenset(self._replaced_ids), set()
        finished, self._finished = self._finished, []
        if self._lease is None or not (replaced or finished or any(self._files.values())):
            return
        with self._owned():
            before = self._results.version()
            for name in self._target.schemas:
                files, self._files[name] = self._files[name], []
                self._publish(name, files, replaced)
                if self._results.version() == before:
                    self._renew()
            self._add_shards([self._work.open_shards[number] for number in finished])

    @property
    def _writes(self) -> bool:
        """Whether the run has anything to write."""
        work = self._work
        return bool(work.pending or work.stale_failures or work.changed or work.open_shards)

    @property
    def _results(self) -> DeltaTable:
        return self._tables[self._target.results]

    def _renew(self) -> None:
        commit_entry(self._results, self._target.schema, self._target.digest, self._progress())

    def _publish(self, name: str, files: Sequence[DataFile], replaced: frozenset[str]) -> None:
        """One transaction of a table of images."""
        publish(
            self._tables[name],
            self._target.schemas[name],
            files,
            run=self._target.digest,
            written_ms=_now_ms(),
            replaced=replaced,
            commit_metadata=self._progress(),
        )

    @contextmanager
    def _owned(self) -> Iterator[None]:
        """Commits in the block name the process that has taken the lease, if one has."""
        version = self._results.version()
        try:
            yield
        except ConflictError as error:
            if self._lease is None:
                raise
            mine, self._lease = self._lease.id, None
            give_up(mine)
            newest = existing_table(self._target.uris[self._target.results])
            other = None if newest is None else newest_lease(newest)
            if other is None or other.released or other.id == mine:
                raise
            raise ConflictError(busy(other, self._target.out)) from error
        if self._results.version() != version:
            self._renewed = time.monotonic()

    def _progress(self) -> dict[str, Any]:
        """Metadata of a commit: the lease, and counts for `zs3 status`; seconds are since the first image reached a
        model."""
        work = self._work
        return {
            **(self._lease.metadata() if self._lease else {}),
            "progress": {
                "listing": work.listing_digest,
                "listed": work.listed,
                "done": work.skipped - work.failed_before + self.images,
                "failed": work.failed_before + self.failed,
                "this_run": self.done,
                "of": len(work.pending),
                "seconds": round(self.seconds, 3),
                "other_files": dict(work.other_files),
            },
        }

    def _add_shards(self, shards: Sequence[Shard]) -> None:
        """Add rows to the table `shards`, and merge its files when there are many."""
        if not shards:
            return
        table, run = self._tables["shards"], self._target.digest
        rows = pa.Table.from_pylist(
            [
                {
                    "digest": shard.digest,
                    "images": shard.images,
                    "first_uri": redacted(shard.uris[0]),
                    "last_uri": redacted(shard.uris[1]),
                    "run": run,
                }
                for shard in shards
            ],
            schema=SHARDS,
        )
        if len(data_files(table)) >= MAX_SHARD_FILES:
            stored = pa.Table.from_batches(row_batches(table, SHARDS.names)).cast(SHARDS)
            rewrite(table, SHARDS, pa.concat_tables([stored, rows]), run=run, written_ms=_now_ms())
        else:
            file = write_data_file(self._target.uris["shards"], rows)
            publish(table, SHARDS, [file], run=run, written_ms=_now_ms())


def _now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)
