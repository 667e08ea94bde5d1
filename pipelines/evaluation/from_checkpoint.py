"""Scoring a checkpoint without a label table: labels go from the actor to the sketch, and are never written.

refs ─► read_and_decode (CPU tasks) ─► LabelActor (one model each) ─► scores_of_labels (CPU tasks) ─► driver

The same actors and the same sketches as labelling first and scoring the table: the same numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.evaluation.ground_truth import Truth
from pipelines.evaluation.image_scores import scores_of_labels
from pipelines.evaluation.in_memory_labels import in_memory_labels
from pipelines.execution import DECODE_CPUS, Execution, actor_options, actor_plan
from pipelines.labelling.image_stage import read_and_decode
from pipelines.labelling.label import LabelActor, LabellerFactory
from pipelines.ray_session import cluster_nodes
from pipelines.runs.run import RETRIES
from pipelines.tables.label_table import Labels
from zs3.datasets import ImageRef
from zs3.images.codec import DEFAULT_MAX_PIXELS
from zs3.vocabulary import Vocabulary

if TYPE_CHECKING:
    import ray
    import ray.data


def described_checkpoint(
    checkpoint: str, vocabulary: Vocabulary, model: LabellerFactory
) -> tuple[Labels, LabellerFactory]:
    """What a table of this labeller would say of itself, and the model with its class names embedded.

    Raises:
        ValueError: there is no such checkpoint, it is none of ours, or it cannot tell two of the classes apart.
    """
    description = model.describe(checkpoint, vocabulary)
    labels = in_memory_labels(description, vocabulary, {"checkpoint": checkpoint})
    return labels, model.with_names(description)


def checkpoint_scores_graph(
    labels: Labels, truth: Truth, matches: Mapping[str, int], model: LabellerFactory, execution: Execution
) -> ray.data.Dataset:
    """The lazy dataset of one sketch per image of the data set."""
    slices = truth.slices(execution.images_per_block)
    return labelling_graph(labels, slices, truth.refs, model, execution).map_batches(
        functools.partial(scores_of_labels, truth=truth, matches=matches),
        batch_size=None,
        batch_format="pyarrow",
    )


def relabelled_images(
    labels: Labels, refs: Sequence[ImageRef], model: LabellerFactory, execution: Execution
) -> dict[str, list[dict[str, Any]]]:
    """The label rows of a few images, for pictures of them: image id -> rows."""
    import ray

    found = {}
    if refs:
        listed = pa.table(
            {"image_id": [ref.id for ref in refs], "image_uri": [ref.image_uri for ref in refs]}
        )
        slices = ray.data.from_arrow([pa.table({"start": [0], "stop": [len(refs)]})])
        for row in labelling_graph(labels, slices, ray.put(listed), model, execution).iter_rows():
            if row["labels"]:
                found[row["labels"][0]["image_id"]] = row["labels"]
    return found


def labelling_graph(
    labels: Labels,
    slices: ray.data.Dataset,
    refs: ray.ObjectRef[pa.Table],
    model: LabellerFactory,
    execution: Execution,
) -> ray.data.Dataset:
    """The lazy dataset of one row per image: lists of its rows of `labels` and of `failures`.

    Args:
        slices: which rows of `refs` are read by one task, as `Truth.slices` gives them.
        refs: columns `image_id` and `image_uri`.
    """
    from ray.data import DataContext

    DataContext.get_current().enable_progress_bars = False
    actors = actor_plan(execution, cluster_nodes())
    (run,) = labels.runs
    return slices.map_batches(
        functools.partial(_decoded, refs=refs, run=run),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=DECODE_CPUS,
        max_retries=RETRIES,
    ).map_batches(
        LabelActor,
        batch_size=execution.batch_size,
        batch_format="pyarrow",
        **actor_options(actors, execution),
        fn_constructor_kwargs={
            "model": model,
            "checkpoint": labels.provenance["checkpoint"],
            "vocabulary": labels.vocabulary,
            "run": run,
            "actors": actors,
        },
        max_task_retries=RETRIES,
    )


def _decoded(slices: pa.Table, *, refs: ray.ObjectRef[pa.Table], run: str) -> Iterator[pa.Table]:
    """The pictures of some slices of a list of images, one at a time."""
    import ray

    listed = ray.get(refs)
    for row in slices.to_pylist():
        part = listed.slice(row["start"], row["stop"] - row["start"])
        named = pa.table({"image_id": part["image_id"], "uri": part["image_uri"]})
        yield from read_and_decode(named, max_pixels=DEFAULT_MAX_PIXELS, run=run)
