"""What an evaluation remembers of its images: sums in the driver's memory, a line per image in files beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.storage.external_sort import sorted_rows
from pipelines.storage.spill import IDS_AT_ONCE, SpillFile
from zs3.evaluation.image_scores import confusion_of, scores_of
from zs3.metrics import PROTOCOLS, Confusion, Protocol, counted, total, with_true_masks, with_true_names
from zs3.metrics.intervals import BLOCK
from zs3.metrics.reliability import Reliability
from zs3.tables import SCORES

if TYPE_CHECKING:
    import ray.data

    from pipelines.evaluation.ground_truth import Truth

IMAGE_STATUS = pa.schema(
    {
        "image_id": pa.string(),
        "kind": pa.string(),
        "text": pa.string(),
        "file": pa.string(),
        "miou": pa.float64(),
        "truth_digest": pa.string(),
    }
)
"""One row per image: `scored`, `outside` of the split, `failed` to be labelled, or an `error`, with why as its text;
of scored ones the file that holds their labels, their own mean IoU in percent, and the digest of their truth."""


class EvaluationAccumulator:
    """Sums over all images, and a line per image.

    Args:
        folder: existing folder for the files; it is the caller's to remove.

    Attributes:
        as_labelled, true_names, true_masks: the confusion of all images, and with oracles (`zs3.metrics`).
        oracles: further confusions, as `zs3.evaluation.oracles` names them; empty where the graph knows no segments.
        reliability: of the scores of labels.
        names: labelled names that occur.
        kinds: how many images there are of each kind of line.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._scores = SpillFile(folder, SCORES, "scores")
        self._lines = SpillFile(folder, IMAGE_STATUS, "lines")
        self.as_labelled, self.true_names, self.true_masks = total([]), total([]), total([])
        self.oracles: dict[str, Confusion] = {}
        self.reliability = Reliability()
        self.names: set[str] = set()
        self.kinds: Counter[str] = Counter()

    @property
    def images(self) -> int:
        """Images that were scored."""
        return self.kinds["scored"]

    def take(
        self,
        graph: ray.data.Dataset,
        truth: Truth,
        headline: Protocol,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        """Take in all sketches of a graph, a block at a time, and calibration as the headline protocol counts."""
        for block in graph.iter_batches(batch_size=None, batch_format="pyarrow"):
            self.add(block.to_pylist(), truth, headline)  # type: ignore[union-attr]  # Ray cannot tell the format
            if on_progress:
                on_progress(self.images, truth.images)

    def add(self, rows: Iterable[dict[str, Any]], truth: Truth, headline: Protocol) -> None:
        """Take in some sketches."""
        classes = truth.vocabulary.classes
        found: list[Confusion] = []
        oracles: dict[str, list[Confusion]] = {}
        kept, lines = [], []
        for row in rows:
            lines.append(_line(row))
            if lines[-1]["kind"] != "scored":
                continue
            found.append(confusion_of(row))
            self.names.update(row["names"])
            self.reliability.add(found[-1], scores_of(row), classes, headline)
            kept.append({name: row[name] for name in SCORES.names})
            for held in row["oracles"] or []:
                oracles.setdefault(held["name"], []).append(confusion_of(held))
        sketched = [counted(one, classes, PROTOCOLS["zs3"]) for one in found]
        self.as_labelled = total([self.as_labelled, *found])
        self.true_names = total([self.true_names, *map(with_true_names, sketched)])
        self.true_masks = total([self.true_masks, *map(with_true_masks, sketched)])
        for name, parts in oracles.items():
            self.oracles[name] = total([*parts, self.oracles.get(name, total([]))])
        self._scores.write(pa.Table.from_pylist(kept, schema=SCORES))
        self._write(lines)

    def leave_out(self, ids: Iterable[str]) -> None:
        """Note images that the graph leaves out because they are not in the split."""
        self._write([{"image_id": one, "kind": "outside"} for one in ids])

    def finish(self) -> None:
        """All images are there."""
        self._scores.finish()
        self._lines.finish()

    def errors(self, most: int) -> tuple[int, list[str]]:
        """How many images cannot be scored, and why, of the first ones."""
        twice = self._lines.ask(
            "select image_id, count(*) over () as images from lines where kind = 'scored' "
            "group by image_id having count(*) > 1 order by image_id limit ?",
            most,
        )
        told = [
            f"the rows of {row['image_id']!r} lie in two places; make them again in another --out"
            for row in twice
        ]
        told += [
            row["text"]
            for row in self._lines.ask(
                "select text from lines where kind = 'error' order by text limit ?", most
            )
        ]
        return self.kinds["error"] + (twice[0]["images"] if twice else 0), sorted(told)[:most]

    def first(self, kind: str, most: int) -> list[dict[str, str]]:
        """Id and text of the first images of a kind."""
        return self._lines.ask(
            "select distinct image_id, text from lines where kind = ? order by image_id limit ?", kind, most
        )

    def reasons(self, ids: Iterable[str]) -> dict[str, str]:
        """Image id -> why it failed, of a few images."""
        question = "select image_id, text from lines where kind = 'failed' and image_id in (select unnest(?))"
        return {row["image_id"]: row["text"] for row in self._lines.ask(question, list(ids))}

    def ids(self, kind: str) -> Iterator[pa.Table]:
        """The ids of all images of a kind, some at a time."""
        question = "select image_id from lines where kind = ?"
        return self._lines.stream(question, kind, rows_at_once=IDS_AT_ONCE)

    def mious(self, count: int, seed: int) -> dict[str, float]:
        """Image id -> mean IoU of the images that `zs3.evaluation.matching.chosen` may choose from: a third of `count`
        that are the worst, as many that are the best, and some of the rest, drawn."""
        third = max(0, count) // 3
        rest = max(0, count) - 2 * third
        rows = self._lines.ask(
            """with ranked as (
                select image_id, miou, row_number() over (order by miou, image_id) as place,
                    count(*) over () as images
                from lines where kind = 'scored' and not isnan(miou)
            ), drawn as (
                select image_id, miou from ranked where place > $third and place <= images - $third
                order by md5($seed || ':' || image_id) limit $rest
            )
            select image_id, miou from ranked where place <= $third or place > images - $third
            union all select image_id, miou from drawn""",
            third=third,
            seed=str(seed),
            rest=rest,
        )
        return {row["image_id"]: row["miou"] for row in rows}

    def files(self, ids: Iterable[str]) -> dict[str, str]:
        """Image id -> the file that holds its labels, of a few images."""
        rows = self._lines.ask(
            "select image_id, file from lines where image_id in (select unnest(?))", list(ids)
        )
        return {row["image_id"]: row["file"] for row in rows}

    def truth_digests(self) -> Iterator[tuple[str, str]]:
        """(image id, digest of its truth) of all scored images, in order of ids."""
        question = "select image_id, truth_digest from lines where kind = 'scored' order by image_id"
        for table in self._lines.stream(question, rows_at_once=IDS_AT_ONCE):
            yield from zip(table["image_id"].to_pylist(), table["truth_digest"].to_pylist(), strict=True)

    def scores(self) -> SpillFile:
        """Rows of the table `scores`, in order of ids whatever order images came in."""
        ids = self._lines.column("select image_id from lines where kind = 'scored' order by image_id")
        return sorted_rows(
            self._scores.tables(), ids, self._folder, SCORES, "ordered", count=self.images, rows_at_once=BLOCK
        )

    def _write(self, lines: list[dict[str, Any]]) -> None:
        self.kinds.update(line["kind"] for line in lines)
        self._lines.write(pa.Table.from_pylist(lines, schema=IMAGE_STATUS))


def _line(row: dict[str, Any]) -> dict[str, Any]:
    """What is remembered of an image, from its sketch."""
    if row["failure"]:
        return {"image_id": row["image_id"], "kind": "failed", "text": row["failure"]}
    if not row["has_truth"]:
        return {"image_id": row["image_id"], "kind": "outside"}
    if row["error"]:
        return {"image_id": row["image_id"], "kind": "error", "text": row["error"]}
    return {"kind": "scored", **{key: row[key] for key in ("image_id", "file", "miou", "truth_digest")}}
