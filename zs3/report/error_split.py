"""The error split into grouping and naming, as a report shows it: four scores of the same images, also by class."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zs3.metrics import GROUPS, Confusion, EvaluatedClass, Protocol, finite, scores
from zs3.metrics.counts import scored_classes
from zs3.metrics.scoring import score_arrays
from zs3.report.formats import percent

PREDICTED = "predicted_names"

TITLES = {
    PREDICTED: "As labelled",
    "oracle_names": "Oracle names",
    "true_masks": "True masks",
    "oracle_group": "Oracle group",
}
"""Titles, in the order of the report; `zs3.evaluation.oracles` makes all but the first."""

NOTES = {
    PREDICTED: "The result above: predicted names on predicted masks.",
    "oracle_names": "Predicted masks: each piece of a label map, the pixels that one segment painted with one name, "
    "takes the name that most of its pixels truly have. No other names of these pieces have more pixels right, and "
    "what is missing to 100 % is grouping. The mean IoU can still be higher under other names, as small "
    "classes weigh as "
    "much as large ones in it.",
    "true_masks": "Predicted names: each true region of an image takes, as a whole, the class with the highest mean "
    "pixel score within it, calibration included. What these names would score on perfect masks, as far as the "
    "predicted segments show. (“Names alone” of a label table takes the label that most of its pixels got.)",
    "oracle_group": "At every pixel only classes of the truth's own group compete, seen or unseen. What the model "
    "would score if it never took one group for the other.",
}


def split_values(
    labelled: Confusion,
    by_oracle: Mapping[str, Confusion],
    classes: Sequence[EvaluatedClass],
    protocol: Protocol,
) -> dict[str, dict[str, Any]]:
    """What `report.json` holds as `error_split`: by name, scores in percent, null where undefined.

    Args:
        labelled: sum over images of the labels' confusions.
        by_oracle: the same of each oracle, as `zs3.evaluation.oracles` names them.
        classes: of the data set.
        protocol: of the report.
    """
    values: dict[str, dict[str, Any]] = {}
    for name, title in TITLES.items():
        result = scores(labelled if name == PREDICTED else by_oracle[name], classes, protocol)
        values[name] = {
            "title": title,
            "note": NOTES[name],
            **{group: finite(getattr(result, group)) for group in GROUPS},
            "pixel_accuracy": finite(result.pixel_accuracy),
            "classes": [
                {"name": entry.name, "seen": entry.seen, "iou": finite(entry.iou)} for entry in result.classes
            ],
        }
    return values


def split_diagnostics(split: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The oracles as diagnostics of a report."""
    keys = ("title", "note", *GROUPS)
    return [{key: entry[key] for key in keys} for name, entry in split.items() if name != PREDICTED]


def region_diagnostics(
    bound_3K: np.ndarray, true_masks: Confusion, classes: Sequence[EvaluatedClass], protocol: Protocol
) -> list[dict[str, Any]]:
    """The same for a label table, which knows regions but no segments, as diagnostics of a report.

    Args:
        bound_3K: as `RegionBound.counts` gives it.
        true_masks: sum over images of `with_true_masks`.
        classes: of the data set.
        protocol: of the report.
    """
    unseen_K = np.array([entry.role == "unseen" for entry in scored_classes(classes, protocol)], bool)
    bound = score_arrays(bound_3K[None], unseen_K, protocol).means
    by_names = scores(true_masks, classes, protocol)
    return [
        {
            "title": "Masks alone",
            "note": "A bound: no names for the labelled regions score more. Each class is given the regions "
            "that make its "
            "own IoU highest, whatever other classes are given. What is missing to 100 is due to the masks.",
            **{group: float(bound["iou", group][0]) for group in GROUPS},
        },
        {
            "title": "Names alone",
            "note": "Each true region of an image takes, as a whole, the name that most of its pixels were given: what "
            "these names would score on perfect masks. Where most of a region is wrong, this is below the result.",
            **{group: getattr(by_names, group) for group in GROUPS},
        },
    ]


def split_sentence(split: Mapping[str, Mapping[str, Any]]) -> str:
    """What each oracle would add to the headline, in one sentence."""
    (own, names, masks, group) = (split[name]["harmonic"] for name in TITLES)

    def gain(value: float | None) -> str:
        if value is None or own is None:
            return percent(value)
        return f"{percent(value)} ({value - own:+.1f})"

    return (
        f"The harmonic mean is {percent(own)}. It would be {gain(names)} if each piece of the same masks had "
        "the name that most "
        f"of its pixels truly have, "
        f"{gain(masks)} if the true masks were named by this model, and {gain(group)} if seen and unseen classes were "
        "never taken for each other."
    )


def split_means(split: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[float | None]]]:
    """(name, the four scores) of every mean and of pixel accuracy."""
    rows = [*((group, group) for group in GROUPS), ("pixel accuracy", "pixel_accuracy")]
    return [(label, [split[name][key] for name in TITLES]) for label, key in rows]


def split_classes(split: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, bool, list[float | None]]]:
    """(class, whether it is seen, its four IoU) of each class that the truth holds, in the order of the data set."""
    columns = [split[name]["classes"] for name in TITLES]
    return [
        (entries[0]["name"], entries[0]["seen"], [entry["iou"] for entry in entries])
        for entries in zip(*columns, strict=True)
        if entries[0]["iou"] is not None
    ]
