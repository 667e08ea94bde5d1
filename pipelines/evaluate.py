"""The evaluation graph: label rows against truth, one sparse confusion per image, exact sums, one report.

    files ─► images_in_files ─► sketches (CPU tasks) ─► sums, `scores` (driver) ─► report.{html,md,json}
    images ─► decode ─► LabelActor ─► sketches … the same, with a checkpoint instead of a label table
    files ─► read_segments ─► ErrorActor … the same, with a segments table, and with oracles

The driver sees sketches, never pixels, and keeps them in a file; only the few images of the gallery are opened again,
in tasks. Nothing is written before every image has been scored: `scores` is one commit, reports are replaced whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.commit import existing_table, table_uri
from pipelines.evaluation_files import commit_scores, provenance, scores_by_id, write_report
from pipelines.evaluation_request import EvaluateRequest, read_diagnostics, refuse_unclear
from pipelines.evaluation_source import Source, open_source
from pipelines.execution import Execution, start_ray
from pipelines.gallery import gallery
from pipelines.label_plan import Model
from pipelines.labels import Labels
from pipelines.name_plan import NameModel
from pipelines.sketches import Tally, tallied
from zs3.datasets import Dataset, open_dataset
from zs3.evaluating import chosen, class_matches, notes, oracles
from zs3.metrics import UNKNOWN, Protocol, scores
from zs3.metrics.counts import GROUPS
from zs3.metrics.protocols import chosen_protocols
from zs3.metrics.resampling import Ranges, ranges
from zs3.metrics.summary import calibration, confusion_matrix, headline, with_ranges
from zs3.report import report_values
from zs3.report.error_split import split_diagnostics, split_values
from zs3.report.gallery import MOST_IMAGES
from zs3.report.page import LISTED_FAILURES
from zs3.tables import SCORES
from zs3.tuned import tuning_notes

NAMED_IDS = 5
"""How many offenders a message names."""

REPORT_VERSION = 2
"""Of `report.json`; a change that readers can notice raises it."""


def evaluate(
    request: EvaluateRequest,
    execution: Execution | None = None,
    *,
    now: datetime,
    model: Model | None = None,
    names: NameModel | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score labels, segments or a checkpoint against a data set and write the report; returns `report.json`.

    Args:
        request: what to score.
        execution: how; changes no result.
        now: the time to record.
        model: how to come by the labeller of a checkpoint; tests put their own here.
        names: how to come by the namer of segments; likewise.
        on_progress: called in this process with the images scored so far and those to score.

    Raises:
        ValueError, FileNotFoundError: the request cannot be carried out as it is; no report was written.
    """
    execution = execution or Execution()
    refuse_unclear(request)
    extra = read_diagnostics(request.diagnostics)
    dataset = open_dataset(request.dataset, request.root, request.split)
    protocols, reasons = chosen_protocols(
        request.protocol, dataset.vocabulary.classes, transductive=request.transductive
    )
    source = open_source(request, dataset, protocols[0], model or Model(), names or NameModel(), execution)
    labels = source.labels
    matches = _matches(labels, dataset)
    existing_table(table_uri(request.out, "scores"))  # tells now, not after the work, that --out is of no use
    start_ray(execution)
    tally = Tally(without_truth=list(source.outside))
    graph = source.graph(matches)
    # The Delta library would run a Python stream on a thread of its own, where neither Ray nor an error feels
    # at home; so the sketches wait in a file, and only what may be published reaches it.
    with tempfile.TemporaryDirectory() as folder:
        waiting = Path(folder, "scores.arrow")
        with pa.OSFile(str(waiting), "wb") as file, pa.ipc.new_stream(file, SCORES) as stream:
            for batch in tallied(graph, tally, dataset, protocols[0], on_progress):
                stream.write_table(batch)
        _refuse_incomplete(tally, dataset, request, source)
        held = {protocol.name: _ranges(waiting, tally, dataset, protocol, request) for protocol in protocols}
        if labels.uri is None:
            labels = replace(labels, seen={name: labels.seen[name] for name in sorted(tally.names)})
        report = _report(request, labels, dataset, matches, tally, extra, reasons, protocols, held, now)
        report["failures"] = _reasons(tally, source, report["missing"])
        pictures = gallery(_gallery_sources(request, source, tally), dataset, matches)
        with pa.memory_map(str(waiting)) as file:
            origin = _origin(labels, request, dataset, protocols)
            commit_scores(request.out, pa.ipc.open_stream(file), origin)
    write_report(request.out, report, pictures)
    return report


def _ranges(
    waiting: Path, tally: Tally, dataset: Dataset, protocol: Protocol, request: EvaluateRequest
) -> Ranges:
    """Every score with its interval under one protocol."""
    return ranges(
        scores_by_id(waiting),
        len(tally.scored),
        dataset.vocabulary.classes,
        protocol,
        replicates=request.replicates,
        seed=request.seed,
    )


def _gallery_sources(
    request: EvaluateRequest, source: Source, tally: Tally
) -> list[tuple[str, str, str | list[dict[str, Any]]]]:
    """(image id, kind, file that holds its labels, or the labels) of the images to show."""
    mious = {image_id: line["miou"] for image_id, line in tally.scored.items()}
    picked = chosen(mious, min(request.gallery, MOST_IMAGES), request.seed)
    held = source.pictures([image_id for image_id, _ in picked], tally)
    return [(image_id, kind, held[image_id]) for image_id, kind in picked if image_id in held]


def _report(
    request: EvaluateRequest,
    labels: Labels,
    dataset: Dataset,
    matches: Mapping[str, int],
    tally: Tally,
    extra: Sequence[Mapping[str, Any]],
    reasons: Sequence[str],
    protocols: Sequence[Protocol],
    held: Mapping[str, Ranges],
    now: datetime,
) -> dict[str, Any]:
    """What `report.json` holds."""
    missing = _missing(tally, dataset)
    classes, protocol = dataset.vocabulary.classes, protocols[0]
    told = notes(
        dataset.vocabulary,
        seen=labels.seen,
        matches={name: matches[name] for name in labels.seen},
        labelled_with=labels.vocabulary,
        missing=missing,
        runs=labels.runs,
    )
    split = split_values(tally.as_labelled, tally.oracles, classes, protocol) if tally.oracles else None
    what_if = (
        split_diagnostics(split) if split else oracles(tally.true_names, tally.true_masks, classes, protocol)
    )
    settings = ("protocol", "transductive", "allow_missing", "gallery", "seed", "replicates")
    origin = provenance(
        labels,
        dataset,
        request.root,
        {name: getattr(request, name) for name in settings},
        {image_id: line["truth_digest"] for image_id, line in tally.scored.items()},
        now,
    )
    told += tuning_notes(labels.provenance.get("tuning"), origin["dataset"])
    report = report_values(
        title=request.title,
        scores=scores(tally.as_labelled, classes, protocol),
        protocol=protocol,
        images=len(tally.scored),
        missing=missing,
        notes=[*told, *(f"Not scored as well: {reason}." for reason in reasons)],
        diagnostics=[*what_if, *extra],
        provenance=origin,
    )
    report = with_ranges(report, held[protocol.name])
    report |= calibration(tally.reliability)
    report["confusion"] = confusion_matrix(tally.as_labelled, classes, protocol)
    if split:
        report["error_split"] = split
    report["protocol"] = protocol.to_json()
    report["version"] = REPORT_VERSION
    if len(protocols) > 1:
        report["protocols"] = {
            name: {group: headline(one, group) for group in GROUPS} for name, one in held.items()
        }
    return report


def _reasons(tally: Tally, source: Source, missing: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Why images have no labels, where that is known, of as many as a page lists."""
    lacking = missing["without_labels"]["ids"]
    known = {**source.failed(), **tally.failed} if lacking else {}
    return {image_id: known[image_id] for image_id in lacking[:LISTED_FAILURES] if image_id in known}


def _refuse_incomplete(tally: Tally, dataset: Dataset, request: EvaluateRequest, source: Source) -> None:
    """Stop before anything is written when images could not be scored, are missing, or none is left."""
    if tally.errors:
        some = "; ".join(sorted(tally.errors)[:NAMED_IDS])
        raise ValueError(f"{len(tally.errors)} of {len(dataset.refs)} images cannot be scored: {some}")
    missing = _missing(tally, dataset)
    without_labels, without_truth = missing["without_labels"], missing["without_truth"]
    if not tally.scored and tally.failed:
        raise ValueError(f"not one image of {request.title} could be scored{_first_reason(tally)}")
    if not tally.scored:
        raise ValueError(
            f"none of the {len(without_truth)} {source.done} images (first: {without_truth[:1]}) is among "
            f"the {len(dataset.refs)} of {request.title} (first: {without_labels[:1]}); "
            f"were other images {source.done}?"
        )
    if (without_labels or without_truth) and not request.allow_missing:
        failed = len({*tally.failed, *source.failed()}.intersection(without_labels))
        raise ValueError(
            f"{len(without_labels)} of {len(dataset.refs)} images of {request.title} have no {source.verb}s "
            f"({_some(without_labels)}; {failed} of them {source.lost}{_first_reason(tally)}), and "
            f"{len(without_truth)} {source.done} images are not in it ({_some(without_truth)}); "
            f"{source.verb} the rest, or score the {len(tally.scored)} that have both with --allow-missing"
        )


def _matches(labels: Labels, dataset: Dataset) -> dict[str, int]:
    """Labelled name -> class id of the data set.

    Raises:
        ValueError: not one labelled class is a class of the data set.
    """
    matches = class_matches(labels.seen, dataset.vocabulary)
    if matches and set(matches.values()) == {UNKNOWN}:
        raise ValueError(
            f"none of the labelled classes ({_some(list(matches))}) is one of {dataset.vocabulary.name!r} "
            f"({_some([entry.name for entry in dataset.vocabulary.candidates])}); is --dataset right?"
        )
    return matches


def _origin(
    labels: Labels, request: EvaluateRequest, dataset: Dataset, protocols: Sequence[Protocol]
) -> dict[str, Any]:
    """What the table `scores` says of its making; it is scored again from this alone."""
    return {
        "labels": labels.uri,
        "version": labels.version,
        "segments": labels.provenance.get("segments"),
        "checkpoint": request.checkpoint,
        "dataset": request.dataset,
        "root": request.root,
        "split": request.split,
        "vocabulary": dataset.vocabulary.to_json(),
        "protocol": protocols[0].to_json(),
        "protocols": [protocol.to_json() for protocol in protocols],
    }


def _first_reason(tally: Tally) -> str:
    """Why one image could not be labelled, where that was found out here."""
    if not tally.failed:
        return ""
    image_id = min(tally.failed)
    return f", {image_id!r} because: {tally.failed[image_id]}"


def _missing(tally: Tally, dataset: Dataset) -> dict[str, list[str]]:
    """Ids of images that have only truth, and only labels."""
    return {
        "without_labels": sorted(ref.id for ref in dataset.refs if ref.id not in tally.scored),
        "without_truth": sorted(tally.without_truth),
    }


def _some(names: Sequence[str]) -> str:
    """The first few names."""
    more = f", … {len(names) - NAMED_IDS} more" if len(names) > NAMED_IDS else ""
    return (", ".join(names[:NAMED_IDS]) or "none") + more
