"""The rows of `scores` of two evaluations, image beside image, in files: however many there are, few are in memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.comparison.evaluated_run import EvaluatedRun
from pipelines.storage.external_sort import sorted_rows
from pipelines.storage.spill import IDS_AT_ONCE, SpillFile
from zs3.evaluation.image_scores import confusion_of
from zs3.metrics.intervals import BLOCK
from zs3.tables import SCORES

NAMED_IDS = 5
"""How many offenders a message names."""

_IDS = pa.schema({"image_id": pa.string(), "run": pa.int32()})


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedRows:
    """The images that both runs scored, in order of their ids."""

    first: SpillFile
    second: SpillFile
    images: int
    notes: list[str]
    """What a reader must know: images that were left out."""


def paired_rows(runs: Sequence[EvaluatedRun], folder: Path, *, allow_missing: bool) -> PairedRows:
    """The rows of two runs, paired.

    Args:
        runs: the first and the second.
        folder: existing folder for files; it is the caller's to remove.
        allow_missing: leave out images of one run, instead of stopping.

    Raises:
        ValueError: an image occurs twice or has two truths, none is in both, or some are in one only.
    """
    held = [SpillFile(folder, SCORES, f"scores{run}") for run in (0, 1)]
    ids = SpillFile(folder, _IDS, "ids")
    for number, (run, spool) in enumerate(zip(runs, held, strict=True)):
        for batch in run.scores.to_pyarrow_dataset().scanner(columns=SCORES.names).to_batches():
            rows = pa.Table.from_batches([batch])
            spool.write(rows.cast(SCORES))
            numbers = pa.array(np.full(rows.num_rows, number), pa.int32())
            ids.write(pa.table([rows["image_id"].cast(pa.string()), numbers], schema=_IDS))
    _refuse_twice(ids, runs)
    images, told = _shared(ids, runs)
    if told and not allow_missing:
        raise ValueError(
            f"the runs scored different images: {told}; compare the {images} of both with --allow-missing"
        )
    first, second = (
        _in_order(folder, number, spool, held[1 - number], images) for number, spool in enumerate(held)
    )
    _refuse_other_truth(first, second, runs)
    notes = [f"Left out are images of one run: {told}."] if told else []
    return PairedRows(first=first, second=second, images=images, notes=notes)


def _refuse_twice(ids: SpillFile, runs: Sequence[EvaluatedRun]) -> None:
    """No image occurs twice in a run."""
    question = "select image_id, run from ids group by all having count(*) > 1 order by run, image_id limit 1"
    for row in ids.ask(question):
        raise ValueError(
            f"the table scores of {runs[row['run']].source} holds image {row['image_id']!r} twice; evaluate again"
        )


def _shared(ids: SpillFile, runs: Sequence[EvaluatedRun]) -> tuple[int, str]:
    """How many images are in both runs, and those of one only in words, empty where there are none.

    Raises:
        ValueError: there is none in both.
    """
    grouped = "select image_id, count(*) as runs, min(run) as run from ids group by image_id"
    (counted,) = ids.ask(
        f"""select count(*) filter (runs = 2) as images, count(*) filter (runs = 1 and run = 0) as first,
            count(*) filter (runs = 1 and run = 1) as second from ({grouped})"""
    )
    if not counted["images"]:
        raise ValueError(
            f"{runs[0].source} and {runs[1].source} have no image in common; compare the same split"
        )
    if not counted["first"] + counted["second"]:
        return counted["images"], ""
    parts = []
    for number, name in enumerate(("first", "second")):
        alone = ids.ask(
            f"select image_id from ({grouped}) where runs = 1 and run = ? order by 1 limit ?",
            number,
            NAMED_IDS,
        )
        some = ", ".join(row["image_id"] for row in alone) or "none"
        parts.append(f"{counted[name]} only in {runs[number].source} ({some})")
    return counted["images"], ", ".join(parts)


def _in_order(folder: Path, number: int, rows: SpillFile, other: SpillFile, images: int) -> SpillFile:
    """The rows of a run whose images are in the other one too, by id."""
    shared = f"from scores{number} semi join (select image_id from scores{1 - number}) using (image_id)"
    ids = rows.stream(f"select image_id {shared} order by 1", rows_at_once=IDS_AT_ONCE, beside=[other])
    return sorted_rows(
        rows.stream(f"select * {shared}", rows_at_once=BLOCK, beside=[other]),
        (one for table in ids for one in table["image_id"].to_pylist()),
        folder,
        SCORES,
        f"ordered{number}",
        count=images,
        rows_at_once=BLOCK,
    )


def _refuse_other_truth(first: SpillFile, second: SpillFile, runs: Sequence[EvaluatedRun]) -> None:
    """Both runs saw the same true pixels of every class in every image."""
    for one, other in itertools.zip_longest(_rows(first), _rows(second)):
        if _true_pixels(one) != _true_pixels(other):
            raise ValueError(
                f"the truth of image {one['image_id']!r} differs between {runs[0].source} and "
                f"{runs[1].source}; evaluate both on the same data set"
            )


def _rows(spool: SpillFile) -> Iterator[dict[str, Any]]:
    """The confusions of a run, image by image."""
    for table in spool.tables():
        yield from table.select(["image_id", "truth", "prediction", "pixels"]).to_pylist()


def _true_pixels(row: dict[str, Any]) -> dict[int, int]:
    """Pixels of each true class."""
    pairs = confusion_of(row)
    found, index = np.unique(pairs.truth, return_inverse=True)
    return dict(zip(found.tolist(), np.bincount(index, pairs.pixels).astype(np.int64).tolist(), strict=True))
