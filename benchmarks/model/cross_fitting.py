"""Score zs3-mini on photographs on which none of its naming settings was chosen, by cross-fitting.

    python benchmarks/model/cross_fitting.py --data-root DATA [--folds 5] [--partitions 10] [--threads 1]

The pictures of each data set are cut into folds. For each fold, the settings with the best mean harmonic mIoU over the
data sets are chosen on the other folds, from every combination of `GRID`; then they label the fold. So each picture is
scored once, under settings that were chosen without it. The choice looks at masks on their own grid (stride 4, truth
sampled at cell centres); the scores that are printed are those of whole label maps.
"""

# S setting, N picture, R replicate, K segment, C class, H W pixels, h w mask cells
from __future__ import annotations

import argparse
import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from naming_settings import SETS

from zs3.checkpoint import Checkpoint, load_checkpoint
from zs3.classification.scores import class_scores
from zs3.classification.semantic_map import semantic_map
from zs3.config import NamingSettings
from zs3.datasets import open_dataset, read_truth
from zs3.encoders.masked_crops import picture_crop
from zs3.images.codec import decode
from zs3.inference.labeller import Labeller
from zs3.metrics import GROUPS, PROTOCOLS
from zs3.metrics.intervals import bootstrap_sums, intervals
from zs3.metrics.scoring import score_arrays
from zs3.segmentation.segmenter import normalise_and_pad

PICTURE_SHARES = (0.0, 0.15)
CALIBRATIONS = (0.0, 0.05, 0.1, 0.2)
NAMINGS = tuple(
    NamingSettings(
        branches=branches,
        weight=weight,
        query_temperature=temperature,
        image_logit_scale=scale,
        void_in_image_softmax=void,
    )
    for branches, weight, temperature, scale, void in itertools.product(
        ("both", "both_own"), (0.5, 0.6, 0.7, 0.8), (1.0, 1.5, 2.0), (8.0, 12.0, 16.0, 24.0), (False, True)
    )
)
GRID = tuple(
    (share, replace(naming, calibration=calibration))
    for share, naming, calibration in itertools.product(PICTURE_SHARES, NAMINGS, CALIBRATIONS)
)
"""Share of the whole picture in image embeddings, and naming settings."""


class Pictures:
    """One data set's pictures as segments, with what is needed to count the pixels of any naming of them."""

    def __init__(self, checkpoint: Checkpoint, root: str, name: str, split: str, limit: int | None) -> None:
        dataset = open_dataset(SETS[name], f"{root}/{name}", split)
        segmenting = replace(checkpoint.recipe.segmenting, picture_share=0.0)
        labeller = Labeller(checkpoint, dataset.vocabulary, device=torch.device("cpu"), segmenting=segmenting)
        self.name, self.classifier = name, labeller.classifier
        self.unseen_C = np.array([entry.role == "unseen" for entry in self.classifier.entries])
        self._encoder = labeller.segmenter.encoder
        index_of = np.full(1 + max(256, *(entry.id for entry in dataset.vocabulary.classes)), -1)
        index_of[[entry.id for entry in self.classifier.entries]] = np.arange(len(self.unseen_C))
        self.cases = []
        for number, ref in enumerate(dataset.refs[:limit]):
            pixels = decode(Path(ref.image_uri).read_bytes())
            truth = read_truth(SETS[name], Path(ref.truth_uri).read_bytes(), dataset.vocabulary)
            predicted = labeller.segmenter.predict_masks(pixels)
            alone_KE = labeller.segmenter.embed(predicted, predicted.masks_Khw)
            image = normalise_and_pad(
                predicted.resized_3HW, self._encoder.image_mean, self._encoder.image_std, 1
            )
            whole_E = self._encoder.encode_images(picture_crop(image, self._encoder.image_size_px)[None])[0]
            self.cases.append((predicted.segments, alone_KE, whole_E, index_of[truth]))
            if number % 50 == 49:
                sys.stderr.write(f"{name}: {number + 1} pictures\n")

    def _scores(self, case, share: float, settings: NamingSettings) -> torch.Tensor:
        segments, alone_KE, whole_E, _ = case
        embeddings = alone_KE
        if share:
            views = torch.stack((alone_KE, whole_E.expand_as(alone_KE)))
            embeddings = self._encoder.average_views(views, torch.tensor([1 - share, share]))
            embeddings[~alone_KE.any(dim=1)] = 0  # masks without a pixel have no crop
        return class_scores(
            replace(segments, image_embeddings_KE=embeddings),
            torch.from_numpy(self.classifier.query_bank.embeddings),
            torch.from_numpy(self.classifier.image_bank.embeddings),
            self.classifier._seen_C,
            settings,
            query_logit_scale=self.classifier.query_logit_scale,
            image_logit_scale=settings.image_logit_scale or self.classifier.image_logit_scale,
        )

    def grid_counts(self) -> np.ndarray:
        """(S, N, 3, C) int32 counts on the grid of the masks, of all settings of `GRID`."""
        counts = np.zeros((len(GRID), len(self.cases), 3, len(self.unseen_C)), np.int32)
        seen_C = self.classifier._seen_C
        for n, case in enumerate(self.cases):
            segments, _, _, truth_HW = case
            h, w = (-(-side // 4) for side in segments.resized_hw)
            masks_Kx = segments.mask_logits_Khw[:, :h, :w].sigmoid().flatten(1)
            rows = ((np.arange(h) + 0.5) / h * segments.height).astype(int)
            columns = ((np.arange(w) + 0.5) / w * segments.width).astype(int)
            truth_x = truth_HW[rows[:, None], columns].ravel()
            masks_Kx, truth_x = masks_Kx[:, truth_x >= 0], truth_x[truth_x >= 0]
            for s, (share, settings) in enumerate(GRID):
                if s % len(CALIBRATIONS) == 0:
                    volume_Cx = self._scores(case, share, settings).T @ masks_Kx
                    seen, unseen = (
                        volume_Cx.masked_fill(group_C[:, None], -1).max(dim=0)
                        for group_C in (~seen_C, seen_C)
                    )
                is_seen_x = seen.values - settings.calibration >= unseen.values
                label_x = torch.where(is_seen_x, seen.indices, unseen.indices).numpy()
                counts[s, n] = class_counts(truth_x, label_x, len(self.unseen_C))
            if n % 50 == 49:
                sys.stderr.write(f"{self.name}: {n + 1} pictures under {len(GRID)} settings\n")
        return counts

    def map_counts(self, n: int, share: float, settings: NamingSettings) -> np.ndarray:
        """(3, C) counts of the label map of one picture."""
        case = self.cases[n]
        scores_KC = self._scores(case, share, settings)
        label_HW = semantic_map(case[0], scores_KC, self.classifier._seen_C, settings)[0].numpy()
        counted_HW = case[3] >= 0
        return class_counts(case[3][counted_HW], label_HW[counted_HW], len(self.unseen_C))


def class_counts(truth_P: np.ndarray, label_P: np.ndarray, classes: int) -> np.ndarray:
    """(3, C) correct, true and labelled pixels of each class, as `zs3.metrics.counts` orders them."""
    correct_P = truth_P[truth_P == label_P]
    return np.stack([np.bincount(part, minlength=classes) for part in (correct_P, truth_P, label_P)])


def means(counts_R3C: np.ndarray, unseen_C: np.ndarray, *, resamples: bool = False) -> dict[str, np.ndarray]:
    """(R,) mIoU of each group in percent."""
    arrays = score_arrays(counts_R3C.astype(np.float64), unseen_C, PROTOCOLS["zs3"], resamples=resamples)
    return {group: arrays.means["iou", group] for group in GROUPS}


def chosen(sets: list[Pictures], counts: list[np.ndarray], folds: list[np.ndarray], fold: int) -> int:
    """The index of the best setting of `GRID` on all folds but one."""
    harmonic_S = [
        means(part[:, of_picture != fold].sum(axis=1), pictures.unseen_C)["harmonic"]
        for pictures, part, of_picture in zip(sets, counts, folds)
    ]
    return int(np.nanmean(harmonic_S, axis=0).argmax())


def report(title: str, pictures: Pictures, counts_N3C: np.ndarray) -> dict[str, float]:
    """Print the scores of all pictures of a data set with 95 % intervals over pictures; the scores."""
    found = {
        group: float(value[0])
        for group, value in means(counts_N3C.sum(axis=0)[None], pictures.unseen_C).items()
    }
    sums_R = bootstrap_sums([counts_N3C.reshape(len(counts_N3C), -1).astype(np.float64)], len(counts_N3C))
    resampled = means(sums_R.reshape(-1, 3, len(pictures.unseen_C)), pictures.unseen_C, resamples=True)
    cells = []
    for group, value in found.items():
        (low,), (high,) = intervals(resampled[group][:, None], len(counts_N3C))
        cells.append(f"{group} {value:.1f} ({low:.0f} to {high:.0f})")
    sys.stdout.write(f"{title:<34}{pictures.name:<18}{'  '.join(cells)}\n")
    sys.stdout.flush()
    return found


@torch.inference_mode()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="zs3-mini")
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--partitions", type=int, default=10, help="ways to cut the pictures into folds")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    checkpoint = load_checkpoint(options.checkpoint)
    sets = [Pictures(checkpoint, options.data_root, name, options.split, options.limit) for name in SETS]
    recipe = checkpoint.recipe
    for pictures in sets:
        shipped = [
            pictures.map_counts(n, recipe.segmenting.picture_share, recipe.naming)
            for n in range(len(pictures.cases))
        ]
        report("shipped settings", pictures, np.stack(shipped))
    counts = [pictures.grid_counts() for pictures in sets]
    for partition in range(options.partitions):
        rng = np.random.default_rng(partition)
        folds = [rng.permutation(len(pictures.cases)) % options.folds for pictures in sets]
        best = [chosen(sets, counts, folds, fold) for fold in range(options.folds)]
        for s in best:
            share, settings = GRID[s]
            changed = {k: getattr(settings, k) for k in settings.__slots__}
            sys.stdout.write(json.dumps({"picture_share": share, **changed}) + "\n")
        for pictures, of_picture in zip(sets, folds):
            scored = [pictures.map_counts(n, *GRID[best[fold]]) for n, fold in enumerate(of_picture)]
            report(f"cross-fitted, partition {partition}", pictures, np.stack(scored))


if __name__ == "__main__":
    main()
