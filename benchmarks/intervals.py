"""How long intervals and the paired test take: 5,000 images, 171 classes, 2,000 replicates, every score.

    OMP_NUM_THREADS=2 python benchmarks/intervals.py --images 5000 --classes 171

Claim (issue 6): each at most 20 s on 2 cores. Images hold 4 to 20 classes, as photographs of COCO-Stuff do.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from zs3.metrics import PROTOCOLS
from zs3.metrics.intervals import BLOCK
from zs3.metrics.paired import paired
from zs3.metrics.resampling import ranges
from zs3.tables import SCORES

PIXELS = 187_500


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A class of the made-up data set."""

    id: int
    name: str
    role: str


def made_up(images: int, classes: int, *, seed: int) -> pa.Table:
    """A scores table of random images, each with some true classes and some labels."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(images):
        size = int(rng.integers(4, 21))
        true = np.sort(rng.choice(classes, size, replace=False))
        truth, prediction = np.repeat(true, 3), rng.integers(0, classes, 3 * size)
        prediction[::3] = true
        pixels = rng.multinomial(PIXELS, rng.dirichlet(np.ones(truth.size)))
        edge = pixels // 8
        rows.append(
            {
                "image_id": f"{number:09d}",
                "truth": truth,
                "prediction": prediction,
                "pixels": pixels,
                "boundary_truth": truth,
                "boundary_prediction": prediction,
                "boundary_pixels": edge,
                "boundary_class": true,
                "boundary_true": edge.reshape(-1, 3).sum(axis=1),
                "boundary_hits": edge[::3],
                "labelled": np.unique(prediction),
                "score": np.full(np.unique(prediction).size, 0.5, np.float32),
            }
        )
    return pa.Table.from_pylist(rows, schema=SCORES)


def blocks(table: pa.Table) -> Iterator[pa.Table]:
    """The rows some at a time, as they are read of a file."""
    for start in range(0, table.num_rows, BLOCK):
        yield table.slice(start, BLOCK)


def main() -> int:
    """Print seconds as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=171)
    options = parser.parse_args()
    classes = [
        Entry(id=k, name=f"class {k}", role="unseen" if k >= options.classes - 15 else "seen")
        for k in range(options.classes)
    ]
    first = made_up(options.images, options.classes, seed=0)
    started = time.perf_counter()
    ranges(blocks(first), options.images, classes, PROTOCOLS["zs3"])
    intervals_s = time.perf_counter() - started
    started = time.perf_counter()
    rows = (partial(blocks, first), partial(blocks, first))
    paired(*rows, options.images, classes, PROTOCOLS["zs3"])
    paired_s = time.perf_counter() - started
    result = {
        "images": options.images,
        "classes": options.classes,
        "intervals_s": intervals_s,
        "paired_s": paired_s,
    }
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
