"""Evaluation and table of paper_comparisons.py: networks run once per picture, every naming is scored from that."""

# K segment, C class, H W pixels, G value of γ, T P class ids
from __future__ import annotations

import io
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from zs3 import __version__
from zs3.checkpoint import load_checkpoint
from zs3.classification.pixel_level import probability_strips
from zs3.classification.scores import class_scores
from zs3.classification.semantic_map import pixel_scores_of_rows
from zs3.datasets import Dataset, read_truth
from zs3.images.codec import decode
from zs3.inference.labeller import Labeller, PixelLabeller
from zs3.metrics import PROTOCOLS, Confusion, EvaluatedClass, Protocol, Scores, scores
from zs3.tuning.calibration_sweep import GroupBest, best_of_groups
from zs3.vocabulary import load_vocabulary

BRANCHES = ("query", "image", "both")
GAMMAS: tuple[float, ...] = (
    0.0,
    0.001,
    0.003,
    0.01,
    0.02,
    0.03,
    0.05,
    0.07,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
)
GAMMAS += (0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 1.25, 1.5, 2.0, 3.0)
PROTOCOL = PROTOCOLS["zs3"]
WORDS = {"query": "query branch", "image": "image branch", "both": "both branches", "pixels": "pixels"}
QUESTIONS = (
    ("Decoupled minus pixel-level, CLIP text", "zegformer_clip/query", "pixel_level_clip/pixels"),
    ("Decoupled minus pixel-level, word vectors", "zegformer_words/query", "pixel_level_words/pixels"),
    ("Both branches minus pixel-level, CLIP text", "zegformer_clip/both", "pixel_level_clip/pixels"),
    ("CLIP text minus word vectors, decoupled", "zegformer_clip/query", "zegformer_words/query"),
    ("CLIP text minus word vectors, pixel-level", "pixel_level_clip/pixels", "pixel_level_words/pixels"),
    ("CLIP text minus MiniLM, decoupled", "zegformer_clip/query", "zegformer_minilm/query"),
    ("Both branches minus query branch, CLIP text", "zegformer_clip/both", "zegformer_clip/query"),
)


def evaluate(checkpoint: str, dataset: Dataset, out: Path, limit: int | None) -> None:
    """Store, per way of naming, the confusions of the two halves of the pictures under every γ: (2, G, T, P)."""
    held, began = load_checkpoint(checkpoint), time.perf_counter()
    kind = PixelLabeller if held.recipe.model.architecture == "pixel_level" else Labeller
    labeller = kind(held, dataset.vocabulary, device=torch.device("cpu"))
    ids = [entry.id for entry in dataset.vocabulary.candidates]
    size = (2, len(GAMMAS), max(ids) + 1, max(ids) + 1)
    sums: dict[str, np.ndarray] = {}
    refs = dataset.refs[:limit]
    for number, ref in enumerate(refs):
        assert ref.truth_uri is not None
        truth = read_truth(dataset.name, Path(ref.truth_uri).read_bytes(), dataset.vocabulary)
        for way, best in group_bests(labeller, decode(Path(ref.image_uri).read_bytes())):
            sums.setdefault(way, np.zeros(size, np.int64))
            sums[way][number % 2] += confusions_by_gamma(truth, best, GAMMAS, ids)
    seconds = (time.perf_counter() - began) / max(len(refs), 1)
    stored = io.BytesIO()
    np.savez_compressed(stored, seconds_per_picture=seconds, checkpoint=held.digest, **sums)
    publish(out, stored.getvalue())


def publish(path: Path, data: bytes) -> None:
    """Write a file that another process, the other shard perhaps, sees whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as stream:
        stream.write(data)
    Path(stream.name).replace(path)


@torch.inference_mode()
def group_bests(
    labeller: Labeller | PixelLabeller, picture_HW3: np.ndarray
) -> Iterator[tuple[str, GroupBest]]:
    """Per way of naming one picture: its best seen and best unseen class at every pixel."""
    seen_C = torch.tensor([labeller.seen[one] for one in labeller.names])
    if isinstance(labeller, PixelLabeller):
        yield (
            "pixels",
            _joined([_best(s, seen_C) for s in probability_strips(labeller.cells(picture_HW3))]),
        )
        return
    segments, classifier = labeller.segmenter.segment([picture_HW3])[0], labeller.classifier
    ways = BRANCHES if segments.image_embeddings_KE.shape[1] else BRANCHES[:1]
    named = [
        class_scores(
            segments,
            torch.from_numpy(classifier.query_bank.embeddings),
            torch.from_numpy(classifier.image_bank.embeddings),
            seen_C,
            replace(classifier.settings, branches=branches),
            query_logit_scale=classifier.query_logit_scale,
            image_logit_scale=classifier.image_logit_scale,
        )
        for branches in ways
    ]
    # One pass over the masks paints all ways of naming: their scores are columns side by side.
    columns = torch.cat(named, dim=1)
    rows = torch.arange(segments.height)
    volumes = pixel_scores_of_rows(segments, columns, rows, resize_first=False).split(len(seen_C))
    for branches, volume_CHW in zip(ways, volumes):
        yield branches, _best(volume_CHW, seen_C)


def _best(scores_CHW: torch.Tensor, seen_C: torch.Tensor) -> GroupBest:
    volume_CX = scores_CHW.flatten(1)
    return best_of_groups(volume_CX, torch.arange(len(seen_C)), seen_C, torch.arange(volume_CX.shape[1]))


def _joined(strips: list[GroupBest]) -> GroupBest:
    columns = GroupBest.__slots__
    return GroupBest(**{key: torch.cat([getattr(strip, key) for strip in strips]) for key in columns})


def confusions_by_gamma(
    truth_HW: np.ndarray, best: GroupBest, gammas: Sequence[float], ids: Sequence[int]
) -> np.ndarray:
    """(G, T, P) int64 pixels of every true class (T) given every class (P), for each γ; T and P are class ids.

    Args:
        truth_HW: class ids; pixels of other classes than `ids` do not count.
        best: of every pixel of the picture, row by row, as places in `ids`.
        gammas: ascending. On a tie between γ and the lead of the best seen class, the seen class wins.
        ids: the candidate classes.
    """
    size, bins = max(ids) + 1, len(gammas) + 1
    counted = np.isin(truth_HW, ids).ravel()
    truth = truth_HW.ravel()[counted].astype(np.int64)
    lead = (best.seen_score_P - best.unseen_score_P).numpy()[counted]
    above = np.searchsorted(np.asarray(gammas, np.float32), lead, side="right")

    def histogram(places_P: torch.Tensor) -> np.ndarray:
        keys = (truth * size + np.asarray(ids)[places_P.numpy()[counted]]) * bins + above
        return np.bincount(keys, minlength=size * size * bins).reshape(size, size, bins)

    # A pixel whose lead reaches exactly `above` of the γ is called seen by those, unseen by the others.
    as_seen = histogram(best.seen_P)[:, :, ::-1].cumsum(axis=2)[:, :, ::-1][:, :, 1:]
    as_unseen = histogram(best.unseen_P).cumsum(axis=2)[:, :, :-1]
    return np.moveaxis(as_seen + as_unseen, 2, 0)


def dense_scores(confusion_TP: np.ndarray, classes: Sequence[EvaluatedClass], protocol: Protocol) -> Scores:
    """The scores of a dense confusion whose rows and columns are class ids."""
    truth, prediction = np.nonzero(confusion_TP)
    sparse = Confusion(truth=truth, prediction=prediction, pixels=confusion_TP[truth, prediction])
    return scores(sparse, classes, protocol)


def cross_validated(
    halves_2GTP: np.ndarray, gammas: Sequence[float], classes: Sequence[EvaluatedClass], protocol: Protocol
) -> tuple[Scores, tuple[float, float]]:
    """Scores over all pictures, each half under the γ that has the best harmonic mean on the other half.

    The confusions of the two halves are added before scoring: the pictures are those of the scores at a single γ.

    Returns:
        The scores, and γ of the first and of the second half; the smallest on ties.
    """

    def best(half: int) -> int:
        harmonics = [dense_scores(one, classes, protocol).harmonic for one in halves_2GTP[half]]
        return int(np.argmax(np.nan_to_num(harmonics)))

    first, second = best(1), best(0)
    joined = halves_2GTP[0, first] + halves_2GTP[1, second]
    return dense_scores(joined, classes, protocol), (float(gammas[first]), float(gammas[second]))


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean over seeds with Student's 95 % interval, which one seed does not have."""
    mean, count = float(np.mean(values)), len(values)
    held = {"mean": mean, "low": None, "high": None, "values": [float(value) for value in values]}
    if count > 1:
        spread = float(stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / math.sqrt(count))
        held |= {"low": mean - spread, "high": mean + spread}
    return held


def _numbers(held: Scores) -> dict[str, Any]:
    unseen = {one.name: one.iou for one in held.classes if not one.seen and one.name not in held.absent}
    return {"seen": held.seen, "unseen": held.unseen, "harmonic": held.harmonic, "unseen_classes": unseen}


def write_report(
    out: Path,
    found: Mapping[tuple[str, int], Path],
    *,
    split: Mapping[str, object],
    budget: Mapping[str, object],
    temperatures: Mapping[str, float],
    missing: Sequence[str],
) -> str:
    """Write comparison.json and comparison.md from the finished evaluations; gives the Markdown."""
    classes = load_vocabulary("voc").classes
    by_seed: dict[str, dict[int, dict[str, Any]]] = {}
    seconds: dict[str, list[float]] = {}
    absent: set[str] = set()
    for (name, seed), place in found.items():
        with np.load(place, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
        seconds.setdefault(name, []).append(float(arrays.pop("seconds_per_picture")))
        digest = str(arrays.pop("checkpoint"))
        for way, halves in arrays.items():
            plain = dense_scores(halves[:, 0].sum(axis=0), classes, PROTOCOL)
            calibrated, gammas = cross_validated(halves, GAMMAS, classes, PROTOCOL)
            absent |= set(plain.absent)
            row = {"plain": _numbers(plain), "calibrated": _numbers(calibrated) | {"gammas": gammas}}
            by_seed.setdefault(f"{name}/{way}", {})[seed] = row | {"checkpoint": digest}
    rows = {key: _over_seeds(seeds) for key, seeds in by_seed.items()}
    differences = [
        {"question": question, "first": first, "second": second, **_difference(by_seed, first, second)}
        for question, first, second in QUESTIONS
        if first in by_seed and second in by_seed
    ]
    report = {
        "split": split,
        "budget": budget,
        "temperatures": temperatures,
        "absent_classes": sorted(absent),
        "protocol": PROTOCOL.name,
        "methods": rows,
        "differences": differences,
        "by_seed": by_seed,
        "seconds_per_picture": {name: float(np.mean(values)) for name, values in seconds.items()},
        "missing": list(missing),
        "provenance": {
            "zs3": __version__,
            "torch": torch.__version__,
            "cores": os.cpu_count(),
        },
    }
    text = _markdown(report)
    for name, content in (("comparison.json", json.dumps(report, indent=1)), ("comparison.md", text)):
        publish(out / name, content.encode())
    return text


def _over_seeds(seeds: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        how: {
            group: interval([row[how][group] for row in seeds.values()])
            for group in ("seen", "unseen", "harmonic")
        }
        for how in ("plain", "calibrated")
    }


def _difference(by_seed: Mapping[str, Mapping[int, Any]], first: str, second: str) -> dict[str, Any]:
    """First minus second, seed by seed, under both treatments."""
    shared = sorted(by_seed[first].keys() & by_seed[second].keys())
    return {
        how: {
            group: interval([by_seed[first][s][how][group] - by_seed[second][s][how][group] for s in shared])
            for group in ("unseen", "harmonic")
        }
        for how in ("plain", "calibrated")
    }


def _markdown(report: Mapping[str, Any]) -> str:
    budget, split = report["budget"], report["split"]
    temperatures = ", ".join(f"{name} {value}" for name, value in report["temperatures"].items())
    lines = [
        "# The paper's comparisons, in small",
        "",
        f"Trained on {split['train']} pictures of voc_mini, all without a pixel of an unseen class; scored on "
        f"{split['evaluated']}: its val list and the {split['moved_from_train']} training pictures with such pixels, "
        "on which nothing was trained. Classes without a true pixel there: "
        f"{', '.join(report['absent_classes']) or 'none'}. Background and void pixels do not count. "
        "All 20 names compete.",
        "",
        f"Every model: {budget['steps']} steps of {budget['batch_size']} crops of {budget['crop_px']} px, "
        "EfficientNet-Lite0 with ImageNet weights (stem and first two stages frozen), a pixel decoder of "
        f"{budget['pyramid_dim']} channels, AdamW with one set of rates. Temperature by one rule, "
        f"τ = 0.05 (1 - mean cosine of two seen names): {temperatures}. Background pixels lie outside of every mask "
        "in ZegFormer's losses and reach no loss of the pixel-level model.",
        "",
        "The image branch is not CLIP: no CLIP image encoder runs without a download. It is `imagenet_words`, an "
        "ImageNet classifier and a sentence encoder, so it has had ImageNet's labels of sheep, sofas and the like, "
        "and its names are the same whatever text the query branch uses; so it is scored with one text alone.",
        "",
        "Mean over seeds of mIoU in percent, with the 95 % t-interval. γ is subtracted from seen scores; chosen: by "
        "harmonic mean on one half of the pictures, used on the other half, and the other way round.",
        "",
        "| model | named by | γ | seen | unseen | harmonic |",
        "|---|---|---|---|---|---|",
    ]
    for key, row in report["methods"].items():
        name, way = key.split("/")
        for how in ("plain", "calibrated"):
            cells = " | ".join(_cell(row[how][group]) for group in ("seen", "unseen", "harmonic"))
            lines.append(f"| {name} | {WORDS[way]} | {'0' if how == 'plain' else 'chosen'} | {cells} |")
    lines += ["", "| difference, seed by seed | γ | unseen | harmonic |", "|---|---|---|---|"]
    for difference in report["differences"]:
        for how in ("plain", "calibrated"):
            cells = " | ".join(_cell(difference[how][group]) for group in ("unseen", "harmonic"))
            lines.append(f"| {difference['question']} | {'0' if how == 'plain' else 'chosen'} | {cells} |")
    if report["missing"]:
        lines += ["", f"Not finished: {', '.join(report['missing'])}."]
    return "\n".join(lines) + "\n"


def _cell(held: Mapping[str, Any]) -> str:
    if held["low"] is None:
        return f"{held['mean']:.1f}"
    return f"{held['mean']:.1f} [{held['low']:.1f}, {held['high']:.1f}]"
