"""One labelled image against its truth, as a row of the table `scores`, from which every metric is computed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zs3.evaluation.matching import checked_prediction
from zs3.metrics import PROTOCOLS, scores
from zs3.metrics.boundaries import boundary_counts
from zs3.metrics.confusions import UNKNOWN, UNLABELLED, Confusion, confusion
from zs3.vocabulary import Vocabulary

# H W pixels


def image_score_row(
    rows: Sequence[Mapping[str, Any]],
    truth_HW: np.ndarray,
    vocabulary: Vocabulary,
    matches: Mapping[str, int],
) -> tuple[dict[str, list[int] | list[float]], float]:
    """The columns of `scores` for one image, without its id, and the mean IoU of that image alone in percent.

    Args:
        rows: its label rows.
        truth_HW: class ids of the data set.
        vocabulary: the data set's.
        matches: labelled name -> class id of the data set, or `UNKNOWN`.

    Raises:
        ValueError: sizes differ, or the rows are not those of one image.
    """
    prediction_HW = checked_prediction(rows, truth_HW, matches)
    pairs = confusion(truth_HW, prediction_HW, ignore_id=vocabulary.ignore_id)
    edges = boundary_counts(
        truth_HW, _background_filled(prediction_HW, vocabulary), ignore_id=vocabulary.ignore_id
    )
    by_class = region_scores(rows, matches)
    columns: dict[str, list[int] | list[float]] = {
        "truth": pairs.truth.tolist(),
        "prediction": pairs.prediction.tolist(),
        "pixels": pairs.pixels.tolist(),
        "boundary_truth": edges.predicted.truth.tolist(),
        "boundary_prediction": edges.predicted.prediction.tolist(),
        "boundary_pixels": edges.predicted.pixels.tolist(),
        "boundary_class": edges.classes.tolist(),
        "boundary_true": edges.true.tolist(),
        "boundary_hits": edges.hits.tolist(),
        "labelled": list(by_class),
        "score": list(by_class.values()),
    }
    return columns, scores(pairs, vocabulary.classes, PROTOCOLS["zs3"]).all


def region_scores(rows: Sequence[Mapping[str, Any]], matches: Mapping[str, int]) -> dict[int, float]:
    """Class id of the data set -> score of its region in one image.

    Labels of several names that mean one class of the data set, or none of its classes, form one region; its score is
    the mean over its pixels.
    """
    sums: dict[int, tuple[float, int]] = {}
    for row in rows:
        if row["area"]:
            class_id = matches[row["class_name"]]
            score, area = sums.get(class_id, (0.0, 0))
            sums[class_id] = (score + row["score"] * row["area"], area + row["area"])
    return {class_id: score / area for class_id, (score, area) in sorted(sums.items())}


def confusions_of(rows: pa.Table) -> list[Confusion]:
    """The confusion in each row of `scores`."""
    ends = np.cumsum(pc.list_value_length(rows["truth"]).to_numpy())[:-1]
    columns = (
        np.split(pc.list_flatten(rows[name]).to_numpy().astype(np.int64), ends)
        for name in Confusion.__slots__
    )
    return [Confusion(**dict(zip(Confusion.__slots__, parts, strict=True))) for parts in zip(*columns)][
        : rows.num_rows
    ]


def _background_filled(prediction_HW: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """No label as background where there is one background class: the outline of a union is not that of its parts.

    Protocols that ignore background do not score this class, and outlines of the others stay as they are.
    """
    background = [entry.id for entry in vocabulary.classes if entry.role == "background"]
    if len(background) != 1:
        return prediction_HW
    return np.where((prediction_HW == UNLABELLED) | (prediction_HW == UNKNOWN), background[0], prediction_HW)
