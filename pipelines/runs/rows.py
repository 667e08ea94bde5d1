"""The rows of an image, from a model to table files, and what happens to an image that the model fails on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.runs.crash_journal import MAX_CRASHES, CrashJournal, crash_error
from pipelines.tables.delta_writer import write_data_file
from zs3.tables import failure_row

MAX_CONSECUTIVE_FAILURES = 32
"""Failures of the model in a row after which a run is stopped: the model is broken, not the images."""

Rows = list[dict[str, Any]]
Image = Mapping[str, Any]
RowsOf = Callable[[Sequence[Image], Sequence[Any]], Sequence[Rows]]
"""Some images and the model's input for each → the rows of each."""

WORK = pa.schema(
    {
        "image_id": pa.string(),
        "uri": pa.string(),
        "etag": pa.string(),
        "shard": pa.int32(),
        "attempts": pa.int32(),
        "replaces": pa.bool_(),
    }
)
"""An image to process. `shard`: its shard in the listing; `attempts`: runs that tried it before; `replaces`: whether
earlier rows of it are to be replaced."""

BOOKKEEPING = pa.schema([WORK.field(name) for name in ("image_id", "shard", "attempts", "replaces")])
"""The columns of `WORK` that stay with the rows of an image, for the driver."""

_FILE = pa.struct(
    {"table": pa.string(), "path": pa.string(), "size": pa.int64(), "rows": pa.int64(), "stats": pa.string()}
)
WRITTEN = pa.schema(
    {
        "started": pa.float64(),
        "images": pa.int64(),
        "failed": pa.int64(),
        "shards": pa.list_(pa.int32()),
        "replaced": pa.list_(pa.string()),
        "files": pa.list_(_FILE),
    }
)
"""What the driver learns about images whose rows were written: when the first reached a model (seconds since 1970), how
many have results and how many failed, the shard of each, the ids whose earlier rows are replaced, and the files."""


class BatchRunner:
    """Runs a model on batches of images; an image that the model fails on becomes a row of `failures`.

    Args:
        results: name of the table of results.
        stage: what `failures` calls this step.
        run: digest of the run.
        journal_id: which crash journal to keep (`pipelines.runs.crash_journal`); None keeps none.
    """

    def __init__(self, *, results: str, stage: str, run: str, journal_id: str | None = None) -> None:
        self.results, self.stage, self.run = results, stage, run
        self._consecutive_failures = 0
        self._journal = CrashJournal(journal_id, stage) if journal_id else None

    def table(self, batch: pa.Table, rows_of: RowsOf, schemas: Mapping[str, pa.Schema]) -> pa.Table:
        """One row per image of a batch: its bookkeeping, and lists of its rows of each table.

        Lists keep the rows of an image in one file and one commit.

        Args:
            batch: columns of `WORK`; a column `failures` holds the rows of images that failed before this step.
            rows_of: the input of an image is its row number in the batch.
            schemas: of the tables.

        Raises:
            RuntimeError: the model has failed for `MAX_CONSECUTIVE_FAILURES` images in a row.
        """
        started = time.time()
        images = work_rows(batch)
        rows = (
            [{"failures": failed} for failed in batch["failures"].to_pylist()]
            if ("failures" in batch.column_names)
            else [{"failures": []} for _ in images]
        )
        usable = [index for index, row in enumerate(rows) if not row["failures"]]
        outcomes = self.outcomes([images[index] for index in usable], usable, rows_of)
        for index, outcome in zip(usable, outcomes, strict=True):
            rows[index] = outcome
        lists = {name: pa.list_(pa.struct(list(schema))) for name, schema in schemas.items()}
        return pa.Table.from_pylist(
            [
                {
                    "started": started,
                    **{name: image[name] for name in BOOKKEEPING.names},
                    **{name: row.get(name, []) for name in schemas},
                }
                for image, row in zip(images, rows, strict=True)
            ],
            schema=pa.schema([pa.field("started", pa.float64()), *BOOKKEEPING, *lists.items()]),
        )

    def outcomes(
        self, images: Sequence[Image], inputs: Sequence[Any], rows_of: RowsOf
    ) -> list[dict[str, Rows]]:
        """For each image {name of the results: its rows}, or {"failures": its row}.

        Images are run one by one where a process crashed on one of them before, and where their batch fails; an image
        that crashed `MAX_CRASHES` processes is not run.
        """
        if self._journal is None:
            return self._attempt(images, inputs, rows_of)
        ids = [image["image_id"] for image in images]
        crashes, suspects = self._journal.crashes()
        if suspects.isdisjoint(ids):
            self._journal.enter(ids)
            outcomes = self._attempt(images, inputs, rows_of)
        else:
            outcomes = []
            for image, value in zip(images, inputs, strict=True):
                if (count := crashes[image["image_id"]]) >= MAX_CRASHES:
                    outcomes.append(
                        {"failures": [failure_of(image, self.stage, crash_error(count), self.run)]}
                    )
                    continue
                self._journal.enter([image["image_id"]])
                outcomes += self._attempt([image], [value], rows_of)
        self._journal.enter([])
        return outcomes

    def _attempt(
        self, images: Sequence[Image], inputs: Sequence[Any], rows_of: RowsOf
    ) -> list[dict[str, Rows]]:
        if not images:
            return []
        try:
            outcomes = [{self.results: rows} for rows in rows_of(images, inputs)]
        except Exception as error:
            if len(images) > 1:
                return [
                    self._attempt([image], [value], rows_of)[0]
                    for image, value in zip(images, inputs, strict=True)
                ]
            self._consecutive_failures += 1
            if self._consecutive_failures >= MAX_CONSECUTIVE_FAILURES:
                raise RuntimeError(
                    f"the model failed on {MAX_CONSECUTIVE_FAILURES} images in a row, the last time with "
                    f"{type(error).__name__}: {error}"
                ) from error
            return [{"failures": [failure_of(images[0], self.stage, error, self.run)]}]
        self._consecutive_failures = 0
        return outcomes


def failure_of(image: Image, stage: str, error: BaseException, run: str) -> dict[str, Any]:
    """The row of `failures` for an image, given as a row of `WORK`."""
    return failure_row(
        image["image_id"],
        image["uri"],
        stage,
        error,
        run,
        etag=image.get("etag", ""),
        attempts=image.get("attempts", 0) + 1,
    )


def work_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The columns of `WORK` of each row; columns that a table lacks get defaults: no shard, no attempt before."""
    defaults: dict[str, Any] = {"shard": -1, "attempts": 0, "replaces": False, "etag": ""}
    present = table.select([name for name in WORK.names if name in table.column_names]).to_pylist()
    return [defaults | row for row in present]


def write_tables(batch: pa.Table, *, uris: Mapping[str, str], schemas: Mapping[str, pa.Schema]) -> pa.Table:
    """Write the rows of some images, one file per table that has any; returns one row of `WRITTEN`.

    Args:
        batch: as `BatchRunner.table` returns it.
        uris, schemas: of each table.
    """
    files = []
    for name, schema in schemas.items():
        rows = pa.Table.from_struct_array(batch[name].combine_chunks().flatten()).cast(schema)
        if rows.num_rows:
            files.append({"table": name, **asdict(write_data_file(uris[name], rows))})
    failed = int(pc.sum(pc.greater(pc.list_value_length(batch["failures"]), 0)).as_py() or 0)
    written = {
        "started": pc.min(batch["started"]).as_py(),
        "images": batch.num_rows - failed,
        "failed": failed,
        "shards": batch["shard"].to_pylist(),
        "replaced": batch.select(["image_id", "replaces"])
        .filter(pc.field("replaces"))["image_id"]
        .to_pylist(),
        "files": files,
    }
    return pa.Table.from_pylist([written], schema=WRITTEN)
