"""The label maps that `zs3.classification.semantic_map` gives under every γ, from three passes over an image instead of
one for each γ.

γ is subtracted from seen scores, so a pixel is labelled with its best seen class for every γ up to some point, and with
its best unseen class from there on. `semantic_map` compares different classes where γ is negative, zero or positive,
and the last bits of a pixel's score depend on how many it compares; so each sign has a pass of its own, with the same
operations.
"""

# K segment, C class, N class that is compared, H W pixels, X pixel of a strip, P counted pixel
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zs3.classification.semantic_map import (
    calibration_offsets,
    candidate_classes,
    masks_of_rows,
    pixel_scores_of_masks,
    uncovered_pixels,
)
from zs3.metrics import UNLABELLED, Confusion, confusion, total
from zs3.metrics.confusions import joined, where
from zs3.segmentation.segments import Segments

SIGNS = (-1, 0, 1)
SEEN, UNSEEN = 0, 1

VALUES_AT_ONCE = 1 << 22
"""Pixel scores in memory at once, 16 MiB of float32; changes no result."""

MIN_ID = -2
"""The smallest id that a label can mean (`zs3.metrics.UNKNOWN`)."""

Key = tuple[int, int, int]
"""Index of the naming, index of the sign in `SIGNS`, and `SEEN` or `UNSEEN`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupBest:
    """The best seen and the best unseen class of P pixels before γ, the first on ties."""

    seen_P: Tensor
    """(P,) int64 class index."""
    seen_score_P: Tensor
    """(P,) float32."""
    unseen_P: Tensor
    unseen_score_P: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Gammas:
    """Values of γ, ascending, each once.

    Raises:
        ValueError: there is none, or one is not finite.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        invalid = [value for value in self.values if not abs(value) <= float(np.finfo(np.float32).max)]
        if invalid or not self.values:
            raise ValueError(
                f"γ (calibration) is to be tried at {list(self.values)}; expected one or more finite numbers, "
                "such as 0 and 0.1"
            )
        assert list(self.values) == sorted(set(self.values)), "ascending, each once"

    def of(self, sign: int) -> tuple[float, ...]:
        """The values whose float32 has this sign."""
        return tuple(value for value in self.values if np.sign(np.float32(value)) == sign)


def sweep(
    segments: Segments,
    truth_HW: np.ndarray,
    scores: Sequence[Tensor],
    seen_C: Tensor,
    ids_C: np.ndarray,
    gammas: Gammas,
    *,
    ignore_id: int,
    resize_first: bool,
) -> dict[Key, Confusion]:
    """The confusions of one image from which `confusion_at` gives the confusion under every naming and γ.

    Args:
        truth_HW: class ids of the data set, of the image's size.
        scores: (K, C) class scores of each naming to try.
        seen_C: (C,) bool.
        ids_C: (C,) id in the data set that a label of each class means, or `UNKNOWN`.
        gammas: to try.
        ignore_id: truth of pixels that do not count.
        resize_first: as in the naming settings.

    Returns:
        For each naming and sign two confusions, of the pixels' best seen and best unseen classes. Their predictions are
        codes of class id and seen count: the number of γ of this sign under which the pixel is labelled as seen.
    """
    parts: dict[Key, list[Confusion]] = {}
    uncovered_HW = uncovered_pixels(segments).numpy() if segments.binary else None
    by_sign = [(sign, gammas.of(sign)) for sign in SIGNS]
    ids_C = ids_C.astype(np.int32)  # half the memory to move, and codes stay far below 2^31
    for rows in _strips(segments, len(seen_C)):
        counted = truth_HW[rows] != ignore_id
        truth_P = truth_HW[rows][counted]
        uncovered_P = uncovered_HW[rows][counted] if uncovered_HW is not None else None
        counted_P = torch.from_numpy(np.flatnonzero(counted))
        masks = masks_of_rows(segments, torch.arange(rows.start, rows.stop), resize_first=resize_first)
        for naming, scores_KC in enumerate(scores):
            bests: dict[tuple[int, ...], GroupBest] = {}
            for place, (sign, values) in enumerate(by_sign):
                if sign == 0 and not values:
                    continue
                classes_N = candidate_classes(scores_KC, calibration_offsets(seen_C, sign) > 0)
                compared = tuple(classes_N.tolist())
                if compared not in bests:
                    volume_NX = pixel_scores_of_masks(masks, scores_KC[:, classes_N]).flatten(1)
                    bests[compared] = best_of_groups(volume_NX, classes_N, seen_C, counted_P)
                best = bests[compared]
                count_P = seen_count(best, values)
                for side, index_P in ((SEEN, best.seen_P), (UNSEEN, best.unseen_P)):
                    ids_P = ids_C[index_P.numpy()]
                    if uncovered_P is not None:
                        ids_P = np.where(uncovered_P, UNLABELLED, ids_P)
                    codes_P = (ids_P - MIN_ID) * (len(values) + 1)
                    codes_P += count_P
                    part = confusion(truth_P, codes_P, ignore_id=ignore_id)
                    parts.setdefault((naming, place, side), []).append(part)
    return {key: total(confusions) for key, confusions in parts.items()}


def best_of_groups(volume_NX: Tensor, classes_N: Tensor, seen_C: Tensor, counted_P: Tensor) -> GroupBest:
    """The best class of either group at the counted pixels; a group without a class scores -1, below every other.

    Args:
        volume_NX: (N, X) pixel scores before calibration, not negative.
        classes_N: (N,) index of each class, ascending.
        counted_P: (P,) index of each counted pixel.
    """
    pairs = []
    for members_N in (seen_C[classes_N], ~seen_C[classes_N]):
        if not bool(members_N.any()):
            size = len(counted_P)
            pairs += [torch.zeros(size, dtype=torch.int64), torch.full((size,), -1.0)]
            continue
        top, index = _rows(volume_NX, members_N).max(dim=0)
        index_P = index.index_select(0, counted_P)
        pairs += [classes_N[members_N].index_select(0, index_P), top.index_select(0, counted_P)]
    return GroupBest(seen_P=pairs[0], seen_score_P=pairs[1], unseen_P=pairs[2], unseen_score_P=pairs[3])


def _rows(volume_NX: Tensor, members_N: Tensor) -> Tensor:
    """Some rows; without a copy where they are adjacent, as seen and unseen classes mostly are."""
    places = members_N.nonzero()[:, 0]
    first, last = int(places[0]), int(places[-1])
    return volume_NX[first : last + 1] if last - first + 1 == len(places) else volume_NX[places]


def seen_count(best: GroupBest, gammas: Sequence[float]) -> np.ndarray:
    """(P,) int16: under how many of these γ, of one sign, a pixel is labelled with its best seen class.

    The comparison is that of `semantic_map`, rounding included: subtracting γ never makes two different scores of the
    group that wins equal, since the winner's score stays between 0 and its original value.
    """
    seen_P, unseen_P = best.seen_score_P.numpy(), best.unseen_score_P.numpy()
    # Of equal scores the class that is listed first wins: the other must be above by a last bit at least.
    first_P = (best.seen_P < best.unseen_P).numpy()
    above_P = np.where(first_P, unseen_P, np.nextafter(unseen_P, np.float32(np.inf)))
    below_P = np.where(first_P, seen_P, np.nextafter(seen_P, np.float32(-np.inf)))
    count_P = np.zeros(len(first_P), np.int16)
    difference_P = np.empty_like(seen_P)
    for gamma in map(np.float32, gammas):
        if gamma > 0:
            count_P += np.subtract(seen_P, gamma, out=difference_P) >= above_P
        else:
            count_P += np.subtract(unseen_P, -gamma, out=difference_P) <= below_P
    return count_P


def confusion_at(sums: Mapping[Key, Confusion], naming: int, gamma: float, gammas: Gammas) -> Confusion:
    """The confusion of the label maps of one naming under one γ.

    Args:
        sums: over images, of the results of `sweep` for these γ.
        naming: index of the naming.
        gamma: one of the γ; or -inf, where no pixel is labelled unseen, or inf, where none is labelled seen.
    """
    if np.isinf(gamma):
        place, side = (0, SEEN) if gamma < 0 else (2, UNSEEN)
        return _decoded(sums[naming, place, side], len(gammas.of(SIGNS[place])) + 1)
    sign = int(np.sign(np.float32(gamma)))
    values = gammas.of(sign)
    rank, bins = values.index(gamma), len(values) + 1
    parts = []
    for side in (SEEN, UNSEEN):
        coded = sums[naming, SIGNS.index(sign), side]
        labelled_seen = coded.prediction % bins > rank
        parts.append(_decoded(where(coded, labelled_seen == (side == SEEN)), bins))
    return total(parts)


def added(parts: Iterable[Mapping[Key, Confusion]]) -> dict[Key, Confusion]:
    """Exact sums of the results of `sweep`."""
    listed: dict[Key, list[Confusion]] = {}
    for part in parts:
        for key, confusions in part.items():
            listed.setdefault(key, []).append(confusions)
    return {key: total(confusions) for key, confusions in listed.items()}


def _decoded(coded: Confusion, bins: int) -> Confusion:
    """The confusion of class ids, whatever their seen count."""
    return joined(coded.truth, coded.prediction // bins + MIN_ID, coded.pixels)


def _strips(segments: Segments, classes: int) -> Iterator[slice]:
    """Rows of the image, a strip at a time; its height changes no result."""
    values = segments.width * max(1, classes, len(segments.mask_logits_Khw))
    height = max(2, VALUES_AT_ONCE // values)
    for start in range(0, segments.height, height):
        yield slice(start, min(start + height, segments.height))
