"""Several ways of naming at once: their text banks encoded, ready to score segments."""

# K segment, C class
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trials:
    """Classifiers of one checkpoint and class list, which differ in their settings. They travel to other processes."""

    classifiers: tuple[SegmentClassifier, ...]

    def sweep(
        self,
        segments: Segments,
        truth_HW: np.ndarray,
        ids: Mapping[str, int],
        gammas: Gammas,
        *,
        ignore_id: int,
    ) -> dict[Key, Confusion]:
        """The confusions of one image for every naming and γ; see `zs3.tuning.calibration_sweep.sweep`.

        Args:
            truth_HW: class ids of the data set.
            ids: name of each class → id in the data set that it means, or `UNKNOWN`.
            gammas: to try.
            ignore_id: truth of pixels that do not count.

        Raises:
            ValueError: segments and truth are of pictures of different sizes.
        """
        size = (segments.height, segments.width)
        if truth_HW.shape != size:
            raise ValueError(
                f"its segments are of a picture of {size[1]}x{size[0]} pixels and its truth is "
                f"{truth_HW.shape[1]}x{truth_HW.shape[0]}; was another version of the picture segmented?"
            )
        first = self.classifiers[0]
        with torch.inference_mode():
            return sweep(
                segments,
                truth_HW,
                [classifier.scores(segments) for classifier in self.classifiers],
                torch.tensor([first.seen[entry.id] for entry in first.entries]),
                np.array([ids[entry.name] for entry in first.entries]),
                gammas,
                ignore_id=ignore_id,
                resize_first=first.settings.resize_first,
            )


def load_trials(
    checkpoint: Checkpoint, vocabulary: Vocabulary, namings: Sequence[Naming], *, device: torch.device
) -> Trials:
    """The classifiers of all namings; each prompt set is encoded once."""
    encoded: dict[str | None, SegmentClassifier] = {}
    for naming in namings:
        if naming.templates not in encoded:
            prompted = with_prompt_set(checkpoint, naming.templates)
            encoded[naming.templates] = SegmentClassifier(
                prompted, vocabulary, naming.settings, device=device
            )
    return Trials(
        classifiers=tuple(encoded[naming.templates].with_settings(naming.settings) for naming in namings)
    )
