"""Peak memory of the driver of zs3 evaluate, compare and export, for few and for ten times as many images.

    python benchmarks/driver_memory.py --images 2000 20000

Claim (issue 6): the driver's memory does not depend on the number of images. Pictures are small, as only their number
matters to the driver: links to a few files, each with its own id, truth and label rows. Every verb runs as a process of
its own, which samples itself: `own` is memory of the process alone (RssAnon), `all` is VmHWM, which also holds
libraries and the pages of Ray's object store that it has looked at. The sizes are run one after the other.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipelines.tables.delta_writer import open_table, publish, write_data_file
from zs3.images.codec import encode_label_png
from zs3.label_rows import label_rows
from zs3.tables import LABELS
from zs3.vocabulary import Vocabulary, load_vocabulary

VERBS = ("evaluate", "compare", "png", "coco", "parquet")
IMAGES_PER_FILE = 1000
HEIGHT, WIDTH = 48, 64


def made_up(root: Path, images: int) -> None:
    """A folder data set of COCO-Stuff's classes and two label tables of it."""
    vocabulary = load_vocabulary("coco_stuff")
    rng = np.random.default_rng(0)
    kinds = [regions(rng, vocabulary) for _ in range(16)]
    for folder in ("images", "masks", "held"):
        (root / "data" / folder).mkdir(parents=True)
    for number, map_HW in enumerate(kinds):
        held = root / "data" / "held" / str(number)
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(f"{held}.jpg")
        Path(f"{held}.png").write_bytes(encode_label_png(map_HW))
    ids = [f"{number:012d}" for number in range(images)]
    for number, image_id in enumerate(ids):
        for folder, suffix in (("images", "jpg"), ("masks", "png")):
            os.link(
                root / "data" / "held" / f"{number % 16}.{suffix}",
                root / "data" / folder / f"{image_id}.{suffix}",
            )
    (root / "data" / "classes.json").write_text(json.dumps(vocabulary.to_json()))
    (root / "data" / "splits.json").write_text(json.dumps({"val": ids}))
    for run in (0, 1):
        labels(root / f"run{run}", ids, [regions(rng, vocabulary) for _ in range(16)], vocabulary)


def regions(rng: np.random.Generator, vocabulary: Vocabulary) -> np.ndarray:
    """A label map of eight classes in blocks."""
    ids = [entry.id for entry in vocabulary.candidates]
    return rng.choice(rng.choice(ids, 8), (6, 8)).repeat(8, 0).repeat(8, 1).astype(np.int32)


def labels(out: Path, ids: list[str], maps: list[np.ndarray], vocabulary: Vocabulary) -> None:
    """A label table in which images take turns with some maps."""
    names = {entry.id: entry.name for entry in vocabulary.candidates}
    seen = {entry.id: entry.role == "seen" for entry in vocabulary.candidates}
    kinds = [label_rows("", "", one, names, seen, dict.fromkeys(names, 0.5), "r") for one in maps]
    uri = str(out / "labels")
    table = open_table(uri, LABELS, {"run": {"weights": "w"}, "vocabulary": vocabulary.to_json()})
    for start in range(0, len(ids), IMAGES_PER_FILE):
        rows = [
            {**row, "image_id": image_id, "uri": f"{image_id}.jpg"}
            for number, image_id in enumerate(ids[start : start + IMAGES_PER_FILE], start)
            for row in kinds[number % len(kinds)]
        ]
        publish(
            table,
            LABELS,
            [write_data_file(uri, pa.Table.from_pylist(rows, schema=LABELS))],
            run="r",
            written_ms=0,
        )


def one(verb: str, root: Path, run: int) -> None:
    """One verb on the made-up data, in this process."""
    from pipelines.comparison.compare import CompareRequest, compare
    from pipelines.evaluation.evaluate import evaluate
    from pipelines.evaluation.request import EvaluateRequest
    from pipelines.export.export import ExportRequest, export

    out, table = str(root / f"{verb}{run}"), str(root / f"run{run}")
    if verb == "evaluate":
        request = EvaluateRequest(
            dataset="folder", root=str(root / "data"), split="val", labels=table, out=out, protocol="all"
        )
        evaluate(request, now=datetime.now(UTC))
    elif verb == "compare":
        compare(CompareRequest(first=str(root / "evaluate0"), second=str(root / "evaluate1")))
    else:
        export(ExportRequest(labels=table, to=verb, out=out))  # type: ignore[arg-type]


@contextmanager
def sampled() -> Iterator[Callable[[], dict[str, float]]]:
    """What this process has held at most while the block ran, in MiB."""
    most, over = [0.0], threading.Event()

    def sample() -> None:
        while not over.wait(0.02):
            most[0] = max(most[0], status("RssAnon"))

    watcher = threading.Thread(target=sample, daemon=True)
    watcher.start()
    yield lambda: {"own_mib": round(most[0], 1), "all_mib": round(status("VmHWM"), 1)}
    over.set()
    watcher.join()


def status(name: str) -> float:
    """A figure of /proc/self/status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def main() -> int:
    """Print a line of JSON per verb and number of images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--verbs", nargs="+", default=list(VERBS), choices=VERBS)
    parser.add_argument("--one", nargs=3, metavar=("VERB", "ROOT", "RUN"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        verb, root, run = options.one
        with sampled() as most:
            one(verb, Path(root), int(run))
            sys.stdout.write(json.dumps(most()) + "\n")
        return 0
    for images in options.images:
        with tempfile.TemporaryDirectory() as folder:
            made_up(Path(folder), images)
            if "compare" in options.verbs:
                measured("evaluate", folder, 1)
            for verb in options.verbs:
                started = time.perf_counter()
                held = measured(verb, folder, 0)
                held |= {"seconds": round(time.perf_counter() - started, 1)}
                sys.stdout.write(json.dumps({"verb": verb, "images": images} | held) + "\n")
                sys.stdout.flush()
    return 0


def measured(verb: str, folder: str, run: int) -> dict[str, Any]:
    """What a process of its own held at most for one verb."""
    command = [sys.executable, __file__, "--one", verb, folder, str(run)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(told.splitlines()[-1]))


if __name__ == "__main__":
    sys.exit(main())
