"""Scoring a checkpoint without a label table: labels go from the actor to the score row, and are never written.

    refs ─► read_and_decode (CPU tasks) ─► LabelActor (one model each) ─► score_labelled_images (CPU tasks) ─► driver

The actors and the score rows are those of labelling first and scoring the table: the same numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.evaluation.accumulator import EvaluationAccumulator
from pipelines.evaluation.ground_truth import Truth
from pipelines.evaluation.image_scores import score_labelled_images
from pipelines.evaluation.source import Rows, Source, in_memory_labels, labels_by_image
from pipelines.execution import DECODE_CPUS, ActorSettings, actor_options, actor_plan
from pipelines.labelling.image_stage import read_and_decode
from pipelines.labelling.label import LabelActor, LabellerFactory, info_with_alpha
from pipelines.ray_session import cluster_nodes
from pipelines.runs.run import RETRIES
from zs3.images.codec import DEFAULT_MAX_PIXELS, Alpha
from zs3.vocabulary import Vocabulary

if TYPE_CHECKING:
    import ray
    import ray.data


class CheckpointSource(Source):
    """The labels that a checkpoint gives to the images of the data set; its class names are embedded here.

    Raises:
        ValueError: there is no such checkpoint, it is none of zs3, or it cannot tell two of the classes apart.
    """

    def __init__(
        self,
        checkpoint: str,
        vocabulary: Vocabulary,
        model: LabellerFactory,
        execution: ActorSettings,
        *,
        allow_confusable: bool = False,
        alpha: Alpha = "white",
    ) -> None:
        labeller = model.describe(checkpoint, vocabulary)
        info = info_with_alpha(labeller, alpha)
        self._labeller_digest, self._alpha = labeller.digest, alpha
        self.labels = in_memory_labels(info, vocabulary, {"checkpoint": checkpoint})
        self._model = model.with_names(info, allow_confusable=allow_confusable)
        self._execution = execution

    def graph(self, truth: Truth, matches: Mapping[str, int]) -> ray.data.Dataset:
        slices = truth.slices(self._execution.images_per_block)
        return self._labelling_graph(slices, truth.refs).map_batches(
            functools.partial(score_labelled_images, truth=truth, matches=matches),
            batch_size=None,
            batch_format="pyarrow",
        )

    def gallery_labels(
        self, truth: Truth, ids: Sequence[str], accumulator: EvaluationAccumulator
    ) -> Mapping[str, str | Rows]:
        import ray

        refs = list(truth.find(ids).values())
        if not refs:
            return {}
        listed = pa.table(
            {"image_id": [ref.id for ref in refs], "image_uri": [ref.image_uri for ref in refs]}
        )
        slices = ray.data.from_arrow([pa.table({"start": [0], "stop": [len(refs)]})])
        return labels_by_image(self._labelling_graph(slices, ray.put(listed)))

    def _labelling_graph(self, slices: ray.data.Dataset, refs: ray.ObjectRef[pa.Table]) -> ray.data.Dataset:
        """The lazy dataset of one row per image: lists of its rows of `labels` and of `failures`.

        Args:
            slices: which rows of `refs` one task reads, as `Truth.slices` gives them.
            refs: columns `image_id` and `image_uri`.
        """
        from ray.data import DataContext

        DataContext.get_current().enable_progress_bars = False
        actors = actor_plan(self._execution, cluster_nodes())
        (run,) = self.labels.runs
        constructor: dict[str, Any] = {
            "model": self._model,
            "checkpoint": self.labels.provenance["checkpoint"],
            "vocabulary": self.labels.vocabulary,
            "run": run,
            "labeller_digest": self._labeller_digest,
            "actors": actors,
        }
        return slices.map_batches(
            functools.partial(_decode_slices, refs=refs, run=run, alpha=self._alpha),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=DECODE_CPUS,
            max_retries=RETRIES,
        ).map_batches(
            LabelActor,
            batch_size=self._execution.batch_size,
            batch_format="pyarrow",
            **actor_options(actors, self._execution),
            fn_constructor_kwargs=constructor,
            max_task_retries=RETRIES,
        )


def _decode_slices(
    slices: pa.Table, *, refs: ray.ObjectRef[pa.Table], run: str, alpha: Alpha
) -> Iterator[pa.Table]:
    """The pixels of the images in some slices of `refs`, one image at a time."""
    import ray

    listed = ray.get(refs)
    for row in slices.to_pylist():
        part = listed.slice(row["start"], row["stop"] - row["start"])
        images = pa.table({"image_id": part["image_id"], "uri": part["image_uri"]})
        yield from read_and_decode(images, max_pixels=DEFAULT_MAX_PIXELS, run=run, alpha=alpha)
