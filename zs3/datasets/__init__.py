"""Annotated data sets: one file per layout on disk; all are read with `open_dataset` and `read_truth`.

Imports `zs3.images` and `zs3.vocabulary`.
Begin with `open_dataset` below.
"""

from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zs3.datasets import ade20k, ade20k_full, coco_panoptic, coco_stuff, folder, pascal_context, voc
from zs3.datasets.listing import Dataset, ImageRef
from zs3.vocabulary import Vocabulary, load_vocabulary

__all__ = [
    "LAYOUTS",
    "PANOPTIC",
    "Dataset",
    "DatasetName",
    "ImageRef",
    "dataset_vocabulary",
    "open_dataset",
    "read_truth",
]

DatasetName = Literal[
    "voc", "folder", "coco_stuff", "ade20k_full", "voc_20", "voc_21", "coco_stuff_171", "ade20k_150", "ade20k_847",
    "pascal_context_59", "pascal_context_459",
]  # fmt: skip
"""The data sets that can be read. All but `folder` have the shipped class list of the same name."""

LAYOUTS: dict[str, ModuleType] = {
    "voc": voc,
    "folder": folder,
    "coco_stuff": coco_stuff,
    "ade20k_full": ade20k_full,
    "voc_20": voc,
    "voc_21": voc,
    "coco_stuff_171": coco_stuff,
    "ade20k_150": ade20k,
    "ade20k_847": ade20k_full,
    "pascal_context_59": pascal_context,
    "pascal_context_459": pascal_context,
}
"""How each lies on disk: a module with `index(root, split)` and `truth(data, vocabulary)`."""

PANOPTIC: dict[str, ModuleType] = {"coco_panoptic": coco_panoptic}
"""Layouts for training alone, whose `truth(data, vocabulary, segments)` also separates the things of a class."""


def open_dataset(name: str, root: str, split: str) -> Dataset:
    """One split of a data set: its vocabulary, and references to its images and truth.

    Args:
        name: one of `DatasetName`.
        root: folder of the data set, a path or an fsspec uri.
        split: its name in the layout.

    Raises:
        FileNotFoundError: the root, the list of the split or files of it are missing.
        ValueError: no such layout or split, or a malformed class list.
    """
    layout = _layout(name)
    return Dataset(
        name=name, split=split, vocabulary=dataset_vocabulary(name, root), refs=layout.index(root, split)
    )


def dataset_vocabulary(name: str, root: str) -> Vocabulary:
    """The class list of a data set, without reading its images.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: no such layout, or a malformed class list.
    """
    return folder.vocabulary(root) if _layout(name) is folder else load_vocabulary(name)


def read_truth(name: str, data: bytes, vocabulary: Vocabulary) -> NDArray[np.int32]:
    """Class ids of one truth file, (H, W) int32, void as `vocabulary.ignore_id`. Background keeps its id.

    Args:
        name: the layout the file comes from.
        data: the whole file.
        vocabulary: of the data set.

    Raises:
        ValueError: an id outside the vocabulary.
        ImageError: not a mask, or damaged.
    """
    truth: NDArray[np.int32] = _layout(name).truth(data, vocabulary)
    return truth


def _layout(name: str) -> ModuleType:
    layouts = LAYOUTS | PANOPTIC
    if name not in layouts:
        raise ValueError(f"no data set layout {name!r}; there are: {', '.join(layouts)}")
    return layouts[name]
