"""What a tuning run would do: the segments, the data set, and the settings to try."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.labelling.label import warn_about_confusable
from pipelines.labelling.name import describe_classifier
from pipelines.labelling.segments_table import stored_segments
from pipelines.tables.delta_reader import image_uris, provenance_of
from pipelines.tables.label_table import failed_images
from zs3.config import NamingSettings
from zs3.datasets import Dataset, open_dataset
from zs3.datasets.listing import title
from zs3.evaluation.matching import class_matches
from zs3.metrics import Protocol
from zs3.metrics.protocols import chosen_protocols
from zs3.tuning.calibration_sweep import Gammas
from zs3.tuning.grid import Naming, NamingGrid, gammas_of, namings_of
from zs3.tuning.trials import Trials, load_trials
from zs3.vocabulary import Vocabulary, load_vocabulary

NAMED_IDS = 5
"""How many offenders a message names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneRequest:
    """What to tune on what, and where the outcome goes."""

    segments: str
    """A segments table, or the --out of a segmenting run, which holds it as `segments`."""
    dataset: str
    """Layout: voc, coco_stuff, ade20k_full or folder."""
    root: str
    """Folder or uri of the data set."""
    split: str
    """As the layout names it."""
    out: str
    """Folder or uri that gets tune.json, tune.md and tune.png."""
    checkpoint: str | None = None
    """Shipped name, folder or uri of the checkpoint that made the segments; by default where it was then."""
    classes: str | None = None
    """Class list to name with; by default the data set's own."""
    protocol: str = "zs3"
    """Which pixels count and how classes are averaged, by name."""
    allow_missing: bool = False
    """Tune on the images that have segments, instead of stopping when some have none."""
    grid: NamingGrid = field(default_factory=NamingGrid)
    """Values to try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunePlan:
    """What a run would do."""

    request: TuneRequest
    dataset: Dataset
    title: str
    """Data set and split, for people."""
    protocol: Protocol
    checkpoint: str
    checkpoint_digest: str
    own: NamingSettings
    namings: tuple[Naming, ...]
    """The checkpoint's own first."""
    gammas: Gammas
    trials: Trials
    vocabulary: Vocabulary
    """To name with."""
    seen: Mapping[str, bool]
    """Name of each class → whether the checkpoint had masks of it."""
    ids: Mapping[str, int]
    """Name of each class → id in the data set that it means, or `UNKNOWN`."""
    segments: Mapping[str, str | int]
    """Uri and version of the table."""
    files: tuple[str, ...]
    """Of the segments table, at one version."""
    wanted: frozenset[str]
    """Ids of the images to read."""


def plan_tune(request: TuneRequest) -> TunePlan:
    """What `tune` would do, its text banks encoded; reads, writes nothing.

    Raises:
        ValueError, FileNotFoundError: segments, data set, checkpoint, class list or grid cannot be used as they are.
    """
    import torch

    from zs3.checkpoint import load_checkpoint
    from zs3.classification.settings import encoded_sets

    dataset = open_dataset(request.dataset, request.root, request.split)
    called = title(request.dataset, request.root, request.split)
    protocol = chosen_protocols(request.protocol, dataset.vocabulary.classes)[0][0]
    vocabulary = load_vocabulary(request.classes) if request.classes else dataset.vocabulary
    uri, table = stored_segments(request.segments)
    made = provenance_of(table)
    checkpoint = request.checkpoint or made["checkpoint"]
    description = describe_classifier(checkpoint, vocabulary, {}, made["run"])
    _refuse_one_group(description.seen, vocabulary)
    held = load_checkpoint(checkpoint)
    own = held.recipe.naming
    gammas = gammas_of(request.grid, own)
    namings = namings_of(request.grid, own, encoded_sets(held))
    wanted = _wanted(request, dataset, called, frozenset(image_uris(table)))
    trials = load_trials(held, vocabulary, namings, device=torch.device("cpu"))
    warn_about_confusable(trials.classifiers[0])
    return TunePlan(
        request=request,
        dataset=dataset,
        title=called,
        protocol=protocol,
        checkpoint=checkpoint,
        checkpoint_digest=held.digest,
        own=own,
        namings=namings,
        gammas=gammas,
        trials=trials,
        vocabulary=vocabulary,
        seen={entry.name: description.seen[entry.id] for entry in vocabulary.candidates},
        ids=class_matches([entry.name for entry in vocabulary.candidates], dataset.vocabulary),
        segments={"uri": uri, "version": table.version()},
        files=tuple(sorted(table.file_uris())),
        wanted=wanted,
    )


def _wanted(request: TuneRequest, dataset: Dataset, called: str, stored: frozenset[str]) -> frozenset[str]:
    """The images of the split that have segments."""
    refs = {ref.id for ref in dataset.refs}
    lacking = sorted(refs - stored)
    if refs.isdisjoint(stored):
        raise ValueError(
            f"none of the {len(stored)} segmented images (first: {sorted(stored)[:1]}) is among the {len(refs)} of "
            f"{called} (first: {lacking[:1]}); were other images segmented?"
        )
    if lacking and not request.allow_missing:
        lost = {one for block in failed_images(request.segments) for one in block["image_id"].to_pylist()}
        failed = len(lost.intersection(lacking))
        raise ValueError(
            f"{len(lacking)} of {len(refs)} images of {called} have no segments ({', '.join(lacking[:NAMED_IDS])}; "
            f"{failed} of them are in the table of failures); segment the rest, or tune on the others with "
            "--allow-missing"
        )
    return frozenset(refs & stored)


def _refuse_one_group(seen: Mapping[int, bool], vocabulary: Vocabulary) -> None:
    """Tuning weighs seen names against unseen ones."""
    if len(set(seen.values())) < 2:
        group, other = ("seen", "unseen") if all(seen.values()) else ("unseen", "seen")
        raise ValueError(
            f"all {len(seen)} classes of {vocabulary.name!r} are {group} for this checkpoint, so there is no trade-off "
            f"to tune; name some {other} classes as well"
        )
