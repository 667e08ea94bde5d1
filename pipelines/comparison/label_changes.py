"""Pixel churn: how many pixels two label tables name differently, and from which class to which.

files of A ─► image_graph ─► changes (CPU tasks, which read B's files of the same images) ─► sum (driver)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from pipelines.execution import Execution
from pipelines.ray_session import start_ray
from pipelines.storage.lookup_table import row_of
from pipelines.tables.label_table import image_graph, rows_of_images
from zs3.evaluation.matching import predicted_ids
from zs3.metrics import UNLABELLED, Confusion, confusion, total

if TYPE_CHECKING:
    import ray

_CHANGES = pa.schema(
    {
        "first": pa.list_(pa.int64()),
        "second": pa.list_(pa.int64()),
        "pixels": pa.list_(pa.int64()),
        "size_differs": pa.bool_(),
    }
)


def churn(first: DeltaTable, second: DeltaTable, execution: Execution) -> dict[str, Any]:
    """Pixels by the name that each table gives them: how many in all, how many changed, and every change.

    Only images of both tables count; those whose size differs are counted and passed over.
    """
    import ray

    start_ray(execution)
    names = sorted(_names(first) | _names(second))
    numbers = {name: number for number, name in enumerate(names)}
    places = ray.remote(_places).remote(sorted(second.file_uris()))
    graph = image_graph(sorted(first.file_uris())).map_batches(
        functools.partial(changes, places=places, numbers=numbers), batch_size=None, batch_format="pyarrow"
    )
    whole, differing = total([]), 0
    for row in graph.iter_rows():
        differing += row["size_differs"]
        part = (np.array(row[key], np.int64) for key in ("first", "second", "pixels"))
        truth, prediction, pixels = part
        whole = total([whole, Confusion(truth=truth, prediction=prediction, pixels=pixels)])
    moved = whole.truth != whole.prediction
    called = {UNLABELLED: "no label"} | dict(enumerate(names))
    listed = sorted(
        zip(whole.truth[moved].tolist(), whole.prediction[moved].tolist(), whole.pixels[moved].tolist()),
        key=lambda change: (-change[2], change[0], change[1]),
    )
    return {
        "pixels": int(whole.pixels.sum()),
        "changed": int(whole.pixels[moved].sum()),
        "sizes_differ": differing,
        "changes": [{"from": called[one], "to": called[to], "pixels": pixels} for one, to, pixels in listed],
    }


def changes(batch: pa.Table, *, places: ray.ObjectRef[pa.Table], numbers: Mapping[str, int]) -> pa.Table:
    """Per image of one table that is in the other: its pixels by both labels.

    Args:
        batch: images with their label rows, as `image_graph` gives them.
        places: as `_places` gives them.
        numbers: class name -> number.
    """
    import ray

    listed = ray.get(places)
    images = batch.to_pylist()
    found_in = {one: held["file"] for image in images if (held := row_of(listed, one := image["image_id"]))}
    images = [image for image in images if image["image_id"] in found_in]
    wanted: dict[str, set[str]] = {}
    for image_id, file in found_in.items():
        wanted.setdefault(file, set()).add(image_id)
    others = {image_id: rows for file, ids in wanted.items() for image_id, rows in rows_of_images(file, ids)}
    found = []
    for image in images:
        maps = [predicted_ids(rows, numbers) for rows in (image["rows"], others[image["image_id"]])]
        if maps[0].shape != maps[1].shape:
            found.append({"first": [], "second": [], "pixels": [], "size_differs": True})
            continue
        pairs = confusion(maps[0], maps[1], ignore_id=UNLABELLED - 1)
        found.append(
            {
                "first": pairs.truth.tolist(),
                "second": pairs.prediction.tolist(),
                "pixels": pairs.pixels.tolist(),
                "size_differs": False,
            }
        )
    return pa.Table.from_pylist(found, schema=_CHANGES)


def _names(table: DeltaTable) -> set[str]:
    """Class names that occur."""
    found: set[str] = set()
    for batch in table.to_pyarrow_dataset().scanner(columns=["class_name"]).to_batches():
        found.update(batch["class_name"].unique().to_pylist())
    return found - {""}


def _places(files: Sequence[str]) -> pa.Table:
    """Columns `image_id`, in order, and `file`: which file holds the rows of each image."""
    places: dict[str, str] = {}
    for file in files:
        with fsspec.open(file, "rb") as opened:
            for batch in pq.ParquetFile(opened).iter_batches(columns=["image_id"]):
                places.update(dict.fromkeys(batch["image_id"].to_pylist(), file))
    ids = sorted(places)
    return pa.table({"image_id": ids, "file": [places[one] for one in ids]})
