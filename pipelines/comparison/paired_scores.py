"""The rows of `scores` of two evaluations, paired by image, in files: few are in memory, however many there are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.comparison.evaluated_run import EvaluatedRun
from pipelines.storage.external_sort import SortedSpill, range_ends
from pipelines.storage.spill import SpillFile
from pipelines.tables.delta_reader import row_batches
from zs3.evaluation.image_scores import confusions_of
from zs3.metrics.intervals import BLOCK
from zs3.tables import SCORES
from zs3.wording import first_names

NAMED_IDS = 5
"""Images that a message names."""

_IDS = pa.schema({"image_id": pa.string(), "run": pa.int32()})
_RUNS_OF_IMAGE = "select image_id, count(*) as runs, min(run) as run from ids group by image_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedRows:
    """The images that both runs scored, in order of their ids."""

    first: SortedSpill
    second: SortedSpill
    images: int
    notes: list[str]
    """Which images were left out, as a caveat."""


def paired_rows(runs: Sequence[EvaluatedRun], folder: Path, *, allow_missing: bool) -> PairedRows:
    """The rows of two runs, paired.

    Args:
        runs: the first and the second.
        folder: existing folder for files; the caller removes it.
        allow_missing: leave out images of one run, instead of stopping.

    Raises:
        ValueError: an image occurs twice or has two truths, none is in both, or some are in one only.
    """
    stored = [SpillFile(folder, SCORES, f"scores{number}") for number in (0, 1)]
    ids = SpillFile(folder, _IDS, "ids")
    for number, (run, spill) in enumerate(zip(runs, stored, strict=True)):
        for batch in row_batches(run.scores, SCORES.names):
            rows = pa.Table.from_batches([batch])
            spill.write(rows.cast(SCORES))
            numbers = pa.array(np.full(rows.num_rows, number), pa.int32())
            ids.write(pa.table([rows["image_id"].cast(pa.string()), numbers], schema=_IDS))
    _refuse_repeated(ids, runs)
    images, unpaired = _shared(ids, runs)
    if unpaired and not allow_missing:
        raise ValueError(
            f"the runs scored different images: {unpaired}; compare the {images} of both with --allow-missing"
        )
    ends = range_ends(
        ids.column(f"select image_id from ({_RUNS_OF_IMAGE}) where runs = 2 order by 1"), images
    )
    first, second = (
        _in_order(spill, stored[1 - number], SortedSpill(folder, SCORES, f"sorted{number}", ends), number)
        for number, spill in enumerate(stored)
    )
    _refuse_other_truth(first, second, runs)
    notes = [f"Left out are images of one run: {unpaired}."] if unpaired else []
    return PairedRows(first=first, second=second, images=images, notes=notes)


def _refuse_repeated(ids: SpillFile, runs: Sequence[EvaluatedRun]) -> None:
    """No image occurs twice in a run."""
    sql = "select image_id, run from ids group by all having count(*) > 1 order by run, image_id limit 1"
    for row in ids.query(sql):
        raise ValueError(
            f"the table scores of {runs[row['run']].source} holds image {row['image_id']!r} twice; evaluate again"
        )


def _shared(ids: SpillFile, runs: Sequence[EvaluatedRun]) -> tuple[int, str]:
    """How many images are in both runs, and those in one only in words, empty where there are none.

    Raises:
        ValueError: none is in both.
    """
    (count,) = ids.query(
        f"""select count(*) filter (runs = 2) as images, count(*) filter (runs = 1 and run = 0) as first,
            count(*) filter (runs = 1 and run = 1) as second from ({_RUNS_OF_IMAGE})"""
    )
    if not count["images"]:
        raise ValueError(
            f"{runs[0].source} and {runs[1].source} have no image in common; compare the same split"
        )
    if not count["first"] + count["second"]:
        return count["images"], ""
    parts = []
    for number, name in enumerate(("first", "second")):
        sql = f"select image_id from ({_RUNS_OF_IMAGE}) where runs = 1 and run = ? order by 1 limit ?"
        names = first_names(ids.column(sql, number, NAMED_IDS), NAMED_IDS, count=count[name])
        parts.append(f"{count[name]} only in {runs[number].source} ({names})")
    return count["images"], ", ".join(parts)


def _in_order(rows: SpillFile, other: SpillFile, ordered: SortedSpill, number: int) -> SortedSpill:
    """The rows of a run whose images are in the other one too, by id."""
    sql = f"select * from scores{number} semi join (select image_id from scores{1 - number}) using (image_id)"
    for table in rows.stream(sql, rows_at_once=BLOCK, joined_with=[other]):
        ordered.write(table)
    return ordered


def _refuse_other_truth(first: SortedSpill, second: SortedSpill, runs: Sequence[EvaluatedRun]) -> None:
    """Both runs saw the same true pixels of every class in every image."""
    pairs = itertools.zip_longest(_true_pixels(first), _true_pixels(second))
    for (image_id, pixels), (_, others) in pairs:
        if pixels != others:
            raise ValueError(
                f"the truth of image {image_id!r} differs between {runs[0].source} and "
                f"{runs[1].source}; evaluate both on the same data set"
            )


def _true_pixels(rows: SortedSpill) -> Iterator[tuple[str, dict[int, int]]]:
    """Image id, and pixels of each true class, in order."""
    for table in rows.tables(BLOCK):
        for image_id, image in zip(table["image_id"].to_pylist(), confusions_of(table), strict=True):
            classes, index = np.unique(image.truth, return_inverse=True)
            pixels = np.bincount(index, image.pixels).astype(np.int64)
            yield image_id, dict(zip(classes.tolist(), pixels.tolist(), strict=True))
