"""Rows of an image on their way from a model to table files, and what becomes of an image that the model fails on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.tables.delta_writer import write_data_file
from pipelines.runs.crash_journal import TRIES, CrashJournal, given_up
from zs3.tables import failure_row

MAX_CONSECUTIVE_FAILURES = 32
"""Failures of the model in a row after which a run is stopped: the model is broken, not the images."""

Rows = list[dict[str, Any]]

WORK = pa.schema(
    {
        "image_id": pa.string(),
        "uri": pa.string(),
        "etag": pa.string(),
        "shard": pa.int32(),
        "attempts": pa.int32(),
        "again": pa.bool_(),
    }
)
"""An image to be processed: the shard of the listing that it is in, how many runs have tried before, and whether rows
of an earlier attempt make way."""

BOOKKEEPING = pa.schema([WORK.field(name) for name in ("image_id", "shard", "attempts", "again")])
"""What of it stays with an image on its way, so that the driver knows what a file is of."""

_FILE = pa.struct(
    {"table": pa.string(), "path": pa.string(), "size": pa.int64(), "rows": pa.int64(), "stats": pa.string()}
)
WRITTEN = pa.schema(
    {
        "started": pa.float64(),
        "images": pa.int64(),
        "failed": pa.int64(),
        "shards": pa.list_(pa.int32()),
        "again": pa.list_(pa.string()),
        "files": pa.list_(_FILE),
    }
)
"""What the driver learns of some images whose rows were written: when the first reached a model, how many have results
and how many failed, the shard of each, the ids of those whose earlier rows make way, and the files."""


class BatchRunner:
    """Turns what a model raises for an image into a row of `failures`, until it raises for everything.

    Args:
        results: name of the table that rows are for.
        stage: what `failures` calls this step.
        run: digest that failure rows carry.
        notes: name of the run's notes on crashes (`pipelines.runs.crash_journal`); none takes no notes.
    """

    def __init__(self, *, results: str, stage: str, run: str, notes: str | None = None) -> None:
        self.results, self.stage, self.run = results, stage, run
        self._failed_in_a_row = 0
        self._journal = CrashJournal(notes, stage) if notes else None

    def outcomes(
        self,
        images: Sequence[Mapping[str, Any]],
        inputs: Sequence[Any],
        rows_of: Callable[[Sequence[Mapping[str, Any]], Sequence[Any]], Sequence[Rows]],
    ) -> list[dict[str, Rows]]:
        """Per image its rows of one table; a batch that fails is tried one by one, to find the image that does it.

        So is a batch with an image that a process died with, and an image that took down several is left out.

        Args:
            images: image_id and uri of each.
            inputs: what the model is given for each.
            rows_of: the rows of each of some images.

        Raises:
            RuntimeError: the model has failed for `MAX_CONSECUTIVE_FAILURES` images in a row.
        """
        if self._journal is None:
            return self._tried(images, inputs, rows_of)
        ids = [image["image_id"] for image in images]
        alone, suspects = self._journal.crashes()
        if suspects.isdisjoint(ids):
            self._journal.at(ids)
            done = self._tried(images, inputs, rows_of)
        else:
            done = []
            for image, one in zip(images, inputs, strict=True):
                if (deaths := alone[image["image_id"]]) >= TRIES:
                    done.append({"failures": [self._failure(image, given_up(deaths))]})
                    continue
                self._journal.at([image["image_id"]])
                done += self._tried([image], [one], rows_of)
        self._journal.at([])
        return done

    def _tried(
        self,
        images: Sequence[Mapping[str, Any]],
        inputs: Sequence[Any],
        rows_of: Callable[[Sequence[Mapping[str, Any]], Sequence[Any]], Sequence[Rows]],
    ) -> list[dict[str, Rows]]:
        """Per image its rows, or its row of failures."""
        try:
            outcomes = [{self.results: rows} for rows in rows_of(images, inputs)] if images else []
        except Exception as error:
            if len(images) > 1:
                return [
                    self._tried([image], [one], rows_of)[0] for image, one in zip(images, inputs, strict=True)
                ]
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= MAX_CONSECUTIVE_FAILURES:
                raise RuntimeError(
                    f"the model failed on {MAX_CONSECUTIVE_FAILURES} images in a row, the last time with "
                    f"{type(error).__name__}: {error}"
                ) from error
            return [{"failures": [self._failure(images[0], error)]}]
        if outcomes:
            self._failed_in_a_row = 0
        return outcomes

    def _failure(self, image: Mapping[str, Any], error: BaseException) -> dict[str, Any]:
        return failure_of(image, self.stage, error, self.run)


def failure_of(image: Mapping[str, Any], stage: str, error: BaseException, run: str) -> dict[str, Any]:
    """The row of `failures` for an image on its way."""
    return failure_row(
        image["image_id"],
        image["uri"],
        stage,
        error,
        run,
        etag=image.get("etag", ""),
        attempts=image.get("attempts", 0) + 1,
    )


def with_bookkeeping(table: pa.Table, columns: pa.Schema = BOOKKEEPING) -> list[dict[str, Any]]:
    """The bookkeeping of some images, with what a table lacks filled in: no shard, no attempt before."""
    without: dict[str, Any] = {"shard": -1, "attempts": 0, "again": False, "etag": ""}
    held = table.select([name for name in columns.names if name in table.column_names]).to_pylist()
    return [{name: row.get(name, without.get(name)) for name in columns.names} for row in held]


def rows_table(
    started: float,
    images: Sequence[Mapping[str, Any]],
    outcomes: Sequence[Mapping[str, Rows]],
    schemas: Mapping[str, pa.Schema],
) -> pa.Table:
    """One row per image: when its batch began, its bookkeeping, and its rows of each table; as lists, so that the rows
    of an image stay in one file and one commit."""
    kinds = {name: pa.list_(pa.struct(list(schema))) for name, schema in schemas.items()}
    content = [
        {
            "started": started,
            **{name: image[name] for name in BOOKKEEPING.names},
            **{name: held.get(name, []) for name in schemas},
        }
        for image, held in zip(images, outcomes, strict=True)
    ]
    return pa.Table.from_pylist(
        content, schema=pa.schema([pa.field("started", pa.float64()), *BOOKKEEPING, *kinds.items()])
    )


def write_tables(batch: pa.Table, *, uris: Mapping[str, str], schemas: Mapping[str, pa.Schema]) -> pa.Table:
    """Write the rows of these images, one file per table that has any; one row, as `WRITTEN`.

    Args:
        batch: as `rows_table` gives it.
        uris: where each table lies.
        schemas: of each table.
    """
    files = []
    for name, schema in schemas.items():
        rows = pa.Table.from_struct_array(batch[name].combine_chunks().flatten()).cast(schema)
        if rows.num_rows:
            files.append({"table": name, **asdict(write_data_file(uris[name], rows))})
    failed = int(pc.sum(pc.greater(pc.list_value_length(batch["failures"]), 0)).as_py() or 0)
    told = {
        "started": pc.min(batch["started"]).as_py(),
        "images": batch.num_rows - failed,
        "failed": failed,
        "shards": batch["shard"].to_pylist(),
        "again": [row["image_id"] for row in batch.select(["image_id", "again"]).to_pylist() if row["again"]],
        "files": files,
    }
    return pa.Table.from_pylist([told], schema=WRITTEN)
