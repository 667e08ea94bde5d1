"""One annotated split: its references lie in Ray's object store, where tasks look up their images.

A task lists the split, and the driver never holds what grows with the number of images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.storage.external_sort import range_ends
from pipelines.storage.lookup_table import row_of
from zs3.datasets import Dataset, ImageRef, open_dataset
from zs3.datasets.listing import is_folder
from zs3.datasets.truth import BINARY_REPAIR
from zs3.metrics import Confusion, EvaluatedClass, Protocol, counted
from zs3.vocabulary import Vocabulary

if TYPE_CHECKING:
    import ray
    import ray.data

REFS = pa.schema({"image_id": pa.string(), "image_uri": pa.string(), "truth_uri": pa.string()})
"""One row per image of the split, in order of ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """A split, small enough to send to any worker."""

    name: str
    """The layout."""
    split: str
    vocabulary: Vocabulary
    images: int
    refs: ray.ObjectRef[pa.Table]
    """`REFS`; a worker maps it into its memory and reads the few pages that it needs."""

    def find(self, ids: Iterable[str]) -> dict[str, ImageRef]:
        """Id -> reference, of the images that are in the split."""
        import ray

        table = ray.get(self.refs)
        rows = {image_id: row_of(table, image_id) for image_id in ids}
        return {
            image_id: ImageRef(id=image_id, image_uri=row["image_uri"], truth_uri=row["truth_uri"])
            for image_id, row in rows.items()
            if row is not None
        }

    def dataset(self, ids: Iterable[str]) -> Dataset:
        """The split with only some of its images."""
        refs = tuple(self.find(ids).values())
        return Dataset(name=self.name, split=self.split, vocabulary=self.vocabulary, refs=refs)

    def slices(self, size: int) -> ray.data.Dataset:
        """The lazy dataset of slices of `refs`: columns `start` and `stop`, one row per block."""
        import ray

        starts = list(range(0, self.images, size))
        ends = [*starts[1:], self.images]
        return ray.data.from_arrow(pa.table({"start": starts, "stop": ends})).repartition(
            target_num_rows_per_block=1
        )

    def __contains__(self, image_id: object) -> bool:
        """Whether an image is in the split."""
        return isinstance(image_id, str) and bool(self.find([image_id]))

    def range_ends(self) -> list[str]:
        """Image ids that cut the split into ranges, for `SortedSpill`."""
        import ray

        task: Any = ray.remote(_range_ends)
        return list(ray.get(task.remote(self.refs)))

    def not_in_split(self, ids: Iterator[pa.Table]) -> list[str]:
        """The ids that are not in the split, in order.

        Args:
            ids: tables with a column `image_id`.
        """
        import ray

        task: Any = ray.remote(_not_in_split)
        return list(ray.get(task.remote(self.refs, [ray.put(block) for block in ids])))

    def unscored(
        self, scored: Iterator[pa.Table], failed: Iterator[pa.Table], most: int
    ) -> tuple[int, list[str], int]:
        """How many images of the split were not scored, the first `most` of their ids, and how many of them failed.

        Args:
            scored, failed: tables with a column `image_id`.
        """
        import ray

        blocks = ([ray.put(block) for block in tables] for tables in (scored, failed))
        task: Any = ray.remote(_unscored)
        count, first, failures = ray.get(task.remote(self.refs, *blocks, most))
        return count, first, failures


def open_truth(name: str, root: str, split: str) -> Truth:
    """A split of a data set, listed by a task; Ray must run.

    Args:
        name: one of `zs3.datasets.DatasetName`.
        root: folder or uri of the data set.
        split: as the layout names it.

    Raises:
        FileNotFoundError, ValueError: as `zs3.datasets.open_dataset`.
    """
    import ray
    from ray.exceptions import RayTaskError

    task: Any = ray.remote(_listed)
    absolute = root if "://" in root else str(Path(root).expanduser().absolute())
    returned: list[Any] = list(task.options(num_returns=2).remote(name, absolute, split))
    try:
        vocabulary, images = ray.get(returned[0])
    except RayTaskError as error:
        raise error.cause from None
    return Truth(name=name, split=split, vocabulary=vocabulary, images=images, refs=returned[1])


def refuse_missing_root(root: str) -> None:
    """Check that there is a data set, before anything starts.

    Raises:
        FileNotFoundError: the root is no folder.
    """
    if not is_folder(root):
        raise FileNotFoundError(f"data set {root!r} does not exist or is no folder; check --root")


def refuse_uncounted(
    labelled: Confusion, classes: Sequence[EvaluatedClass], protocol: Protocol, title: str
) -> None:
    """Check that some pixel of the truth counts, or every score would be undefined.

    Args:
        labelled: sum over all images, before the protocol.
        title: of data set and split.

    Raises:
        ValueError: none does.
    """
    if not counted(labelled, classes, protocol).pixels.size:
        raise ValueError(
            f"the truth of {title} has no pixel of a class that counts under protocol {protocol.name!r}, only "
            "background "
            f"and ignored ones. {BINARY_REPAIR}"
        )


def _listed(name: str, root: str, split: str) -> tuple[tuple[Vocabulary, int], pa.Table]:
    """A split's class list and number of images, and its references."""
    dataset = open_dataset(name, root, split)
    refs = sorted(dataset.refs, key=lambda ref: ref.id)
    rows = [{"image_id": ref.id, "image_uri": ref.image_uri, "truth_uri": ref.truth_uri} for ref in refs]
    return (dataset.vocabulary, len(rows)), pa.Table.from_pylist(rows, schema=REFS)


def _range_ends(refs: pa.Table) -> list[str]:
    return range_ends(refs["image_id"].to_pylist(), refs.num_rows)


def _not_in_split(refs: pa.Table, blocks: Sequence[Any]) -> list[str]:
    return sorted(_ids(blocks) - set(refs["image_id"].to_pylist()))


def _unscored(
    refs: pa.Table, scored: Sequence[Any], failed: Sequence[Any], most: int
) -> tuple[int, list[str], int]:
    scored_ids = _ids(scored)
    unscored = [image_id for image_id in refs["image_id"].to_pylist() if image_id not in scored_ids]
    return len(unscored), unscored[:most], len(_ids(failed).intersection(unscored))


def _ids(blocks: Sequence[Any]) -> set[str]:
    """The image ids of references to blocks."""
    import ray

    return {image_id for block in blocks for image_id in ray.get(block)["image_id"].to_pylist()}
