"""The file of an export that lists all images; the driver writes it while images are exported."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.export.image_files import FilePlan
from pipelines.storage.atomic import whole_file
from pipelines.tables.delta_reader import row_batches
from pipelines.tables.label_table import Labels, open_labels_at
from zs3 import __version__
from zs3.export import coco, cvat
from zs3.export.colours import class_colours

Add = Callable[[int, Mapping[str, Any]], None]
"""Takes the number of an image, counted from 0, and its row of `WRITTEN`."""


@contextmanager
def no_list(labels: Labels, plan: FilePlan, classes: Sequence[tuple[str, int]]) -> Iterator[Add]:
    """Nothing, for formats without such a file."""
    yield lambda index, row: None


@contextmanager
def name_list(labels: Labels, plan: FilePlan, classes: Sequence[tuple[str, int]]) -> Iterator[Add]:
    """CVAT's list of pictures, one per line."""

    def add(index: int, row: Mapping[str, Any]) -> None:
        file.write(f"{row['image']}\n".encode())

    with whole_file(f"{plan.out}/{cvat.LIST_FILE}", plan.partial) as file:
        yield add


@contextmanager
def coco_list(labels: Labels, plan: FilePlan, classes: Sequence[tuple[str, int]]) -> Iterator[Add]:
    """COCO's JSON with stuff or panoptic annotations; it appears when the block ends without an error."""
    panoptic = plan.to == "panoptic"
    colours = {class_id: class_colours(np.array(class_id)).tolist() for _, class_id in classes}
    info = {
        "description": f"labels made by zs3 {__version__}",
        "labels": labels.uri,
        "version": labels.version,
        "runs": list(labels.runs),
    }
    own_numbers = has_numeric_ids(labels)
    with (
        whole_file(f"{plan.out}/{plan.to}.json", plan.partial) as target,
        tempfile.TemporaryFile("w+", encoding="utf-8") as waiting,
    ):
        out = TextIOWrapper(target, encoding="utf-8")
        listed = coco.categories(classes, colours if panoptic else None, _things(labels, plan, classes))
        stream = coco.Stream(out, waiting, info=info, categories=listed)

        def add(index: int, row: Mapping[str, Any]) -> None:
            number = int(row["image_id"]) if own_numbers else index + 1
            stream.add(row["image"], row["annotations"], number=number, numbered=not panoptic)

        yield add
        stream.close()
        out.detach()  # flushes without closing the file


def _things(labels: Labels, plan: FilePlan, classes: Sequence[tuple[str, int]]) -> frozenset[int]:
    """The exported ids of classes whose rows are instances; none where maps are not panoptic."""
    if labels.vocabulary is None or "things" not in labels.provenance.get("run", {}):
        return frozenset()
    ids = {**dict(classes), **plan.ids}
    return frozenset(
        ids[entry.name] for entry in labels.vocabulary.candidates if entry.thing and entry.name in ids
    )


LISTS = {"png": no_list, "coco": coco_list, "panoptic": coco_list, "cvat": name_list}
"""Format -> context manager that writes its list."""


def has_numeric_ids(labels: Labels) -> bool:
    """Whether all ids are digits of one length, as in COCO. Such images keep their numbers; others count from 1."""
    assert labels.uri is not None and labels.version is not None
    table = open_labels_at(labels.uri, labels.version)
    lengths: set[int] = set()
    for batch in row_batches(table, ["image_id"]) if table else ():
        ids = batch["image_id"].cast(pa.string())
        lengths.update(pc.unique(pc.utf8_length(ids)).to_pylist())
        if len(lengths) > 1 or not pc.all(pc.match_substring_regex(ids, "^[0-9]{1,15}$")).as_py():
            return False
    return bool(lengths)
