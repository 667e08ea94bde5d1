"""The labels of an image in the class ids of its data set, and the choice of images to show."""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from zs3.label_rows import label_map
from zs3.metrics import UNKNOWN, UNLABELLED
from zs3.vocabulary import Vocabulary, concept

# H W pixels


def class_matches(names: Iterable[str], vocabulary: Vocabulary) -> dict[str, int]:
    """Labelled name -> id of the data set's class that it means, or `UNKNOWN` where the data set has none.

    The same name wins; otherwise the one class whose name means the same (`concept`: couch is sofa). Ids do
    not matter, because a labelling vocabulary has its own numbers.

    Raises:
        ValueError: a name means several classes of the data set.
    """
    by_name = {_plain(entry.name): entry.id for entry in vocabulary.classes}
    by_concept: dict[str, list[int]] = {}
    for entry in vocabulary.classes:
        by_concept.setdefault(concept(entry.name), []).append(entry.id)
    matches = {}
    for name in names:
        candidates = by_concept.get(concept(name), [])
        if _plain(name) in by_name:
            candidates = [by_name[_plain(name)]]
        if len(candidates) > 1:
            means = [entry.name for entry in vocabulary.classes if entry.id in candidates]
            raise ValueError(
                f"label {name!r} could mean {means} of {vocabulary.name!r}; "
                "label with the data set's own names"
            )
        matches[name] = candidates[0] if candidates else UNKNOWN
    return matches


def predicted_ids(rows: Sequence[Mapping[str, Any]], matches: Mapping[str, int]) -> np.ndarray:
    """(H, W) int32 class ids of the data set from the label rows of one image; `UNLABELLED` elsewhere.

    Raises:
        ValueError: the rows are not of one image, overlap, or label pixels without a class name.
    """
    nameless = [row["class_id"] for row in rows if row["area"] and row["class_name"] not in matches]
    if nameless:
        raise ValueError(
            f"labels of {rows[0]['image_id']!r} have pixels of class {nameless[0]} without a name"
        )
    renumbered = [{**row, "class_id": matches.get(row["class_name"], UNLABELLED)} for row in rows]
    return label_map(renumbered, ignore_id=UNLABELLED)


def checked_prediction(
    rows: Sequence[Mapping[str, Any]], truth_HW: np.ndarray, matches: Mapping[str, int]
) -> np.ndarray:
    """(H, W) int32 class ids of the data set, as `predicted_ids` gives them, for a truth of the same size.

    Raises:
        ValueError: sizes differ, or the rows are not those of one image.
    """
    prediction_HW = predicted_ids(rows, matches)
    if prediction_HW.shape != truth_HW.shape:
        labelled, true = (f"{shape[1]}x{shape[0]}" for shape in (prediction_HW.shape, truth_HW.shape))
        raise ValueError(
            f"labels of {rows[0]['image_id']!r} are {labelled} pixels and its truth {true}; "
            "was another version of the picture labelled?"
        )
    return prediction_HW


def chosen(mious: Mapping[str, float], count: int, seed: int) -> list[tuple[str, str]]:
    """(image id, kind) of up to `count` images, a third each worst, best, random, whatever their order.

    Args:
        mious: image id -> mean IoU of that image; images without a number are never chosen.
        count: how many to choose.
        seed: chooses the random ones.
    """
    ranked = sorted(
        (image_id for image_id in mious if not math.isnan(mious[image_id])), key=lambda i: (mious[i], i)
    )
    third = max(0, count) // 3
    worst, best = ranked[:third], ranked[third:][::-1][:third]
    others = sorted(set(ranked) - {*worst, *best})
    drawn = random.Random(seed).sample(others, min(len(others), max(0, count) - 2 * third))
    kinds = (("worst", worst), ("best", best), ("random", drawn))
    return [(image_id, kind) for kind, ids in kinds for image_id in ids]


def _plain(name: str) -> str:
    """A name without regard to case and outer space."""
    return " ".join(name.split()).casefold()
