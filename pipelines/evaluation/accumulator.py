"""All images of an evaluation: sums in the driver's memory, and rows per image in files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.evaluation.image_scores import IMAGE_STATUS
from pipelines.storage.external_sort import SortedSpill
from pipelines.storage.spill import IDS_AT_ONCE, SpillFile
from zs3.evaluation.image_scores import confusions_of
from zs3.metrics import EvaluatedClass, Protocol
from zs3.metrics.confusions import Confusion, total, with_true_masks
from zs3.metrics.counts import counted
from zs3.metrics.region_bound import RegionBound
from zs3.metrics.reliability import Reliability
from zs3.tables import SCORES


class EvaluationAccumulator:
    """Sums over all images, and a row of `scores` and of `IMAGE_STATUS` per image.

    Args:
        folder: existing folder for the files; the caller removes it.
        classes: of the data set.
        protocol: which pixels count for calibration and oracles.
        range_ends: image ids at which the files of score rows are cut, as `Truth.range_ends` gives them.

    Attributes:
        confusion, true_masks: sums over all images, as labelled and with true masks (`zs3.metrics`).
        naming: what no naming of the labelled regions can exceed.
        oracles: sums of further confusions, as `zs3.evaluation.oracles` names them; empty without segments.
        reliability: of the scores of labels.
        count: number of images of each status.
        scores: rows of the table `scores`, in order of ids.
    """

    def __init__(
        self, folder: Path, classes: Sequence[EvaluatedClass], protocol: Protocol, range_ends: Sequence[str]
    ) -> None:
        self._classes, self._protocol = classes, protocol
        self._images = SpillFile(folder, IMAGE_STATUS, "images")
        self.scores = SortedSpill(folder, SCORES, "scores", range_ends)
        self.confusion, self.true_masks = total([]), total([])
        self.naming = RegionBound(classes, protocol)
        self.oracles: dict[str, Confusion] = {}
        self.reliability = Reliability()
        self.count: Counter[str] = Counter()

    def add(self, block: pa.Table) -> None:
        """Add some rows of `IMAGE_SCORES`."""
        self._write_status(block.select(IMAGE_STATUS.names))
        scored = block.filter(pc.equal(block["status"], "scored"))
        if not scored.num_rows:
            return
        self.scores.write(scored.select(SCORES.names))
        images = confusions_of(scored)
        for image, (labelled, scores) in zip(images, _columns(scored, "labelled", "score"), strict=True):
            by_class = dict(zip(labelled, scores, strict=True))
            self.reliability.add(image, by_class, self._classes, self._protocol)
        kept = [counted(image, self._classes, self._protocol) for image in images]
        self.confusion = total([self.confusion, *images])
        for image in kept:
            self.naming.add(image)
        self.true_masks = total([self.true_masks, *map(with_true_masks, kept)])
        oracles = pa.Table.from_struct_array(pc.list_flatten(scored["oracles"]).combine_chunks())
        for name in pc.unique(oracles["name"]).to_pylist():
            parts = confusions_of(oracles.filter(pc.equal(oracles["name"], name)))
            self.oracles[name] = total([self.oracles.get(name, total([])), *parts])

    def add_outside(self, ids: Iterable[str]) -> None:
        """Count images that the graph leaves out because they are not in the split."""
        rows = [{"image_id": image_id, "status": "outside"} for image_id in ids]
        self._write_status(pa.Table.from_pylist(rows, schema=IMAGE_STATUS))

    def errors(self, most: int) -> tuple[int, list[str]]:
        """How many images cannot be scored, and the first reasons."""
        repeated = self._images.query(
            "select image_id, count(*) over () as images from images where status = 'scored' "
            "group by image_id having count(*) > 1 order by image_id limit ?",
            most,
        )
        messages = [
            f"the rows of {row['image_id']!r} lie in two places; make them again in another --out"
            for row in repeated
        ]
        failing = "select message from images where status = 'error' order by message limit ?"
        messages += [row["message"] for row in self._images.query(failing, most)]
        count = self.count["error"] + (repeated[0]["images"] if repeated else 0)
        return count, sorted(messages)[:most]

    def first(self, status: str, most: int) -> list[dict[str, str]]:
        """Id and message of the first images of a status."""
        sql = "select distinct image_id, message from images where status = ? order by image_id limit ?"
        return self._images.query(sql, status, most)

    def turned(self, most: int) -> tuple[int, list[str]]:
        """How many scored images have an orientation that keeps their size, and ids of the first."""
        sql = "select image_id, count(*) over () as images from images where turned order by image_id limit ?"
        rows = self._images.query(sql, most)
        return (rows[0]["images"] if rows else 0), [row["image_id"] for row in rows]

    def failures(self, ids: Iterable[str]) -> dict[str, str]:
        """Image id -> why it could not be labelled, of a few images."""
        sql = (
            "select image_id, message from images where status = 'failed' and image_id in (select unnest(?))"
        )
        return {row["image_id"]: row["message"] for row in self._images.query(sql, list(ids))}

    def ids(self, status: str) -> Iterator[pa.Table]:
        """The ids of all images of a status, some at a time."""
        sql = "select image_id from images where status = ?"
        return self._images.stream(sql, status, rows_at_once=IDS_AT_ONCE)

    def gallery_candidates(self, count: int, seed: int) -> dict[str, float]:
        """Image id -> mean IoU of the images from which `zs3.evaluation.matching.chosen` chooses `count`: a third of
        `count` with the worst mean IoU, as many with the best, and a random sample of the others."""
        third = max(0, count) // 3
        rows = self._images.query(
            """with ranked as (
                select image_id, miou, row_number() over (order by miou, image_id) as place,
                    count(*) over () as images
                from images where status = 'scored' and not isnan(miou)
            ), drawn as (
                select image_id, miou from ranked where place > $third and place <= images - $third
                order by md5($seed || ':' || image_id) limit $others
            )
            select image_id, miou from ranked where place <= $third or place > images - $third
            union all select image_id, miou from drawn""",
            third=third,
            seed=str(seed),
            others=max(0, count) - 2 * third,
        )
        return {row["image_id"]: row["miou"] for row in rows}

    def files(self, ids: Iterable[str]) -> dict[str, str]:
        """Image id -> the file that holds its labels, of a few images."""
        sql = "select image_id, file from images where image_id in (select unnest(?))"
        return {row["image_id"]: row["file"] for row in self._images.query(sql, list(ids))}

    def truth_digests(self) -> Iterator[tuple[str, str]]:
        """(image id, digest of its truth) of all scored images, in order of ids."""
        sql = "select image_id, truth_digest from images where status = 'scored' order by image_id"
        for table in self._images.stream(sql, rows_at_once=IDS_AT_ONCE):
            yield from _columns(table, "image_id", "truth_digest")

    def _write_status(self, rows: pa.Table) -> None:
        self.count.update(rows["status"].to_pylist())
        self._images.write(rows.cast(IMAGE_STATUS))


def _columns(table: pa.Table, *names: str) -> Iterator[tuple]:
    """Rows of some columns as Python values."""
    return zip(*(table[name].to_pylist() for name in names), strict=True)
