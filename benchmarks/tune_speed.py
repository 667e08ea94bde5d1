"""How long it takes to tune naming settings: 100 settings, and the default grid, on stored segments of a split.

    zs3 segment --images DATA/voc_mini/JPEGImages --checkpoint zs3-mini --out KEPT
    python benchmarks/tune_speed.py --segments KEPT --dataset voc --root DATA/voc_mini --split val

Each run is the whole of `zs3 tune`: opening tables, encoding prompts, Ray's start, the sweep, the picture; the first
one also starts Ray. What the sweep would cost setting by setting is one direct naming and scoring (as `zs3 name` and
`zs3 evaluate` do it, without Ray) of every tenth image, by processor time, times the number of settings and images.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import torch
import tyro

from pipelines.execution import Execution, cores
from pipelines.name import read_segments
from pipelines.sources import read_bytes
from pipelines.tune import tune
from pipelines.tune_plan import TunePlan, TuneRequest, plan_tune
from zs3.datasets import read_truth
from zs3.metrics import confusion
from zs3.naming_grid import NamingGrid
from zs3.segments_table import segments_at

HUNDRED = NamingGrid(
    weight=(0.4, 0.5, 0.6, 0.7, 0.8),
    calibration=(-0.2, -0.1, -0.05, -0.02, 0.0, 0.02, 0.05, 0.1, 0.2, 0.3),
    templates=("own", "photo"),
)
"""5 λ x 2 prompt sets x 10 γ; where the checkpoint has another λ, it comes on top."""

EVERY = 10
"""One in so many images is named and scored directly."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to tune on."""

    segments: str
    """As for `zs3 tune`."""
    dataset: str = "voc"
    """As for `zs3 tune`."""
    root: str
    """As for `zs3 tune`."""
    split: str = "val"
    """As for `zs3 tune`."""


def main() -> int:
    """Measure and print one line of JSON."""
    arguments = tyro.cli(Arguments, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        requests = {
            name: TuneRequest(
                segments=arguments.segments,
                dataset=arguments.dataset,
                root=arguments.root,
                split=arguments.split,
                out=f"{folder}/{name}",
                grid=grid,
            )
            for name, grid in (("hundred", HUNDRED), ("default", NamingGrid()))
        }
        told = {name: measured(request) for name, request in requests.items()}
        told["direct_ms_per_setting_and_image"] = round(1000 * direct_s(plan_tune(requests["hundred"])), 1)
    held = told["hundred"]
    direct = told["direct_ms_per_setting_and_image"] * held["settings"] * held["images"] / 1000
    told |= {"direct_cpu_seconds_for_hundred": round(direct), "cores": cores(), "load": os.getloadavg()[0]}
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


def measured(request: TuneRequest) -> dict[str, float]:
    """One tuning run."""
    began = time.perf_counter()
    tuned = tune(request, Execution(), now=datetime.now(UTC))
    return {
        "settings": tuned["tuned_on"]["settings_tried"],
        "images": tuned["tuned_on"]["dataset"]["images"],
        "seconds": round(time.perf_counter() - began, 1),
        "of_these_start_up": round(tuned["startup_seconds"], 1),
    }


def direct_s(plan: TunePlan) -> float:
    """Processor seconds of naming one image under one setting and comparing it with its truth, in this process."""
    torch.set_num_threads(1)
    namer, vocabulary = plan.trials.namers[0], plan.dataset.vocabulary
    refs = {ref.id: ref for ref in plan.dataset.refs}
    wanted = frozenset(sorted(plan.wanted)[::EVERY])
    batches = list(read_segments(pa.table({"file": list(plan.files)}), wanted=wanted))
    began = time.process_time()
    for batch in batches:
        for row, image_id in enumerate(batch["image_id"].to_pylist()):
            labels_HW, _ = namer.name(segments_at(batch, row))
            truth_HW = read_truth(plan.dataset.name, read_bytes(refs[image_id].truth_uri), vocabulary)
            confusion(truth_HW, labels_HW, ignore_id=vocabulary.ignore_id)
    return (time.process_time() - began) / len(wanted)


if __name__ == "__main__":
    sys.exit(main())
