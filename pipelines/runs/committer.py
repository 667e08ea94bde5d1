"""What the driver of a run keeps while files come in: which are to be committed, what is done, which shards are whole.

Results are committed first, then failures, then shards. Whatever a run is stopped at, an image with a row is done, and
a shard in the table `shards` has nothing but such images.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from pipelines.tables.delta_writer import DataFile, commit_start, publish, rewrite, write_data_file
from pipelines.runs.resume import Remaining, Target
from zs3.tables import SHARDS

SHARD_FILES = 32
"""Files of the table `shards` after which they are made one."""

DATA_FILE_FIELDS = tuple(DataFile.__slots__)


class Committer:
    """The books of one run.

    Args:
        target: the tables.
        left: what is to be done.
        tables: the tables, opened for this run.
    """

    def __init__(self, target: Target, left: Remaining, tables: Mapping[str, DeltaTable]) -> None:
        self._target, self._left, self._tables = target, left, tables
        self._pending: dict[str, list[DataFile]] = {name: [] for name in target.schemas}
        self._again: set[str] = set()
        self._missing = left.todo.by_shard() if left.open else {}
        self._whole = [number for number in left.open if number not in self._missing]
        self._known = left.known
        self.images = 0
        """With results, in this run."""
        self.failed = 0
        """In this run."""
        self._first = float("inf")

    @property
    def done(self) -> int:
        """Images processed in this run."""
        return self.images + self.failed

    def begin(self) -> None:
        """Put right what an earlier run left between two transactions.

        Raises:
            ValueError: as of `commit.publish`.
        """
        if self._left.stale:
            self._publish("failures", [], self._left.stale)
        if self._left.changed:
            # The rows of changed images make way later; until then no shard may say that it holds them.
            rewrite(
                self._tables["shards"], SHARDS, self._known, run=self._target.digest, written_ms=_now_ms()
            )
        if self._left.todo:
            name = self._target.results
            commit_start(self._tables[name], self._target.schema, self._target.digest, self._progress())

    def add(self, written: Mapping[str, Any]) -> None:
        """Take note of some images whose rows were written, as `table_rows.WRITTEN`."""
        self.images += written["images"]
        self.failed += written["failed"]
        self._first = min(self._first, written["started"])
        self._again.update(written["again"])
        for file in written["files"]:
            self._pending[file["table"]].append(DataFile(**{key: file[key] for key in DATA_FILE_FIELDS}))
        for shard in written["shards"]:
            if shard in self._missing:
                self._missing[shard] -= 1
                if not self._missing[shard]:
                    del self._missing[shard]
                    self._whole.append(shard)

    def commit(self) -> None:
        """Make everything that is known part of the tables.

        Raises:
            ValueError: as of `commit.publish`.
        """
        again, self._again = frozenset(self._again), set()
        for name in self._target.schemas:
            parts, self._pending[name] = self._pending[name], []
            self._publish(name, parts, again)
        whole, self._whole = self._whole, []
        self._record([self._left.open[number] for number in whole])

    def _publish(self, name: str, parts: Sequence[DataFile], replaced: frozenset[str]) -> None:
        """One transaction of a table of images, which also tells how far the run is."""
        publish(
            self._tables[name],
            self._target.schemas[name],
            parts,
            run=self._target.digest,
            written_ms=_now_ms(),
            replaced=replaced,
            commit_metadata=self._progress(),
        )

    def _progress(self) -> dict[str, Any]:
        """What the log says beside a commit, for `zs3 status`; seconds are since the first image reached a model."""
        left, now = self._left, time.time()
        return {
            "progress": {
                "listing": left.listing,
                "listed": left.listed,
                "done": left.skipped - left.failed_before + self.images,
                "failed": left.failed_before + self.failed,
                "this_run": self.done,
                "of": len(left.todo),
                "seconds": round(max(0.0, now - min(self._first, now)), 3),
            }
        }

    def _record(self, shards: Sequence[Any]) -> None:
        """Add rows to the table `shards`, whose files are made one when there are many."""
        if not shards:
            return
        table, run = self._tables["shards"], self._target.digest
        rows = pa.Table.from_pylist(
            [
                {
                    "digest": shard.digest,
                    "images": shard.images,
                    "first_uri": shard.uris[0],
                    "last_uri": shard.uris[1],
                    "run": run,
                }
                for shard in shards
            ],
            schema=SHARDS,
        )
        if len(table.file_uris()) >= SHARD_FILES:
            held = table.to_pyarrow_table().select(SHARDS.names).cast(SHARDS)
            rewrite(table, SHARDS, pa.concat_tables([held, rows]), run=run, written_ms=_now_ms())
        else:
            part = write_data_file(self._target.uris["shards"], rows)
            publish(table, SHARDS, [part], run=run, written_ms=_now_ms())


def _now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)
