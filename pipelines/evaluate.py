"""The evaluation graph: label rows against truth, one sparse confusion per image, exact sums, one report.

    files ─► images_in_files ─► sketches (CPU tasks) ─► sums, `scores` (driver) ─► report.{html,md,json}
    images ─► decode ─► LabelActor ─► sketches … the same, with a checkpoint instead of a label table

The driver sees sketches, never pixels, and keeps them in a file; only the few images of the gallery are opened again,
in tasks. Nothing is written before every image has been scored: `scores` is one commit, reports are replaced whole.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.commit import existing_table, table_uri
from pipelines.evaluate_model import described_labels, labelled_again, model_sketch_graph
from pipelines.evaluation_files import commit_scores, gallery, provenance, scores_by_id, write_report
from pipelines.execution import Execution, start_ray
from pipelines.label_plan import Model
from pipelines.labels import Labels, failed_ids, open_labels
from pipelines.sketches import Tally, sketch_graph, tallied
from pipelines.sources import read_bytes
from zs3.datasets import Dataset, open_dataset
from zs3.evaluating import chosen, class_matches, notes, oracles
from zs3.metrics import UNKNOWN, Protocol, scores
from zs3.metrics.counts import GROUPS
from zs3.metrics.intervals import REPLICATES
from zs3.metrics.protocols import chosen_protocols
from zs3.metrics.resampling import Ranges, ranges
from zs3.metrics.summary import calibration, confusion_matrix, headline, with_ranges
from zs3.report import diagnostic, report_values
from zs3.tables import SCORES
from zs3.vocabulary import load_vocabulary

NAMED_IDS = 5
"""How many offenders a message names."""

REPORT_VERSION = 2
"""Of `report.json`; a change that readers can notice raises it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRequest:
    """What to score against what, and where the report goes."""

    dataset: str
    """Layout: voc, coco_stuff, ade20k_full or folder."""
    root: str
    """Folder or uri of the data set."""
    split: str
    """As the layout names it."""
    out: str
    """Folder or uri that gets report.json, report.md, report.html and the table `scores`."""
    labels: str | None = None
    """A label table, or the --out of a labelling run, which holds it as `labels`; this or a checkpoint."""
    checkpoint: str | None = None
    """Shipped name, folder or uri of a checkpoint that labels the images; the labels are not written."""
    classes: str | None = None
    """Class list to label with, beside a checkpoint; by default the data set's own."""
    protocol: str = "zs3"
    """Which pixels count and how classes are averaged, by name; `all` takes every one, `zs3` as the headline."""
    transductive: bool = False
    """Whether training saw the pictures of unseen classes; stored with the protocol, changes no number."""
    replicates: int = REPLICATES
    """Drawings of the images behind each interval."""
    allow_missing: bool = False
    """Score the images that have both labels and truth, instead of stopping when some have one only."""
    diagnostics: str | None = None
    """JSON file with a list of further score sets to show: title, seen, unseen, harmonic, note."""
    gallery: int = 12
    """Images shown in the page: a third each of the worst, the best, and random ones."""
    seed: int = 0
    """Chooses the random images of the gallery, and the drawings of the intervals."""

    @property
    def title(self) -> str:
        """Data set and split, for people."""
        name = Path(self.root.rstrip("/")).name if self.dataset == "folder" else self.dataset
        return f"{name} {self.split}"


def evaluate(
    request: EvaluateRequest,
    execution: Execution | None = None,
    *,
    now: datetime,
    model: Model | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score a label table or a checkpoint against a data set and write the report; returns what `report.json` holds.

    Args:
        request: what to score.
        execution: how; changes no result.
        now: the time to record.
        model: how to come by the labeller of a checkpoint; tests put their own here.
        on_progress: called in this process with the images scored so far and those to score.

    Raises:
        ValueError, FileNotFoundError: the request cannot be carried out as it is; no report was written.
    """
    execution, model = execution or Execution(), model or Model()
    _refuse_unclear(request)
    extra = read_diagnostics(request.diagnostics)
    dataset = open_dataset(request.dataset, request.root, request.split)
    protocols, reasons = chosen_protocols(
        request.protocol, dataset.vocabulary.classes, transductive=request.transductive
    )
    labels = _labels(request, dataset, model)
    matches = _matches(labels, dataset)
    existing_table(table_uri(request.out, "scores"))  # tells now, not after the work, that --out is of no use
    start_ray(execution)
    tally = Tally()
    if request.checkpoint:
        graph = model_sketch_graph(labels, dataset, matches, model, execution)
    else:
        graph = sketch_graph(labels, dataset, matches)
    # The Delta library would run a Python stream on a thread of its own, where neither Ray nor an error feels
    # at home; so the sketches wait in a file, and only what may be published reaches it.
    with tempfile.TemporaryDirectory() as folder:
        waiting = Path(folder, "scores.arrow")
        with pa.OSFile(str(waiting), "wb") as file, pa.ipc.new_stream(file, SCORES) as stream:
            for batch in tallied(graph, tally, dataset, protocols[0], on_progress):
                stream.write_table(batch)
        _refuse_incomplete(tally, dataset, request)
        held = {protocol.name: _ranges(waiting, tally, dataset, protocol, request) for protocol in protocols}
        if request.checkpoint:
            labels = replace(labels, seen={name: labels.seen[name] for name in sorted(tally.names)})
        report = _report(request, labels, dataset, matches, tally, extra, reasons, protocols, held, now)
        pictures = gallery(
            _gallery_sources(request, labels, dataset, tally, model, execution), dataset, matches
        )
        with pa.memory_map(str(waiting)) as file:
            origin = _origin(labels, request, dataset, protocols)
            commit_scores(request.out, pa.ipc.open_stream(file), origin)
    write_report(request.out, report, pictures)
    return report


def read_diagnostics(source: str | None) -> list[dict[str, Any]]:
    """Further score sets from a JSON file, checked; none where there is no file to read.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is not a JSON list of score sets.
    """
    if source is None:
        return []
    try:
        content = json.loads(read_bytes(source))
    except json.JSONDecodeError as error:
        raise ValueError(f"diagnostics {source!r} is not valid JSON: {error}") from error
    if not isinstance(content, list):
        raise ValueError(
            f"diagnostics {source!r} holds a {type(content).__name__}; expected a list of score sets"
        )
    return [diagnostic(entry) for entry in content]


def _refuse_unclear(request: EvaluateRequest) -> None:
    """A request is for a label table or for a checkpoint, and draws at least once."""
    if (request.labels is None) == (request.checkpoint is None):
        raise ValueError("give --labels, a table to score, or --checkpoint, a model to score; one of the two")
    if request.classes is not None and request.checkpoint is None:
        raise ValueError("--classes goes with --checkpoint; a label table knows its own class list")
    if request.replicates < 1:
        raise ValueError(f"replicates is {request.replicates}; expected at least 1, {REPLICATES} is usual")


def _labels(request: EvaluateRequest, dataset: Dataset, model: Model) -> Labels:
    """The table to score, or what a table of the checkpoint would be."""
    if request.labels is not None:
        return open_labels(request.labels)
    assert request.checkpoint is not None
    vocabulary = load_vocabulary(request.classes) if request.classes else dataset.vocabulary
    return described_labels(request.checkpoint, vocabulary, model)


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
    request: EvaluateRequest,
    labels: Labels,
    dataset: Dataset,
    tally: Tally,
    model: Model,
    execution: Execution,
) -> list[tuple[str, str, Any]]:
    """(image id, kind, file that holds its labels, or the labels) of the images to show."""
    mious = {image_id: line["miou"] for image_id, line in tally.scored.items()}
    picked = chosen(mious, request.gallery, request.seed)
    if request.labels is not None:
        return [(image_id, kind, tally.scored[image_id]["file"]) for image_id, kind in picked]
    ids = {image_id for image_id, _ in picked}
    rows = labelled_again(labels, [ref for ref in dataset.refs if ref.id in ids], model, execution)
    return [(image_id, kind, rows[image_id]) for image_id, kind in picked if image_id in rows]


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
    settings = ("protocol", "transductive", "allow_missing", "gallery", "seed", "replicates")
    report = report_values(
        title=request.title,
        scores=scores(tally.as_labelled, classes, protocol),
        protocol=protocol,
        images=len(tally.scored),
        missing=missing,
        notes=[*told, *(f"Not scored as well: {reason}." for reason in reasons)],
        diagnostics=[*oracles(tally.true_names, tally.true_masks, classes, protocol), *extra],
        provenance=provenance(
            labels,
            dataset,
            request.root,
            {name: getattr(request, name) for name in settings},
            {image_id: line["truth_digest"] for image_id, line in tally.scored.items()},
            now,
        ),
    )
    report = with_ranges(report, held[protocol.name])
    report |= calibration(tally.reliability)
    report["confusion"] = confusion_matrix(tally.as_labelled, classes, protocol)
    report["protocol"] = protocol.to_json()
    report["version"] = REPORT_VERSION
    if len(protocols) > 1:
        report["protocols"] = {
            name: {group: headline(one, group) for group in GROUPS} for name, one in held.items()
        }
    return report


def _refuse_incomplete(tally: Tally, dataset: Dataset, request: EvaluateRequest) -> None:
    """Stop before anything is written when images could not be scored, are missing, or none is left."""
    if tally.errors:
        some = "; ".join(sorted(tally.errors)[:NAMED_IDS])
        raise ValueError(f"{len(tally.errors)} of {len(dataset.refs)} images cannot be scored: {some}")
    missing = _missing(tally, dataset)
    without_labels, without_truth = missing["without_labels"], missing["without_truth"]
    if not tally.scored:
        raise ValueError(
            f"none of the {len(without_truth)} labelled images (first: {without_truth[:1]}) is among "
            f"the {len(dataset.refs)} of {request.title} (first: {without_labels[:1]}); "
            "were other images labelled?"
        )
    if (without_labels or without_truth) and not request.allow_missing:
        failures = failed_ids(request.labels) if request.labels else frozenset(tally.failed)
        failed = len(failures.intersection(without_labels))
        kept = "are in the table of failures" if request.labels else "could not be labelled"
        raise ValueError(
            f"{len(without_labels)} of {len(dataset.refs)} images of {request.title} have no labels "
            f"({_some(without_labels)}; {failed} of them {kept}{_first_reason(tally)}), and "
            f"{len(without_truth)} labelled images are not in it ({_some(without_truth)}); label the rest, "
            f"or score the {len(tally.scored)} that have both with --allow-missing"
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
