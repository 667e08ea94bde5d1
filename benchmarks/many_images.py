"""What the driver and the object store hold while very many small images are labelled, and what commits cost.

    python benchmarks/many_images.py --images 100000

Makes so many small pictures, labels them through the whole pipeline with a model that costs nothing (it calls bright
pixels one class and dark ones another), in a Ray of its own, and samples the driver's memory and the object store once
a second. Reported are the peaks in the second and in the last quarter of the run, which are equal where nothing grows;
and the share of the run that the driver spent on commits, and that a second start would take to find nothing left.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

from pipelines.execution import Execution, cores
from pipelines.labelling.label import LabellerFactory, LabelRequest, ModelInfo, label, prepare_label
from pipelines.runs.committer import Committer
from pipelines.runs.run import Progress

PER_FOLDER = 1000


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much to label."""

    images: int = 100_000
    """Pictures of 24x16 pixels."""
    images_per_wave: int = 50_000
    """As of `zs3 label`; below the number of images, so that the start of a new chunk is among what is measured."""
    failing: int = 100
    """One picture in so many is cut short."""


def main() -> int:
    """Measure and print one line of JSON."""
    options = tyro.cli(Options, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(json.dumps(measure(options, Path(folder))) + "\n")
    return 0


def measure(options: Options, folder: Path) -> dict[str, Any]:
    """Memory over the run, and the cost of commits and of a second start."""
    pictures(folder / "photos", options)
    (folder / "classes.txt").write_text("bright\ndark\n")
    request = LabelRequest(
        images=str(folder / "photos"),
        classes=str(folder / "classes.txt"),
        checkpoint="none",
        out=str(folder / "run"),
    )
    execution = Execution(
        batch_size=64, images_per_block=256, images_per_wave=options.images_per_wave, commit_interval_s=5.0
    )
    samples: list[tuple[float, float, float]] = []
    done = threading.Event()
    commits = timed_commits()
    last = [0.0]

    def show(progress: Progress) -> None:
        if time.time() - last[0] > 10:
            last[0] = time.time()
            sys.stderr.write(f"{progress.done}/{progress.total} {progress.images_per_second:.0f} images/s\n")

    threading.Thread(target=sample, args=(samples, done), daemon=True).start()
    result = label(request, execution, model=shades(), on_progress=show)
    done.set()
    began = time.perf_counter()
    left = prepare_label(request, shades()).work
    again_s = time.perf_counter() - began
    assert (len(left.pending), left.skipped) == (0, options.images)
    quarter = max(1, len(samples) // 4)
    return {
        "images": result.images,
        "failed": result.failed,
        "cores": cores(),
        "seconds": round(result.seconds, 1),
        "images_per_second": round(result.images_per_second, 1),
        "driver_mib_second_quarter": round(max(mib for _, mib, _ in samples[quarter : 2 * quarter])),
        "driver_mib_last_quarter": round(max(mib for _, mib, _ in samples[-quarter:])),
        "object_store_mib_second_quarter": round(max(mib for *_, mib in samples[quarter : 2 * quarter])),
        "object_store_mib_last_quarter": round(max(mib for *_, mib in samples[-quarter:])),
        "commit_share": round(sum(commits) / result.seconds, 4),
        "second_start_seconds": round(again_s, 2),
        "second_start_share": round(again_s / result.seconds, 4),
    }


def pictures(folder: Path, options: Options) -> None:
    """Small JPEGs of a few grey levels; some of them cut short."""
    encoded = []
    for level in range(16):
        path = folder.with_name(f"{level}.jpg")
        Image.fromarray(np.full((16, 24, 3), 16 * level, np.uint8)).save(path)
        encoded.append(path.read_bytes())
    for number in range(options.images):
        below = folder / f"{number // PER_FOLDER:04}"
        below.mkdir(parents=True, exist_ok=True)
        content = encoded[number % 16]
        cut = number % options.failing == 0
        (below / f"{number:07}.jpg").write_bytes(content[: len(content) // 2] if cut else content)


def shades() -> LabellerFactory:
    """A model that costs nothing; nested, so that it travels to workers by value."""
    digest = hashlib.sha256(b"shades").hexdigest()

    def load(checkpoint: str, vocabulary: Any, device: str) -> Any:
        import numpy

        class Shades:
            def __init__(self) -> None:
                self.seen, self.digest = {1: True, 2: False}, digest

            def label(self, pictures: Sequence[Any]) -> list[Any]:
                maps = [numpy.where(picture[..., 0] > 127, 1, 2).astype(numpy.int32) for picture in pictures]
                return [(one, {1: 0.5, 2: 0.5}) for one in maps]

        return Shades()

    def describe(checkpoint: str, vocabulary: Any) -> ModelInfo:
        return ModelInfo(digest=digest, provenance={"checkpoint": digest}, seen={1: True, 2: False})

    return LabellerFactory(load=load, describe=describe)


def timed_commits() -> list[float]:
    """Seconds of each commit of the run that follows, as they are made."""
    seconds: list[float] = []
    commit = Committer.commit

    def timed(self: Committer) -> None:
        began = time.perf_counter()
        commit(self)
        seconds.append(time.perf_counter() - began)

    Committer.commit = timed  # type: ignore[method-assign]
    return seconds


def sample(samples: list[tuple[float, float, float]], done: threading.Event) -> None:
    """Time, and MiB of this process and of the object store, once a second."""
    import ray

    while not done.wait(1.0):
        if not ray.is_initialized():
            continue
        lines = Path("/proc/self/status").read_text().splitlines()
        own = int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024
        total = ray.cluster_resources().get("object_store_memory", 0.0)
        used = total - ray.available_resources().get("object_store_memory", 0.0)
        samples.append((time.time(), own, used / (1 << 20)))


if __name__ == "__main__":
    sys.exit(main())
