"""The evaluation graph: label rows against truth, one sparse confusion per image, exact sums, one report.

    files ─► label_rows_graph ─► score_table_images (CPU tasks) ─► sums, `scores` (driver) ─► report.{html,md,json}
    images ─► read_and_decode ─► LabelActor ─► score_labelled_images ─► … with a checkpoint instead of a label table
    files ─► read_segments ─► ScoringActor ─► …                         with a segments table, and with oracles

The driver gets score rows, never pixels, and keeps them in files; the references of the data set stay in Ray's object
store. So its memory is the same for any number of images. Only the few images of the gallery are opened again, in
tasks. Nothing is written before every image has been scored: `scores` is one commit, reports are replaced whole.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.evaluation.accumulator import EvaluationAccumulator
from pipelines.evaluation.from_checkpoint import CheckpointSource
from pipelines.evaluation.from_segments import SegmentsSource
from pipelines.evaluation.gallery import gallery
from pipelines.evaluation.ground_truth import (
    Truth,
    open_truth,
    refuse_missing_root,
    refuse_uncounted,
)
from pipelines.evaluation.outputs import commit_scores, evaluation_report, scores_origin, write_report
from pipelines.evaluation.request import EvaluateRequest, read_diagnostics, refuse_unclear
from pipelines.evaluation.source import LabelTableSource, Source
from pipelines.execution import ActorSettings
from pipelines.labelling.label import LabellerFactory
from pipelines.labelling.name import NameRequest, SegmentClassifierFactory
from pipelines.ray_session import start_ray
from pipelines.runs.run import Progress
from pipelines.tables.delta_reader import existing_table, table_uri
from pipelines.tables.label_table import Labels
from zs3.datasets import dataset_vocabulary
from zs3.evaluation.matching import chosen, class_matches
from zs3.metrics import UNKNOWN, Protocol
from zs3.metrics.intervals import BLOCK
from zs3.metrics.protocols import chosen_protocols
from zs3.metrics.resampling import ranges
from zs3.report.details import MAX_LISTED
from zs3.report.gallery import MAX_IMAGES, GalleryItem
from zs3.vocabulary import Vocabulary, load_vocabulary
from zs3.wording import first_names, number_of

MAX_ERRORS = 5
"""Images whose error a message shows."""

Missing = Mapping[str, tuple[int, list[str]]]
"""`without_labels` and `without_truth`: how many images have only truth, or only labels, and ids of the first."""


def evaluate(
    request: EvaluateRequest,
    execution: ActorSettings | None = None,
    *,
    now: datetime,
    model: LabellerFactory | None = None,
    names: SegmentClassifierFactory | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Score labels, segments or a checkpoint against a data set and write the report; returns `report.json`.

    Args:
        request: what to score.
        execution: how; changes no result.
        now: the time to record.
        model: makes the labeller of a checkpoint; tests pass their own.
        names: makes the classifier of segments; tests pass their own.
        on_progress: called in this process whenever some images have been scored.

    Raises:
        ValueError, FileNotFoundError: the request cannot be carried out as it is; no report was written.
    """
    execution = execution or ActorSettings()
    refuse_unclear(request)
    refuse_missing_root(request.root)
    diagnostics = read_diagnostics(request.diagnostics)
    vocabulary = dataset_vocabulary(request.dataset, request.root)
    protocols, not_scored = chosen_protocols(
        request.protocol, vocabulary.classes, transductive=request.transductive
    )
    source = _open_source(request, vocabulary, protocols[0], model, names, execution)
    matches = _matches(source.labels, vocabulary)
    # Opened only so that an unusable --out is reported before the work, not after it; it is replaced as a whole.
    existing_table(table_uri(request.out, "scores"), check=False)
    start_ray(execution)
    truth = open_truth(request.dataset, request.root, request.split)
    # Rows per image stay in temporary files; only what may be published reaches --out.
    with tempfile.TemporaryDirectory() as folder:
        images = EvaluationAccumulator(Path(folder), vocabulary.classes, protocols[0], truth.range_ends())
        images.add_outside(source.outside(truth))
        _score_all(source, truth, matches, images, on_progress)
        missing = _refuse_incomplete(images, truth, request, source)
        refuse_uncounted(images.confusion, vocabulary.classes, protocols[0], request.title)
        by_protocol = {
            protocol: ranges(
                images.scores.tables(BLOCK),
                images.count["scored"],
                vocabulary.classes,
                protocol,
                replicates=request.replicates,
                seed=request.seed,
            )
            for protocol in protocols
        }
        report = evaluation_report(
            request,
            source.labels,
            truth,
            images,
            missing=missing,
            failures=_failure_reasons(images, source, missing["without_labels"][1]),
            diagnostics=diagnostics,
            ranges=by_protocol,
            not_scored=not_scored,
            now=now,
        )
        pictures = _pictures(request, source, truth, matches, images, protocols[0])
        origin = scores_origin(request, source.labels, vocabulary, protocols)
        commit_scores(request.out, images.scores.tables(BLOCK), origin)
    write_report(request.out, report, pictures)
    return report


def _open_source(
    request: EvaluateRequest,
    vocabulary: Vocabulary,
    protocol: Protocol,
    model: LabellerFactory | None,
    names: SegmentClassifierFactory | None,
    execution: ActorSettings,
) -> Source:
    """The label table, segments or checkpoint of the request.

    Args:
        vocabulary: of the data set.
        protocol: which pixels oracles count, with segments.
    """
    if request.labels is not None:
        return LabelTableSource(request.labels)
    classes = load_vocabulary(request.classes) if request.classes else vocabulary
    if request.segments is not None:
        naming = NameRequest(
            segments=request.segments,
            classes=classes.name,
            out=request.out,
            checkpoint=request.checkpoint,
            naming=request.naming,
            settings=request.settings,
            allow_confusable=request.allow_confusable,
        )
        return SegmentsSource(naming, classes, protocol, names or SegmentClassifierFactory(), execution)
    assert request.checkpoint is not None
    return CheckpointSource(
        request.checkpoint,
        classes,
        model or LabellerFactory(),
        execution,
        allow_confusable=request.allow_confusable,
        alpha=request.alpha,
    )


def _score_all(
    source: Source,
    truth: Truth,
    matches: Mapping[str, int],
    images: EvaluationAccumulator,
    on_progress: Callable[[Progress], None] | None,
) -> None:
    """Run the graph, block by block."""
    for block in source.graph(truth, matches).iter_batches(batch_size=None, batch_format="pyarrow"):
        assert isinstance(block, pa.Table)
        if block.num_rows:  # a graph without images may give a block without columns
            images.add(block)
        if on_progress:
            failed = images.count["failed"] + images.count["error"]
            done = images.count["scored"] + failed
            on_progress(Progress(done=done, failed=failed, total=truth.images))


def _matches(labels: Labels, vocabulary: Vocabulary) -> dict[str, int]:
    """Labelled name -> class id of the data set.

    Raises:
        ValueError: not one labelled class is a class of the data set.
    """
    matches = class_matches(labels.seen, vocabulary)
    if matches and set(matches.values()) == {UNKNOWN}:
        raise ValueError(
            f"none of the labelled classes ({first_names(matches)}) is one of {vocabulary.name!r} "
            f"({first_names(entry.name for entry in vocabulary.candidates)}); is --dataset right?"
        )
    return matches


def _refuse_incomplete(
    images: EvaluationAccumulator, truth: Truth, request: EvaluateRequest, source: Source
) -> Missing:
    """The images that were not scored.

    Raises:
        ValueError: images could not be scored, are missing without --allow-missing, or none was scored.
    """
    errors, messages = images.errors(MAX_ERRORS)
    if errors:
        raise ValueError(
            f"{errors} of {number_of(truth.images, 'image')} cannot be scored: {'; '.join(messages)}"
        )
    scored, outside = images.count["scored"], images.count["outside"]
    unscored, first, failed = 0, list[str](), 0
    if scored < truth.images:
        failures = itertools.chain(images.ids("failed"), source.failures())
        unscored, first, failed = truth.unscored(images.ids("scored"), failures, MAX_LISTED)
    first_outside = [row["image_id"] for row in images.first("outside", MAX_LISTED)]
    reason = "".join(f", {row['image_id']!r} because: {row['message']}" for row in images.first("failed", 1))
    if not scored and images.count["failed"]:
        raise ValueError(f"not one image of {request.title} could be scored{reason}")
    if not scored:
        raise ValueError(
            f"none of the {outside} {source.done} images (first: {first_outside[:1]}) is among the {truth.images} of "
            f"{request.title} (first: {first[:1]}); were other images {source.done}?"
        )
    if (unscored or outside) and not request.allow_missing:
        raise ValueError(
            f"{unscored} of {number_of(truth.images, 'image')} of {request.title} have no {source.verb}s "
            f"({first_names(first, count=unscored)}; {failed} of them {source.failed}{reason}), and "
            f"{number_of(outside, f'{source.done} image is', f'{source.done} images are')} not in it "
            f"({first_names(first_outside, count=outside)}); "
            f"{source.verb} the rest, or score the {scored} that have both with --allow-missing"
        )
    return {"without_labels": (unscored, first), "without_truth": (outside, first_outside)}


def _failure_reasons(
    images: EvaluationAccumulator, source: Source, unscored: Sequence[str]
) -> dict[str, str]:
    """Image id -> why it has no labels, of the images where that is known."""
    reasons: dict[str, str] = {}
    for block in source.failures() if unscored else ():
        rows = block.filter(pc.is_in(block["image_id"], pa.array(unscored, block["image_id"].type)))
        reasons |= dict(zip(rows["image_id"].to_pylist(), rows["message"].to_pylist(), strict=True))
    reasons |= images.failures(unscored)
    return {image_id: reasons[image_id] for image_id in unscored if image_id in reasons}


def _pictures(
    request: EvaluateRequest,
    source: Source,
    truth: Truth,
    matches: Mapping[str, int],
    images: EvaluationAccumulator,
    protocol: Protocol,
) -> list[GalleryItem]:
    """The images that the page shows."""
    count = min(request.gallery, MAX_IMAGES)
    picked = chosen(images.gallery_candidates(count, request.seed), count, request.seed)
    labels = source.gallery_labels(truth, [image_id for image_id, _ in picked], images)
    shown = [(image_id, kind, labels[image_id]) for image_id, kind in picked if image_id in labels]
    return gallery(shown, truth.dataset(image_id for image_id, *_ in shown), matches, protocol)
