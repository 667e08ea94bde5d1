"""Label changes: how many pixels two label tables name differently, and from which class to which.

files of the first ─► label_rows_graph ─► pair_labels (CPU tasks, which read the second's files) ─► sum (driver)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable

from pipelines.execution import RaySettings
from pipelines.ray_session import start_ray
from pipelines.storage.lookup_table import row_of
from pipelines.tables.delta_reader import file_uris, parquet_file, row_batches
from pipelines.tables.label_table import label_rows_graph, rows_of_images
from zs3.evaluation.matching import predicted_ids
from zs3.metrics.confusions import UNLABELLED, Confusion, confusion, total, where

if TYPE_CHECKING:
    import ray

_PAIRS = pa.schema(
    {
        "first": pa.list_(pa.int64()),
        "second": pa.list_(pa.int64()),
        "pixels": pa.list_(pa.int64()),
        "size_differs": pa.bool_(),
    }
)


def label_changes(first: DeltaTable, second: DeltaTable, execution: RaySettings) -> dict[str, Any]:
    """Pixels by the name that each table gives them: how many in all, how many changed, and every change.

    Only images of both tables count; images whose size differs are counted and left out.
    """
    import ray

    start_ray(execution)
    names = sorted(_class_names(first) | _class_names(second))
    numbers = {name: number for number, name in enumerate(names)}
    files = ray.remote(_files_of_images).remote(file_uris(second))
    graph = label_rows_graph(file_uris(first)).map_batches(
        functools.partial(pair_labels, files=files, numbers=numbers),
        batch_size=None,
        batch_format="pyarrow",
    )
    pairs, sizes_differ = total([]), 0
    for row in graph.iter_rows():
        sizes_differ += row["size_differs"]
        truth, prediction, pixels = (np.array(row[key], np.int64) for key in ("first", "second", "pixels"))
        pairs = total([pairs, Confusion(truth=truth, prediction=prediction, pixels=pixels)])
    changed = where(pairs, pairs.truth != pairs.prediction)
    columns = (changed.truth.tolist(), changed.prediction.tolist(), changed.pixels.tolist())
    changes = sorted(zip(*columns, strict=True), key=lambda change: (-change[2], change[0], change[1]))
    name_of = {UNLABELLED: "no label"} | dict(enumerate(names))
    return {
        "pixels": int(pairs.pixels.sum()),
        "changed": int(changed.pixels.sum()),
        "sizes_differ": sizes_differ,
        "changes": [
            {"from": name_of[before], "to": name_of[after], "pixels": pixels}
            for before, after, pixels in changes
        ],
    }


def pair_labels(batch: pa.Table, *, files: ray.ObjectRef[pa.Table], numbers: Mapping[str, int]) -> pa.Table:
    """Per image of the first table that is in the second: its pixels by both labels.

    Args:
        batch: images with their label rows, as `label_rows_graph` gives them.
        files: as `_files_of_images` gives them.
        numbers: class name -> number.
    """
    import ray

    listed = ray.get(files)
    others: dict[str, list[dict[str, Any]]] = {}
    ids_by_file: dict[str, set[str]] = {}
    for image_id in batch["image_id"].to_pylist():
        if row := row_of(listed, image_id):
            ids_by_file.setdefault(row["file"], set()).add(image_id)
    for file, ids in ids_by_file.items():
        others |= dict(rows_of_images(file, ids))
    pairs = []
    for image in batch.to_pylist():
        if image["image_id"] not in others:
            continue
        first_HW = predicted_ids(image["rows"], numbers)
        second_HW = predicted_ids(others[image["image_id"]], numbers)
        if first_HW.shape != second_HW.shape:
            pairs.append({"first": [], "second": [], "pixels": [], "size_differs": True})
            continue
        counts = confusion(first_HW, second_HW, ignore_id=UNLABELLED - 1)
        columns = {"first": counts.truth, "second": counts.prediction, "pixels": counts.pixels}
        pairs.append({**columns, "size_differs": False})
    return pa.Table.from_pylist(pairs, schema=_PAIRS)


def _class_names(table: DeltaTable) -> set[str]:
    """The class names that occur."""
    names: set[str] = set()
    for batch in row_batches(table, ["class_name"]):
        names.update(batch["class_name"].unique().to_pylist())
    return names - {""}


def _files_of_images(files: Sequence[str]) -> pa.Table:
    """Columns `image_id`, in order, and `file`: which file holds the rows of each image."""
    file_of: dict[str, str] = {}
    for file in files:
        with parquet_file(file) as opened:
            for batch in opened.iter_batches(columns=["image_id"]):
                file_of.update(dict.fromkeys(batch["image_id"].to_pylist(), file))
    ids = sorted(file_of)
    return pa.table({"image_id": ids, "file": [file_of[image_id] for image_id in ids]})
