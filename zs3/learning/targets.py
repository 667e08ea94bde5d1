"""Targets of the losses: one mask for each class or segment of an image, and the pixels that are valid.

Ignored, unseen and padding pixels are not valid. Their labels never leave this file: label maps that differ only in
these labels give equal targets. This keeps unseen classes unseen.
"""

# N target mask, H W pixels

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

EXCLUDED = -1
"""Train index of an id whose pixels are not valid: unseen, or background that is ignored."""

NEGATIVE = -2
"""Train index of an id that is certainly none of the classes: valid pixels that belong to no target."""

_UNKNOWN = -3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Targets:
    """The truth of one image: its targets, and the valid pixels."""

    classes: Tensor
    """(N,) int64, indices into the training classes; ascending where each class has one target."""
    masks: Tensor
    """(N, H, W) bool, disjoint, False wherever `valid` is False; at points (`zs3.learning.points`) float32 shares."""
    valid: Tensor
    """(H, W) bool, False on ignored, unseen and padding pixels."""


def lookup_table(class_index: Mapping[int, int] | Sequence[int] | np.ndarray) -> np.ndarray:
    """(ids,) int64 train index of each class id, -1 excluded, -2 negative, -3 not in the list."""
    if not isinstance(class_index, Mapping):
        return np.asarray(class_index, dtype=np.int64)
    table = np.full(max(class_index, default=-1) + 1, _UNKNOWN, dtype=np.int64)
    for class_id, index in class_index.items():
        table[class_id] = index
    return table


def targets_from_labels(
    labels: Tensor | np.ndarray,
    class_index: Mapping[int, int] | Sequence[int] | np.ndarray,
    *,
    ignore_id: int = 255,
    by_label: bool = False,
) -> Targets:
    """Targets of one label map: one per training class in it, or one per label.

    Args:
        labels: (H, W) integer class ids.
        class_index: train index of every class id; `EXCLUDED` (-1) for ids that must reach no loss (unseen
            classes), `NEGATIVE` (-2) for ids that are certainly no class. Ids of equal index share a target.
        ignore_id: label of ignored and padding pixels; excluded even if `class_index` has it.
        by_label: labels of equal index are targets of their own: the segments of a class.

    Raises:
        ValueError: a label is neither in `class_index` nor `ignore_id`.
    """
    label_map = np.asarray(labels)
    if label_map.ndim != 2 or label_map.dtype.kind not in "iu":
        raise ValueError(f"labels are {label_map.dtype} of shape {label_map.shape}; expected integers (H, W)")
    label_map = label_map.astype(np.int64)
    table = lookup_table(class_index)
    outside = (label_map != ignore_id) & ((label_map < 0) | (label_map >= len(table)))
    train = np.full(label_map.shape, EXCLUDED, dtype=np.int64)
    used = (label_map != ignore_id) & ~outside
    train[used] = table[label_map[used]]
    outside |= train == _UNKNOWN
    if outside.any():
        unknown = np.unique(label_map[outside])[:10].tolist()
        raise ValueError(
            f"labels hold ids {unknown}, which are neither in the class index ({len(table)} ids) nor the "
            f"ignore id {ignore_id}; give them an index, or {EXCLUDED} to exclude them"
        )
    shown = np.where(train >= 0, label_map if by_label else train, EXCLUDED)
    labels_N = np.unique(shown[train >= 0])
    return Targets(
        classes=torch.from_numpy(table[labels_N] if by_label else labels_N),
        masks=torch.from_numpy(shown[None] == labels_N[:, None, None]),
        valid=torch.from_numpy(train != EXCLUDED),
    )


def resize_targets(targets: Targets, height: int, width: int) -> Targets:
    """Targets at another size by nearest neighbour: cell i shows pixel floor(i * H / height)."""
    if targets.valid.shape == (height, width):
        return targets
    have_height, have_width = targets.valid.shape
    device = targets.valid.device
    rows = torch.arange(height, device=device) * have_height // height
    columns = torch.arange(width, device=device) * have_width // width
    return Targets(
        classes=targets.classes,
        masks=targets.masks[:, rows[:, None], columns],
        valid=targets.valid[rows[:, None], columns],
    )


def targets_to(targets: Targets, device: torch.device) -> Targets:
    """The same targets on a device."""
    return Targets(
        classes=targets.classes.to(device, non_blocking=True),
        masks=targets.masks.to(device, non_blocking=True),
        valid=targets.valid.to(device, non_blocking=True),
    )


def count_masks(targets: Sequence[Targets]) -> int:
    """Number of target masks in a batch: N of the losses, before it is averaged over workers."""
    return sum(len(image.classes) for image in targets)
