"""What it costs to find that a run has nothing left to do, and what the driver holds, for tables of any size.

    python benchmarks/resume_cost.py --images 100000 1000000 10000000

For each size, in a process of its own: a listing of so many uris (a stream, as a bucket's pages are), and tables as a
run would have left them, whose label files are named in the log and need not exist. Then it is timed what `zs3 label`
does before it says that nothing is left: the listing is sorted and cut into shards, the tables are opened, and shards
compared. `--new` leaves some images of the listing out of the tables, so that what is left is found too. The time is
also given as a ratio to sorting the same uris in one Python list, the least that a script would do.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import tyro

from pipelines.execution import cores
from pipelines.runs.catalogue import Catalogue
from pipelines.runs.listing import LISTED, ROWS_PER_BATCH
from pipelines.runs.resume import Target, remaining_work
from pipelines.tables.delta_writer import DataFile, open_table, publish, write_data_file
from zs3.tables import LABELS, SHARDS

IMAGES_PER_FILE = 1024
"""As `pipelines.labelling.label` has it for long runs."""

FILES_PER_COMMIT = 64


@dataclass(frozen=True, kw_only=True)
class Options:
    """How many images to simulate."""

    images: tuple[int, ...] = (100_000, 1_000_000, 10_000_000)
    """Sizes of the listing; each is measured in a process of its own."""
    new: int = 0
    """Images that the tables lack, spread over the listing."""
    here: bool = False
    """Measure in this process."""


def main() -> int:
    """Measure and print one line of JSON for each size."""
    options = tyro.cli(Options, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,))
    for images in options.images:
        if options.here:
            sys.stdout.write(json.dumps(measure(images, options.new)) + "\n")
        else:
            command = [
                sys.executable,
                __file__,
                "--here",
                "--images",
                str(images),
                "--new",
                str(options.new),
            ]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            sys.stdout.write(done.stdout)
            sys.stdout.flush()
    return 0


def measure(images: int, new: int) -> dict[str, Any]:
    """Seconds and peak memory of finding what is left."""
    with tempfile.TemporaryDirectory() as out:
        target = Target(
            out=out, results="labels", schema=LABELS, provenance={"run": {"benchmark": "b"}}, digest="run"
        )
        lacking = set(range(0, images, max(1, images // new))) if new else set()
        files = simulate(target, images, lacking)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak that VmHWM shows
        before = resident("VmRSS")
        began = time.perf_counter()
        catalogue = Catalogue(stream(images))
        sorted_s = time.perf_counter() - began
        left = remaining_work(catalogue, target)
        seconds = time.perf_counter() - began
        peak = resident("VmHWM")
        assert (len(left.pending), left.skipped) == (len(lacking), images - len(lacking))
        began = time.perf_counter()
        held = sorted(uri for batch in stream(images) for uri in batch["uri"].to_pylist())
        plain_s = time.perf_counter() - began
        assert len(held) == images
        return {
            "images": images,
            "new": len(lacking),
            "shards": len(catalogue.shards()),
            "files": files,
            "cores": cores(),
            "seconds": round(seconds, 2),
            "of_them_to_sort_the_listing": round(sorted_s, 2),
            "ratio_to_a_sorted_list": round(seconds / plain_s, 2),
            "peak_mib_above_before": round(peak - before),
        }


def stream(images: int, without: frozenset[int] | set[int] = frozenset()) -> Iterator[pa.RecordBatch]:
    """A listing in no order, with ETags, in batches; nothing of it is held."""
    stride = next(step for step in range(7919, 9000) if math.gcd(step, images) == 1)
    for start in range(0, images, ROWS_PER_BATCH):
        numbers = [number * stride % images for number in range(start, min(start + ROWS_PER_BATCH, images))]
        numbers = [number for number in numbers if number not in without]
        yield pa.RecordBatch.from_arrays(
            [
                pa.array([uri_of(number) for number in numbers]),
                pa.array([f"{number:032x}" for number in numbers]),
            ],
            schema=LISTED,
        )


def uri_of(number: int) -> str:
    return f"s3://bucket/photos/{number // 10_000:05}/{number:09}.jpg"


def simulate(target: Target, images: int, lacking: set[int]) -> int:
    """Tables of a run over all images but some; the number of files in the log of `labels`."""
    labels = open_table(target.uris["labels"], LABELS, target.provenance)
    empty = [name for name in LABELS.names if name not in ("image_id", "uri", "etag")]
    parts: list[DataFile] = []
    files = 0
    known = {shard.digest for shard in Catalogue(stream(images, lacking)).shards()}
    opened: set[int] = set()
    for shard in Catalogue(stream(images)).shards() if lacking else []:
        if shard.digest not in known:
            first, end = (int(uri.rpartition("/")[2].removesuffix(".jpg")) for uri in shard.uris)
            opened.update(range(first, end + 1))
    for start in range(0, images, IMAGES_PER_FILE):
        last = min(start + IMAGES_PER_FILE, images) - 1
        files += 1
        if opened.isdisjoint(range(start, last + 1)):
            bounds = [{"image_id": f"{number:09}", "uri": uri_of(number)} for number in (start, last)]
            stats = {
                "numRecords": last - start + 1,
                "minValues": bounds[0],
                "maxValues": bounds[1],
                "nullCount": {},
            }
            part = DataFile(
                path=f"part-{start}.parquet", size=1 << 20, rows=last - start + 1, stats=json.dumps(stats)
            )
        else:
            part = write_data_file(target.uris["labels"], written(start, last, lacking, empty))
        parts.append(part)
        if len(parts) == FILES_PER_COMMIT:
            publish(labels, LABELS, parts, run="run", written_ms=1)
            parts = []
    publish(labels, LABELS, parts, run="run", written_ms=1)
    shards = open_table(target.uris["shards"], SHARDS, target.provenance)
    rows = [
        {"digest": shard.digest, "images": shard.images, "first_uri": "", "last_uri": "", "run": "run"}
        for shard in Catalogue(stream(images, lacking)).shards()
    ]
    part = write_data_file(target.uris["shards"], pa.Table.from_pylist(rows, schema=SHARDS))
    publish(shards, SHARDS, [part], run="run", written_ms=1)
    return files


def written(start: int, last: int, lacking: set[int], empty: list[str]) -> pa.Table:
    """Rows of one file that will be opened: one row an image."""
    numbers = [number for number in range(start, last + 1) if number not in lacking]
    zero = {"class_name": "", "run": "run", "rle": b"", "bbox": [0, 0, 0, 0], "seen": False}
    rows = [
        {"image_id": f"{number:09}", "uri": uri_of(number), "etag": f"{number:032x}"}
        | {name: zero.get(name, 0) for name in empty}
        for number in numbers
    ]
    return pa.Table.from_pylist(rows, schema=LABELS)


def resident(field: str) -> float:
    """A line of this process's memory status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


if __name__ == "__main__":
    sys.exit(main())
