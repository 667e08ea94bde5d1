"""Labelling: name after segment, in one object that an actor can hold."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from zs3 import __version__
from zs3.banks import class_bank, stored_digest
from zs3.checkpoint import Checkpoint, load_checkpoint
from zs3.class_checks import ClosePair, Compared, close_pairs
from zs3.config import NamingSettings, Recipe, SegmentSettings, digest_of
from zs3.encoders import load_encoder
from zs3.naming import Segments, class_scores, paint, unreached
from zs3.nets.pixel_level import PixelLevel, cell_logits
from zs3.nets.zegformer import ZegFormer
from zs3.pixel_naming import CellLogits, paint_pixels
from zs3.pruning import ImageRange, Pruned, image_range, prune
from zs3.segmenting import Segmenter, normalise_and_pad, resize
from zs3.vocabulary import ClassEntry, Vocabulary, known


class Namer:
    """The text banks of one vocabulary and the settings that turn segments into label maps.

    Args:
        checkpoint: knows which classes were seen and which banks its branches compare with.
        vocabulary: the classes that a pixel may be called.
        settings: replaces the checkpoint's own.
        cache_dir: where encoded text banks are kept between runs; none keeps nothing.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        vocabulary: Vocabulary,
        settings: NamingSettings | None = None,
        *,
        device: torch.device,
        cache_dir: Path | None = None,
    ) -> None:
        recipe = checkpoint.recipe
        self.settings = settings or recipe.naming
        self.entries = vocabulary.candidates
        self.seen = {entry.id: known(entry, checkpoint.seen_concepts) for entry in self.entries}
        self.names = {entry.id: entry.name for entry in self.entries}
        flags = [self.seen[entry.id] for entry in self.entries]

        self._recipe = recipe
        self.branches = branches(recipe, self.settings)
        image_text = recipe.query_text if recipe.model.architecture == "pixel_level" else recipe.image_text
        banks = {
            text: class_bank(text, self.entries, flags, device=device, cache_dir=cache_dir)
            for text in dict.fromkeys((recipe.query_text, image_text))
        }
        self.query_bank, self.image_bank = banks[recipe.query_text], banks[image_text]
        self._own_scale = load_encoder(image_text.encoder, device=device).logit_scale
        self.image_logit_scale = self.settings.image_logit_scale or self._own_scale
        self.query_logit_scale = 1 / recipe.model.temperature
        self._seen_C = torch.tensor(flags)
        self._ids_C = np.array([entry.id for entry in self.entries], dtype=np.int32)
        self._ignore_id = vocabulary.ignore_id
        self._reach: ImageRange | None = None

    def with_settings(self, settings: NamingSettings) -> Namer:
        """The same text banks under other settings."""
        other = copy.copy(self)
        other.settings, other._reach = settings, None
        other.branches = branches(self._recipe, settings)
        other.image_logit_scale = settings.image_logit_scale or self._own_scale
        return other

    def scores(self, segments: Segments) -> torch.Tensor:
        """(K, C) score of each candidate class for each segment."""
        return class_scores(
            segments,
            torch.from_numpy(self.query_bank.embeddings),
            torch.from_numpy(self.image_bank.embeddings),
            self._seen_C,
            self.settings,
            query_logit_scale=self.query_logit_scale,
            image_logit_scale=self.image_logit_scale,
        )

    def confusable(self) -> list[ClosePair]:
        """The pairs of classes that are hard to tell apart under these settings, nearest first.

        Raises:
            ValueError: two classes cannot be told apart at all.
        """
        query = Compared(
            branch="query",
            bank=self.query_bank,
            logit_scale=self.query_logit_scale / self.settings.query_temperature,
        )
        image = Compared(branch="image", bank=self.image_bank, logit_scale=self.image_logit_scale)
        return close_pairs(self.entries, [one for one in (query, image) if one.branch in self.branches])

    @torch.inference_mode()
    def prune(self, segments: Segments, embed: Callable[[torch.Tensor], torch.Tensor]) -> Pruned:
        """Scores that paint the plain label map, with few segments encoded; see `zs3.pruning.prune`."""
        image_bank = torch.from_numpy(self.image_bank.embeddings)
        if self._reach is None:
            self._reach = image_range(image_bank, self.image_logit_scale)
        return prune(
            segments,
            embed,
            torch.from_numpy(self.query_bank.embeddings),
            image_bank,
            self._seen_C,
            self.settings,
            query_logit_scale=self.query_logit_scale,
            image_logit_scale=self.image_logit_scale,
            reach=self._reach,
        )

    @torch.inference_mode()
    def name_pruned(
        self, segments: Segments, embed: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[np.ndarray, dict[int, float]]:
        """As `name`, for segments whose image embeddings `embed` makes on demand; scores are lower bounds."""
        index, best = paint(segments, self.prune(segments, embed).scores_KC, self._seen_C, self.settings)
        return _label_map(index, best, self._ids_C)

    @torch.inference_mode()
    def name(self, segments: Segments) -> tuple[np.ndarray, dict[int, float]]:
        """(H, W) int32 class ids and the mean pixel score of each class that appears.

        Pixels that no mask covers, where masks were given, have the vocabulary's ignore id.
        """
        index, best = paint(segments, self.scores(segments), self._seen_C, self.settings)
        if not segments.hard:
            return _label_map(index, best, self._ids_C)
        index[unreached(segments)] = len(self._ids_C)
        labels_HW, scores = _label_map(index, best, np.append(self._ids_C, np.int32(self._ignore_id)))
        scores.pop(self._ignore_id, None)
        return labels_HW, scores


class Labeller:
    """A checkpoint and a vocabulary, ready to label pictures: `name(segment(picture))`.

    Args:
        namer: one of the same checkpoint, vocabulary and settings, so that no name is encoded again.

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
        cache_dir: Path | None = None,
        namer: Namer | None = None,
    ) -> None:
        segmenting = segmenting or checkpoint.recipe.segmenting
        self.segmenter = segmenter_of(checkpoint, segmenting, device=device)
        self.namer = namer or Namer(checkpoint, vocabulary, naming, device=device, cache_dir=cache_dir)
        self.seen, self.names = self.namer.seen, self.namer.names
        self.provenance = provenance(checkpoint, vocabulary, segmenting=segmenting, naming=naming)
        self.digest = digest_of(self.provenance)

    def label(self, pictures: Sequence[np.ndarray]) -> list[tuple[np.ndarray, dict[int, float]]]:
        """(H, W, 3) uint8 RGB pictures → (H, W) int32 maps of class ids and the mean score of each class present."""
        segmenter, namer = self.segmenter, self.namer
        if segmenter.settings.prune == "none" or segmenter.encoder is None:
            return [namer.name(segments) for segments in segmenter.segment(pictures)]
        grouped = [segmenter.group(picture) for picture in pictures]
        return [namer.name_pruned(one.segments, partial(segmenter.embed, one)) for one in grouped]


class PixelLabeller:
    """A checkpoint of the pixel-level baseline and a vocabulary, ready to label pictures as `Labeller` does.

    Pictures are resized as the segment settings say; of the naming settings only the calibration is read.

    Args:
        namer: as that of `Labeller`.

    Attributes:
        seen, names, digest, provenance: as those of `Labeller`.

    Raises:
        ValueError: the checkpoint is of another architecture.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        vocabulary: Vocabulary,
        *,
        device: torch.device,
        segmenting: SegmentSettings | None = None,
        naming: NamingSettings | None = None,
        cache_dir: Path | None = None,
        namer: Namer | None = None,
    ) -> None:
        recipe, network = checkpoint.recipe, checkpoint.network()
        if not isinstance(network, PixelLevel):
            raise ValueError(
                f"checkpoint {checkpoint.origin!r} is a {recipe.model.architecture} model, not pixel_level"
            )
        self.network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = device
        self.segmenting, self.naming = segmenting or recipe.segmenting, naming or recipe.naming
        namer = namer or Namer(checkpoint, vocabulary, naming, device=device, cache_dir=cache_dir)
        self.seen, self.names = namer.seen, namer.names
        self._bank_CD = torch.from_numpy(namer.query_bank.embeddings).to(device)
        self._seen_C = torch.tensor(list(self.seen.values()))
        self._ids_C = np.array(list(self.seen), dtype=np.int32)
        self.provenance = provenance(checkpoint, vocabulary, segmenting=segmenting, naming=naming)
        self.digest = digest_of(self.provenance)

    @torch.inference_mode()
    def cells(self, pixels_HW3: np.ndarray) -> CellLogits:
        """The class logits of one (H, W, 3) uint8 RGB picture, on the CPU."""
        config = self.network.config
        resized = resize(pixels_HW3, self.segmenting).to(self.device)
        x = normalise_and_pad(resized, config.image_mean, config.image_std, config.size_divisibility)
        embeddings = self.network(x[None].contiguous(memory_format=torch.channels_last))
        logits = cell_logits(embeddings, self._bank_CD, config.temperature)[0].cpu()
        covered = (
            resized.shape[1] * logits.shape[1] / x.shape[1],
            resized.shape[2] * logits.shape[2] / x.shape[2],
        )
        return CellLogits(
            logits_Chw=logits, covered_hw=covered, height=pixels_HW3.shape[0], width=pixels_HW3.shape[1]
        )

    @torch.inference_mode()
    def label(self, pictures: Sequence[np.ndarray]) -> list[tuple[np.ndarray, dict[int, float]]]:
        """(H, W, 3) uint8 RGB pictures → (H, W) int32 maps of class ids and the mean score of each class present."""
        calibration = self.naming.calibration
        painted = (paint_pixels(self.cells(picture), self._seen_C, calibration) for picture in pictures)
        return [_label_map(index, best, self._ids_C) for index, best in painted]


def _label_map(
    index_HW: torch.Tensor, best_HW: torch.Tensor, ids_C: np.ndarray
) -> tuple[np.ndarray, dict[int, float]]:
    """(H, W) int32 class ids and the mean pixel score of each class that appears."""
    flat = index_HW.flatten().numpy()
    areas = np.bincount(flat, minlength=len(ids_C))
    sums = np.bincount(flat, weights=best_HW.flatten().numpy(), minlength=len(ids_C))
    scores = {int(ids_C[c]): float(sums[c] / areas[c]) for c in np.flatnonzero(areas)}
    return ids_C[index_HW.numpy()], scores


def segmenter_of(checkpoint: Checkpoint, segmenting: SegmentSettings, *, device: torch.device) -> Segmenter:
    """The segmenter of a checkpoint, loaded.

    Raises:
        ValueError: the checkpoint is of an architecture that makes no segments.
    """
    recipe, network = checkpoint.recipe, checkpoint.network()
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


def provenance(
    checkpoint: Checkpoint,
    vocabulary: Vocabulary,
    *,
    segmenting: SegmentSettings | None = None,
    naming: NamingSettings | None = None,
) -> dict[str, str]:
    """What defines the labels of a picture, part by part; known without loading a network.

    Stored text embeddings count by their content, so a file that changed is another run.
    """
    recipe = checkpoint.recipe
    stored = {
        name: stored_digest(text.embeddings)
        for name, text in (("query_names", recipe.query_text), ("image_names", recipe.image_text))
        if text.embeddings
    }
    return {
        "checkpoint": checkpoint.digest,
        "segmenting": digest_of(asdict(segmenting or checkpoint.recipe.segmenting)),
        "naming": digest_of(asdict(naming or checkpoint.recipe.naming)),
        "vocabulary": vocabulary.digest,
        "zs3": __version__,
        **stored,
    }


def branches(recipe: Recipe, settings: NamingSettings) -> tuple[str, ...]:
    """Which branches name: `query`, `image`, or both."""
    has_images = recipe.segmenting.image_branch and recipe.model.architecture != "pixel_level"
    if not has_images or settings.branches == "query":
        return ("query",)
    return ("image",) if settings.branches == "image" else ("query", "image")


def load_labeller(
    checkpoint: str, vocabulary: Vocabulary, device: str = "cpu", names: Namer | None = None
) -> Labeller | PixelLabeller:
    """The labeller of a shipped name, folder or uri, on the device called `device`.

    Args:
        names: a namer of both, so that no name is encoded again.
    """
    loaded = load_checkpoint(checkpoint)
    kind = PixelLabeller if loaded.recipe.model.architecture == "pixel_level" else Labeller
    return kind(loaded, vocabulary, device=torch.device(device), namer=names)
