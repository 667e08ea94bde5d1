"""One annotated split on its way to tasks: what it lists lies in Ray's object store, where tasks look up their images.

The split is listed by a task, and the driver never holds what grows with the number of images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.storage.lookup_table import row_of
from zs3.datasets import Dataset, ImageRef, open_dataset
from zs3.datasets.listing import is_folder
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
    """`REFS`; a worker maps it into its memory and reads the few pages that it looks at."""

    def find(self, ids: Iterable[str]) -> dict[str, ImageRef]:
        """The references of those of some images that are in the split."""
        import ray

        table = ray.get(self.refs)
        return {ref.id: ref for one in ids if (ref := _found(table, one)) is not None}

    def dataset(self, ids: Iterable[str]) -> Dataset:
        """The split with some of its images alone."""
        refs = tuple(self.find(ids).values())
        return Dataset(name=self.name, split=self.split, vocabulary=self.vocabulary, refs=refs)

    def slices(self, size: int) -> ray.data.Dataset:
        """The lazy dataset of which rows of `refs` belong together: columns `start` and `stop`, one row a block."""
        import ray

        starts = list(range(0, self.images, size))
        ends = [*starts[1:], self.images]
        return ray.data.from_arrow(pa.table({"start": starts, "stop": ends})).repartition(
            target_num_rows_per_block=1
        )

    def __contains__(self, image_id: object) -> bool:
        """Whether an image is in the split."""
        return isinstance(image_id, str) and bool(self.find([image_id]))

    def not_in_split(self, ids: Iterator[pa.Table]) -> list[str]:
        """Those of some images that are not in the split, in order.

        Args:
            ids: a column `image_id`, some rows at a time.
        """
        import ray

        task: Any = ray.remote(_not_in_split)
        return list(ray.get(task.remote(self.refs, [ray.put(block) for block in ids])))

    def unscored(
        self, scored: Iterator[pa.Table], failed: Iterator[pa.Table], most: int
    ) -> tuple[int, list[str], int]:
        """How many images are not among those scored, the first of these, and how many of them failed.

        Args:
            scored, failed: columns `image_id`, some rows at a time.
            most: ids that are given.
        """
        import ray

        blocks = ([ray.put(block) for block in some] for some in (scored, failed))
        task: Any = ray.remote(_unscored)
        count, first, lost = ray.get(task.remote(self.refs, *blocks, most))
        return count, first, lost


def open_truth(name: str, root: str, split: str) -> Truth:
    """A split of a data set, listed by a task of the Ray that was started.

    Args:
        name: the layout: voc, coco_stuff, ade20k_full or folder.
        root: folder or uri of the data set.
        split: as the layout names it.

    Raises:
        FileNotFoundError, ValueError: as `zs3.datasets.open_dataset`.
    """
    import ray
    from ray.exceptions import RayTaskError

    task: Any = ray.remote(_listed)
    here = root if "://" in root else str(Path(root).expanduser().absolute())
    returned: list[Any] = list(task.options(num_returns=2).remote(name, here, split))
    try:
        vocabulary, images = ray.get(returned[0])
    except RayTaskError as error:
        raise error.cause from None
    return Truth(name=name, split=split, vocabulary=vocabulary, images=images, refs=returned[1])


def refuse_no_root(root: str) -> None:
    """Stop where there is no data set, before anything is started.

    Raises:
        FileNotFoundError: the root is no folder.
    """
    if not is_folder(root):
        raise FileNotFoundError(f"data set {root!r} does not exist or is no folder; check --root")


def _listed(name: str, root: str, split: str) -> tuple[tuple[Vocabulary, int], pa.Table]:
    """A split's class list and number of images, and its references."""
    dataset = open_dataset(name, root, split)
    refs = sorted(dataset.refs, key=lambda ref: ref.id)
    rows = [{"image_id": ref.id, "image_uri": ref.image_uri, "truth_uri": ref.truth_uri} for ref in refs]
    return (dataset.vocabulary, len(rows)), pa.Table.from_pylist(rows, schema=REFS)


def _found(table: pa.Table, image_id: str) -> ImageRef | None:
    """The reference of one image, or none where it is not in the table."""
    row = row_of(table, image_id)
    if row is None:
        return None
    return ImageRef(id=image_id, image_uri=row["image_uri"], truth_uri=row["truth_uri"])


def _not_in_split(refs: pa.Table, blocks: Sequence[Any]) -> list[str]:
    """As `Truth.not_in_split`, of references to blocks."""
    import ray

    known = set(refs["image_id"].to_pylist())
    named = {one for block in blocks for one in ray.get(block)["image_id"].to_pylist()}
    return sorted(named - known)


def _unscored(
    refs: pa.Table, scored: Sequence[Any], failed: Sequence[Any], most: int
) -> tuple[int, list[str], int]:
    """As `Truth.unscored`, of references to blocks."""
    import ray

    ids, lost = (
        {one for block in blocks for one in ray.get(block)["image_id"].to_pylist()}
        for blocks in (scored, failed)
    )
    left = [one for one in refs["image_id"].to_pylist() if one not in ids]
    return len(left), left[:most], len(lost.intersection(left))
