"""Labelling: a picture is segmented, then its segments are classified, in one object that an actor can keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from zs3.checkpoint import Checkpoint, load_checkpoint
from zs3.classification.classifier import SegmentClassifier, mean_score_map
from zs3.classification.pixel_level import CellLogits, pixel_semantic_map
from zs3.classification.provenance import provenance
from zs3.config import NamingSettings, SegmentSettings, digest_of
from zs3.encoders import load_encoder
from zs3.encoders.open_clip import OpenClip
from zs3.nets.fcclip import FcClip
from zs3.nets.pixel_level import PixelLevel, cell_logits
from zs3.nets.zegformer import ZegFormer
from zs3.segmentation.pooled import PooledSegmenter
from zs3.segmentation.segmenter import Segmenter, normalise_and_pad, resize
from zs3.text.stored_banks import class_bank
from zs3.vocabulary import ClassEntry, Vocabulary


class Labeller:
    """A checkpoint and a vocabulary, ready to label pictures.

    Args:
        classifier: of the same checkpoint and vocabulary, with the naming settings; saves encoding the names again.

    Attributes:
        seen: class id → whether the checkpoint had masks of the class.
        names: class id → name.
        digest: SHA-256 over all that defines the labels: weights, settings, vocabulary, code version.
        provenance: the parts of that digest by name.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        vocabulary: Vocabulary,
        *,
        device: torch.device,
        segmenting: SegmentSettings | None = None,
        naming: NamingSettings | None = None,
        classifier: SegmentClassifier | None = None,
    ) -> None:
        self.segmenter = load_segmenter(checkpoint, segmenting or checkpoint.recipe.segmenting, device=device)
        self.classifier = classifier or SegmentClassifier(checkpoint, vocabulary, naming, device=device)
        self.seen, self.names = self.classifier.seen, self.classifier.names
        naming = self.classifier.settings
        self.provenance = provenance(checkpoint, vocabulary, segmenting=segmenting, naming=naming)
        self.digest = digest_of(self.provenance)

    def label(self, pictures: Sequence[np.ndarray]) -> list[tuple[np.ndarray, dict[int, float]]]:
        """(H, W, 3) uint8 RGB pictures → (H, W) int32 maps of class ids and the mean probability of each class; or
        panoptic maps (`SegmentClassifier.name`)."""
        return [self.classifier.name(segments) for segments in self.segmenter.segment(pictures)]


class PixelLabeller:
    """A checkpoint of the pixel-level baseline and a vocabulary; used as a `Labeller`, with the same attributes.

    Of the naming settings only the calibration is read.

    Raises:
        ValueError: the checkpoint is of another architecture.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        vocabulary: Vocabulary,
        *,
        device: torch.device,
        naming: NamingSettings | None = None,
        classifier: SegmentClassifier | None = None,
    ) -> None:
        recipe, network = checkpoint.recipe, checkpoint.network()
        if not isinstance(network, PixelLevel):
            raise ValueError(
                f"checkpoint {checkpoint.origin!r} is a {recipe.model.architecture} model, not pixel_level"
            )
        self.network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = device
        self.segmenting, self.naming = recipe.segmenting, naming or recipe.naming
        classifier = classifier or SegmentClassifier(checkpoint, vocabulary, naming, device=device)
        self.seen, self.names = classifier.seen, classifier.names
        self._bank_CD = torch.from_numpy(classifier.query_bank.embeddings).to(device)
        self._seen_C = torch.tensor(list(self.seen.values()))
        self._ids_C = np.array(list(self.seen), dtype=np.int32)
        self.provenance = provenance(checkpoint, vocabulary, naming=naming)
        self.digest = digest_of(self.provenance)

    @torch.inference_mode()
    def cells(self, pixels_HW3: np.ndarray) -> CellLogits:
        """The class logits of one (H, W, 3) uint8 RGB picture, on the CPU."""
        config = self.network.config
        resized = resize(pixels_HW3, self.segmenting).to(self.device)
        x = normalise_and_pad(resized, config.image_mean, config.image_std, config.size_divisibility)
        embeddings = self.network(x[None].contiguous(memory_format=torch.channels_last))
        logits = cell_logits(embeddings, self._bank_CD, config.temperature)[0].cpu()
        return CellLogits(
            logits_Chw=logits,
            covered_hw=(
                resized.shape[1] * logits.shape[1] / x.shape[1],
                resized.shape[2] * logits.shape[2] / x.shape[2],
            ),
            height=pixels_HW3.shape[0],
            width=pixels_HW3.shape[1],
        )

    @torch.inference_mode()
    def label(self, pictures: Sequence[np.ndarray]) -> list[tuple[np.ndarray, dict[int, float]]]:
        """(H, W, 3) uint8 RGB pictures → (H, W) int32 maps of class ids and the mean probability of each class."""
        calibration = self.naming.calibration
        maps = (pixel_semantic_map(self.cells(picture), self._seen_C, calibration) for picture in pictures)
        return [mean_score_map(index, best, self._ids_C) for index, best in maps]


def load_segmenter(checkpoint: Checkpoint, segmenting: SegmentSettings, *, device: torch.device) -> Segmenter:
    """The segmenter of a checkpoint.

    Raises:
        ValueError: the checkpoint is of an architecture that makes no segments.
    """
    if checkpoint.masks_at is not None:
        from zs3.parts.mask_sources import mask_source
        from zs3.segmentation.composed import ComposedSegmenter  # imports transformers, which takes seconds

        encoder = OpenClip(checkpoint.recipe.image_text.encoder, device=device)
        return ComposedSegmenter(mask_source(checkpoint.masks_at, device), encoder, segmenting, device=device)
    recipe, network = checkpoint.recipe, checkpoint.network()
    if isinstance(network, FcClip):
        return PooledSegmenter(network, segmenting, device=device)
    if not isinstance(network, ZegFormer):
        raise ValueError(
            f"checkpoint {checkpoint.origin!r} is a {recipe.model.architecture} model, which makes no segments; "
            "zs3 label works with it"
        )
    return Segmenter(
        network,
        load_encoder(recipe.image_text.encoder, device=device) if segmenting.image_branch else None,
        segmenting,
        device=device,
        seen_bank_CD=seen_bank(checkpoint, device) if segmenting.min_share > 0 else None,
    )


def seen_bank(checkpoint: Checkpoint, device: torch.device) -> torch.Tensor:
    """(C, D) unit rows of the checkpoint's seen classes, by name, for the query branch."""
    text = replace(checkpoint.recipe.query_text, synonyms=False)
    entries = [ClassEntry(id=i, name=name) for i, name in enumerate(checkpoint.seen_classes)]
    bank = class_bank(text, entries, [True] * len(entries), device=device)
    return torch.from_numpy(bank.embeddings)


def load_labeller(
    checkpoint: str, vocabulary: Vocabulary, device: str = "cpu", classifier: SegmentClassifier | None = None
) -> Labeller | PixelLabeller:
    """The labeller of a shipped name, folder or uri, on the device called `device`.

    Args:
        classifier: of the same checkpoint and vocabulary; saves encoding the names again.
    """
    loaded = load_checkpoint(checkpoint)
    kind = PixelLabeller if loaded.recipe.model.architecture == "pixel_level" else Labeller
    return kind(loaded, vocabulary, device=torch.device(device), classifier=classifier)
