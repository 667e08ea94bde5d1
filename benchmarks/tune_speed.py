"""How long it takes to tune naming settings: 100 settings, and the default grid, on stored segments of a split.

    zs3 segment --images DATA/voc_mini/JPEGImages --checkpoint zs3-mini --out KEPT
    python benchmarks/tune_speed.py --segments KEPT --dataset voc --root DATA/voc_mini --split val

Each run is the whole of `zs3 tune`: opening tables, encoding prompts, Ray's start, the sweep, the picture; the first
one also starts Ray. Beside it, by processor time on every tenth image in this process: the sweep of the 100 settings,
and naming and scoring under one setting, as `zs3 name` and `zs3 evaluate` do it, a hundred of which it stands for.
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
from pipelines.labelling.segments_table import read_segments
from pipelines.storage.objects import read_bytes
from pipelines.tuning.request import PreparedTuning, TuneRequest, prepare_tuning
from pipelines.tuning.tune import tune
from zs3.datasets import read_truth
from zs3.metrics import confusion
from zs3.segmentation.table import segments_at
from zs3.tuning.grid import NamingGrid
from zs3.tuning.trials import sweep_image

HUNDRED = NamingGrid(
    weight=(0.4, 0.5, 0.6, 0.7, 0.8),
    calibration=(-0.2, -0.1, -0.05, -0.02, 0.0, 0.02, 0.05, 0.1, 0.2, 0.3),
    templates=("own", "photo"),
)
"""5 λ x 2 prompt sets x 10 γ; where the checkpoint has another λ, it comes on top."""

EVERY = 10
"""One in so many images is named and scored directly."""


@dataclass(frozen=True, kw_only=True)
class Options:
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
    options = tyro.cli(Options, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        requests = {
            name: TuneRequest(
                segments=options.segments,
                dataset=options.dataset,
                root=options.root,
                split=options.split,
                out=f"{folder}/{name}",
                grid=grid,
            )
            for name, grid in (("hundred", HUNDRED), ("default", NamingGrid()))
        }
        told = {name: measured(request) for name, request in requests.items()}
        plan = prepare_tuning(requests["hundred"])
        told["sweep_cpu_ms_per_image"], told["one_setting_cpu_ms_per_image"] = cpu_ms(plan)
    told |= {"cores": cores(), "load": round(os.getloadavg()[0], 1)}
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


def cpu_ms(plan: PreparedTuning) -> tuple[float, float]:
    """Processor milliseconds per image of the sweep, and of naming and scoring under one setting, with one thread."""
    torch.set_num_threads(1)
    classifier, vocabulary = plan.classifiers[0], plan.dataset.vocabulary
    refs = {ref.id: ref for ref in plan.dataset.refs}
    wanted = frozenset(sorted(plan.image_ids)[::EVERY])
    seconds = [0.0, 0.0]
    for batch in list(read_segments(pa.table({"file": list(plan.files)}), wanted=wanted)):
        for row, image_id in enumerate(batch["image_id"].to_pylist()):
            truth = read_bytes(refs[image_id].truth_uri)
            began = time.process_time()
            truth_HW = read_truth(plan.dataset.name, truth, vocabulary)
            segments = segments_at(batch, row)
            sweep_image(
                plan.classifiers,
                segments,
                truth_HW,
                plan.matches,
                plan.gammas,
                ignore_id=vocabulary.ignore_id,
            )
            swept = time.process_time()
            labels_HW, _ = classifier.name(segments_at(batch, row))
            truth_HW = read_truth(plan.dataset.name, truth, vocabulary)
            confusion(truth_HW, labels_HW, ignore_id=vocabulary.ignore_id)
            seconds[0] += swept - began
            seconds[1] += time.process_time() - swept
    return round(1000 * seconds[0] / len(wanted), 1), round(1000 * seconds[1] / len(wanted), 1)


if __name__ == "__main__":
    sys.exit(main())
