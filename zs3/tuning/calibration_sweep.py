"""The label maps that `zs3.classification.semantic_map.semantic_map` gives under every γ, from three looks at a
picture instead of one for each γ.

γ takes seen classes back against unseen ones, so a pixel falls to its best seen class for every γ up to some point, and
to its best unseen class from there on. `semantic_map` weighs other classes where γ is negative, zero or positive, and
the last bits of a pixel's score depend on how many it weighs; so each sign is looked at by itself, exactly as
`semantic_map` does it.
"""

# K segment, C class, N class that is weighed, H W pixels, X pixel of a strip, P counted pixel
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
"""Pixel scores held at once, 16 MiB of float32; bounds memory and changes nothing."""

LOWEST_ID = -2
"""Least id that a label can mean (`zs3.metrics.UNKNOWN`)."""

Key = tuple[int, int, int]
"""Which naming, which sign (a place in `SIGNS`), and `SEEN` or `UNSEEN`."""


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
    """Some γ, ascending, each once.

    Raises:
        ValueError: there is none, or one is not finite.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        wrong = [value for value in self.values if not abs(value) <= float(np.finfo(np.float32).max)]
        if wrong or not self.values:
            raise ValueError(
                f"γ (calibration) is to be tried at {list(self.values)}; expected one or more finite numbers, "
                "such as 0 and 0.1"
            )
        assert list(self.values) == sorted(set(self.values)), "ascending, each once"

    def of(self, sign: int) -> tuple[float, ...]:
        """Those of one sign, as float32 has them."""
        return tuple(value for value in self.values if np.sign(np.float32(value)) == sign)


def swept(
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
    """What one picture holds for every γ: true classes against best classes and how far their best ones reach.

    Args:
        truth_HW: class ids of the data set, of the picture's size.
        scores: (K, C) class scores of each naming to try.
        seen_C: (C,) bool.
        ids_C: (C,) id in the data set that a label of each class means, or `UNKNOWN`.
        gammas: to try.
        ignore_id: truth of pixels that do not count.
        resize_first: as in the naming settings.

    Returns:
        For each naming and sign two confusions, of the pixels' best seen and best unseen classes. Their predictions are
        codes: class id and reach, the number of γ of this sign under which the pixel falls to its seen class. Sums of
        such confusions over pictures are what `confusion_at` reads.
    """
    parts: dict[Key, list[Confusion]] = {}
    bare_HW = uncovered_pixels(segments).numpy() if segments.binary else None
    held = [(sign, gammas.of(sign)) for sign in SIGNS]
    ids_C = ids_C.astype(np.int32)  # half the memory to move, and codes stay far below 2^31
    for rows in _strips(segments, len(seen_C)):
        counted = truth_HW[rows] != ignore_id
        truth_P = truth_HW[rows][counted]
        bare_P = bare_HW[rows][counted] if bare_HW is not None else None
        counted_P = torch.from_numpy(np.flatnonzero(counted))
        masks = masks_of_rows(segments, torch.arange(rows.start, rows.stop), resize_first=resize_first)
        for naming, scores_KC in enumerate(scores):
            bests: dict[tuple[int, ...], GroupBest] = {}
            for place, (sign, values) in enumerate(held):
                if sign == 0 and not values:
                    continue
                classes_N = candidate_classes(scores_KC, calibration_offsets(seen_C, sign) > 0)
                weighed = tuple(classes_N.tolist())
                if weighed not in bests:
                    volume_NX = pixel_scores_of_masks(masks, scores_KC[:, classes_N]).flatten(1)
                    bests[weighed] = best_of_groups(volume_NX, classes_N, seen_C, counted_P)
                best = bests[weighed]
                reach_P = reach(best, values)
                for side, index_P in ((SEEN, best.seen_P), (UNSEEN, best.unseen_P)):
                    ids_P = ids_C[index_P.numpy()]
                    if bare_P is not None:
                        ids_P = np.where(bare_P, UNLABELLED, ids_P)
                    codes_P = (ids_P - LOWEST_ID) * (len(values) + 1)
                    codes_P += reach_P
                    found = confusion(truth_P, codes_P, ignore_id=ignore_id)
                    parts.setdefault((naming, place, side), []).append(found)
    return {key: total(found) for key, found in parts.items()}


def best_of_groups(volume_NX: Tensor, classes_N: Tensor, seen_C: Tensor, counted_P: Tensor) -> GroupBest:
    """The best class of either group at the counted pixels; where a group has none, it scores -1, below every other.

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
    """Some rows; without a copy where they lie together, as seen and unseen classes mostly do."""
    places = members_N.nonzero()[:, 0]
    first, last = int(places[0]), int(places[-1])
    return volume_NX[first : last + 1] if last - first + 1 == len(places) else volume_NX[places]


def reach(best: GroupBest, gammas: Sequence[float]) -> np.ndarray:
    """(P,) int16: under how many of these γ, of one sign, a pixel falls to its best seen class.

    The comparison is that of `semantic_map`, rounding included: what is subtracted never makes two scores of the group
    that wins equal that were not, since the winner's score stays between 0 and what it was.
    """
    seen_P, unseen_P = best.seen_score_P.numpy(), best.unseen_score_P.numpy()
    # Of equal scores the class that is listed first wins: another one must be above, by a last bit at least.
    first_P = (best.seen_P < best.unseen_P).numpy()
    above_P = np.where(first_P, unseen_P, np.nextafter(unseen_P, np.float32(np.inf)))
    below_P = np.where(first_P, seen_P, np.nextafter(seen_P, np.float32(-np.inf)))
    count_P = np.zeros(len(first_P), np.int16)
    left_P = np.empty_like(seen_P)
    for gamma in map(np.float32, gammas):
        if gamma > 0:
            count_P += np.subtract(seen_P, gamma, out=left_P) >= above_P
        else:
            count_P += np.subtract(unseen_P, -gamma, out=left_P) <= below_P
    return count_P


def confusion_at(sums: Mapping[Key, Confusion], naming: int, gamma: float, gammas: Gammas) -> Confusion:
    """The confusion of the label maps of one naming under one γ.

    Args:
        sums: over pictures, of what `swept` gave for these γ.
        naming: a place in the scores that were swept.
        gamma: one of the γ; or -inf, where no unseen class is ever called, or inf, where no seen class is.
    """
    if np.isinf(gamma):
        place, side = (0, SEEN) if gamma < 0 else (2, UNSEEN)
        return _decoded(sums[naming, place, side], len(gammas.of(SIGNS[place])) + 1)
    sign = int(np.sign(np.float32(gamma)))
    values = gammas.of(sign)
    rank, bins = values.index(gamma), len(values) + 1
    parts = []
    for side in (SEEN, UNSEEN):
        held = sums[naming, SIGNS.index(sign), side]
        falls_to_seen = held.prediction % bins > rank
        parts.append(_decoded(where(held, falls_to_seen == (side == SEEN)), bins))
    return total(parts)


def added(parts: Iterable[Mapping[Key, Confusion]]) -> dict[Key, Confusion]:
    """Exact sums of what `swept` gave."""
    listed: dict[Key, list[Confusion]] = {}
    for part in parts:
        for key, found in part.items():
            listed.setdefault(key, []).append(found)
    return {key: total(found) for key, found in listed.items()}


def _decoded(held: Confusion, bins: int) -> Confusion:
    """The confusion of class ids, whatever their reach."""
    return joined(held.truth, held.prediction // bins + LOWEST_ID, held.pixels)


def _strips(segments: Segments, classes: int) -> Iterator[slice]:
    """Rows of the picture, some at a time; how many changes no result."""
    values = segments.width * max(1, classes, len(segments.mask_logits_Khw))
    height = max(2, VALUES_AT_ONCE // values)
    for start in range(0, segments.height, height):
        yield slice(start, min(start + height, segments.height))
