"""The evaluation graph: label rows against truth, one sparse confusion per image, exact sums, one report.

    files ─► images_in_files ─► sketches (CPU tasks) ─► sums, `scores` (driver) ─► report.{html,md,json}

The driver sees confusions, never pixels; only the few images of the gallery are opened again, in tasks.
Nothing is written before every image has been scored: `scores` is one commit, reports are replaced whole.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipelines.evaluation_files import commit_scores, gallery, provenance, write_report
from pipelines.execution import Execution, start_ray
from pipelines.labels import Labels, failed_ids, images_in_files, open_labels
from pipelines.sources import read_bytes
from zs3.datasets import Dataset, ImageRef, open_dataset, read_truth
from zs3.evaluating import class_matches, image_confusion, image_scores, notes, oracles
from zs3.metrics import (
    PROTOCOLS,
    UNKNOWN,
    Confusion,
    counted,
    scores,
    total,
    with_true_masks,
    with_true_names,
)
from zs3.report import diagnostic, report_values
from zs3.tables import SCORES

if TYPE_CHECKING:
    import ray.data

IMAGES_PER_TASK = 32
"""Images that one task scores; their label rows, and one decoded truth at a time, are in its memory."""
NAMED_IDS = 5
"""How many offenders a message names."""

_SKETCHES = pa.schema(
    [
        *SCORES,
        pa.field("file", pa.string()),
        pa.field("miou", pa.float64()),
        pa.field("truth_digest", pa.string()),
        pa.field("has_truth", pa.bool_()),
        pa.field("error", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRequest:
    """What to score against what, and where the report goes."""

    labels: str
    """A label table, or the --out of a labelling run, which holds it as `labels`."""
    dataset: str
    """Layout: voc, coco_stuff, ade20k_full or folder."""
    root: str
    """Folder or uri of the data set."""
    split: str
    """As the layout names it."""
    out: str
    """Folder or uri that gets report.json, report.md, report.html and the table `scores`."""
    protocol: str = "zs3"
    """Which pixels count and how classes are averaged, by name."""
    allow_missing: bool = False
    """Score the images that have both labels and truth, instead of stopping when some have one only."""
    diagnostics: str | None = None
    """JSON file with a list of further score sets to show: title, seen, unseen, harmonic, note."""
    gallery: int = 12
    """Images shown in the page: a third each of the worst, the best, and random ones."""
    seed: int = 0
    """Chooses the random images of the gallery."""

    @property
    def title(self) -> str:
        """Data set and split, for people."""
        name = Path(self.root.rstrip("/")).name if self.dataset == "folder" else self.dataset
        return f"{name} {self.split}"


@dataclass(slots=True, kw_only=True)
class Tally:
    """What the driver keeps: sums over all images, and a line per image."""

    as_labelled: Confusion = field(default_factory=lambda: total([]))
    true_names: Confusion = field(default_factory=lambda: total([]))
    true_masks: Confusion = field(default_factory=lambda: total([]))
    scored: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Image id -> its miou (percent), the file that holds its labels, the digest of its truth."""
    without_truth: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def evaluate(
    request: EvaluateRequest,
    execution: Execution | None = None,
    *,
    now: datetime,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score a label table against a data set and write the report; returns what `report.json` holds.

    Args:
        request: what to score.
        execution: how; changes no result.
        now: the time to record.
        on_progress: called in this process with the images scored so far and those to score.

    Raises:
        ValueError, FileNotFoundError: the request cannot be carried out as it is; no report was written.
    """
    if request.protocol not in PROTOCOLS:
        raise ValueError(f"no protocol {request.protocol!r}; there are: {', '.join(PROTOCOLS)}")
    extra = read_diagnostics(request.diagnostics)
    dataset = open_dataset(request.dataset, request.root, request.split)
    labels = open_labels(request.labels)
    matches = _matches(labels, dataset)
    start_ray(execution or Execution())
    tally = Tally()
    rows = _tallied(sketch_graph(labels, dataset, matches), tally, dataset, on_progress)
    origin = {
        "labels": labels.uri,
        "version": labels.version,
        "dataset": request.dataset,
        "split": request.split,
    }
    commit_scores(request.out, _checked(rows, tally, dataset, request), origin)
    missing = _missing(tally, dataset)
    classes, protocol = dataset.vocabulary.classes, PROTOCOLS[request.protocol]
    report = report_values(
        title=request.title,
        scores=scores(tally.as_labelled, classes, protocol),
        protocol=protocol,
        images=len(tally.scored),
        missing=missing,
        notes=notes(
            dataset.vocabulary,
            seen=labels.seen,
            matches=matches,
            labelled_with=labels.vocabulary,
            missing=missing,
            runs=labels.runs,
        ),
        diagnostics=[*oracles(tally.true_names, tally.true_masks, classes, protocol), *extra],
        provenance=provenance(
            labels,
            dataset,
            request.root,
            {name: getattr(request, name) for name in ("protocol", "allow_missing", "gallery", "seed")},
            {image_id: line["truth_digest"] for image_id, line in tally.scored.items()},
            now,
        ),
    )
    pictures = gallery(tally.scored, dataset, matches, count=request.gallery, seed=request.seed)
    write_report(request.out, report, pictures)
    return report


def sketch_graph(labels: Labels, dataset: Dataset, matches: Mapping[str, int]) -> ray.data.Dataset:
    """The lazy dataset of one confusion per labelled image."""
    import ray
    from ray.data import DataContext

    DataContext.get_current().enable_progress_bars = False
    files = [pa.table({"file": [file]}) for file in labels.files]
    return (
        ray.data.from_arrow(files)
        .map_batches(
            functools.partial(images_in_files, images_per_block=IMAGES_PER_TASK),
            batch_size=None,
            batch_format="pyarrow",
        )
        .repartition(target_num_rows_per_block=IMAGES_PER_TASK)
        .map_batches(
            functools.partial(sketches, dataset=dataset, matches=matches),
            batch_size=None,
            batch_format="pyarrow",
        )
    )


def sketches(batch: pa.Table, *, dataset: Dataset, matches: Mapping[str, int]) -> pa.Table:
    """One row per labelled image: its confusion, or why there is none."""
    refs = {ref.id: ref for ref in dataset.refs}
    rows = [_sketch(image, refs.get(image["image_id"]), dataset, matches) for image in batch.to_pylist()]
    return pa.Table.from_pylist(rows, schema=_SKETCHES)


def read_diagnostics(source: str | None) -> list[dict[str, Any]]:
    """Further score sets from a JSON file, checked; none where there is no file to read.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is not a JSON list of score sets.
    """
    if source is None:
        return []
    try:
        content = json.loads(read_bytes(source))
    except json.JSONDecodeError as error:
        raise ValueError(f"diagnostics {source!r} is not valid JSON: {error}") from error
    if not isinstance(content, list):
        raise ValueError(
            f"diagnostics {source!r} holds a {type(content).__name__}; expected a list of score sets"
        )
    return [diagnostic(entry) for entry in content]


def _sketch(
    image: Mapping[str, Any], ref: ImageRef | None, dataset: Dataset, matches: Mapping[str, int]
) -> dict[str, Any]:
    """The row of one image."""
    row: dict[str, Any] = {"image_id": image["image_id"], "truth": [], "prediction": [], "pixels": []}
    row |= {"file": image["file"], "has_truth": ref is not None}
    if ref is None:
        return row
    try:
        if ref.truth_uri is None:
            raise ValueError(f"image {ref.id!r} has no truth file in the data set; choose a split with truth")
        data = read_bytes(ref.truth_uri)
        truth_HW = read_truth(dataset.name, data, dataset.vocabulary)
        found = image_confusion(image["rows"], truth_HW, dataset.vocabulary, matches)
    except (ValueError, OSError) as error:
        named = repr(image["image_id"]) in str(error)
        return row | {"error": str(error) if named else f"image {image['image_id']!r}: {error}"}
    return row | {
        "truth": found.truth.tolist(),
        "prediction": found.prediction.tolist(),
        "pixels": found.pixels.tolist(),
        "miou": image_scores(found, dataset.vocabulary).all,
        "truth_digest": hashlib.sha256(data).hexdigest(),
    }


def _tallied(
    graph: ray.data.Dataset,
    tally: Tally,
    dataset: Dataset,
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[pa.RecordBatch]:
    """Rows of `scores` as images are scored; the tally grows beside them."""
    classes, protocol = dataset.vocabulary.classes, PROTOCOLS["zs3"]
    for batch in graph.iter_batches(batch_size=None, batch_format="pyarrow"):
        found: list[Confusion] = []
        kept = []
        rows: list[dict[str, Any]] = batch.to_pylist()  # type: ignore[union-attr]  # Ray cannot tell the format
        for row in rows:
            if not row["has_truth"]:
                tally.without_truth.append(row["image_id"])
            elif row["error"]:
                tally.errors.append(row["error"])
            elif row["image_id"] in tally.scored:
                tally.errors.append(
                    f"the label rows of {row['image_id']!r} lie in two places; label it again"
                )
            else:
                tally.scored[row["image_id"]] = {key: row[key] for key in ("miou", "file", "truth_digest")}
                found.append(Confusion(**{key: np.array(row[key], np.int64) for key in Confusion.__slots__}))
                kept.append({name: row[name] for name in SCORES.names})
        sketched = [counted(one, classes, protocol) for one in found]
        tally.as_labelled = total([tally.as_labelled, *found])
        tally.true_names = total([tally.true_names, *map(with_true_names, sketched)])
        tally.true_masks = total([tally.true_masks, *map(with_true_masks, sketched)])
        if on_progress:
            on_progress(len(tally.scored), len(dataset.refs))
        yield from pa.Table.from_pylist(kept, schema=SCORES).to_batches()


def _checked(
    rows: Iterator[pa.RecordBatch], tally: Tally, dataset: Dataset, request: EvaluateRequest
) -> Iterator[pa.RecordBatch]:
    """The same rows; at their end the error that forbids a report, if there is one.

    Raises:
        ValueError: images could not be scored, are missing on either side, or none is left.
    """
    yield from rows
    if tally.errors:
        some = "; ".join(sorted(tally.errors)[:NAMED_IDS])
        raise ValueError(f"{len(tally.errors)} of {len(dataset.refs)} images cannot be scored: {some}")
    missing = _missing(tally, dataset)
    without_labels, without_truth = missing["without_labels"], missing["without_truth"]
    if not tally.scored:
        raise ValueError(
            f"none of the {len(without_truth)} labelled images (first: {without_truth[:1]}) is among "
            f"the {len(dataset.refs)} of {request.title} (first: {without_labels[:1]}); "
            "were other images labelled?"
        )
    if (without_labels or without_truth) and not request.allow_missing:
        failed = len(failed_ids(request.labels).intersection(without_labels))
        raise ValueError(
            f"{len(without_labels)} of {len(dataset.refs)} images of {request.title} have no labels "
            f"({_some(without_labels)}; {failed} of them are in the table of failures), and "
            f"{len(without_truth)} labelled images are not in it ({_some(without_truth)}); label the rest, or "
            f"score the {len(tally.scored)} that have both with --allow-missing"
        )


def _matches(labels: Labels, dataset: Dataset) -> dict[str, int]:
    """Labelled name -> class id of the data set.

    Raises:
        ValueError: not one labelled class is a class of the data set.
    """
    matches = class_matches(labels.seen, dataset.vocabulary)
    if matches and set(matches.values()) == {UNKNOWN}:
        raise ValueError(
            f"none of the labelled classes ({_some(list(matches))}) is one of {dataset.vocabulary.name!r} "
            f"({_some([entry.name for entry in dataset.vocabulary.candidates])}); is --dataset right?"
        )
    return matches


def _missing(tally: Tally, dataset: Dataset) -> dict[str, list[str]]:
    """Ids of images that have only truth, and only labels."""
    return {
        "without_labels": sorted(ref.id for ref in dataset.refs if ref.id not in tally.scored),
        "without_truth": sorted(tally.without_truth),
    }


def _some(names: Sequence[str]) -> str:
    """The first few names."""
    more = f", … {len(names) - NAMED_IDS} more" if len(names) > NAMED_IDS else ""
    return (", ".join(names[:NAMED_IDS]) or "none") + more
