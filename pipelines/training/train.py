"""Seen-class training on the cluster: Ray Data cuts crops in CPU tasks, Ray Train steps the network on every worker.

`range(samples) → crops (CPU tasks) → shards → workers (DDP) → checkpoints`. A sample is a function of its number, so a
run that continues after a stop reads exactly the remaining samples.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import ray
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Empty, Queue

from pipelines.ray_session import WORKER_ENVIRONMENT
from pipelines.storage.atomic import whole_file
from pipelines.training.worker import TrainingProgress, train_worker
from zs3.checkpoint import CLASSES, RECIPE, WEIGHTS, load_checkpoint
from zs3.config import Recipe, contents, digest_of
from zs3.convert.backbone import PACKAGED_BACKBONE, read_backbone
from zs3.convert.fcclip import pretrained_clip
from zs3.datasets import open_dataset
from zs3.datasets.listing import is_folder
from zs3.files import filesystem_of
from zs3.learning.samples import TrainingPlan, training_plan
from zs3.nets.fcclip import clip_architecture
from zs3.nets.zegformer import ModelConfig
from zs3.tensor_files import file_digest
from zs3.text.stored_banks import stored_digest

logger = logging.getLogger(__name__)

RESULT_DEFINING = ("model", "query_text", "training")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """What to train and where the run is stored."""

    recipe: Recipe
    data_root: str
    """Folder or uri that holds the recipe's data sets."""
    out: str
    """Folder or uri of runs; the run's own folder is named after the digest of all that defines it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How the training is executed; never part of a result's identity."""

    num_workers: int = 0
    """Training workers; 0 means one per GPU of the cluster, or one on the CPU."""
    use_gpu: bool | None = None
    """Whether workers hold a GPU each; by default if the cluster has any."""
    cpus_per_worker: float = 1
    """Logical CPUs that a worker reserves."""
    threads: int = 0
    """Torch threads of a CPU worker; 0 means all cores of its machine."""
    decode_tasks: int = 2
    """Crop-cutting tasks that may run at once."""
    max_failures: int = 3
    """Times that lost workers are replaced before the run stops."""
    report_every_s: float = 10.0
    """Seconds between progress reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """A finished run."""

    checkpoint: str
    """Folder or uri that `--checkpoint` takes."""
    run: str
    steps: int
    resumed_at: int
    """Step at which this call began; equal to `steps` if the run was finished before."""
    seconds: float
    digest: str


def run_name(request: TrainRequest, plan: TrainingPlan) -> str:
    """Recipe name and a digest of all that defines the run. The name is unique, since a run of that name is resumed.

    Stored text embeddings and backbone weights count by their content, not by their place.

    Raises:
        FileNotFoundError: the recipe names stored text embeddings or backbone weights that do not exist.
    """
    recipe = contents(request.recipe)
    defining = {key: recipe[key] for key in RESULT_DEFINING}
    if request.recipe.query_text.embeddings:
        defining["query_text"]["embeddings"] = stored_digest(request.recipe.query_text.embeddings)
    if request.recipe.training.start:
        defining["training"]["start"] = load_checkpoint(request.recipe.training.start).digest
    elif (source := backbone_source(request.recipe)) and not _is_tag(request.recipe.model, source):
        defining["training"]["backbone_weights"] = file_digest(source)
    pictures = [(which, ref.id) for which, ref in plan.refs]
    classes = [asdict(c) for c in plan.classes]
    digest = digest_of({"recipe": defining, "pictures": pictures, "classes": classes})
    return f"{request.recipe.name}-{digest[:12]}"


def backbone_source(recipe: Recipe) -> str:
    """The weights to read for the backbone; empty if there are none to read."""
    training = recipe.training
    return (
        "" if training.start or training.backbone_weights == PACKAGED_BACKBONE else training.backbone_weights
    )


def _is_tag(model: ModelConfig, source: str) -> bool:
    """Whether open_clip knows the weights by this name, rather than that it is the name of a file."""
    return model.architecture == "fcclip" and not Path(source).is_file()


def _refuse_maft_plus(recipe: Recipe) -> None:
    if recipe.model.text_transfer != "none":
        raise ValueError(
            f"recipe {recipe.name!r} is a MAFT+, which zs3 does not train; zs3 convert makes a checkpoint of "
            "released weights"
        )


def refuse_missing(request: TrainRequest) -> None:
    """Check that the data sets and the weights to start from exist, before Ray starts.

    Raises:
        FileNotFoundError, ValueError: one does not, or zs3 has not what trains the recipe's network.
    """
    _refuse_maft_plus(request.recipe)
    for _, folder in request.recipe.training.datasets:
        if not is_folder(f"{request.data_root}/{folder}"):
            raise FileNotFoundError(
                f"data set {request.data_root}/{folder} does not exist or is no folder; check --data-root"
            )
    start = request.recipe.training.start
    if start and not load_checkpoint(start).state:
        raise ValueError(
            f"training.start is {start!r}, a composed model, which has no weights of its own; start from a trained one"
        )
    model, source = request.recipe.model, backbone_source(request.recipe)
    if source and _is_tag(model, source):
        pretrained_clip(clip_architecture(model), source)
    elif source:
        file_digest(source)


def train(
    request: TrainRequest,
    workers: Workers,
    *,
    on_progress: Callable[[TrainingProgress], None] = lambda _: None,
) -> TrainResult:
    """Train to the end, from the run's last checkpoint if there is one. Ray must be running.

    Raises:
        ValueError: data or recipe do not fit. ray.train errors: workers were lost more often than allowed.
    """
    recipe, started = request.recipe, time.monotonic()
    _refuse_maft_plus(recipe)
    datasets = [
        replace(open_dataset(layout, f"{request.data_root}/{folder}", recipe.training.split), name=layout)
        for layout, folder in recipe.training.datasets
    ]
    plan = training_plan(datasets, background_is_negative=recipe.training.background_is_negative)
    name = run_name(request, plan)
    out = request.out if "://" in request.out else str(Path(request.out).resolve())
    final = f"{out}/{name}/checkpoint"
    filesystem, root = filesystem_of(final)
    if filesystem.exists(f"{root}/{WEIGHTS}"):
        return _result(final, name, recipe.training.steps, time.monotonic() - started)

    use_gpu, count = _placement(workers)
    backbone = read_backbone(recipe.model, source) if (source := backbone_source(recipe)) else None
    queue = Queue(actor_options={"num_cpus": 0})
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "recipe": asdict(recipe),
            "plan": ray.put(plan),
            # Both are read here, because a local path means nothing on the machine of a worker.
            "start": ray.put(load_checkpoint(recipe.training.start)) if recipe.training.start else None,
            "backbone": ray.put(backbone) if backbone else None,
            "threads": workers.threads,
            "decode_tasks": workers.decode_tasks,
            "report_every_s": workers.report_every_s,
            "queue": queue,
        },
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=count,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": workers.cpus_per_worker} | ({"GPU": 1} if use_gpu else {}),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=out,
            failure_config=FailureConfig(max_failures=workers.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            worker_runtime_env={} if use_gpu else {"env_vars": WORKER_ENVIRONMENT},  # type: ignore[call-arg]
        ),
    )
    first: list[int] = []
    with _forwarded(queue, on_progress, first):
        result = trainer.fit()
    if result.error is not None:
        raise result.error
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as folder:
        _publish(Path(folder), final)
    resumed_at = first[0] if first else recipe.training.steps
    return _result(final, name, resumed_at, time.monotonic() - started)


def _result(final: str, name: str, resumed_at: int, seconds: float) -> TrainResult:
    checkpoint = load_checkpoint(final)
    return TrainResult(
        checkpoint=final,
        run=name,
        steps=checkpoint.recipe.training.steps,
        resumed_at=resumed_at,
        seconds=seconds,
        digest=checkpoint.digest,
    )


def _publish(folder: Path, final: str) -> None:
    """Copy the model's files to `final`, the weights last: where they exist, the checkpoint is complete."""
    for name in (RECIPE, CLASSES, WEIGHTS):
        with (folder / name).open("rb") as source, whole_file(f"{final}/{name}") as target:
            shutil.copyfileobj(source, target)


def _placement(workers: Workers) -> tuple[bool, int]:
    """Whether workers have GPUs, and how many workers. Depends on the whole cluster, since the head may have no GPU."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    use_gpu = gpus > 0 if workers.use_gpu is None else workers.use_gpu
    return use_gpu, workers.num_workers or (max(gpus, 1) if use_gpu else 1)


class _forwarded:  # noqa: N801
    """Context in which a thread passes the queue's progress reports to a callback."""

    def __init__(self, queue: Queue, callback: Callable[[TrainingProgress], None], first: list[int]) -> None:
        self.queue, self.callback, self.first = queue, callback, first
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._drain, daemon=True)

    def _drain(self) -> None:
        while not self.over.is_set() or not self.queue.empty():
            try:
                item = self.queue.get(timeout=1)
            except Empty:
                continue
            if isinstance(item, int):
                self.first.append(item)
            else:
                self.callback(item)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join(timeout=10)
        self.queue.shutdown(force=True)
