"""Labelling: name after segment, in one object that an actor can hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from zs3 import __version__
from zs3.checkpoint import Checkpoint, load_checkpoint
from zs3.config import NamingSettings, SegmentSettings, TextConfig, digest_of
from zs3.encoders import load_encoder
from zs3.naming import Segments, class_scores, paint
from zs3.segmenting import Segmenter
from zs3.text import TextBank, bank_from_npy, text_bank
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

        def bank(text: TextConfig) -> tuple[TextBank, float]:
            encoder = load_encoder(text.encoder, device=device)
            if text.embeddings:
                names = [entry.name for entry in self.entries]
                return bank_from_npy(text.embeddings, names, flags), encoder.logit_scale
            made = text_bank(
                self.entries,
                encoder,
                templates=text.templates,
                seen=flags,
                synonyms=text.synonyms,
                cache_dir=cache_dir,
            )
            return made, encoder.logit_scale

        self.query_bank, _ = bank(recipe.query_text)
        self.image_bank, own_scale = bank(recipe.image_text)
        self.image_logit_scale = self.settings.image_logit_scale or own_scale
        self.query_logit_scale = 1 / recipe.model.temperature
        self._seen_C = torch.tensor(flags)
        self._ids_C = np.array([entry.id for entry in self.entries], dtype=np.int32)

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

    @torch.inference_mode()
    def name(self, segments: Segments) -> tuple[np.ndarray, dict[int, float]]:
        """(H, W) int32 class ids and the mean pixel score of each class that appears."""
        index, best = paint(segments, self.scores(segments), self._seen_C, self.settings)
        flat = index.flatten().numpy()
        areas = np.bincount(flat, minlength=len(self._ids_C))
        sums = np.bincount(flat, weights=best.flatten().numpy(), minlength=len(self._ids_C))
        scores = {int(self._ids_C[c]): float(sums[c] / areas[c]) for c in np.flatnonzero(areas)}
        return self._ids_C[index.numpy()], scores


class Labeller:
    """A checkpoint and a vocabulary, ready to label pictures: `name(segment(picture))`.

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
    ) -> None:
        recipe = checkpoint.recipe
        segmenting = segmenting or recipe.segmenting
        self.namer = Namer(checkpoint, vocabulary, naming, device=device, cache_dir=cache_dir)
        encoder = load_encoder(recipe.image_text.encoder, device=device) if segmenting.image_branch else None
        self.segmenter = Segmenter(
            checkpoint.network(),
            encoder,
            segmenting,
            device=device,
            seen_bank_CD=seen_bank(checkpoint, device) if segmenting.min_share > 0 else None,
        )
        self.seen, self.names = self.namer.seen, self.namer.names
        self.provenance = provenance(checkpoint, vocabulary, segmenting=segmenting, naming=naming)
        self.digest = digest_of(self.provenance)

    def label(self, pictures: Sequence[np.ndarray]) -> list[tuple[np.ndarray, dict[int, float]]]:
        """(H, W, 3) uint8 RGB pictures → (H, W) int32 maps of class ids and the mean score of each class present."""
        return [self.namer.name(segments) for segments in self.segmenter.segment(pictures)]


def seen_bank(checkpoint: Checkpoint, device: torch.device) -> torch.Tensor:
    """(C, D) unit rows of the checkpoint's seen classes, by name, for the query branch."""
    text = checkpoint.recipe.query_text
    entries = [ClassEntry(id=i, name=name) for i, name in enumerate(checkpoint.seen_classes)]
    encoder = load_encoder(text.encoder, device=device)
    flags = [True] * len(entries)
    bank = text_bank(entries, encoder, templates=text.templates, seen=flags, synonyms=False)
    return torch.from_numpy(bank.embeddings)


def provenance(
    checkpoint: Checkpoint,
    vocabulary: Vocabulary,
    *,
    segmenting: SegmentSettings | None = None,
    naming: NamingSettings | None = None,
) -> dict[str, str]:
    """What defines the labels of a picture, part by part; known without loading a network."""
    return {
        "checkpoint": checkpoint.digest,
        "segmenting": digest_of(asdict(segmenting or checkpoint.recipe.segmenting)),
        "naming": digest_of(asdict(naming or checkpoint.recipe.naming)),
        "vocabulary": vocabulary.digest,
        "zs3": __version__,
    }


def load_labeller(checkpoint: str, vocabulary: Vocabulary, device: str = "cpu") -> Labeller:
    """The labeller of a shipped name, folder or uri, on the device called `device`."""
    return Labeller(load_checkpoint(checkpoint), vocabulary, device=torch.device(device))
