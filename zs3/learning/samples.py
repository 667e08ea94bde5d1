"""Training samples: the order of pictures, and crops with labels as indices into the training classes.

A sample is a pure function of its number: the same seed gives the same crops in the same order on any cluster, and a
run that was stopped continues with the crops that remain. Unseen and ignored pixels are blanked in the task that reads
the truth, so no later stage can know their classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from zs3.datasets import PANOPTIC, Dataset, ImageRef, read_truth
from zs3.images.codec import decode
from zs3.learning.augmentation import Augmentation, augment
from zs3.learning.targets import EXCLUDED, NEGATIVE
from zs3.vocabulary import ClassEntry, Vocabulary, concept, unseen_everywhere

IGNORE = np.iinfo(np.int16).max
"""Label of pixels of a crop that enter no loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingClass:
    """One row of the training text bank."""

    name: str
    synonyms: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """Training data: pictures of several data sets under one list of seen classes."""

    refs: tuple[tuple[int, ImageRef], ...]
    """(data set index, picture)."""
    layouts: tuple[str, ...]
    """Layout of each data set."""
    vocabularies: tuple[Vocabulary, ...]
    """Class list of each data set."""
    classes: tuple[TrainingClass, ...]
    """Seen classes of all data sets, synonyms folded."""
    tables: tuple[dict[int, int], ...]
    """Per data set: class id → training class, EXCLUDED or NEGATIVE."""


def training_plan(datasets: Sequence[Dataset], *, background_is_negative: bool) -> TrainingPlan:
    """The plan of several data sets; a class unseen in one, or a synonym of it, is unseen in all.

    Classes of different data sets with the same meaning become one class. Classes of one data set stay separate, even
    if their names have the same meaning (ADE20K's television receiver and monitor), because its truth separates them.

    Raises:
        ValueError: no seen class or no picture with truth remains.
    """
    vocabularies = tuple(dataset.vocabulary for dataset in datasets)
    unseen = unseen_everywhere(vocabularies)
    seen: dict[str, TrainingClass] = {}
    keys: list[dict[int, str]] = []
    for vocabulary in vocabularies:
        of_id: dict[int, str] = {}
        for entry in vocabulary.classes:
            key = concept(entry.name)
            if entry.role != "seen" or key in unseen:
                continue
            if key in of_id.values():
                key = f"{key}: {entry.name}"
            known = seen.get(key)
            synonyms = dict.fromkeys((*(known.synonyms if known else ()), entry.name, *entry.synonyms))
            name = known.name if known else entry.name
            synonyms.pop(name, None)
            seen[key] = TrainingClass(name=name, synonyms=tuple(synonyms))
            of_id[entry.id] = key
        keys.append(of_id)
    order = {key: index for index, key in enumerate(seen)}

    def index(entry: ClassEntry, of_id: dict[int, str]) -> int:
        if entry.role == "background" and background_is_negative:
            return NEGATIVE
        return order[of_id[entry.id]] if entry.id in of_id else EXCLUDED

    refs = tuple((i, ref) for i, dataset in enumerate(datasets) for ref in dataset.refs if ref.truth_uri)
    if not seen or not refs:
        raise ValueError(
            f"training sets {[d.name for d in datasets]} leave {len(seen)} seen classes and {len(refs)} pictures with "
            "truth; expected at least one of each: check roles in classes.json and the split"
        )
    return TrainingPlan(
        refs=refs,
        layouts=tuple(dataset.name for dataset in datasets),
        vocabularies=vocabularies,
        classes=tuple(seen.values()),
        tables=tuple({e.id: index(e, of_id) for e in v.classes} for v, of_id in zip(vocabularies, keys)),
    )


def training_labels(
    truth_HW: np.ndarray, table: Mapping[int, int], num_classes: int, ignore_id: int
) -> np.ndarray:
    """(H, W) int16: training class, `num_classes` for certainly none of them, IGNORE for pixels that enter no loss."""
    lookup = np.full(max(*table, ignore_id) + 1, IGNORE, dtype=np.int16)
    for class_id, index in table.items():
        lookup[class_id] = {EXCLUDED: IGNORE, NEGATIVE: num_classes}.get(index, index)
    lookup[ignore_id] = IGNORE
    return lookup[truth_HW]


def with_segments(labels_HW: np.ndarray, instances_HW: np.ndarray, num_classes: int) -> np.ndarray:
    """Labels of `training_labels` in which the segments of a class differ: by the multiples of `num_classes` + 1.

    Args:
        instances_HW: which segment of its class a pixel is in, from 0.

    Raises:
        ValueError: a class has so many segments that 16 bits do not suffice.
    """
    shift = np.where(labels_HW < num_classes, instances_HW * (num_classes + 1), 0)
    if int(shift.max(initial=0)) + num_classes >= IGNORE:
        raise ValueError(
            f"a class has {int(instances_HW.max()) + 1} segments, of which {IGNORE // (num_classes + 1)} can be told "
            f"apart among {num_classes} classes; leave the picture out"
        )
    return (labels_HW + shift).astype(np.int16)


def class_index(num_classes: int, max_label: int = 0) -> np.ndarray:
    """The `class_index` with which `targets_from_labels` reads labels of `training_labels` and `with_segments`."""
    return np.tile([*range(num_classes), NEGATIVE], max_label // (num_classes + 1) + 1)


def picture_of(sample: int, count: int, seed: int) -> int:
    """Index of the picture of a sample: every epoch is a new permutation of all pictures."""
    epoch, place = divmod(sample, count)
    return int(np.random.default_rng([seed, epoch]).permutation(count)[place])


def training_crop(
    plan: TrainingPlan, sample: int, settings: Augmentation, seed: int, read: Callable[[str], bytes]
) -> tuple[np.ndarray, np.ndarray]:
    """(C, C, 3) uint8 crop and (C, C) int16 labels of one sample.

    Raises:
        ValueError: picture and truth differ in size, or either cannot be read; the message names the picture.
    """
    which, ref = plan.refs[picture_of(sample, len(plan.refs), seed)]
    assert ref.truth_uri is not None
    layout, vocabulary, instances = plan.layouts[which], plan.vocabularies[which], None
    try:
        pixels = decode(read(ref.image_uri))
        if layout in PANOPTIC:
            truth, instances = PANOPTIC[layout].truth(read(ref.truth_uri), vocabulary, ref.segments)
        else:
            truth = read_truth(layout, read(ref.truth_uri), vocabulary)
    except ValueError as error:
        raise ValueError(f"training picture {ref.id} ({ref.image_uri}): {error}") from error
    if pixels.shape[:2] != truth.shape:
        raise ValueError(
            f"training picture {ref.id}: the picture is {pixels.shape[1]}x{pixels.shape[0]} but its truth "
            f"{truth.shape[1]}x{truth.shape[0]}; expected equal sizes: is {ref.truth_uri} its truth?"
        )
    labels = training_labels(truth, plan.tables[which], len(plan.classes), vocabulary.ignore_id)
    if instances is not None:
        labels = with_segments(labels, instances, len(plan.classes))
    rng = np.random.default_rng([seed, 1, sample])
    wanted = range(len(plan.classes))
    return augment(pixels, labels, replace(settings, ignore_id=IGNORE), rng, wanted_ids=wanted)
