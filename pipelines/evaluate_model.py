"""Scoring a checkpoint without a label table: labels go from the actor to the sketch, and are never written.

refs ─► read_and_decode (CPU tasks) ─► LabelActor (one model each) ─► sketches_of_labels (CPU tasks) ─► driver

The same actors and the same sketches as labelling first and scoring the table: the same numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.execution import DECODE_CPUS, Execution, actor_plan, cluster_nodes
from pipelines.label_actor import LabelActor
from pipelines.label_plan import Model
from pipelines.labels import Labels, unwritten_labels
from pipelines.sketches import sketches_of_labels
from pipelines.sources import read_and_decode
from pipelines.table_run import RETRIES
from zs3.datasets import Dataset, ImageRef
from zs3.images import DEFAULT_MAX_PIXELS
from zs3.vocabulary import Vocabulary

if TYPE_CHECKING:
    import ray.data


def described_labels(checkpoint: str, vocabulary: Vocabulary, model: Model) -> tuple[Labels, Model]:
    """What a table of this labeller would say of itself, and the model with its class names embedded.

    Raises:
        ValueError: there is no such checkpoint, it is none of ours, or it cannot tell two of the classes apart.
    """
    description = model.describe(checkpoint, vocabulary)
    labels = unwritten_labels(description, vocabulary, {"checkpoint": checkpoint})
    return labels, model.with_names(description)


def model_sketch_graph(
    labels: Labels, dataset: Dataset, matches: Mapping[str, int], model: Model, execution: Execution
) -> ray.data.Dataset:
    """The lazy dataset of one sketch per image of the data set."""
    return labelling_graph(labels, dataset.refs, model, execution).map_batches(
        functools.partial(sketches_of_labels, dataset=dataset, matches=matches),
        batch_size=None,
        batch_format="pyarrow",
    )


def labelled_again(
    labels: Labels, refs: Sequence[ImageRef], model: Model, execution: Execution
) -> dict[str, list[dict[str, Any]]]:
    """The label rows of a few images, for pictures of them: image id -> rows."""
    found = {}
    if refs:
        for row in labelling_graph(labels, refs, model, execution).iter_rows():
            if row["labels"]:
                found[row["labels"][0]["image_id"]] = row["labels"]
    return found


def labelling_graph(
    labels: Labels, refs: Sequence[ImageRef], model: Model, execution: Execution
) -> ray.data.Dataset:
    """The lazy dataset of one row per image: lists of its rows of `labels` and of `failures`."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    DataContext.get_current().enable_progress_bars = False
    actors = actor_plan(execution, cluster_nodes())
    (run,) = labels.runs
    listed = pa.table({"image_id": [ref.id for ref in refs], "uri": [ref.image_uri for ref in refs]})
    size = execution.images_per_block
    return (
        ray.data.from_arrow([listed.slice(start, size) for start in range(0, listed.num_rows, size)])
        .map_batches(
            functools.partial(read_and_decode, max_pixels=DEFAULT_MAX_PIXELS, run=run),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=DECODE_CPUS,
            max_retries=RETRIES,
        )
        .map_batches(
            LabelActor,
            batch_size=execution.batch_size,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                size=actors.num_actors, max_tasks_in_flight_per_actor=execution.tasks_in_flight
            ),
            num_cpus=actors.cpus,
            num_gpus=actors.gpus,
            fn_constructor_kwargs={
                "model": model,
                "checkpoint": labels.provenance["checkpoint"],
                "vocabulary": labels.vocabulary,
                "run": run,
                "actors": actors,
            },
            max_task_retries=RETRIES,
        )
    )
