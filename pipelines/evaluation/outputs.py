"""What an evaluation writes: the values of `report.json` with their provenance, the reports, and the table `scores`."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake
from deltalake.exceptions import DeltaError

from pipelines.evaluation.accumulator import EvaluationAccumulator
from pipelines.evaluation.ground_truth import Truth
from pipelines.evaluation.request import EvaluateRequest
from pipelines.storage.atomic import write_whole
from pipelines.tables.delta_reader import delta_uri, table_uri
from pipelines.tables.delta_writer import storage_options
from pipelines.tables.label_table import Labels
from zs3.datasets import Dataset
from zs3.evaluation.caveats import MAX_NAMES, caveats
from zs3.metrics import GROUPS, Protocol
from zs3.metrics.resampling import Ranges
from zs3.metrics.scoring import scores
from zs3.report import markdown, page
from zs3.report.error_split import region_diagnostics, split_diagnostics, split_values
from zs3.report.gallery import GalleryItem
from zs3.report.values import (
    calibration,
    confusion_matrix,
    report_values,
    score_range,
    with_masks,
    with_ranges,
)
from zs3.tables import SCORES
from zs3.tuning.settings_file import tuning_caveats
from zs3.vocabulary import Vocabulary
from zs3.wording import number_of, redacted

REPORT_VERSION = 2
"""Of `report.json`; a change that readers can notice raises it."""


def evaluation_report(
    request: EvaluateRequest,
    labels: Labels,
    truth: Truth,
    images: EvaluationAccumulator,
    *,
    missing: Mapping[str, tuple[int, Sequence[str]]],
    failures: Mapping[str, str],
    diagnostics: Sequence[Mapping[str, Any]],
    ranges: Mapping[Protocol, Ranges],
    not_scored: Sequence[str],
    now: datetime,
) -> dict[str, Any]:
    """What `report.json` holds.

    Args:
        missing: why images were not scored -> how many, and ids of the first.
        failures: id -> reason, of the first missing images.
        diagnostics: further score sets of the user.
        ranges: of each protocol, the headline first.
        not_scored: why other protocols could not be scored.
    """
    classes, protocol = truth.vocabulary.classes, next(iter(ranges))
    split = split_values(images.confusion, images.oracles, classes, protocol) if images.oracles else None
    oracles = (
        split_diagnostics(split)
        if split
        else region_diagnostics(images.naming.counts(), images.true_masks, classes, protocol)
    )
    provenance = _provenance(request, labels, truth, images.truth_digests(), now)
    had_masks = {entry.name: labels.had_masks(entry.name) for entry in truth.vocabulary.candidates}
    notes = caveats(
        truth.vocabulary,
        had_masks=had_masks,
        offered=[entry.name for entry in labels.vocabulary.candidates]
        if labels.vocabulary
        else list(labels.seen),
        whole_list=labels.vocabulary is not None,
        turned=images.turned(MAX_NAMES),
        missing=missing,
        runs=labels.runs,
    )
    notes += tuning_caveats(labels.provenance.get("tuning"), provenance["dataset"])
    if labels.uri and labels.provenance.get("score") != "probability":
        notes.append(
            "Scores in this label table are, or may be, those of an earlier version of zs3: sums that can exceed 1. "
            f"The reliability curve leaves out {number_of(images.reliability.outside, 'pixel')} with such a "
            "score; label "
            "into another --out before you filter by score."
        )
    notes += [f"Not scored as well: {reason}." for reason in not_scored]
    report = report_values(
        title=request.title,
        scores=scores(images.confusion, classes, protocol),
        protocol=protocol,
        images=images.count["scored"],
        missing=missing,
        notes=notes,
        diagnostics=[*oracles, *diagnostics],
        provenance=provenance,
    )
    report = with_masks(with_ranges(report, ranges[protocol]), had_masks) | calibration(images.reliability)
    report["confusion"] = confusion_matrix(images.confusion, classes, protocol)
    report["failures"] = dict(failures)
    if split:
        report["error_split"] = split
    report["version"] = REPORT_VERSION
    if len(ranges) > 1:
        report["protocols"] = {
            each.name: {group: score_range(found, group) for group in GROUPS}
            for each, found in ranges.items()
        }
    return report


def write_report(out: str, report: Mapping[str, Any], pictures: Sequence[GalleryItem]) -> None:
    """report.html, report.md and report.json under `out`; each appears whole, JSON last."""
    texts = {
        "report.html": page.render(report, pictures),
        "report.md": markdown.render(report),
        "report.json": json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
    }
    for name, text in texts.items():
        write_whole(table_uri(out, name), text.encode())


def scores_origin(
    request: EvaluateRequest, labels: Labels, vocabulary: Vocabulary, protocols: Sequence[Protocol]
) -> dict[str, Any]:
    """The provenance of the table `scores`, from which alone it can be scored again."""
    return {
        "labels": redacted(labels.uri) if labels.uri else None,
        "version": labels.version,
        "segments": labels.provenance.get("segments"),
        "checkpoint": redacted(request.checkpoint) if request.checkpoint else None,
        "dataset": request.dataset,
        "root": redacted(request.root),
        "split": request.split,
        "vocabulary": vocabulary.to_json(),
        "protocol": protocols[0].to_json(),
        "protocols": [protocol.to_json() for protocol in protocols],
    }


def commit_scores(out: str, rows: Iterable[pa.Table], origin: Mapping[str, Any]) -> None:
    """Write the table `scores` under `out` in one commit, replacing its previous content.

    Args:
        out: folder or uri of the evaluation.
        rows: in the schema `SCORES`, some at a time.
        origin: provenance of the table.

    Raises:
        ValueError: the table cannot be written.
    """
    uri = table_uri(out, "scores")
    metadata = {name.decode(): value.decode() for name, value in (SCORES.metadata or {}).items()}
    batches = (batch for table in rows for batch in table.to_batches())
    try:
        write_deltalake(
            delta_uri(uri),
            pa.RecordBatchReader.from_batches(SCORES, batches),
            mode="overwrite",
            schema_mode="overwrite",
            name="scores",
            description=json.dumps({**metadata, **origin}, ensure_ascii=False),
            storage_options=storage_options(uri),
        )
    except (DeltaError, OSError) as error:
        raise ValueError(f"cannot write the table {uri}: {error}; is the folder writable?") from error


def _provenance(
    request: EvaluateRequest,
    labels: Labels,
    truth: Truth,
    truth_digests: Iterable[tuple[str, str]],
    now: datetime,
) -> dict[str, Any]:
    """Where the numbers come from: settings, versions, and digests of labels and truth."""
    settings = ("protocol", "transductive", "allow_missing", "gallery", "seed", "replicates")
    packages = ("zs3", "ray", "torch", "numpy", "pillow", "pyarrow", "deltalake")
    return {
        "evaluated_at": now.isoformat(timespec="seconds"),
        "settings": {name: getattr(request, name) for name in settings},
        "labels": {
            "uri": redacted(labels.uri) if labels.uri else None,
            "version": labels.version,
            "rows": labels.rows,
            "runs": list(labels.runs),
            **labels.provenance,
        },
        "dataset": dataset_provenance(truth, request.root, truth.images, truth_digests),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def dataset_provenance(
    dataset: Dataset | Truth, root: str, images: int, truth_digests: Iterable[tuple[str, str]]
) -> dict[str, Any]:
    """Which split was scored, and a digest of its truth.

    Args:
        dataset: its layout, split and class list.
        root: of the data set.
        images: in the split.
        truth_digests: (image id, SHA-256 (hex) of its truth file), in order of ids.
    """
    truth = hashlib.sha256()
    for image_id, digest in truth_digests:
        truth.update(f"{image_id}\0{digest}\n".encode())
    return {
        "layout": dataset.name,
        "root": redacted(root),
        "split": dataset.split,
        "images": images,
        "vocabulary": dataset.vocabulary.digest,
        "truth": truth.hexdigest(),
    }
