"""What a naming run would do: the segments, the classifier's description, and the images still to be named."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from deltalake import DeltaTable
from numpy.typing import NDArray
from torch import Tensor

from pipelines.labelling.class_lists import ClassNames, warn_of_confusable
from pipelines.labelling.label_plan import ModelInfo, label_provenance
from pipelines.runs.catalogue import Catalogue
from pipelines.runs.resume import Remaining, Target, asked, remaining, rows_of_images
from pipelines.storage.objects import read_bytes
from pipelines.tables.delta_reader import existing_table, provenance_of, table_uri
from zs3.config import NamingSettings
from zs3.segmentation.segments import Segments
from zs3.tables import LABELS, SEGMENTS
from zs3.tuning.settings_file import Tuned
from zs3.vocabulary import ClassEntry, Vocabulary, load_vocabulary


class SegmentClassifierProtocol(ClassNames, Protocol):
    """What `zs3.classification.classifier.SegmentClassifier` offers a run; sent to other processes."""

    seen: dict[int, bool]
    entries: tuple[ClassEntry, ...]
    settings: NamingSettings

    def scores(self, segments: Segments, /) -> Tensor:
        """Segments → (K, C) score of each entry for each segment."""

    def name(self, segments: Segments, /) -> tuple[NDArray[np.integer], Mapping[int, float]]:
        """Segments → (H, W) class ids, and a score for each class that occurs."""


def describe_classifier(
    checkpoint: str, vocabulary: Vocabulary, naming: Mapping[str, Any], segments: Mapping[str, str]
) -> ModelInfo:
    """The description of labels that come of a checkpoint's segments.

    With lossless masks it is that of `zs3 label` with the same settings, as are the labels.

    Args:
        naming: fields of `NamingSettings` that differ from the checkpoint's own.
        segments: what defines the segments, part by part.

    Raises:
        ValueError: there is no such checkpoint, or the segments come from other weights than it has.
    """
    from zs3.checkpoint import load_checkpoint  # with torch, which takes seconds, so only when it is time
    from zs3.classification.settings import TEMPLATES, naming_provenance, naming_settings
    from zs3.vocabulary import known

    held = load_checkpoint(checkpoint)
    settings = naming_settings(held, naming)
    parts = naming_provenance(held, vocabulary, settings, segments, naming.get(TEMPLATES))
    from zs3.config import digest_of

    seen = {entry.id: known(entry, held.seen_concepts) for entry in vocabulary.candidates}
    return ModelInfo(digest=digest_of(parts), provenance=parts, seen=seen)


def load_classifier(
    checkpoint: str, vocabulary: Vocabulary, naming: Mapping[str, Any]
) -> SegmentClassifierProtocol:
    """The classifier of a checkpoint of zs3, its text banks encoded and checked here.

    Raises:
        ValueError: two classes cannot be told apart at all.
    """
    import torch

    from zs3.checkpoint import load_checkpoint
    from zs3.classification.classifier import SegmentClassifier as InEarnest
    from zs3.classification.settings import TEMPLATES, naming_settings, with_prompt_set

    held = with_prompt_set(load_checkpoint(checkpoint), naming.get(TEMPLATES))
    classifier = InEarnest(held, vocabulary, naming_settings(held, naming), device=torch.device("cpu"))
    warn_of_confusable(classifier)
    return classifier


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentClassifierFactory:
    """The two ways to a classifier."""

    describe: Callable[[str, Vocabulary, Mapping[str, Any], Mapping[str, str]], ModelInfo] = (
        describe_classifier
    )
    load: Callable[[str, Vocabulary, Mapping[str, Any]], SegmentClassifierProtocol] = load_classifier


@dataclass(frozen=True, slots=True, kw_only=True)
class NameRequest:
    """What to name, with which class list, to where."""

    segments: str
    """A segments table, or the --out of a segmenting run, which holds it as `segments`."""
    classes: str
    """Shipped class list, or a file."""
    out: str
    """Folder or uri that gets the tables `labels` and `failures`."""
    checkpoint: str | None = None
    """Shipped name, folder or uri of the checkpoint that made the segments; by default where it was then."""
    naming: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `NamingSettings` that differ from the checkpoint's own, and `templates`, a prompt set."""
    settings: str | None = None
    """The --out of a tuning run, or its tune.json: its settings take the place of `naming`."""
    limit: int | None = None
    """Images to take of the table, in order of their uris; none takes all."""
    retry_failures: bool = False
    """Process the images that failed before, and only these."""
    replace: bool = False
    """Start a new version of tables that are of another run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamePlan:
    """What a run would do."""

    request: NameRequest
    vocabulary: Vocabulary
    checkpoint: str
    naming: Mapping[str, Any]
    """As in the request, or as tuned."""
    description: ModelInfo
    files: tuple[str, ...]
    """Of the segments table, at one version."""
    target: Target
    left: Remaining


def plan_name(request: NameRequest, model: SegmentClassifierFactory | None = None) -> NamePlan:
    """What `name` would do; reads, writes nothing.

    Raises:
        ValueError, FileNotFoundError: the segments, class list, checkpoint or tables cannot be used as they are.
    """
    if request.limit is not None and request.limit < 1:
        raise ValueError(
            f"limit is {request.limit}; expected at least 1, or leave it out to take every image"
        )
    vocabulary = load_vocabulary(request.classes)
    uri, segments = stored_segments(request.segments)
    held = provenance_of(segments)
    checkpoint = request.checkpoint or held["checkpoint"]
    tuned = tuned_settings(request)
    naming = tuned.changes if tuned else request.naming
    description = (model or SegmentClassifierFactory()).describe(checkpoint, vocabulary, naming, held["run"])
    if tuned:
        refuse_other_weights(tuned, description, request)
    images = Catalogue(rows_of_images(segments), limit=request.limit)
    if not images.images:
        raise ValueError(f"segments table {uri} is empty; did the segmenting run fail for every image?")
    target = Target(
        out=request.out,
        results="labels",
        schema=LABELS,
        provenance=label_provenance(description, checkpoint, vocabulary)
        | ({"tuning": dict(tuned.tuned_on)} if tuned else {})
        | {"asked": asked("name", request)},
        digest=description.digest,
        replace=request.replace,
    )
    _refuse_other_tuning(target)
    return NamePlan(
        request=request,
        vocabulary=vocabulary,
        checkpoint=checkpoint,
        naming=naming,
        description=description,
        files=tuple(sorted(segments.file_uris())),
        target=target,
        left=remaining(images, target, retry_failures=request.retry_failures),
    )


def tuned_settings(request: NameRequest) -> Tuned | None:
    """The settings that the request points to; none where it points to none.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it holds no tuned settings, or others are given beside them.
    """
    if request.settings is None:
        return None
    if request.naming:
        raise ValueError(
            f"--settings and --naming.{min(request.naming)} are both given; labels are of tuned settings, or of others"
        )
    place = (
        request.settings if request.settings.endswith(".json") else table_uri(request.settings, "tune.json")
    )
    try:
        content = json.loads(read_bytes(place))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"no tuned settings at {place}; give the --out of a `zs3 tune` run"
        ) from error
    except ValueError as error:
        raise ValueError(f"{place} is not valid JSON ({error}); tune again") from error
    return Tuned.from_json(content, place)


def refuse_other_weights(tuned: Tuned, description: ModelInfo, request: NameRequest) -> None:
    """Settings hold for the weights that they were tuned for.

    Raises:
        ValueError: the segments are of others.
    """
    used = description.provenance.get("checkpoint")
    if tuned.checkpoint != used:
        raise ValueError(
            f"{request.settings} was tuned for the checkpoint {tuned.checkpoint[:12]}, and the segments are of "
            f"{str(used)[:12]}; tune again with these segments"
        )


def _refuse_other_tuning(target: Target) -> None:
    """The same labels may come of several tunings, or of none; a table tells of one."""
    table = existing_table(target.uris["labels"])
    if table is None or provenance_of(table).get("run") != target.provenance["run"]:
        return
    there, now = (
        {key: value for key, value in (held.get("tuning") or {}).items() if key != "tuned_at"}
        for held in (provenance_of(table), target.provenance)
    )
    if there != now:
        told, asked = (f"tuned on {one['title']}" if one else "not tuned" for one in (there, now))
        raise ValueError(
            f"{target.uris['labels']} holds these labels as of settings that were {told}, now they are {asked}; choose "
            "another --out"
        )


def stored_segments(source: str) -> tuple[str, DeltaTable]:
    """The segments table and where it was found: at the source, or at its subfolder `segments`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is another table.
    """
    itself = table_uri(source, "").rstrip("/")
    for uri in (table_uri(source, "segments"), itself):
        table = existing_table(uri)
        if table is None:
            continue
        lacking = [
            name for name in SEGMENTS.names if name not in {column.name for column in table.schema().fields}
        ]
        if lacking or not provenance_of(table).get("run"):
            reason = f"it has no column {lacking[0]!r}" if lacking else "it does not say how it was made"
            raise ValueError(f"{uri} is no segments table of this version of zs3: {reason}; check --segments")
        return uri, table
    raise FileNotFoundError(
        f"no segments table at {itself} or {itself}/segments; give the --out of a `zs3 segment` run"
    )
