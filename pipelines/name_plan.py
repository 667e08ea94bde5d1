"""What a naming run would do: the segments, the namer's description, and the images still to be named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from deltalake import DeltaTable
from numpy.typing import NDArray

from pipelines.commit import existing_table, image_uris, provenance_of, table_uri
from pipelines.label_plan import Description, label_provenance
from pipelines.table_run import Remaining, Target, remaining
from zs3.naming import Segments
from zs3.tables import LABELS, SEGMENTS
from zs3.vocabulary import Vocabulary, load_vocabulary


class Namer(Protocol):
    """What names segments; `zs3.labelling.Namer` in earnest. It travels to other processes."""

    seen: dict[int, bool]

    def name(self, segments: Segments, /) -> tuple[NDArray[np.integer], Mapping[int, float]]:
        """Segments → (H, W) class ids, and a score for each class that occurs."""


def describe_namer(
    checkpoint: str, vocabulary: Vocabulary, naming: Mapping[str, Any], segments: Mapping[str, str]
) -> Description:
    """The description of labels that come of a checkpoint's segments.

    With lossless masks it is that of `zs3 label` with the same settings, as are the labels.

    Args:
        naming: fields of `NamingSettings` that differ from the checkpoint's own.
        segments: what defines the segments, part by part.

    Raises:
        ValueError: there is no such checkpoint, or the segments come from other weights than it has.
    """
    from zs3.checkpoint import load_checkpoint  # with torch, which takes seconds, so only when it is time
    from zs3.name_settings import naming_provenance, naming_settings
    from zs3.vocabulary import known

    held = load_checkpoint(checkpoint)
    parts = naming_provenance(held, vocabulary, naming_settings(held, naming), segments)
    from zs3.config import digest_of

    seen = {entry.id: known(entry, held.seen_concepts) for entry in vocabulary.candidates}
    return Description(digest=digest_of(parts), provenance=parts, seen=seen)


def load_namer(checkpoint: str, vocabulary: Vocabulary, naming: Mapping[str, Any]) -> Namer:
    """The namer of a checkpoint of zs3, its text banks encoded here."""
    import torch

    from zs3.checkpoint import load_checkpoint
    from zs3.labelling import Namer as InEarnest
    from zs3.name_settings import naming_settings

    held = load_checkpoint(checkpoint)
    return InEarnest(held, vocabulary, naming_settings(held, naming), device=torch.device("cpu"))


@dataclass(frozen=True, slots=True, kw_only=True)
class NameModel:
    """The two ways to a namer."""

    describe: Callable[[str, Vocabulary, Mapping[str, Any], Mapping[str, str]], Description] = describe_namer
    load: Callable[[str, Vocabulary, Mapping[str, Any]], Namer] = load_namer


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
    """Fields of `NamingSettings` that differ from the checkpoint's own."""
    limit: int | None = None
    """Images to take of the table, in order of their uris; none takes all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamePlan:
    """What a run would do."""

    request: NameRequest
    vocabulary: Vocabulary
    checkpoint: str
    description: Description
    files: tuple[str, ...]
    """Of the segments table, at one version."""
    target: Target
    left: Remaining


def plan_name(request: NameRequest, model: NameModel | None = None) -> NamePlan:
    """What `name` would do; reads, writes nothing.

    Raises:
        ValueError, FileNotFoundError: the segments, class list, checkpoint or tables cannot be used as they are.
    """
    if request.limit is not None and request.limit < 1:
        raise ValueError(
            f"limit is {request.limit}; expected at least 1, or leave it out to take every image"
        )
    vocabulary = load_vocabulary(request.classes)
    uri, segments = _segments(request.segments)
    held = provenance_of(segments)
    checkpoint = request.checkpoint or held["checkpoint"]
    description = (model or NameModel()).describe(checkpoint, vocabulary, request.naming, held["run"])
    refs = sorted(image_uris(segments).items(), key=lambda ref: ref[1])[: request.limit]
    if not refs:
        raise ValueError(f"segments table {uri} is empty; did the segmenting run fail for every image?")
    target = Target(
        out=request.out,
        results="labels",
        schema=LABELS,
        provenance=label_provenance(description, checkpoint, vocabulary),
        digest=description.digest,
    )
    return NamePlan(
        request=request,
        vocabulary=vocabulary,
        checkpoint=checkpoint,
        description=description,
        files=tuple(sorted(segments.file_uris())),
        target=target,
        left=remaining(refs, target),
    )


def _segments(source: str) -> tuple[str, DeltaTable]:
    """The segments table and where it was found: at the source, or at its subfolder `segments`."""
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
