"""The evaluation graph: label rows against truth, one sparse confusion per image, exact sums, one report.

    files ─► image_graph ─► sketches (CPU tasks) ─► sums, `scores` (driver) ─► report.{html,md,json}
    images ─► decode ─► LabelActor ─► sketches … the same, with a checkpoint instead of a label table
    files ─► read_segments ─► ErrorActor … the same, with a segments table, and with oracles

The driver sees sketches, never pixels, and keeps them in files; what the data set lists stays in Ray's object store. So
its memory is the same for any number of images. Only the few images of the gallery are opened again, in tasks. Nothing
is written before every image has been scored: `scores` is one commit, reports are replaced whole.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.evaluation.accumulator import EvaluationAccumulator
from pipelines.evaluation.gallery import gallery
from pipelines.evaluation.ground_truth import Truth, open_truth, refuse_no_root
from pipelines.evaluation.outputs import commit_scores, provenance, write_report
from pipelines.evaluation.request import EvaluateRequest, read_diagnostics, refuse_unclear
from pipelines.evaluation.sources import Source, open_source
from pipelines.execution import Execution
from pipelines.labelling.label import LabellerFactory
from pipelines.labelling.name import SegmentClassifierFactory
from pipelines.ray_session import start_ray
from pipelines.storage.spill import SpillFile
from pipelines.tables.delta_reader import existing_table, table_uri
from pipelines.tables.label_table import Labels
from zs3.datasets import dataset_vocabulary
from zs3.evaluation.matching import chosen, class_matches, notes, oracles
from zs3.metrics import UNKNOWN, Protocol, scores
from zs3.metrics.counts import GROUPS
from zs3.metrics.protocols import chosen_protocols
from zs3.metrics.resampling import Ranges, ranges
from zs3.metrics.summary import calibration, confusion_matrix, headline, with_ranges
from zs3.report import report_values
from zs3.report.error_split import split_diagnostics, split_values
from zs3.report.gallery import MAX_IMAGES
from zs3.report.left_out import LISTED_FAILURES
from zs3.tuning.settings_file import tuning_notes
from zs3.vocabulary import Vocabulary

NAMED_IDS = 5
"""How many offenders a message names."""

REPORT_VERSION = 2
"""Of `report.json`; a change that readers can notice raises it."""


def evaluate(
    request: EvaluateRequest,
    execution: Execution | None = None,
    *,
    now: datetime,
    model: LabellerFactory | None = None,
    names: SegmentClassifierFactory | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score labels, segments or a checkpoint against a data set and write the report; returns `report.json`.

    Args:
        request: what to score.
        execution: how; changes no result.
        now: the time to record.
        model: how to come by the labeller of a checkpoint; tests put their own here.
        names: how to come by the classifier of segments; likewise.
        on_progress: called in this process with the images scored so far and those to score.

    Raises:
        ValueError, FileNotFoundError: the request cannot be carried out as it is; no report was written.
    """
    execution = execution or Execution()
    refuse_unclear(request)
    refuse_no_root(request.root)
    extra = read_diagnostics(request.diagnostics)
    vocabulary = dataset_vocabulary(request.dataset, request.root)
    protocols, reasons = chosen_protocols(
        request.protocol, vocabulary.classes, transductive=request.transductive
    )
    source = open_source(
        request,
        vocabulary,
        protocols[0],
        model or LabellerFactory(),
        names or SegmentClassifierFactory(),
        execution,
    )
    labels = source.labels
    matches = _matches(labels, vocabulary)
    existing_table(table_uri(request.out, "scores"))  # tells now, not after the work, that --out is of no use
    start_ray(execution)
    truth = open_truth(request.dataset, request.root, request.split)
    # What is known of images waits in files; only what may be published reaches --out.
    with tempfile.TemporaryDirectory() as folder:
        tally = EvaluationAccumulator(Path(folder))
        tally.leave_out(source.outside(truth))
        tally.take(source.graph(truth, matches), truth, protocols[0], on_progress)
        tally.finish()
        missing = _refuse_incomplete(tally, truth, request, source)
        rows = tally.scores()
        held = {protocol.name: _ranges(rows, tally, protocol, truth, request) for protocol in protocols}
        if labels.uri is None:
            labels = replace(labels, seen={name: labels.seen[name] for name in sorted(tally.names)})
        report = _report(
            request, labels, truth, matches, tally, missing, extra, reasons, protocols, held, now
        )
        report["failures"] = _reasons(tally, source, missing["without_labels"].first)
        shown = _gallery_sources(request, source, truth, tally)
        pictures = gallery(shown, truth.dataset(image_id for image_id, _, _ in shown), matches, protocols[0])
        with rows.reader() as reader:
            commit_scores(request.out, reader, _origin(labels, request, vocabulary, protocols))
    write_report(request.out, report, pictures)
    return report


def _ranges(
    rows: SpillFile, tally: EvaluationAccumulator, protocol: Protocol, truth: Truth, request: EvaluateRequest
) -> Ranges:
    """Every score with its interval under one protocol."""
    return ranges(
        rows.tables(),
        tally.images,
        truth.vocabulary.classes,
        protocol,
        replicates=request.replicates,
        seed=request.seed,
    )


def _gallery_sources(
    request: EvaluateRequest, source: Source, truth: Truth, tally: EvaluationAccumulator
) -> list[tuple[str, str, str | list[dict[str, Any]]]]:
    """(image id, kind, file that holds its labels, or the labels) of the images to show."""
    count = min(request.gallery, MAX_IMAGES)
    picked = chosen(tally.mious(count, request.seed), count, request.seed)
    held = source.pictures(truth, [image_id for image_id, _ in picked], tally)
    return [(image_id, kind, held[image_id]) for image_id, kind in picked if image_id in held]


def _report(
    request: EvaluateRequest,
    labels: Labels,
    truth: Truth,
    matches: Mapping[str, int],
    tally: EvaluationAccumulator,
    missing: Mapping[str, Missing],
    extra: Sequence[Mapping[str, Any]],
    reasons: Sequence[str],
    protocols: Sequence[Protocol],
    held: Mapping[str, Ranges],
    now: datetime,
) -> dict[str, Any]:
    """What `report.json` holds."""
    classes, protocol = truth.vocabulary.classes, protocols[0]
    told = notes(
        truth.vocabulary,
        seen=labels.seen,
        matches={name: matches[name] for name in labels.seen},
        labelled_with=labels.vocabulary,
        missing={why: (held.count, held.first) for why, held in missing.items()},
        runs=labels.runs,
    )
    split = split_values(tally.as_labelled, tally.oracles, classes, protocol) if tally.oracles else None
    what_if = (
        split_diagnostics(split) if split else oracles(tally.true_names, tally.true_masks, classes, protocol)
    )
    settings = ("protocol", "transductive", "allow_missing", "gallery", "seed", "replicates")
    origin = provenance(
        labels,
        truth,
        request.root,
        {name: getattr(request, name) for name in settings},
        tally.truth_digests(),
        now,
    )
    told += tuning_notes(labels.provenance.get("tuning"), origin["dataset"])
    report = report_values(
        title=request.title,
        scores=scores(tally.as_labelled, classes, protocol),
        protocol=protocol,
        images=tally.images,
        missing={},
        notes=[*told, *(f"Not scored as well: {reason}." for reason in reasons)],
        diagnostics=[*what_if, *extra],
        provenance=origin,
    )
    report["missing"] = {why: {"count": one.count, "ids": one.first} for why, one in missing.items()}
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


def _reasons(tally: EvaluationAccumulator, source: Source, lacking: Sequence[str]) -> dict[str, str]:
    """Why some images have no labels, where that is known."""
    known: dict[str, str] = {}
    for block in source.failed() if lacking else ():
        told = block.filter(pc.is_in(block["image_id"], pa.array(lacking, block["image_id"].type)))
        known |= dict(zip(told["image_id"].to_pylist(), told["message"].to_pylist(), strict=True))
    known |= tally.reasons(lacking)
    return {image_id: known[image_id] for image_id in lacking if image_id in known}


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """Images that have only truth, or only labels."""

    count: int
    first: list[str]
    """As many of them as a page lists, in order."""


def _refuse_incomplete(
    tally: EvaluationAccumulator, truth: Truth, request: EvaluateRequest, source: Source
) -> dict[str, Missing]:
    """Why images were not scored -> these images; `without_labels` and `without_truth`.

    Raises:
        ValueError: images could not be scored, are missing and not allowed to, or none is left.
    """
    wrong, some = tally.errors(NAMED_IDS)
    if wrong:
        raise ValueError(f"{wrong} of {truth.images} images cannot be scored: {'; '.join(some)}")
    unscored, first, lost = 0, list[str](), 0
    if tally.images < truth.images:
        failures = itertools.chain(tally.ids("failed"), source.failed())
        unscored, first, lost = truth.unscored(tally.ids("scored"), failures, LISTED_FAILURES)
    outside = [row["image_id"] for row in tally.first("outside", LISTED_FAILURES)]
    missing = {
        "without_labels": Missing(count=unscored, first=first),
        "without_truth": Missing(count=tally.kinds["outside"], first=outside),
    }
    alone = missing["without_truth"]
    if not tally.images and tally.kinds["failed"]:
        raise ValueError(f"not one image of {request.title} could be scored{_first_reason(tally)}")
    if not tally.images:
        raise ValueError(
            f"none of the {alone.count} {source.done} images (first: {alone.first[:1]}) is among "
            f"the {truth.images} of {request.title} (first: {first[:1]}); "
            f"were other images {source.done}?"
        )
    if (unscored or alone.count) and not request.allow_missing:
        raise ValueError(
            f"{unscored} of {truth.images} images of {request.title} have no {source.verb}s "
            f"({_some(first, unscored)}; {lost} of them {source.lost}{_first_reason(tally)}), and "
            f"{alone.count} {source.done} images are not in it ({_some(alone.first, alone.count)}); "
            f"{source.verb} the rest, or score the {tally.images} that have both with --allow-missing"
        )
    return missing


def _matches(labels: Labels, vocabulary: Vocabulary) -> dict[str, int]:
    """Labelled name -> class id of the data set.

    Raises:
        ValueError: not one labelled class is a class of the data set.
    """
    matches = class_matches(labels.seen, vocabulary)
    if matches and set(matches.values()) == {UNKNOWN}:
        raise ValueError(
            f"none of the labelled classes ({_some(list(matches))}) is one of {vocabulary.name!r} "
            f"({_some([entry.name for entry in vocabulary.candidates])}); is --dataset right?"
        )
    return matches


def _origin(
    labels: Labels, request: EvaluateRequest, vocabulary: Vocabulary, protocols: Sequence[Protocol]
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
        "vocabulary": vocabulary.to_json(),
        "protocol": protocols[0].to_json(),
        "protocols": [protocol.to_json() for protocol in protocols],
    }


def _first_reason(tally: EvaluationAccumulator) -> str:
    """Why one image could not be labelled, where that was found out here."""
    return "".join(f", {row['image_id']!r} because: {row['text']}" for row in tally.first("failed", 1))


def _some(names: Sequence[str], count: int | None = None) -> str:
    """The first few of some names, `count` in all."""
    left = (len(names) if count is None else count) - NAMED_IDS
    return (", ".join(names[:NAMED_IDS]) or "none") + (f", … {left} more" if left > 0 else "")
