"""The work of export tasks: write the file of one image in each format, or copy a table file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.storage.atomic import whole_file, write_whole
from pipelines.storage.objects import open_file
from pipelines.tables.label_table import ROWS_AT_ONCE
from zs3.evaluation.matching import predicted_ids
from zs3.export import coco, cvat, panoptic
from zs3.export.colours import colour_png
from zs3.export.paths import picture_name, relative_path
from zs3.export.png import png_bytes
from zs3.label_rows import label_map
from zs3.metrics import UNLABELLED

Rows = Sequence[Mapping[str, Any]]

PANOPTIC_FOLDER = "panoptic"
"""Folder of the PNGs that `panoptic.json` names."""

WRITTEN = pa.schema(
    {
        "image_id": pa.string(),
        "file": pa.string(),
        "image": pa.string(),
        "annotations": pa.list_(pa.string()),
        "error": pa.string(),
    }
)
"""Result of a task for an image: its file below --out, its entry in the list of images, those of its regions, and why
it could not be written. Strings are empty where there is no such thing."""

COPIED = pa.schema({"name": pa.string(), "images": pa.int64(), "error": pa.string()})


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePlan:
    """The settings of every task of an export."""

    to: str
    """The format."""
    out: str
    """Absolute folder or uri."""
    partial: str | None
    """Folder in which files grow; None in an object store."""
    ids: Mapping[str, int]
    """Labelled name -> class id in the files."""
    wide: bool
    """Whether PNGs of class ids have 16 bits."""


def exported(batch: pa.Table, *, plan: FilePlan) -> pa.Table:
    """Write the files of images; returns one row of `WRITTEN` per image.

    Args:
        batch: rows of `label_rows_graph`.
    """
    results = []
    for image in batch.to_pylist():
        result = {"image_id": image["image_id"], "file": "", "image": "", "annotations": [], "error": ""}
        try:
            file, content, more = FORMATS[plan.to](image["rows"], plan)
            if content is not None:
                write_whole(f"{plan.out}/{file}", content, plan.partial)
            result |= {"file": file, **more}
        except ValueError as error:
            is_named = repr(image["image_id"]) in str(error)
            result["error"] = str(error) if is_named else f"image {image['image_id']!r}: {error}"
        results.append(result)
    return pa.Table.from_pylist(results, schema=WRITTEN)


def _png(rows: Rows, plan: FilePlan) -> tuple[str, bytes | None, dict[str, Any]]:
    """A PNG of class ids."""
    label_map_HW = predicted_ids(rows, plan.ids)
    content = png_bytes(label_map_HW, ignore_id=UNLABELLED, wide=plan.wide)
    return relative_path(rows[0]["image_id"], ".png"), content, {}


def _coco(rows: Rows, plan: FilePlan) -> tuple[str, bytes | None, dict[str, Any]]:
    """No file; the regions of the image as annotations."""
    predicted_ids(
        rows, plan.ids
    )  # refuses overlapping regions, which readers of COCO paint in different orders
    return "", None, {"image": _entry(rows[0]), "annotations": _dumped(coco.regions(rows, plan.ids))}


def _panoptic(rows: Rows, plan: FilePlan) -> tuple[str, bytes | None, dict[str, Any]]:
    """A PNG of segment ids, and one annotation with the classes of the segments."""
    file = relative_path(rows[0]["image_id"], ".png")
    keys = panoptic.segment_keys(rows, plan.ids)
    numbered = [{**row, "class_id": key} for row, key in zip(rows, keys, strict=True)]
    content = colour_png(label_map(numbered, ignore_id=UNLABELLED), ignore_id=UNLABELLED)
    annotation = {"file_name": file, "segments_info": panoptic.segments_info(rows, plan.ids)}
    more = {"image": _entry(rows[0]), "annotations": _dumped([annotation])}
    return f"{PANOPTIC_FOLDER}/{file}", content, more


def _cvat(rows: Rows, plan: FilePlan) -> tuple[str, bytes | None, dict[str, Any]]:
    """A PNG of the colours of `labelmap.txt`, and the name of the picture."""
    name = picture_name(rows[0]["image_id"], rows[0]["uri"])
    content = colour_png(predicted_ids(rows, plan.ids), ignore_id=UNLABELLED)
    return f"{cvat.MASK_FOLDER}/{relative_path(name, '.png')}", content, {"image": name}


FORMATS: dict[str, Callable[[Rows, FilePlan], tuple[str, bytes | None, dict[str, Any]]]] = {
    "png": _png,
    "coco": _coco,
    "panoptic": _panoptic,
    "cvat": _cvat,
}
"""Format -> function from the label rows of an image to its file below --out, the content, and further columns."""


def copied(batch: pa.Table, *, plan: FilePlan) -> pa.Table:
    """Copy files of the table, row for row; returns one row of `COPIED` per file.

    Args:
        batch: columns `file`, the source, and `name`, the name below --out.
    """
    results = []
    for row in batch.to_pylist():
        result = {"name": row["name"], "images": 0, "error": ""}
        try:
            with whole_file(f"{plan.out}/{row['name']}", plan.partial) as target:
                result["images"] = _copy(row["file"], target)
        except ValueError as error:
            result["error"] = str(error)
        results.append(result)
    return pa.Table.from_pylist(results, schema=COPIED)


def _copy(source: str, target: Any) -> int:
    """Copy a Parquet file in batches; returns its number of images, whose rows are next to each other."""
    images, last = 0, None
    with open_file(source) as opened:
        parquet = pq.ParquetFile(opened)
        with pq.ParquetWriter(target, parquet.schema_arrow, compression="zstd") as writer:
            for batch in parquet.iter_batches(ROWS_AT_ONCE):
                writer.write_batch(batch)
                ids = batch["image_id"].cast(pa.string())
                if len(ids):
                    images += pc.sum(pc.not_equal(ids[1:], ids[:-1])).as_py() or 0
                    images += ids[0].as_py() != last
                    last = ids[-1].as_py()
    return images


def _entry(row: Mapping[str, Any]) -> str:
    """The entry in COCO's list of images for the image of a label row, as JSON."""
    return json.dumps(coco.image_entry(row["image_id"], row["uri"], row["height"], row["width"]))


def _dumped(values: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each value as JSON."""
    return [json.dumps(value) for value in values]
