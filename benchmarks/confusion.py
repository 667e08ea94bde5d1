"""How fast one pair of label maps is counted: ours, torchmetrics, and numpy.bincount on int64, in one run.

    OMP_NUM_THREADS=1 python benchmarks/confusion.py --data msrc_mini/        maps of a data set's masks
    OMP_NUM_THREADS=1 python benchmarks/confusion.py                          maps of random regions

Claim (issue 6): at 500x375 pixels and 171 classes at least 3 times faster than both. All get the same int32 maps, as
the evaluation has them; `prepared` leaves out what the others take to make int64 of them. torchmetrics is timed without
its check of the values, which takes longer than the rest. Ours counts runs of equal pixels; `noise` is the worst case,
where every pixel differs from its neighbour.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchmetrics.classification import MulticlassConfusionMatrix

from zs3.metrics import confusion

HEIGHT, WIDTH, CLASSES = 375, 500, 171


def regions(rng: np.random.Generator, count: int) -> np.ndarray:
    """(H, W) int32: the nearest of `count` random points decides, in a picture whose outlines are wavy."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    x = x + 6 * np.sin(y / 9)
    y = y + 6 * np.sin(x / 11)
    points = rng.uniform(0, 1, (count, 2)) * (HEIGHT, WIDTH)
    distances = [(y - a) ** 2 + (x - b) ** 2 for a, b in points]
    return rng.integers(0, CLASSES, count)[np.argmin(distances, axis=0)].astype(np.int32)


def pairs_of(kind: str, folder: str | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Some pairs of truth and prediction."""
    rng = np.random.default_rng(0)
    if kind == "noise":
        return [tuple(rng.integers(0, CLASSES, (2, HEIGHT, WIDTH)).astype(np.int32)) for _ in range(4)]
    if folder is None:
        return [(regions(rng, 12), regions(rng, 30)) for _ in range(4)]
    paths = sorted(Path(folder, "masks").glob("*.png"))[:8]
    size, nearest = (WIDTH, HEIGHT), Image.Resampling.NEAREST
    maps = [np.asarray(Image.open(path).resize(size, nearest)).astype(np.int32) % CLASSES for path in paths]
    shifted = [np.roll(np.where(np.roll(held, 7, 1) == held, held, 1), 3, 0) for held in maps]
    return list(zip(maps, shifted, strict=True))


def seconds(count: Callable[[Any, Any], Any], pairs: list[tuple[Any, Any]], *, rounds: int) -> float:
    """Least seconds of a round, for one pair; the least is what other work on the machine disturbs least."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        for truth, prediction in pairs:
            count(truth, prediction)
        taken.append((time.perf_counter() - started) / len(pairs))
    return min(taken)


def main() -> int:
    """Print milliseconds and ratios, one line of JSON per kind of map."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="a folder data set, for its masks")
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    metric = MulticlassConfusionMatrix(num_classes=CLASSES, validate_args=False)
    for kind in ("regions", "noise"):
        pairs = pairs_of(kind, options.data)
        wide = [(truth.astype(np.int64), prediction.astype(np.int64)) for truth, prediction in pairs]
        tensors = [(torch.from_numpy(truth), torch.from_numpy(prediction)) for truth, prediction in wide]
        narrow = [(truth.astype(np.uint8), prediction.astype(np.uint8)) for truth, prediction in pairs]

        def ours(truth: np.ndarray, prediction: np.ndarray) -> Any:
            return confusion(truth, prediction, ignore_id=255)

        def plain(truth: np.ndarray, prediction: np.ndarray) -> Any:
            return np.bincount((truth * CLASSES + prediction).ravel(), minlength=CLASSES**2)

        taken = {
            "ours_ms": 1e3 * seconds(ours, pairs, rounds=options.rounds),
            "ours_uint8_ms": 1e3 * seconds(ours, narrow, rounds=options.rounds),
            "prepared_bincount_int64_ms": 1e3 * seconds(plain, wide, rounds=options.rounds),
            "bincount_int64_ms": 1e3
            * seconds(
                lambda truth, given: plain(truth.astype(np.int64), given.astype(np.int64)),
                pairs,
                rounds=options.rounds,
            ),
            "prepared_torchmetrics_ms": 1e3
            * seconds(lambda truth, given: metric.update(given, truth), tensors, rounds=options.rounds),
            "torchmetrics_ms": 1e3
            * seconds(
                lambda truth, given: metric.update(
                    torch.from_numpy(given.astype(np.int64)), torch.from_numpy(truth.astype(np.int64))
                ),
                pairs,
                rounds=options.rounds,
            ),
        }
        ratios = {
            f"over_{name}": taken[f"{name}_ms"] / taken["ours_ms"]
            for name in ("bincount_int64", "torchmetrics")
        }
        sys.stdout.write(
            json.dumps({"maps": kind} | {k: round(v, 3) for k, v in (taken | ratios).items()}) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
