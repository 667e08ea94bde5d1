"""The labelling graph: list, read and decode, label, write, commit.

images ─► read_and_decode (CPU tasks) ─► LabelActor (one model each) ─► write_tables (tasks) ─► commits
(driver)

Class names are embedded and checked once, on the driver, and travel to the actors.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipelines.execution import ActorPlan, Execution, actor_plan
from pipelines.labelling.image_stage import picture_graph
from pipelines.labelling.label_actor import LabelActor
from pipelines.labelling.label_plan import LabellerFactory, LabelPlan, LabelRequest, plan_label
from pipelines.ray_session import cluster_nodes
from pipelines.runs.run import Chunk, Progress, RunResult, run_graph

if TYPE_CHECKING:
    from ray.data import Dataset

MAX_IMAGES_PER_FILE = 1024
"""Images in one file of labels, some megabytes."""


def label(
    request: LabelRequest,
    execution: Execution | None = None,
    *,
    model: LabellerFactory | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunResult:
    """Label every image that has no labels yet, and commit tables as the run goes.

    Args:
        request: what to label.
        execution: how; changes no result.
        model: how to come by the labeller; tests put their own here.
        on_progress: called in this process whenever a file of rows has been written.

    Raises:
        ValueError, FileNotFoundError: the request cannot be carried out.
        ray.exceptions.RayError: the run was stopped; what was finished is committed, and the same call
        continues.
    """
    called = time.time()
    execution, model = execution or Execution(), model or LabellerFactory()
    plan = plan_label(request, model)
    if plan.left.todo:
        model = model.with_names(plan.description)
    return run_graph(
        plan.target,
        plan.left,
        lambda chunk: label_graph(plan, chunk, model, execution),
        execution,
        called=called,
        on_progress=on_progress,
    )


def label_graph(plan: LabelPlan, chunk: Chunk, model: LabellerFactory, execution: Execution) -> Dataset:
    """The lazy dataset whose rows tell of the files written below the plan's --out."""
    actors = actor_plan(execution, cluster_nodes())
    return picture_graph(
        LabelActor,
        target=plan.target,
        chunk=chunk,
        max_pixels=plan.request.max_pixels,
        max_images_per_file=MAX_IMAGES_PER_FILE,
        actors=actors,
        execution=execution,
        arguments=actor_arguments(plan, model, actors),
    )


def actor_arguments(plan: LabelPlan, model: LabellerFactory, actors: ActorPlan) -> dict[str, Any]:
    """What the run's actors are made with."""
    return {
        "model": model,
        "checkpoint": plan.request.checkpoint,
        "vocabulary": plan.vocabulary,
        "run": plan.description.digest,
        "actors": actors,
    }
