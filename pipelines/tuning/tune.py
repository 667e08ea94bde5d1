"""The tuning graph: read segments, sweep naming settings against the truth, add up, choose, write.

    files of the segments table ─► read_segments (tasks) ─► TuneActor (text banks, truth) ─► sums (driver)
    ─► tune.{png,md,json}

No picture is opened, no network is loaded, and no label is written. The driver sees sums of sparse confusions, which
are exact in any order; nothing is written before every image has been swept.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipelines.evaluation.outputs import dataset_provenance
from pipelines.execution import Execution
from pipelines.labelling.segments_table import segments_graph
from pipelines.ray_session import start_ray
from pipelines.runs.run import Progress
from pipelines.storage.atomic import write_whole
from pipelines.storage.objects import read_bytes
from pipelines.tables.delta_reader import table_uri
from pipelines.tuning.request import NAMED_IDS, TunePlan, TuneRequest, plan_tune
from zs3 import __version__
from zs3.datasets import Dataset, ImageRef, read_truth
from zs3.evaluation.matching import notes
from zs3.metrics import Confusion
from zs3.metrics.counts import finite
from zs3.report.trade_off import markdown, picture
from zs3.segmentation.table import segments_at
from zs3.tuning.calibration_sweep import Gammas, Key, added
from zs3.tuning.curve import Curve, Point, best_point, curve
from zs3.tuning.grid import edges
from zs3.tuning.settings_file import Tuned
from zs3.tuning.trials import Trials

if TYPE_CHECKING:
    import ray.data

SCORES = ("seen", "unseen", "harmonic", "all")

_SWEPT = pa.schema(
    {
        "image_ids": pa.list_(pa.string()),
        "truth_digests": pa.list_(pa.string()),
        "errors": pa.list_(pa.string()),
        "key": pa.list_(pa.list_(pa.int32())),
        "truth": pa.list_(pa.list_(pa.int64())),
        "prediction": pa.list_(pa.list_(pa.int64())),
        "pixels": pa.list_(pa.list_(pa.int64())),
    }
)
"""A batch of images: which, why some could not be swept, and per key (`zs3.tuning.calibration_sweep.Key`) the sum of
the others."""


def tune(
    request: TuneRequest,
    execution: Execution | None = None,
    *,
    now: datetime,
    on_progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Sweep naming settings over stored segments and truth, and write what came out; returns what `tune.json` holds.

    Args:
        request: what to tune on what.
        execution: how; changes no result.
        now: the time to record.
        on_progress: called in this process whenever some images have been swept.

    Raises:
        ValueError, FileNotFoundError: the request cannot be carried out as it is; nothing was written.
    """
    called = time.time()
    execution = execution or Execution()
    plan = plan_tune(request)
    start_ray(execution)
    began = time.time()
    sums: dict[Key, Confusion] = {}
    digests: dict[str, str] = {}
    errors: list[str] = []
    for batch in sweep_graph(plan, execution).iter_batches(batch_size=None, batch_format="pyarrow"):
        assert isinstance(batch, pa.Table)
        for row in batch.select(["image_ids", "truth_digests", "errors"]).to_pylist():
            errors += row["errors"]
            for image_id, digest in zip(row["image_ids"], row["truth_digests"], strict=True):
                if image_id in digests:
                    errors.append(f"the segments of {image_id!r} lie in two places; segment it again")
                digests[image_id] = digest
        sums = added([sums, sums_of(batch)])
        if on_progress:
            swept = Progress(
                done=len(digests), failed=len(errors), total=len(plan.wanted), seconds=time.time() - began
            )
            on_progress(swept)
    if errors:
        some = "; ".join(sorted(errors)[:NAMED_IDS])
        raise ValueError(f"{len(errors)} of {len(plan.wanted)} images cannot be tuned on: {some}")
    classes = plan.dataset.vocabulary.classes
    curves = [curve(sums, place, plan.gammas, classes, plan.protocol) for place in range(len(plan.namings))]
    tuned = _values(plan, curves, digests, now)
    tuned["seconds"], tuned["startup_seconds"] = time.time() - began, began - called
    contents = {
        "tune.png": picture(tuned),
        "tune.md": markdown(tuned, command(request)).encode(),
        "tune.json": (json.dumps(tuned, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode(),
    }
    for name, content in contents.items():
        write_whole(table_uri(request.out, name), content)
    return tuned


def command(request: TuneRequest) -> str:
    """The beginning of a command line that names with the tuned settings."""
    segments, settings = map(shlex.quote, (request.segments, request.out))
    return f"zs3 name --segments {segments} --settings {settings} --classes … --out …"


def sweep_graph(plan: TunePlan, execution: Execution) -> ray.data.Dataset:
    """The lazy dataset of sums, batch by batch."""
    arguments = {
        "trials": plan.trials,
        "dataset": plan.dataset,
        "ids": plan.ids,
        "gammas": plan.gammas,
    }
    return segments_graph(plan.files, plan.wanted, TuneActor, arguments, execution)


class TuneActor:
    """Turns batches of segments into sums over them, for every setting.

    Args:
        trials: the ways of naming.
        dataset: where the truth is.
        ids: name of each class → id in the data set that it means, or `UNKNOWN`.
        gammas: to try.
        threads: of torch.
    """

    def __init__(
        self, *, trials: Trials, dataset: Dataset, ids: Mapping[str, int], gammas: Gammas, threads: int
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self._trials, self._dataset, self._ids, self._gammas = trials, dataset, ids, gammas
        self._refs = {ref.id: ref for ref in dataset.refs}

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row, in the schema of sums."""
        found, digests, errors = [], [], []
        image_ids = batch["image_id"].to_pylist()
        for index, image_id in enumerate(image_ids):
            try:
                swept, digest = self._swept(batch, index, self._refs[image_id])
            except (ValueError, OSError) as error:
                errors.append(f"image {image_id!r}: {error}")
                digests.append("")
                continue
            found.append(swept)
            digests.append(digest)
        sums = added(found)
        row = {"image_ids": image_ids, "truth_digests": digests, "errors": errors}
        row |= {"key": [list(key) for key in sums]}
        row |= {
            column: [getattr(held, column) for held in sums.values()]
            for column in ("truth", "prediction", "pixels")
        }
        return pa.Table.from_pylist([row], schema=_SWEPT)

    def _swept(self, batch: pa.Table, index: int, ref: ImageRef) -> tuple[dict[Key, Confusion], str]:
        """What one image holds, and the digest of its truth."""
        if ref.truth_uri is None:
            raise ValueError("it has no truth file in the data set; choose a split with truth")
        data = read_bytes(ref.truth_uri)
        truth_HW = read_truth(self._dataset.name, data, self._dataset.vocabulary)
        ignore_id = self._dataset.vocabulary.ignore_id
        held = self._trials.sweep(
            segments_at(batch, index), truth_HW, self._ids, self._gammas, ignore_id=ignore_id
        )
        return held, hashlib.sha256(data).hexdigest()


def sums_of(rows: pa.Table) -> dict[Key, Confusion]:
    """The sums over some batches, from their rows."""
    return added(
        {
            (key[0], key[1], key[2]): Confusion(
                truth=np.array(truth, np.int64),
                prediction=np.array(prediction, np.int64),
                pixels=np.array(pixels, np.int64),
            )
            for key, truth, prediction, pixels in zip(
                row["key"], row["truth"], row["prediction"], row["pixels"], strict=True
            )
        }
        for row in rows.to_pylist()
    )


def _values(
    plan: TunePlan, curves: Sequence[Curve], digests: Mapping[str, str], now: datetime
) -> dict[str, Any]:
    """What `tune.json` holds, but for the time it took."""
    best = best_point(curves, plan.own.calibration)
    (current,) = [one for one in curves[0].settings if one.gamma == plan.own.calibration]
    tuned_on = {
        "title": plan.title,
        "dataset": dataset_provenance(plan.dataset, plan.request.root, len(digests), sorted(digests.items())),
        "protocol": plan.protocol.name,
        "score": "harmonic",
        **{group: finite(getattr(best, group)) for group in SCORES},
        "settings_tried": len(plan.namings) * len(plan.gammas.values),
        "namings_tried": len(plan.namings),
        "gammas_tried": len(plan.gammas.values),
        "segments": dict(plan.segments),
        "curve": [
            {key: held[key] for key in ("calibration", "seen", "unseen")}
            for held in map(_point, curves[best.naming].points)
        ],
        "tuned_at": now.isoformat(timespec="seconds"),
        "zs3": __version__,
    }
    tuned = Tuned(
        changes=plan.namings[best.naming].changes(plan.own, best.gamma),
        checkpoint=plan.checkpoint_digest,
        tuned_on=tuned_on,
    )
    lacking = sorted({ref.id for ref in plan.dataset.refs} - plan.wanted)
    told = notes(
        plan.dataset.vocabulary,
        seen=plan.seen,
        matches=plan.ids,
        labelled_with=plan.vocabulary,
        missing={"without_labels": (len(lacking), lacking), "without_truth": (0, [])},
        runs=[],
    )
    return tuned.to_json() | {
        "notes": [*edges(plan.namings, plan.gammas, plan.namings[best.naming], best.gamma), *told],
        "current": _point(current),
        "best": _point(best),
        "namings": [
            {
                "settings": naming.changes(plan.own, plan.own.calibration),
                "area": finite(held.area),
                "best": _point(_best_of(held, plan.own.calibration)),
                "curve": [_point(one) for one in held.points],
            }
            for naming, held in zip(plan.namings, curves, strict=True)
        ],
    }


def _best_of(held: Curve, own_gamma: float) -> Point:
    """The best setting of one naming; any where none has a harmonic mean."""
    return min(
        held.settings,
        key=lambda one: (math.isnan(one.harmonic), -one.harmonic, abs(one.gamma - own_gamma), one.gamma),
    )


def _point(one: Point) -> dict[str, Any]:
    """A point as JSON: the ends of a curve, which are no settings, have their side for a γ."""
    ends = {-math.inf: "seen names alone", math.inf: "unseen names alone"}
    return {
        "naming": one.naming,
        "calibration": ends.get(one.gamma, one.gamma),
        **{group: finite(getattr(one, group)) for group in SCORES},
    }
