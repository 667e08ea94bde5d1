"""What a tuning run would do: the segments, the data set, and the settings to try."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pipelines.labelling.label import warn_about_confusable
from pipelines.labelling.name import describe_classifier
from pipelines.labelling.segments_table import stored_segments
from pipelines.tables.delta_reader import file_uris, image_uris, provenance_of
from pipelines.tables.label_table import failed_images
from zs3.config import NamingSettings
from zs3.datasets import Dataset, DatasetName, open_dataset
from zs3.datasets.listing import title
from zs3.evaluation.matching import class_matches
from zs3.metrics import Protocol
from zs3.metrics.protocols import chosen_protocols
from zs3.tuning.calibration_sweep import Gammas
from zs3.tuning.grid import Naming, NamingGrid, gammas_of, namings_of
from zs3.tuning.trials import load_classifiers
from zs3.vocabulary import Vocabulary, load_vocabulary
from zs3.wording import first_names, number_of

if TYPE_CHECKING:
    from zs3.classification.classifier import SegmentClassifier


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneRequest:
    """The options of `zs3 tune` that define its result."""

    segments: str
    """The --out of a `zs3 segment` run, or its segments table; local, s3:// or gs://."""
    dataset: DatasetName
    """Layout of the data set on disk."""
    root: str
    """Folder or uri of the data set."""
    split: str
    """Part of the data set to tune on. Keep another one to report."""
    out: str
    """Folder or uri that gets tune.json, tune.md and tune.png."""
    checkpoint: str | None = None
    """The checkpoint that made the segments, if it was moved since."""
    classes: str | None = None
    """Class list to name with; by default the data set's own."""
    allow_confusable: bool = False
    """Run although two classes have the same embedding, so that one of them gets the segments of both."""
    protocol: Literal["zs3", "paper", "voc21"] = "zs3"
    """Which pixels count and how classes are averaged, as for `zs3 evaluate`."""
    allow_missing: bool = False
    """Tune on the images that have segments, instead of stopping when some have none."""
    grid: NamingGrid = field(default_factory=NamingGrid)
    """Values to try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedTuning:
    """A checked request, with everything that `tune` needs."""

    request: TuneRequest
    dataset: Dataset
    title: str
    """Data set and split."""
    protocol: Protocol
    checkpoint_digest: str
    own: NamingSettings
    """Settings of the checkpoint."""
    namings: tuple[Naming, ...]
    """The checkpoint's own first."""
    gammas: Gammas
    classifiers: tuple[SegmentClassifier, ...]
    """One per naming."""
    vocabulary: Vocabulary
    """To name with."""
    trained: frozenset[str]
    """Concepts that the checkpoint had masks of."""
    matches: Mapping[str, int]
    """Name of each class → id in the data set that it means, or `UNKNOWN`."""
    segments: Mapping[str, str | int]
    """Uri and version of the table."""
    files: tuple[str, ...]
    """Of the segments table, at one version."""
    image_ids: frozenset[str]
    """Images of the split that have segments."""


def prepare_tuning(request: TuneRequest) -> PreparedTuning:
    """The request, checked, with its text banks encoded; writes nothing.

    Raises:
        ValueError, FileNotFoundError: segments, data set, checkpoint, class list or grid cannot be used as they are.
    """
    import torch

    from zs3.checkpoint import load_checkpoint
    from zs3.classification.settings import encoded_sets

    uri, table = stored_segments(request.segments)
    provenance = provenance_of(table)
    place = request.checkpoint or provenance["checkpoint"]
    checkpoint = load_checkpoint(place)
    dataset = open_dataset(request.dataset, request.root, request.split)
    name = title(request.dataset, request.root, request.split)
    protocol = chosen_protocols(request.protocol, dataset.vocabulary.classes)[0][0]
    vocabulary = load_vocabulary(request.classes) if request.classes else dataset.vocabulary
    info = describe_classifier(place, vocabulary, {}, provenance["run"])
    _refuse_one_group(info.seen, vocabulary)
    own = checkpoint.recipe.naming
    gammas = gammas_of(request.grid, own)
    namings = namings_of(request.grid, own, encoded_sets(checkpoint))
    image_ids = _images_with_segments(request, dataset, name, frozenset(image_uris(table)))
    classifiers = load_classifiers(checkpoint, vocabulary, namings, device=torch.device("cpu"))
    warn_about_confusable(classifiers[0], request.allow_confusable)
    return PreparedTuning(
        request=request,
        dataset=dataset,
        title=name,
        protocol=protocol,
        checkpoint_digest=checkpoint.digest,
        own=own,
        namings=namings,
        gammas=gammas,
        classifiers=classifiers,
        vocabulary=vocabulary,
        trained=checkpoint.trained_concepts,
        matches=class_matches([entry.name for entry in vocabulary.candidates], dataset.vocabulary),
        segments={"uri": uri, "version": table.version()},
        files=tuple(file_uris(table)),
        image_ids=image_ids,
    )


def _images_with_segments(
    request: TuneRequest, dataset: Dataset, name: str, stored: frozenset[str]
) -> frozenset[str]:
    """The images of the split that have segments.

    Raises:
        ValueError: there is none, or some have none without --allow-missing.
    """
    refs = {ref.id for ref in dataset.refs}
    missing = sorted(refs - stored)
    if refs.isdisjoint(stored):
        raise ValueError(
            f"none of the {len(stored)} segmented images (first: {sorted(stored)[:1]}) is among the {len(refs)} of "
            f"{name} (first: {missing[:1]}); were other images segmented?"
        )
    if missing and not request.allow_missing:
        failed = {
            image_id
            for block in failed_images(request.segments)
            for image_id in block["image_id"].to_pylist()
        }
        raise ValueError(
            f"{len(missing)} of {number_of(len(refs), 'image')} of {name} have no segments ({first_names(missing)}; "
            f"{len(failed.intersection(missing))} of them are in the table of failures); segment the rest, or tune on "
            "the others with --allow-missing"
        )
    return frozenset(refs & stored)


def _refuse_one_group(seen: Mapping[int, bool], vocabulary: Vocabulary) -> None:
    """Tuning weighs seen names against unseen ones, so both must be there.

    Raises:
        ValueError: all classes are of one group.
    """
    if len(set(seen.values())) < 2:
        group, other = ("seen", "unseen") if all(seen.values()) else ("unseen", "seen")
        raise ValueError(
            f"all {len(seen)} classes of {vocabulary.name!r} are {group} for this checkpoint, so there is no trade-off "
            f"to tune; name some {other} classes as well"
        )
