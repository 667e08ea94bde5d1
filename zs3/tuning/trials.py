"""Several ways of naming at once: their text banks encoded, and the sweep of an image with its truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from zs3.checkpoint import Checkpoint
from zs3.classification.classifier import SegmentClassifier
from zs3.classification.settings import with_prompt_set
from zs3.metrics import Confusion
from zs3.segmentation.segments import Segments
from zs3.tuning.calibration_sweep import Gammas, Key, sweep
from zs3.tuning.grid import Naming
from zs3.vocabulary import Vocabulary


def load_classifiers(
    checkpoint: Checkpoint, vocabulary: Vocabulary, namings: Sequence[Naming], *, device: torch.device
) -> tuple[SegmentClassifier, ...]:
    """The classifiers of all namings, which can be sent to other processes; each prompt set is encoded once."""
    encoded: dict[str | None, SegmentClassifier] = {}
    for naming in namings:
        if naming.templates not in encoded:
            prompted = with_prompt_set(checkpoint, naming.templates)
            encoded[naming.templates] = SegmentClassifier(
                prompted, vocabulary, naming.settings, device=device
            )
    return tuple(encoded[naming.templates].with_settings(naming.settings) for naming in namings)


@torch.inference_mode()
def sweep_image(
    classifiers: Sequence[SegmentClassifier],
    segments: Segments,
    truth_HW: np.ndarray,
    matches: Mapping[str, int],
    gammas: Gammas,
    *,
    ignore_id: int,
) -> dict[Key, Confusion]:
    """The confusions of one image for every naming and γ; see `zs3.tuning.calibration_sweep.sweep`.

    Args:
        classifiers: of one checkpoint and class list, as `load_classifiers` gives them.
        truth_HW: class ids of the data set.
        matches: name of each class → id in the data set that it means, or `UNKNOWN`.
        gammas: to try.
        ignore_id: truth of pixels that do not count.

    Raises:
        ValueError: segments and truth are of images of different sizes.
    """
    size = (segments.height, segments.width)
    if truth_HW.shape != size:
        raise ValueError(
            f"its segments are of a picture of {size[1]}x{size[0]} pixels and its truth is "
            f"{truth_HW.shape[1]}x{truth_HW.shape[0]}; was another version of the picture segmented?"
        )
    first = classifiers[0]
    return sweep(
        segments,
        truth_HW,
        [classifier.scores(segments) for classifier in classifiers],
        torch.tensor([first.seen[entry.id] for entry in first.entries]),
        np.array([matches[entry.name] for entry in first.entries]),
        gammas,
        ignore_id=ignore_id,
        resize_first=first.settings.resize_first,
    )
