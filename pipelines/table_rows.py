"""Rows of an image on their way from a model to table files, and what becomes of an image that the model fails on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.commit import write_part
from zs3.tables import failure_row

HOPELESS = 32
"""Failures of the model in a row after which a run is stopped: the model is broken, not the images."""

Rows = list[dict[str, Any]]

_WRITTEN = pa.schema(
    {
        "table": pa.string(),
        "path": pa.string(),
        "size": pa.int64(),
        "rows": pa.int64(),
        "stats": pa.string(),
        "images": pa.int64(),
        "started": pa.float64(),
    }
)


class Guard:
    """Turns what a model raises for an image into a row of `failures`, until it raises for everything.

    Args:
        results: name of the table that rows are for.
        stage: what `failures` calls this step.
        run: digest that failure rows carry.
    """

    def __init__(self, *, results: str, stage: str, run: str) -> None:
        self.results, self.stage, self.run = results, stage, run
        self._failed_in_a_row = 0

    def outcomes(
        self,
        images: Sequence[Mapping[str, Any]],
        inputs: Sequence[Any],
        rows_of: Callable[[Sequence[Mapping[str, Any]], Sequence[Any]], Sequence[Rows]],
    ) -> list[dict[str, Rows]]:
        """Per image its rows of one table; a batch that fails is tried one by one, to find the image that does it.

        Args:
            images: image_id and uri of each.
            inputs: what the model is given for each.
            rows_of: the rows of each of some images.

        Raises:
            RuntimeError: the model has failed for `HOPELESS` images in a row.
        """
        try:
            outcomes = [{self.results: rows} for rows in rows_of(images, inputs)] if images else []
        except Exception as error:
            if len(images) > 1:
                return [
                    self.outcomes([image], [one], rows_of)[0]
                    for image, one in zip(images, inputs, strict=True)
                ]
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= HOPELESS:
                raise RuntimeError(
                    f"the model failed on {HOPELESS} images in a row, the last time with "
                    f"{type(error).__name__}: {error}"
                ) from error
            return [
                {
                    "failures": [
                        failure_row(images[0]["image_id"], images[0]["uri"], self.stage, error, self.run)
                    ]
                }
            ]
        if outcomes:
            self._failed_in_a_row = 0
        return outcomes


def rows_table(
    started: float, outcomes: Sequence[Mapping[str, Rows]], schemas: Mapping[str, pa.Schema]
) -> pa.Table:
    """One row per image: when its batch began, and its rows of each table; as lists, so that the rows of an image stay
    in one file and one commit."""
    kinds = {name: pa.list_(pa.struct(list(schema))) for name, schema in schemas.items()}
    content = [{"started": started, **{name: held.get(name, []) for name in schemas}} for held in outcomes]
    return pa.Table.from_pylist(content, schema=pa.schema({"started": pa.float64(), **kinds}))


def write_tables(batch: pa.Table, *, uris: Mapping[str, str], schemas: Mapping[str, pa.Schema]) -> pa.Table:
    """Write the rows of these images, one file per table that has any; one row per file.

    Args:
        batch: as `rows_table` gives it.
        uris: where each table lies.
        schemas: of each table.
    """
    started = pc.min(batch["started"]).as_py()
    written = []
    for name, schema in schemas.items():
        lists = batch[name].combine_chunks()
        rows = pa.Table.from_struct_array(lists.flatten()).cast(schema)
        if rows.num_rows:
            images = int(pc.sum(pc.greater(pc.list_value_length(lists), 0)).as_py())
            part = asdict(write_part(uris[name], rows))
            written.append({"table": name, "images": images, "started": started, **part})
    return pa.Table.from_pylist(written, schema=_WRITTEN)
