"""One vocabulary under one set of settings, ready to classify the segments of any picture."""

from __future__ import annotations

import copy

import numpy as np
import torch

from zs3.checkpoint import Checkpoint
from zs3.classification.panoptic import panoptic_map
from zs3.classification.scores import class_scores
from zs3.classification.semantic_map import semantic_map, uncovered_pixels
from zs3.config import NamingSettings, Recipe
from zs3.encoders import load_encoder
from zs3.label_rows import INSTANCE_BITS
from zs3.segmentation.segments import Segments
from zs3.text.confusable import BranchBank, ClosePair, close_pairs
from zs3.text.stored_banks import class_bank
from zs3.vocabulary import Vocabulary


class SegmentClassifier:
    """The text banks of one vocabulary and the settings that turn segments into label maps.

    Args:
        checkpoint: gives the seen classes and the encoders of both branches.
        vocabulary: the classes to choose from.
        settings: replaces the checkpoint's own.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        vocabulary: Vocabulary,
        settings: NamingSettings | None = None,
        *,
        device: torch.device,
    ) -> None:
        recipe = checkpoint.recipe
        self.entries = vocabulary.candidates
        self.seen = checkpoint.seen(self.entries)
        self.names = {entry.id: entry.name for entry in self.entries}
        flags = [self.seen[entry.id] for entry in self.entries]
        image_text = recipe.query_text if recipe.model.architecture == "pixel_level" else recipe.image_text
        clip_state = checkpoint.clip_state
        banks = {
            text: class_bank(text, self.entries, flags, device=device, clip_state=clip_state)
            for text in dict.fromkeys((recipe.query_text, image_text))
        }
        self.query_bank, self.image_bank = banks[recipe.query_text], banks[image_text]
        if recipe.query_text.rows != image_text.rows:
            raise ValueError(
                f"recipe {recipe.name!r} has query_text.rows {recipe.query_text.rows!r} and image_text.rows "
                f"{image_text.rows!r}; both branches need the same"
            )
        owners = self.query_bank.class_of_row
        self._class_of_row_R = None if owners is None else torch.from_numpy(owners)
        self.query_logit_scale = checkpoint.query_logit_scale
        self._encoder_scale = (
            checkpoint.image_logit_scale or load_encoder(image_text.encoder, device=device).logit_scale
        )
        self._transfer = checkpoint.content_transfer()
        self._recipe = recipe
        self._seen_C = torch.tensor(flags)
        self._ids_C = np.array([entry.id for entry in self.entries], dtype=np.int32)
        self._things_C = torch.tensor([entry.thing for entry in self.entries])
        self._ignore_id = vocabulary.ignore_id
        self._set(settings or recipe.naming)

    def _set(self, settings: NamingSettings) -> None:
        if self._recipe.model.architecture == "composed" and settings.branches != "image":
            raise ValueError(
                f"naming.branches is {settings.branches!r}, but the segments of a composed model have no query "
                "embeddings; leave it at image"
            )
        self.settings = settings
        self.branches = branches(self._recipe, settings)
        self.image_logit_scale = settings.image_logit_scale or self._encoder_scale

    def with_settings(self, settings: NamingSettings) -> SegmentClassifier:
        """The same text banks under other settings."""
        other = copy.copy(self)
        other._set(settings)
        return other

    def scores(self, segments: Segments) -> torch.Tensor:
        """(K, C) score of each candidate class for each segment."""
        return class_scores(
            segments,
            torch.from_numpy(self.query_bank.embeddings),
            self._image_bank(segments),
            self._seen_C,
            self.settings,
            class_of_row_R=self._class_of_row_R,
            query_logit_scale=self.query_logit_scale,
            image_logit_scale=self.image_logit_scale,
        )

    def _image_bank(self, segments: Segments) -> torch.Tensor:
        """(R, E) rows that image embeddings are compared with; those of a MAFT+ depend on the picture."""
        bank_RE = torch.from_numpy(self.image_bank.embeddings)
        if self._transfer is None:
            return bank_RE
        if segments.context_TE is None:
            raise ValueError(
                "class embeddings of a MAFT+ look at the picture, and these segments have no context; label the "
                "pictures with zs3 label"
            )
        cells_hw = (segments.padded_hw[0] // 32, segments.padded_hw[1] // 32)
        with torch.inference_mode():
            return self._transfer(bank_RE, segments.context_TE, cells_hw)

    def unread_names(self) -> list[str]:
        """A sentence for each class whose name the text encoder of a branch cannot read, with its tokens."""
        texts = {"query": self._recipe.query_text, "image": self._recipe.image_text}
        if all(
            texts[branch].embeddings or texts[branch].encoder.kind == "open_clip" for branch in self.branches
        ):
            return []  # stored rows; CLIP has a token for every byte
        from zs3.encoders.minilm import unknown_phrases

        unknown = unknown_phrases([entry.name for entry in self.entries if not entry.name.isascii()])
        return [
            f"the text encoder does not know all of class {name!r}, which it reads as {' '.join(tokens)}; name "
            "the class in English"
            for name, tokens in unknown.items()
        ]

    def confusable(self, *, allow_identical: bool = False) -> list[ClosePair]:
        """The pairs of classes that are hard to tell apart under these settings, closest first.

        Raises:
            ValueError: two classes cannot be told apart at all, and `allow_identical` is off.
        """
        scales = {
            "query": (self.query_bank, self.query_logit_scale / self.settings.query_temperature),
            "image": (self.image_bank, self.image_logit_scale),
        }
        banks = [BranchBank(branch, *scales[branch]) for branch in self.branches]
        return close_pairs(self.entries, banks, allow_identical=allow_identical)

    @torch.inference_mode()
    def name(self, segments: Segments) -> tuple[np.ndarray, dict[int, float]]:
        """(H, W) int32 class ids and the mean probability of each class that appears over its pixels.

        Pixels that no binary mask covers get the vocabulary's ignore id, and in panoptic maps those of no segment. A
        panoptic map is int64 and holds instances too (`zs3.label_rows.INSTANCE_BITS`); scores are those of its values.
        """
        if self.settings.output == "panoptic":
            return self._panoptic(segments)
        index, best = semantic_map(segments, self.scores(segments), self._seen_C, self.settings)
        if not segments.binary:
            return mean_score_map(index, best, self._ids_C)
        index[uncovered_pixels(segments)] = len(self._ids_C)
        labels_HW, scores = mean_score_map(index, best, np.append(self._ids_C, np.int32(self._ignore_id)))
        scores.pop(self._ignore_id, None)
        return labels_HW, scores

    def _panoptic(self, segments: Segments) -> tuple[np.ndarray, dict[int, float]]:
        owners_HW, found = panoptic_map(segments, self.scores(segments), self._things_C)
        values, instances = [self._ignore_id], 0
        for segment in found:
            instances += segment.is_thing
            instance = instances if segment.is_thing else 0
            values.append(int(self._ids_C[segment.class_index]) + (instance << INSTANCE_BITS))
        scores = {value: segment.score for value, segment in zip(values[1:], found, strict=True)}
        return np.array(values, np.int64)[owners_HW.numpy()], scores


def mean_score_map(
    index_HW: torch.Tensor, best_HW: torch.Tensor, ids_C: np.ndarray
) -> tuple[np.ndarray, dict[int, float]]:
    """(H, W) int32 class ids and the mean over its pixels of the score of each class that appears.

    Raises:
        ValueError: scores of pixels are not finite.
    """
    wrong_HW = ~torch.isfinite(best_HW)
    if bool(wrong_HW.any()):
        row, column = (int(index) for index in wrong_HW.nonzero()[0])
        raise ValueError(
            f"the scores of {int(wrong_HW.sum())} of {wrong_HW.numel()} pixels are not finite, the first at row {row}, "
            f"column {column}; are the checkpoint's weights sound?"
        )
    flat = index_HW.flatten().numpy()
    areas = np.bincount(flat, minlength=len(ids_C))
    sums = np.bincount(flat, weights=best_HW.flatten().numpy(), minlength=len(ids_C))
    scores = {int(ids_C[c]): float(sums[c] / areas[c]) for c in np.flatnonzero(areas)}
    return ids_C[index_HW.numpy()], scores


def branches(recipe: Recipe, settings: NamingSettings) -> tuple[str, ...]:
    """The branches that take part: `query`, `image`, or both."""
    has_images = recipe.segmenting.image_branch and recipe.model.architecture != "pixel_level"
    if not has_images or settings.branches == "query":
        return ("query",)
    return ("image",) if settings.branches == "image" else ("query", "image")
