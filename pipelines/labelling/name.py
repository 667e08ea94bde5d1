"""`zs3 name`: the request, the images that remain, and the graph that processes them, on CPUs and without pictures.

    files of the segments table ─► read_segments (tasks) ─► NameActor (text banks) ─► write_tables (tasks) ─► commits
    (driver)

Its tables are those of `pipelines/labelling/label.py`. Text banks are encoded once, on the driver, and sent to actors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.execution import WRITE_CPUS, Execution, images_per_file
from pipelines.labelling.label import (
    MAX_IMAGES_PER_FILE,
    TABLES,
    ModelInfo,
    label_provenance,
    label_schema,
    rows_of_map,
    warn_about_confusable,
)
from pipelines.labelling.segments_table import segments_graph, stored_segments
from pipelines.labelling.tuned_settings import refuse_other_tuning, refuse_other_weights, tuned_settings
from pipelines.runs.catalogue import Catalogue
from pipelines.runs.resume import (
    RemainingWork,
    TableRequest,
    Target,
    remaining_work,
    rows_of_images,
    stored_request,
)
from pipelines.runs.rows import BOOKKEEPING, BatchRunner, Image, Rows, write_tables
from pipelines.runs.run import Chunk, Progress, RunResult, run_table
from pipelines.tables.delta_reader import file_uris, provenance_of
from zs3.segmentation.table import segments_at
from zs3.tables import LABELS
from zs3.vocabulary import Vocabulary, load_vocabulary

if TYPE_CHECKING:
    from ray.data import Dataset

    from zs3.classification.classifier import SegmentClassifier


@dataclass(frozen=True, slots=True, kw_only=True)
class NameRequest(TableRequest):
    """The options of `zs3 name` that define its tables."""

    segments: str
    """The --out of a `zs3 segment` run, or its segments table; local, s3:// or gs://."""
    classes: str
    """Class list: a shipped name such as voc or ade20k_150, or a .txt or .json file."""
    allow_confusable: bool = False
    """Run although two classes have the same embedding, so that one of them gets the segments of both."""
    checkpoint: str | None = None
    """The checkpoint that made the segments, where it lies now. By default where it lay then."""
    naming: Mapping[str, Any] = field(default_factory=dict)
    """Naming settings that replace the checkpoint's own: fields of `NamingSettings`, and `templates`, a prompt set."""
    settings: str | None = None
    """The --out of a `zs3 tune` run, or its tune.json: name with the tuned settings.
    The label table and its reports then record the split that they were tuned on."""


def describe_classifier(
    checkpoint: str, vocabulary: Vocabulary, naming: Mapping[str, Any], segments: Mapping[str, str]
) -> ModelInfo:
    """What is known about the labels that a checkpoint's segments get.

    With lossless masks it equals that of `zs3 label` with the same settings, and so do the labels.

    Args:
        naming: fields of `NamingSettings` that replace the checkpoint's own.
        segments: all that defines the segments, part by part.
    """
    from zs3.checkpoint import load_checkpoint  # imports torch, which takes seconds
    from zs3.classification.settings import TEMPLATES, naming_provenance, naming_settings
    from zs3.config import digest_of

    loaded = load_checkpoint(checkpoint)
    settings = naming_settings(loaded, naming)
    parts = naming_provenance(loaded, vocabulary, settings, segments, naming.get(TEMPLATES))
    seen = loaded.seen(vocabulary.candidates)
    return ModelInfo(
        digest=digest_of(parts), provenance=parts, seen=seen, trained=loaded.trained_concepts,
        schema=label_schema(settings),
    )  # fmt: skip


def load_classifier(
    checkpoint: str, vocabulary: Vocabulary, naming: Mapping[str, Any], *, allow_confusable: bool = False
) -> SegmentClassifier:
    """The classifier of a checkpoint, with its text banks encoded and checked."""
    import torch

    from zs3.checkpoint import load_checkpoint
    from zs3.classification import classifier
    from zs3.classification.settings import TEMPLATES, naming_settings, with_prompt_set

    loaded = with_prompt_set(load_checkpoint(checkpoint), naming.get(TEMPLATES))
    settings = naming_settings(loaded, naming)
    names = classifier.SegmentClassifier(loaded, vocabulary, settings, device=torch.device("cpu"))
    warn_about_confusable(names, allow_confusable)
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentClassifierFactory:
    """How a run describes its classifier and loads it."""

    describe: Callable[[str, Vocabulary, Mapping[str, Any], Mapping[str, str]], ModelInfo] = (
        describe_classifier
    )
    load: Callable[..., SegmentClassifier] = load_classifier


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedName:
    """A request that was checked, and what it leaves to do."""

    request: NameRequest
    vocabulary: Vocabulary
    checkpoint: str
    naming: Mapping[str, Any]
    """As in the request, or as tuned."""
    info: ModelInfo
    files: tuple[str, ...]
    """Of the segments table, at one version."""
    model: SegmentClassifierFactory
    work: RemainingWork

    def classifier(self) -> SegmentClassifier:
        """The classifier, with its text banks encoded."""
        allowed = self.request.allow_confusable
        return self.model.load(self.checkpoint, self.vocabulary, self.naming, allow_confusable=allowed)

    def graph(self, execution: Execution) -> Callable[[Chunk], Dataset]:
        """The graph of a chunk; see `run.PreparedRun`. Loads the classifier, which may refuse the class list."""
        return functools.partial(name_graph, prepared=self, classifier=self.classifier(), execution=execution)


def prepare_name(request: NameRequest, model: SegmentClassifierFactory | None = None) -> PreparedName:
    """Check a request and find what is left to do; reads, writes nothing.

    Raises:
        ValueError, FileNotFoundError: the segments, class list, checkpoint or tables cannot be used as they are.
    """
    vocabulary = load_vocabulary(request.classes)
    uri, segments = stored_segments(request.segments)
    stored = provenance_of(segments)
    checkpoint = request.checkpoint or stored["checkpoint"]
    tuned = tuned_settings(request.settings, request.naming)
    naming = tuned.changes if tuned else request.naming
    model = model or SegmentClassifierFactory()
    info = model.describe(checkpoint, vocabulary, naming, stored["run"])
    if tuned:
        refuse_other_weights(tuned, request.settings, info.provenance.get("checkpoint"))
    images = Catalogue(rows_of_images(segments), limit=request.limit)
    if not images.images:
        raise ValueError(f"segments table {uri} is empty; did the segmenting run fail for every image?")
    target = Target(
        out=request.out,
        results="labels",
        schema=info.schema,
        provenance=label_provenance(info, checkpoint, vocabulary)
        | ({"tuning": dict(tuned.tuned_on)} if tuned else {})
        | {"asked": stored_request("name", request)},
        digest=info.digest,
        replace=request.replace,
    )
    refuse_other_tuning(target.uris["labels"], target.provenance)
    return PreparedName(
        request=request,
        vocabulary=vocabulary,
        checkpoint=checkpoint,
        naming=naming,
        info=info,
        files=tuple(file_uris(segments)),
        model=model,
        work=remaining_work(images, target, retry_failures=request.retry_failures),
    )


def name(
    request: NameRequest,
    execution: Execution | None = None,
    *,
    model: SegmentClassifierFactory | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Name the segments of every image that has no labels yet, and commit tables as the run goes; as `label.label`."""
    return run_table(lambda: prepare_name(request, model), execution, on_progress)


def name_graph(
    chunk: Chunk, *, prepared: PreparedName, classifier: SegmentClassifier, execution: Execution
) -> Dataset:
    """The lazy dataset whose rows are `rows.WRITTEN`: what was written about the images of a chunk."""
    target = prepared.work.target
    wanted = {row.pop("image_id"): row for row in chunk.images.select(BOOKKEEPING.names).to_pylist()}
    arguments = {
        "classifier": classifier,
        "vocabulary": prepared.vocabulary,
        "run": target.digest,
        "schema": target.schemas["labels"],
        "journal_id": chunk.journal_id,
    }
    return segments_graph(prepared.files, wanted, NameActor, arguments, execution).map_batches(
        functools.partial(write_tables, uris=target.uris, schemas=target.schemas),
        batch_size=images_per_file(execution, chunk.total, MAX_IMAGES_PER_FILE),
        batch_format="pyarrow",
        num_cpus=WRITE_CPUS,
    )


class NameActor:
    """Turns batches of segments into rows of `labels` and `failures`."""

    def __init__(
        self,
        *,
        classifier: SegmentClassifier,
        vocabulary: Vocabulary,
        run: str,
        schema: pa.Schema = LABELS,
        threads: int,
        journal_id: str | None = None,
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self._classifier, self._vocabulary, self._run = classifier, vocabulary, run
        self._schemas = TABLES | {"labels": schema}
        self._runner = BatchRunner(results="labels", stage="name", run=run, journal_id=journal_id)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row per image: its rows of `labels`, or its row of `failures`."""
        return self._runner.table(batch, functools.partial(self._rows, batch), self._schemas)

    def _rows(self, batch: pa.Table, images: Sequence[Image], indices: Sequence[int]) -> list[Rows]:
        """The label rows of some images, each with its row number in the batch."""
        return [
            rows_of_map(
                image,
                *self._classifier.name(segments_at(batch, index)),
                seen=self._classifier.seen,
                vocabulary=self._vocabulary,
                run=self._run,
            )
            for image, index in zip(images, indices, strict=True)
        ]
