"""One labelled image against its truth: what its labels mean there, its confusion, and which are worth a look."""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from zs3.metrics import PROTOCOLS, UNKNOWN, UNLABELLED, Confusion, Protocol, Scores, confusion, scores
from zs3.metrics.counts import GROUPS
from zs3.tables import label_map
from zs3.vocabulary import ClassEntry, Vocabulary, concept

# H W pixels

_NAMED = 12


def class_matches(names: Iterable[str], vocabulary: Vocabulary) -> dict[str, int]:
    """Labelled name -> id of the data set's class that it means, or `UNKNOWN` where the data set has none.

    The same name wins; otherwise the one class whose name means the same (`concept`: couch is sofa). Ids play
    no part, because a labelling vocabulary numbers its classes as it likes.

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
        ValueError: the rows are not of one image, overlap, or lay claim to pixels without a class name.
    """
    nameless = [row["class_id"] for row in rows if row["area"] and row["class_name"] not in matches]
    if nameless:
        raise ValueError(
            f"labels of {rows[0]['image_id']!r} have pixels of class {nameless[0]} without a name"
        )
    renumbered = [{**row, "class_id": matches.get(row["class_name"], UNLABELLED)} for row in rows]
    return label_map(renumbered, ignore_id=UNLABELLED)


def image_confusion(
    rows: Sequence[Mapping[str, Any]],
    truth_HW: np.ndarray,
    vocabulary: Vocabulary,
    matches: Mapping[str, int],
) -> Confusion:
    """The confusion of one image, background and excluded classes included.

    Args:
        rows: its label rows.
        truth_HW: class ids of the data set.
        vocabulary: the data set's.
        matches: as `class_matches` gives it.

    Raises:
        ValueError: sizes differ, or the rows are not those of one image.
    """
    return confusion(truth_HW, checked_prediction(rows, truth_HW, matches), ignore_id=vocabulary.ignore_id)


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


def image_scores(image: Confusion, vocabulary: Vocabulary) -> Scores:
    """Scores of one image alone, over the classes that its own truth holds."""
    return scores(image, vocabulary.classes, PROTOCOLS["zs3"])


def oracles(
    true_names: Confusion, true_masks: Confusion, classes: Sequence[ClassEntry], protocol: Protocol
) -> list[dict[str, Any]]:
    """What the labels would score with one half of the work done right, as diagnostics of a report.

    Args:
        true_names: sum over images of `with_true_names`.
        true_masks: sum over images of `with_true_masks`.
        classes: of the data set.
        protocol: of the report.
    """
    sets = (
        (
            "Masks alone",
            "Every labelled region of an image takes the name that most of its pixels truly have: what "
            "perfect naming of these masks would score.",
            scores(true_names, classes, protocol),
        ),
        (
            "Names alone",
            "Every true region of an image takes, as a whole, the name that most of its pixels were given: "
            "what perfect masks with these names would score.",
            scores(true_masks, classes, protocol),
        ),
    )
    return [
        {"title": title, "note": note, **{group: getattr(held, group) for group in GROUPS}}
        for title, note, held in sets
    ]


def notes(
    vocabulary: Vocabulary,
    *,
    seen: Mapping[str, bool],
    matches: Mapping[str, int],
    labelled_with: Vocabulary | None,
    missing: Mapping[str, tuple[int, Sequence[str]]],
    runs: Sequence[str],
) -> list[str]:
    """What a reader must know before the numbers; empty when all is as it should be.

    Args:
        vocabulary: of the data set.
        seen: labelled name -> whether the labeller had training masks of it.
        matches: labelled name -> class id of the data set.
        labelled_with: the class list that was labelled with, if known.
        missing: `without_labels` and `without_truth`: how many images were left out, and ids of the first.
        runs: digests of the labelling runs in the table.
    """
    roles = {entry.id: entry.role for entry in vocabulary.classes}
    leaked = [name for name in seen if seen[name] and roles.get(matches[name]) == "unseen"]
    never = [name for name in seen if not seen[name] and roles.get(matches[name]) == "seen"]
    foreign = [name for name in matches if matches[name] == UNKNOWN]
    found = []
    if leaked:
        found.append(
            f"The labeller had training masks of {_names(leaked)}, unseen in this data set: "
            "the unseen and harmonic scores are not zero-shot."
        )
    if never:
        found.append(
            f"The labeller never had training masks of {_names(never)}, seen in this data set: "
            "the seen score holds zero-shot classes."
        )
    if labelled_with is not None:
        offered = {concept(entry.name) for entry in labelled_with.candidates}
        lacking = [entry.name for entry in vocabulary.candidates if concept(entry.name) not in offered]
        if lacking:
            found.append(
                f"The class list that was labelled with has no name for {_names(lacking)}: "
                "no pixel can be called so, and where they are in the truth their IoU is 0."
            )
    if foreign:
        found.append(f"Labelled classes that the data set lacks count as wrong: {_names(foreign)}.")
    for why, reason in (
        ("without_labels", "they have no labels"),
        ("without_truth", "they are not in the split"),
    ):
        count, first = missing[why]
        if count:
            found.append(f"Left out, because {reason}: {_names(first, count)} ({count} in all).")
    if len(runs) > 1:
        found.append(f"The label table mixes {len(runs)} labelling runs.")
    return found


def chosen(mious: Mapping[str, float], count: int, seed: int) -> list[tuple[str, str]]:
    """(image id, kind) of up to `count` images, a third each worst, best, random; their order plays no part.

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
    rest = sorted(set(ranked) - {*worst, *best})
    lottery = random.Random(seed).sample(rest, min(len(rest), max(0, count) - 2 * third))
    kinds = (("worst", worst), ("best", best), ("random", lottery))
    return [(image_id, kind) for kind, ids in kinds for image_id in ids]


def _names(names: Sequence[str], count: int | None = None) -> str:
    """The first few of some names, `count` in all."""
    left = (len(names) if count is None else count) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {left} more" if left > 0 else "")


def _plain(name: str) -> str:
    """A name without regard to case and outer space."""
    return " ".join(name.split()).casefold()
