"""The tuning graph: read segments, sweep naming settings against the truth, add up, choose, write.

    files of the segments table ─► read_segments (tasks) ─► TuneActor (text banks, truth) ─► sums (driver)
    ─► tune.{png,md,json}

No photograph is opened, no network is loaded, and no label is written. The driver gets sums of sparse confusions, which
are exact in any order; nothing is written before every image has been processed.
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

from pipelines.evaluation.ground_truth import refuse_uncounted
from pipelines.evaluation.outputs import dataset_provenance
from pipelines.execution import ActorSettings
from pipelines.labelling.segments_table import segments_graph
from pipelines.ray_session import start_ray
from pipelines.runs.run import Progress
from pipelines.storage.atomic import write_whole
from pipelines.storage.objects import read_bytes
from pipelines.tables.delta_reader import table_uri
from pipelines.tuning.request import PreparedTuning, TuneRequest, prepare_tuning
from zs3 import __version__
from zs3.datasets import Dataset, ImageRef, read_truth
from zs3.evaluation.caveats import caveats
from zs3.metrics import GROUPS, Confusion, finite
from zs3.report.trade_off import markdown, picture
from zs3.segmentation.table import segments_at
from zs3.tuning.calibration_sweep import Gammas, Key, added, confusion_at
from zs3.tuning.curve import Curve, Point, best_point, best_setting, curve
from zs3.tuning.grid import range_caveats
from zs3.tuning.settings_file import Tuned
from zs3.tuning.trials import sweep_image
from zs3.vocabulary import concept
from zs3.wording import number_of

if TYPE_CHECKING:
    from zs3.classification.classifier import SegmentClassifier

MAX_ERRORS = 5
"""Images whose error a message shows."""

_SUMS = pa.schema(
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
"""A batch of images: their ids, why some failed, and per key (`zs3.tuning.calibration_sweep.Key`) the sum of the
others."""


def tune(
    request: TuneRequest,
    execution: ActorSettings | None = None,
    *,
    now: datetime,
    on_progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Try naming settings on stored segments and truth, and write the result; returns what `tune.json` holds.

    Args:
        request: what to tune on what.
        execution: how; changes no result.
        now: the time to record.
        on_progress: called in this process whenever some images have been processed.

    Raises:
        ValueError, FileNotFoundError: the request cannot be carried out as it is; nothing was written.
    """
    called = time.monotonic()
    execution = execution or ActorSettings()
    prepared = prepare_tuning(request)
    start_ray(execution)
    began = time.monotonic()
    sums: dict[Key, Confusion] = {}
    digests: dict[str, str] = {}
    errors: list[str] = []
    arguments = {
        "classifiers": prepared.classifiers,
        "dataset": prepared.dataset,
        "matches": prepared.matches,
        "gammas": prepared.gammas,
    }
    graph = segments_graph(prepared.files, prepared.image_ids, TuneActor, arguments, execution)
    for batch in graph.iter_batches(batch_size=None, batch_format="pyarrow"):
        assert isinstance(batch, pa.Table)
        for row in batch.select(["image_ids", "truth_digests", "errors"]).to_pylist():
            errors += row["errors"]
            for image_id, digest in zip(row["image_ids"], row["truth_digests"], strict=True):
                if image_id in digests:
                    errors.append(f"the segments of {image_id!r} lie in two places; segment it again")
                digests[image_id] = digest
        sums = added([sums, sums_of(batch)])
        if on_progress:
            on_progress(
                Progress(
                    done=len(digests),
                    failed=len(errors),
                    total=len(prepared.image_ids),
                    seconds=time.monotonic() - began,
                )
            )
    if errors:
        first = "; ".join(sorted(errors)[:MAX_ERRORS])
        raise ValueError(
            f"{len(errors)} of {number_of(len(prepared.image_ids), 'image')} cannot be tuned on: {first}"
        )
    classes = prepared.dataset.vocabulary.classes
    own = confusion_at(sums, 0, prepared.own.calibration, prepared.gammas)
    refuse_uncounted(own, classes, prepared.protocol, prepared.title)
    curves = [
        curve(sums, naming, prepared.gammas, classes, prepared.protocol)
        for naming in range(len(prepared.namings))
    ]
    tuned = _tune_json(prepared, curves, digests, now)
    tuned["seconds"], tuned["startup_seconds"] = time.monotonic() - began, began - called
    contents = {
        "tune.png": picture(tuned),
        "tune.md": markdown(tuned, name_command(request)).encode(),
        "tune.json": (json.dumps(tuned, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode(),
    }
    for name, content in contents.items():
        write_whole(table_uri(request.out, name), content)
    return tuned


def name_command(request: TuneRequest) -> str:
    """The beginning of a command line that names with the tuned settings."""
    segments, settings = map(shlex.quote, (request.segments, request.out))
    return f"zs3 name --segments {segments} --settings {settings} --classes … --out …"


class TuneActor:
    """Turns batches of segments into sums over them, for every setting.

    Args:
        classifiers: one per way of naming.
        dataset: where the truth is.
        matches: name of each class → id in the data set that it means, or `UNKNOWN`.
        gammas: to try.
        threads: of torch.
    """

    def __init__(
        self,
        *,
        classifiers: Sequence[SegmentClassifier],
        dataset: Dataset,
        matches: Mapping[str, int],
        gammas: Gammas,
        threads: int,
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self._classifiers, self._dataset = classifiers, dataset
        self._matches, self._gammas = matches, gammas
        self._refs = {ref.id: ref for ref in dataset.refs}

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row, as `_SUMS`."""
        parts, digests, errors = [], [], []
        image_ids = batch["image_id"].to_pylist()
        for index, image_id in enumerate(image_ids):
            try:
                part, digest = self._sweep(batch, index, self._refs[image_id])
            except (ValueError, OSError) as error:
                errors.append(f"image {image_id!r}: {error}")
                digests.append("")
                continue
            parts.append(part)
            digests.append(digest)
        sums = added(parts)
        row = {
            "image_ids": image_ids,
            "truth_digests": digests,
            "errors": errors,
            "key": [list(key) for key in sums],
            **{
                column: [getattr(confusion, column) for confusion in sums.values()]
                for column in Confusion.__slots__
            },
        }
        return pa.Table.from_pylist([row], schema=_SUMS)

    def _sweep(self, batch: pa.Table, index: int, ref: ImageRef) -> tuple[dict[Key, Confusion], str]:
        """The confusions of one image, and the digest of its truth."""
        if ref.truth_uri is None:
            raise ValueError("it has no truth file in the data set; choose a split with truth")
        data = read_bytes(ref.truth_uri)
        vocabulary = self._dataset.vocabulary
        truth_HW = read_truth(self._dataset.name, data, vocabulary)
        segments = segments_at(batch, index)
        part = sweep_image(
            self._classifiers,
            segments,
            truth_HW,
            self._matches,
            self._gammas,
            ignore_id=vocabulary.ignore_id,
        )
        return part, hashlib.sha256(data).hexdigest()


def sums_of(rows: pa.Table) -> dict[Key, Confusion]:
    """The sums over some batches, from their rows."""
    columns = Confusion.__slots__
    return added(
        {
            (key[0], key[1], key[2]): Confusion(
                **{name: np.array(values, np.int64) for name, values in zip(columns, arrays, strict=True)}
            )
            for key, *arrays in zip(row["key"], *(row[name] for name in columns), strict=True)
        }
        for row in rows.to_pylist()
    )


def _tune_json(
    prepared: PreparedTuning, curves: Sequence[Curve], digests: Mapping[str, str], now: datetime
) -> dict[str, Any]:
    """What `tune.json` holds, without the time it took."""
    own, namings = prepared.own, prepared.namings
    best = best_setting(curves, own.calibration)
    best_curve = map(_point_json, curves[best.naming].points)
    (current,) = [point for point in curves[0].settings if point.gamma == own.calibration]
    tuned_on = {
        "title": prepared.title,
        "dataset": dataset_provenance(
            prepared.dataset, prepared.request.root, len(digests), sorted(digests.items())
        ),
        "protocol": prepared.protocol.name,
        "score": "harmonic",
        **{group: finite(getattr(best, group)) for group in GROUPS},
        "settings_tried": len(namings) * len(prepared.gammas.values),
        "namings_tried": len(namings),
        "gammas_tried": len(prepared.gammas.values),
        "segments": dict(prepared.segments),
        "curve": [{key: point[key] for key in ("calibration", "seen", "unseen")} for point in best_curve],
        "tuned_at": now.isoformat(timespec="seconds"),
        "zs3": __version__,
    }
    tuned = Tuned(
        changes=namings[best.naming].changes(own, best.gamma),
        checkpoint=prepared.checkpoint_digest,
        tuned_on=tuned_on,
    )
    missing = sorted({ref.id for ref in prepared.dataset.refs} - prepared.image_ids)
    vocabulary = prepared.dataset.vocabulary
    notes = range_caveats(namings, prepared.gammas, namings[best.naming], best.gamma) + caveats(
        vocabulary,
        had_masks={entry.name: concept(entry.name) in prepared.trained for entry in vocabulary.candidates},
        offered=[entry.name for entry in prepared.vocabulary.candidates],
        whole_list=True,
        missing={"without_labels": (len(missing), missing), "without_truth": (0, [])},
        runs=[],
    )
    return tuned.to_json() | {
        "notes": notes,
        "current": _point_json(current),
        "best": _point_json(best),
        "namings": [
            {
                "settings": naming.changes(own, own.calibration),
                "area": finite(found.area),
                "best": _point_json(best_point(found.settings, own.calibration)),
                "curve": [_point_json(point) for point in found.points],
            }
            for naming, found in zip(namings, curves, strict=True)
        ],
    }


def _point_json(point: Point) -> dict[str, Any]:
    """A point as JSON; the ends of a curve, which are no settings, have words in the place of γ."""
    ends = {-math.inf: "seen names alone", math.inf: "unseen names alone"}
    return {
        "naming": point.naming,
        "calibration": ends.get(point.gamma, point.gamma),
        **{group: finite(getattr(point, group)) for group in GROUPS},
    }
