"""Sketches: what is kept of one labelled image, made in tasks and summed on the driver.

files ─► images_in_files ─► sketches ─► tallied (driver)
images ─► read_and_decode ─► LabelActor ─► sketches_of_labels ─► tallied (driver)
files ─► read_segments ─► ErrorActor (pipelines/evaluate_segments.py) ─► tallied (driver)
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.labels import Labels, image_graph
from pipelines.storage import read_bytes
from zs3.datasets import Dataset, ImageRef, read_truth
from zs3.metrics import PROTOCOLS, Confusion, Protocol, counted, total, with_true_masks, with_true_names
from zs3.metrics.reliability import Reliability
from zs3.sketching import confusion_of, scores_of, sketch
from zs3.tables import SCORES

if TYPE_CHECKING:
    import ray.data

_NAMED_CONFUSION = pa.struct(
    {"name": pa.string(), **dict.fromkeys(Confusion.__slots__, pa.list_(pa.int64()))}
)
SKETCHES = pa.schema(
    [
        *SCORES,
        pa.field("file", pa.string()),
        pa.field("miou", pa.float64()),
        pa.field("truth_digest", pa.string()),
        pa.field("has_truth", pa.bool_()),
        pa.field("names", pa.list_(pa.string())),
        pa.field("failure", pa.string()),
        pa.field("error", pa.string()),
        pa.field("oracles", pa.list_(_NAMED_CONFUSION)),
    ]
)


@dataclass(slots=True, kw_only=True)
class Tally:
    """What the driver keeps: sums over all images, and a line per image."""

    as_labelled: Confusion = field(default_factory=lambda: total([]))
    true_names: Confusion = field(default_factory=lambda: total([]))
    true_masks: Confusion = field(default_factory=lambda: total([]))
    oracles: dict[str, Confusion] = field(default_factory=dict)
    """As `zs3.error_split` names them; empty where the graph knows no segments."""
    reliability: Reliability = field(default_factory=Reliability)
    names: set[str] = field(default_factory=set)
    """Labelled names that occur."""
    scored: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Image id -> its miou (percent), the file that holds its labels, the digest of its truth."""
    without_truth: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Image id -> why it could not be labelled, where labelling is part of the graph."""
    errors: list[str] = field(default_factory=list)


def sketch_graph(labels: Labels, dataset: Dataset, matches: Mapping[str, int]) -> ray.data.Dataset:
    """The lazy dataset of one confusion per labelled image."""
    return image_graph(labels.files).map_batches(
        functools.partial(sketches, dataset=dataset, matches=matches),
        batch_size=None,
        batch_format="pyarrow",
    )


def sketches(batch: pa.Table, *, dataset: Dataset, matches: Mapping[str, int]) -> pa.Table:
    """One row per labelled image: its confusion, or why there is none."""
    refs = {ref.id: ref for ref in dataset.refs}
    rows = [image_sketch(image, refs.get(image["image_id"]), dataset, matches) for image in batch.to_pylist()]
    return pa.Table.from_pylist(rows, schema=SKETCHES)


def tallied(
    graph: ray.data.Dataset,
    tally: Tally,
    dataset: Dataset,
    headline: Protocol,
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[pa.Table]:
    """Rows of `scores` as images are scored; the tally grows beside them, as the headline protocol counts."""
    classes = dataset.vocabulary.classes
    for batch in graph.iter_batches(batch_size=None, batch_format="pyarrow"):
        found: list[Confusion] = []
        oracles: dict[str, list[Confusion]] = {}
        kept = []
        rows: list[dict[str, Any]] = batch.to_pylist()  # type: ignore[union-attr]  # Ray cannot tell the format
        for row in rows:
            if row["failure"]:
                tally.failed[row["image_id"]] = row["failure"]
            elif not row["has_truth"]:
                tally.without_truth.append(row["image_id"])
            elif row["error"]:
                tally.errors.append(row["error"])
            elif row["image_id"] in tally.scored:
                tally.errors.append(
                    f"the rows of {row['image_id']!r} lie in two places; make them again in another --out"
                )
            else:
                tally.scored[row["image_id"]] = {key: row[key] for key in ("miou", "file", "truth_digest")}
                found.append(confusion_of(row))
                tally.names.update(row["names"])
                tally.reliability.add(found[-1], scores_of(row), classes, headline)
                kept.append({name: row[name] for name in SCORES.names})
                for held in row["oracles"] or []:
                    oracles.setdefault(held["name"], []).append(confusion_of(held))
        sketched = [counted(one, classes, PROTOCOLS["zs3"]) for one in found]
        tally.as_labelled = total([tally.as_labelled, *found])
        tally.true_names = total([tally.true_names, *map(with_true_names, sketched)])
        tally.true_masks = total([tally.true_masks, *map(with_true_masks, sketched)])
        for name, parts in oracles.items():
            tally.oracles[name] = total([*parts, tally.oracles.get(name, total([]))])
        if on_progress:
            on_progress(len(tally.scored), len(dataset.refs))
        yield pa.Table.from_pylist(kept, schema=SCORES)


def sketches_of_labels(batch: pa.Table, *, dataset: Dataset, matches: Mapping[str, int]) -> pa.Table:
    """One row per image that a labelling actor was given: its sketch, or why it could not be labelled."""
    refs = {ref.id: ref for ref in dataset.refs}
    rows = []
    for image in batch.to_pylist():
        if image["failures"]:
            rows.append(failed_sketch(image["failures"][0]))
        else:
            image_id = image["labels"][0]["image_id"]
            labelled = {"image_id": image_id, "file": "", "rows": image["labels"]}
            rows.append(image_sketch(labelled, refs.get(image_id), dataset, matches))
    return pa.Table.from_pylist(rows, schema=SKETCHES)


_EMPTY: dict[str, Any] = {name: [] for name in SCORES.names if name != "image_id"}


def failed_sketch(failure: Mapping[str, Any]) -> dict[str, Any]:
    """The row of an image that could not be labelled, from its row of `failures`."""
    told = {"image_id": failure["image_id"], "failure": failure["message"], "has_truth": True}
    return {**_EMPTY, **told, "names": []}


def image_sketch(
    image: Mapping[str, Any],
    ref: ImageRef | None,
    dataset: Dataset,
    matches: Mapping[str, int],
    oracles: Callable[[NDArray[np.int32]], Mapping[str, Confusion]] | None = None,
) -> dict[str, Any]:
    """The row of one image.

    Args:
        image: `image_id`, its label `rows`, and the `file` that holds them.
        ref: the image in the data set; none where it is not in it.
        dataset: the data set.
        matches: labelled name -> class id of the data set, or `UNKNOWN`.
        oracles: truth -> further confusions to keep, by name.
    """
    names = sorted({row["class_name"] for row in image["rows"] if row["area"]})
    row: dict[str, Any] = {**_EMPTY, "image_id": image["image_id"], "names": names}
    row |= {"file": image["file"], "has_truth": ref is not None}
    if ref is None:
        return row
    try:
        if ref.truth_uri is None:
            raise ValueError(f"image {ref.id!r} has no truth file in the data set; choose a split with truth")
        data = read_bytes(ref.truth_uri)
        truth_HW = read_truth(dataset.name, data, dataset.vocabulary)
        columns, miou = sketch(image["rows"], truth_HW, dataset.vocabulary, matches)
    except (ValueError, OSError) as error:
        named = repr(image["image_id"]) in str(error)
        return row | {"error": str(error) if named else f"image {image['image_id']!r}: {error}"}
    row |= columns | {"miou": miou, "truth_digest": hashlib.sha256(data).hexdigest()}
    if oracles:
        row["oracles"] = [
            {"name": name, **{key: getattr(held, key) for key in Confusion.__slots__}}
            for name, held in oracles(truth_HW).items()
        ]
    return row
