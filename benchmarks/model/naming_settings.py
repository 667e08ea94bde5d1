"""Choose how zs3-mini names its segments, on val, and say where the error is.

    python benchmarks/model/naming_settings.py --checkpoint zs3-mini --data-root DATA [--sweep] [--picture-share S]

Segments are computed once per picture; every setting is then scored from them. The sweep scores on the grid of the
masks (stride 4, truth sampled at cell centres) to be quick; what is printed at the end and written to DIR is exact.
"""

# K segment, C class, H W pixels, h w mask cells
from __future__ import annotations

import argparse
import itertools
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from zs3.checkpoint import load_checkpoint
from zs3.classification.scores import class_scores
from zs3.classification.semantic_map import semantic_map
from zs3.config import NamingSettings
from zs3.datasets import open_dataset, read_truth
from zs3.images.codec import decode
from zs3.inference.labeller import Labeller
from zs3.masks.binary import INSIDE
from zs3.metrics import PROTOCOLS, Scores, confusion, scores, total
from zs3.segmentation.external_masks import external_segments
from zs3.segmentation.segments import Segments

SETS = {"voc_mini": "voc", "msrc_mini": "folder", "coco_things_mini": "folder"}


class Study:
    """One data set's pictures as segments, with what is needed to score any naming of them."""

    def __init__(self, labeller: Labeller, root: str, name: str, split: str, limit: int | None) -> None:
        self.name, self.classifier = name, labeller.classifier
        dataset = open_dataset(SETS[name], f"{root}/{name}", split)
        self.classes = dataset.vocabulary.classes
        self.ignore_id = dataset.vocabulary.ignore_id
        self.ids = [entry.id for entry in self.classifier.entries]
        self.cases = []
        for number, ref in enumerate(dataset.refs[:limit]):
            pixels = decode(Path(ref.image_uri).read_bytes())
            truth = read_truth(SETS[name], Path(ref.truth_uri).read_bytes(), dataset.vocabulary)
            segments = labeller.segmenter.segment([pixels])[0]
            present, masks = regions(truth, self.ids)
            given = np.where(masks.numpy(), INSIDE, -INSIDE).astype(np.int8)
            in_truth = external_segments(labeller.segmenter, pixels, given) if present else None
            self.cases.append((segments, truth, present, masks, in_truth))
            if number % 50 == 49:
                sys.stderr.write(f"{name}: {number + 1} pictures\n")

    def _scores(self, segments, settings: NamingSettings):
        classifier = self.classifier
        return class_scores(
            segments,
            torch.from_numpy(classifier.query_bank.embeddings),
            torch.from_numpy(classifier.image_bank.embeddings),
            classifier._seen_C,
            settings,
            query_logit_scale=classifier.query_logit_scale,
            image_logit_scale=settings.image_logit_scale or classifier.image_logit_scale,
        )

    def _sum(self, maps) -> Scores:
        parts = [confusion(t, p, ignore_id=self.ignore_id) for t, p in maps]
        return scores(total(parts), self.classes, PROTOCOLS["zs3"])

    def quick(self, settings: NamingSettings) -> Scores:
        """Scores on the grid of the masks."""
        ids = np.array(self.ids)

        def maps():
            for segments, truth, *_ in self.cases:
                h = -(-segments.resized_hw[0] // 4)
                w = -(-segments.resized_hw[1] // 4)
                masks = segments.mask_logits_Khw[:, :h, :w].sigmoid()
                volume = torch.einsum("kc,khw->chw", self._scores(segments, settings), masks)
                volume -= (self.classifier._seen_C.float() * settings.calibration)[:, None, None]
                rows = ((np.arange(h) + 0.5) / h * segments.height).astype(int)
                columns = ((np.arange(w) + 0.5) / w * segments.width).astype(int)
                yield truth[rows[:, None], columns], ids[volume.argmax(dim=0).numpy()]

        return self._sum(maps())

    def exact(self, settings: NamingSettings, *, by_truth: bool = False) -> Scores:
        """Scores of the painted label maps; `by_truth` names the segments by the truth."""
        ids = np.array(self.ids)

        def maps():
            for segments, truth, *_ in self.cases:
                named = (
                    true_names(segments, truth, self.ids) if by_truth else self._scores(segments, settings)
                )
                used = replace(settings, calibration=0.0) if by_truth else settings
                yield truth, ids[semantic_map(segments, named, self.classifier._seen_C, used)[0].numpy()]

        return self._sum(maps())

    def names(self, settings: NamingSettings) -> Scores:
        """Scores of true regions called what the model calls them."""
        ids = np.array(self.ids)

        def maps():
            for _, truth, present, masks, in_truth in self.cases:
                prediction = np.full(truth.shape, -1)
                if present:
                    named = (
                        self._scores(in_truth, settings)
                        - self.classifier._seen_C.float() * settings.calibration
                    )
                    for mask, best in zip(masks.numpy(), named.argmax(dim=1)):
                        prediction[mask] = ids[best]
                yield truth, prediction

        return self._sum(maps())


def true_names(segments: Segments, truth_HW: np.ndarray, ids: list[int]) -> torch.Tensor:
    """(K, C) scores that call each segment what most of its pixels truly are: one for that class, else zero."""
    (height, width), size = segments.resized_hw, (segments.height, segments.width)
    padded = F.interpolate(
        segments.mask_logits_Khw[None], size=segments.padded_hw, mode="bilinear", align_corners=False
    )
    cropped = padded[:, :, :height, :width]
    masks_KHW = F.interpolate(cropped, size=size, mode="bilinear", align_corners=False)[0] > 0
    truth = torch.from_numpy(truth_HW.astype(np.int64)).flatten()
    present = torch.stack([truth == class_id for class_id in ids], dim=1).float()
    pixels_KC = masks_KHW.flatten(1).float() @ present
    return F.one_hot(pixels_KC.argmax(dim=1), len(ids)).float() * (pixels_KC.sum(dim=1) > 0)[:, None]


def regions(truth_HW: np.ndarray, ids: list[int]) -> tuple[list[int], torch.Tensor]:
    """The candidate classes in the truth, and (R, H, W) bool masks of their pixels."""
    present = [class_id for class_id in ids if (truth_HW == class_id).any()]
    masks = [torch.from_numpy(truth_HW == class_id) for class_id in present]
    return present, torch.stack(masks) if masks else torch.zeros(0, *truth_HW.shape, dtype=torch.bool)


def line(title: str, held: Scores) -> str:
    """One row of the table."""
    return f"{title:<44} seen {held.seen:5.1f}  unseen {held.unseen:5.1f}  harmonic {held.harmonic:5.1f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="zs3-mini")
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--sets", nargs="*", default=list(SETS))
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--picture-share", type=float, help="instead of the checkpoint's own")
    parser.add_argument("--diagnostics", type=Path, help="folder for one diagnostics JSON per data set")
    options = parser.parse_args()
    checkpoint = load_checkpoint(options.checkpoint)
    segmenting = checkpoint.recipe.segmenting
    if options.picture_share is not None:
        segmenting = replace(segmenting, picture_share=options.picture_share)
    studies = []
    for name in options.sets:
        vocabulary = open_dataset(SETS[name], f"{options.data_root}/{name}", options.split).vocabulary
        labeller = Labeller(checkpoint, vocabulary, device=torch.device("cpu"), segmenting=segmenting)
        studies.append(Study(labeller, options.data_root, name, options.split, options.limit))
    settings = checkpoint.recipe.naming
    if options.sweep:
        settings = sweep(studies, settings)
    for study in studies:
        found = {
            "predicted names on predicted masks": study.exact(settings),
            "true names on predicted masks": study.exact(settings, by_truth=True),
            "predicted names on true masks": study.names(settings),
            "query branch alone": study.exact(replace(settings, branches="query")),
            "image branch alone": study.exact(replace(settings, branches="image")),
        }
        for title, held in found.items():
            sys.stdout.write(line(f"{study.name}: {title}", held) + "\n")
        if options.diagnostics:
            options.diagnostics.mkdir(parents=True, exist_ok=True)
            rows = [
                {
                    "title": t,
                    "seen": s.seen,
                    "unseen": s.unseen,
                    "harmonic": s.harmonic,
                    "note": __doc__.splitlines()[0],
                }
                for t, s in list(found.items())[1:]
            ]
            (options.diagnostics / f"{study.name}.json").write_text(json.dumps(rows, indent=1))
    sys.stdout.write(json.dumps(asdict(settings)) + "\n")


def sweep(studies: list[Study], start: NamingSettings) -> NamingSettings:
    """The settings with the best mean harmonic score over the data sets, by a grid, then axis by axis."""

    def value(settings: NamingSettings) -> float:
        held = [study.quick(settings) for study in studies]
        mean = float(np.mean([h.harmonic for h in held]))
        parts = "  ".join(f"{h.seen:.1f}/{h.unseen:.1f}/{h.harmonic:.1f}" for h in held)
        shown = {k: v for k, v in asdict(settings).items() if v != getattr(NamingSettings(), k)}
        sys.stdout.write(f"{mean:5.2f}  {parts}  {shown}\n")
        sys.stdout.flush()
        return mean

    grid = [
        replace(start, weight=w, calibration=c)
        for w, c in itertools.product((0.5, 2 / 3, 0.8), (0.0, 0.05, 0.1, 0.2))
    ]
    best = max(grid, key=value)
    top = value(best)
    axes = {
        "image_logit_scale": (5.0, 8.0, 12.0, 16.0, 24.0, 32.0, 50.0),
        "void_in_image_softmax": (False, True),
        "weight": (0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        "calibration": (0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3),
        "branches": ("both_for_every_class", "both"),
    }
    for _ in range(2):
        for field, choices in axes.items():
            for choice in choices:
                candidate = replace(best, **{field: choice})
                reached = value(candidate)
                if reached > top:
                    best, top = candidate, reached
    return best


if __name__ == "__main__":
    main()
