"""What export tasks do: the file of one image in each format, and a table file copied as it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.storage.atomic import whole_file, write_whole
from pipelines.tables.label_table import ROWS_AT_ONCE
from zs3.evaluation.matching import predicted_ids
from zs3.export import coco, cvat, panoptic
from zs3.export.colours import colour_png
from zs3.export.paths import picture_name, relative_path
from zs3.export.png import png_bytes
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
"""What a task tells of an image: its file below --out, if it has one, what the list of images says of it, and what of
its regions, or why it could not be written."""

COPIED = pa.schema({"name": pa.string(), "images": pa.int64(), "error": pa.string()})


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePlan:
    """What every task of an export is told."""

    to: str
    """The format."""
    out: str
    """Absolute folder or uri."""
    partial: str | None
    """Folder in which files grow; none in an object store."""
    ids: Mapping[str, int]
    """Labelled name -> class id in the files."""
    wide: bool
    """Whether PNGs of class ids have 16 bits."""


def exported(batch: pa.Table, *, plan: FilePlan) -> pa.Table:
    """One row of `WRITTEN` per image, whose file is then in its place.

    Args:
        batch: images with their label rows, as `image_graph` gives them.
        plan: of the export.
    """
    found = []
    for image in batch.to_pylist():
        told = {"image_id": image["image_id"], "file": "", "image": "", "annotations": [], "error": ""}
        try:
            file, content, more = FORMATS[plan.to](image["rows"], plan)
            if content is not None:
                write_whole(f"{plan.out}/{file}", content, plan.partial)
            told |= {"file": file, **more}
        except ValueError as error:
            named = repr(image["image_id"]) in str(error)
            told["error"] = str(error) if named else f"image {image['image_id']!r}: {error}"
        found.append(told)
    return pa.Table.from_pylist(found, schema=WRITTEN)


def _png(rows: Rows, plan: FilePlan) -> tuple[str, bytes | None, dict[str, Any]]:
    """A PNG of class ids."""
    label_map_HW = predicted_ids(rows, plan.ids)
    content = png_bytes(label_map_HW, ignore_id=UNLABELLED, wide=plan.wide)
    return relative_path(rows[0]["image_id"], ".png"), content, {}


def _coco(rows: Rows, plan: FilePlan) -> tuple[str, bytes | None, dict[str, Any]]:
    """No file; the regions of the image as annotations."""
    predicted_ids(
        rows, plan.ids
    )  # refuses regions that overlap, of which COCO's readers would each make another map
    return "", None, {"image": _entry(rows[0]), "annotations": _dumped(coco.regions(rows, plan.ids))}


def _panoptic(rows: Rows, plan: FilePlan) -> tuple[str, bytes | None, dict[str, Any]]:
    """A PNG of segment ids, and one annotation that says what its segments are."""
    file = relative_path(rows[0]["image_id"], ".png")
    content = colour_png(predicted_ids(rows, plan.ids), ignore_id=UNLABELLED)
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
"""Label rows of an image to its file below --out, the file's content, and what else is told of it."""


def copied(batch: pa.Table, *, plan: FilePlan) -> pa.Table:
    """One row of `COPIED` per file of the table, which is then in its place under its new name, row for row.

    Args:
        batch: columns `file`, where it lies, and `name`, what it is called below --out.
        plan: of the export.
    """
    found = []
    for row in batch.to_pylist():
        told = {"name": row["name"], "images": 0, "error": ""}
        try:
            with whole_file(f"{plan.out}/{row['name']}", plan.partial) as target:
                told["images"] = _copy(row["file"], target)
        except ValueError as error:
            told["error"] = str(error)
        found.append(told)
    return pa.Table.from_pylist(found, schema=COPIED)


def _copy(source: str, target: Any) -> int:
    """Copy a Parquet file, some rows at a time; the number of images in it, whose rows lie side by side."""
    images, last = 0, None
    with fsspec.open(source, "rb") as opened:
        held = pq.ParquetFile(opened)
        with pq.ParquetWriter(target, held.schema_arrow, compression="zstd") as writer:
            for batch in held.iter_batches(ROWS_AT_ONCE):
                writer.write_batch(batch)
                ids = batch["image_id"].cast(pa.string())
                if len(ids):
                    images += pc.sum(pc.not_equal(ids[1:], ids[:-1])).as_py() or 0
                    images += ids[0].as_py() != last
                    last = ids[-1].as_py()
    return images


def _entry(row: Mapping[str, Any]) -> str:
    """What COCO's list of images says of the image of a label row."""
    return json.dumps(coco.image_entry(row["image_id"], row["uri"], row["height"], row["width"]))


def _dumped(values: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each as JSON."""
    return [json.dumps(value) for value in values]
