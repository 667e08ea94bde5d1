"""Scores under every calibration γ from one pass over a picture, and γ chosen on other pictures than it is scored on.

γ is subtracted from the score of every seen class, so a pixel goes to its best unseen class exactly when γ exceeds the
lead of its best seen class. One histogram over that lead holds the label maps of all γ.
"""

# H W pixels, n counted pixels, G value of γ, T true class, P predicted class
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zs3.metrics import Confusion, EvaluatedClass, Protocol, Scores, scores


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupBest:
    """Per pixel the best seen and the best unseen class, before calibration."""

    seen_HW: np.ndarray
    """Class id of the best seen class."""
    unseen_HW: np.ndarray
    """Class id of the best unseen class."""
    lead_HW: np.ndarray
    """float32 score of the best seen class less that of the best unseen one."""


def confusions_by_gamma(
    truth_HW: np.ndarray, best: GroupBest, gammas: Sequence[float], ids: Sequence[int]
) -> np.ndarray:
    """(G, T, P) int64 pixels of every true class (T) given every class (P), for each γ; T and P are class ids.

    Args:
        truth_HW: class ids; pixels of other classes than `ids` do not count.
        gammas: ascending. On a tie between lead and γ the seen class wins, as it does where it is listed first.
        ids: the candidate classes.
    """
    size = max(ids) + 1
    counted = np.isin(truth_HW, ids)
    truth = truth_HW[counted].astype(np.int64)
    above = np.searchsorted(np.asarray(gammas, np.float32), best.lead_HW[counted], side="right")
    bins = len(gammas) + 1

    def histogram(prediction_HW: np.ndarray) -> np.ndarray:
        keys = (truth * size + prediction_HW[counted]) * bins + above
        return np.bincount(keys, minlength=size * size * bins).reshape(size, size, bins)

    # A pixel whose lead reaches exactly `above` of the γ is called seen by those, unseen by the others.
    as_seen = histogram(best.seen_HW)[:, :, ::-1].cumsum(axis=2)[:, :, ::-1][:, :, 1:]
    as_unseen = histogram(best.unseen_HW).cumsum(axis=2)[:, :, :-1]
    return np.moveaxis(as_seen + as_unseen, 2, 0)


def dense_scores(confusion_TP: np.ndarray, classes: Sequence[EvaluatedClass], protocol: Protocol) -> Scores:
    """The scores of a dense confusion whose rows and columns are class ids."""
    truth, prediction = np.nonzero(confusion_TP)
    sparse = Confusion(truth=truth, prediction=prediction, pixels=confusion_TP[truth, prediction])
    return scores(sparse, classes, protocol)


def crossed(
    halves_2GTP: np.ndarray, gammas: Sequence[float], classes: Sequence[EvaluatedClass], protocol: Protocol
) -> tuple[Scores, tuple[float, float]]:
    """Scores over all pictures, each half under the γ that is best (by harmonic mean) on the other half.

    The confusions of the two halves are added before scoring: the pictures are those of the scores at a single γ.

    Returns:
        The scores, and γ of the first and of the second half; the smallest on ties.
    """

    def best(half: int) -> int:
        found = [dense_scores(one, classes, protocol).harmonic for one in halves_2GTP[half]]
        return int(np.argmax(np.nan_to_num(found)))

    first, second = best(1), best(0)
    joined = halves_2GTP[0, first] + halves_2GTP[1, second]
    return dense_scores(joined, classes, protocol), (float(gammas[first]), float(gammas[second]))
