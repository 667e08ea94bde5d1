"""The evaluation graph: label rows against truth, one sparse confusion per image, exact sums, one report.

    files ─► images_in_files ─► sketches (CPU tasks) ─► sums, `scores` (driver) ─► report.{html,md,json}

The driver sees confusions, never pixels; only the few images of the gallery are opened again, in tasks.
Nothing is written before every image has been scored: `scores` is one commit, reports are replaced whole.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.commit import existing_table, table_uri
from pipelines.evaluation_files import commit_scores, gallery, provenance, write_report
from pipelines.execution import Execution, start_ray
from pipelines.labels import Labels, failed_ids, open_labels
from pipelines.sketches import Tally, sketch_graph, tallied
from pipelines.sources import read_bytes
from zs3.datasets import Dataset, open_dataset
from zs3.evaluating import class_matches, notes, oracles
from zs3.metrics import PROTOCOLS, UNKNOWN, scores
from zs3.report import diagnostic, report_values
from zs3.tables import SCORES

NAMED_IDS = 5
"""How many offenders a message names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateRequest:
    """What to score against what, and where the report goes."""

    labels: str
    """A label table, or the --out of a labelling run, which holds it as `labels`."""
    dataset: str
    """Layout: voc, coco_stuff, ade20k_full or folder."""
    root: str
    """Folder or uri of the data set."""
    split: str
    """As the layout names it."""
    out: str
    """Folder or uri that gets report.json, report.md, report.html and the table `scores`."""
    protocol: str = "zs3"
    """Which pixels count and how classes are averaged, by name."""
    allow_missing: bool = False
    """Score the images that have both labels and truth, instead of stopping when some have one only."""
    diagnostics: str | None = None
    """JSON file with a list of further score sets to show: title, seen, unseen, harmonic, note."""
    gallery: int = 12
    """Images shown in the page: a third each of the worst, the best, and random ones."""
    seed: int = 0
    """Chooses the random images of the gallery."""

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
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score a label table against a data set and write the report; returns what `report.json` holds.

    Args:
        request: what to score.
        execution: how; changes no result.
        now: the time to record.
        on_progress: called in this process with the images scored so far and those to score.

    Raises:
        ValueError, FileNotFoundError: the request cannot be carried out as it is; no report was written.
    """
    if request.protocol not in PROTOCOLS:
        raise ValueError(f"no protocol {request.protocol!r}; there are: {', '.join(PROTOCOLS)}")
    extra = read_diagnostics(request.diagnostics)
    dataset = open_dataset(request.dataset, request.root, request.split)
    labels = open_labels(request.labels)
    matches = _matches(labels, dataset)
    existing_table(table_uri(request.out, "scores"))  # tells now, not after the work, that --out is of no use
    start_ray(execution or Execution())
    tally = Tally()
    # The Delta library would run a Python stream on a thread of its own, where neither Ray nor an error feels
    # at home; so the sketches wait in a file, and only what may be published reaches it.
    with tempfile.TemporaryFile() as waiting:
        with pa.ipc.new_stream(waiting, SCORES) as stream:
            for batch in tallied(sketch_graph(labels, dataset, matches), tally, dataset, on_progress):
                stream.write_table(batch)
        _refuse_incomplete(tally, dataset, request)
        report = _report(request, labels, dataset, matches, tally, extra, now)
        pictures = gallery(tally.scored, dataset, matches, count=request.gallery, seed=request.seed)
        waiting.seek(0)
        commit_scores(request.out, pa.ipc.open_stream(waiting), _origin(labels, request))
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


def _report(
    request: EvaluateRequest,
    labels: Labels,
    dataset: Dataset,
    matches: Mapping[str, int],
    tally: Tally,
    extra: Sequence[Mapping[str, Any]],
    now: datetime,
) -> dict[str, Any]:
    """What `report.json` holds."""
    missing = _missing(tally, dataset)
    classes, protocol = dataset.vocabulary.classes, PROTOCOLS[request.protocol]
    return report_values(
        title=request.title,
        scores=scores(tally.as_labelled, classes, protocol),
        protocol=protocol,
        images=len(tally.scored),
        missing=missing,
        notes=notes(
            dataset.vocabulary,
            seen=labels.seen,
            matches=matches,
            labelled_with=labels.vocabulary,
            missing=missing,
            runs=labels.runs,
        ),
        diagnostics=[*oracles(tally.true_names, tally.true_masks, classes, protocol), *extra],
        provenance=provenance(
            labels,
            dataset,
            request.root,
            {name: getattr(request, name) for name in ("protocol", "allow_missing", "gallery", "seed")},
            {image_id: line["truth_digest"] for image_id, line in tally.scored.items()},
            now,
        ),
    )


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
        failed = len(failed_ids(request.labels).intersection(without_labels))
        raise ValueError(
            f"{len(without_labels)} of {len(dataset.refs)} images of {request.title} have no labels "
            f"({_some(without_labels)}; {failed} of them are in the table of failures), and "
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


def _origin(labels: Labels, request: EvaluateRequest) -> dict[str, Any]:
    """What the table `scores` says of its making."""
    return {
        "labels": labels.uri,
        "version": labels.version,
        "dataset": request.dataset,
        "root": request.root,
        "split": request.split,
    }


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
