"""Seen-class training on the cluster: Ray Data cuts crops in CPU tasks, Ray Train steps the network on every worker.

`range(samples) → crops (CPU tasks) → shards → workers (DDP) → checkpoints`. A sample is a function of its number, so a
run that goes on after a stop reads exactly the samples that are left.
"""

from __future__ import annotations

import json
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import ray
import ray.data
import ray.train
import ray.train.torch
import torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Empty, Queue

from pipelines.execution import KEEP_BUFFERS
from zs3.checkpoint import CLASSES, RECIPE, WEIGHTS, load_checkpoint, save_checkpoint
from zs3.config import Recipe, TextConfig, digest_of, recipe_from_json
from zs3.datasets import open_dataset
from zs3.encoders import load_encoder
from zs3.encoders.imagenet_words import load_classifier
from zs3.learning.loop import StepReport, train_steps
from zs3.learning.optimizer import adamw
from zs3.learning.samples import TrainingPlan, training_crop, training_plan
from zs3.nets.backbone import fill_by_order
from zs3.nets.zegformer import ZegFormer
from zs3.text import text_bank
from zs3.vocabulary import ClassEntry

logger = logging.getLogger(__name__)

STATE = "trainer.pt"
RESULT_DEFINING = ("model", "query_text", "training")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """What to train and where the run lives."""

    recipe: Recipe
    data_root: str
    """Folder or uri that holds the recipe's data sets."""
    out: str
    """Storage path of runs, local or uri; the run's own folder carries a digest of all that defines it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How the training is executed; never part of a result's identity."""

    num_workers: int = 0
    """Training workers; 0 means one per GPU of the cluster, or one on the CPU."""
    use_gpu: bool | None = None
    """Whether workers hold a GPU each; none decides by whether the cluster has any."""
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
class Progress:
    """One progress report of rank 0."""

    step: int
    steps: int
    loss: float
    terms: dict[str, float] = field(default_factory=dict)
    images_per_second: float = 0.0
    seconds_left: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """A finished run."""

    checkpoint: str
    """Folder or uri that `--checkpoint` takes."""
    run: str
    steps: int
    resumed_at: int
    """Step at which this call began; equal to steps when there was nothing left to do."""
    seconds: float
    digest: str


def run_name(request: TrainRequest, plan: TrainingPlan) -> str:
    """Recipe name and a digest of all that defines the run: reusing a name resumes, so a name must mean one run."""
    recipe = asdict(request.recipe)
    defining = {key: recipe[key] for key in RESULT_DEFINING}
    pictures = [(which, ref.id) for which, ref in plan.refs]
    classes = [asdict(c) for c in plan.classes]
    digest = digest_of({"recipe": defining, "pictures": pictures, "classes": classes})
    return f"{request.recipe.name}-{digest[:12]}"


def train(
    request: TrainRequest, workers: Workers, *, on_progress: Callable[[Progress], None] = lambda _: None
) -> TrainResult:
    """Train to the end, going on from the run's last checkpoint when there is one; Ray must be running.

    Raises:
        ValueError: data or recipe do not fit. ray.train errors: workers were lost more often than allowed.
    """
    recipe, started = request.recipe, time.monotonic()
    datasets = [
        replace(open_dataset(layout, f"{request.data_root}/{folder}", recipe.training.split), name=layout)
        for layout, folder in recipe.training.datasets
    ]
    plan = training_plan(datasets, background_is_negative=recipe.training.background_is_negative)
    name = run_name(request, plan)
    out = request.out if "://" in request.out else str(Path(request.out).resolve())
    final = f"{out}/{name}/checkpoint"
    filesystem, root = fsspec.core.url_to_fs(final)
    if filesystem.exists(f"{root}/{WEIGHTS}"):
        return _result(final, name, recipe.training.steps, time.monotonic() - started)

    use_gpu, count = _placement(workers)
    queue = Queue(actor_options={"num_cpus": 0})
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "recipe": asdict(recipe),
            "plan": ray.put(plan),
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
            worker_runtime_env={} if use_gpu else {"env_vars": KEEP_BUFFERS},  # type: ignore[call-arg]
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
    """Copy the model's files to where users find it, the weights last: their presence says that the rest is there."""
    filesystem, root = fsspec.core.url_to_fs(final)
    filesystem.makedirs(root, exist_ok=True)
    for name in (RECIPE, CLASSES, WEIGHTS):
        part = f"{root}/.{name}.part"
        filesystem.put_file(str(folder / name), part)
        filesystem.mv(part, f"{root}/{name}")


def _placement(workers: Workers) -> tuple[bool, int]:
    """Whether workers hold GPUs, and how many workers; asks the cluster, since the head may have no GPU."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    use_gpu = gpus > 0 if workers.use_gpu is None else workers.use_gpu
    return use_gpu, workers.num_workers or (max(gpus, 1) if use_gpu else 1)


class _forwarded:  # noqa: N801
    """While open, hands the queue's progress reports to a callback in this process."""

    def __init__(self, queue: Queue, callback: Callable[[Progress], None], first: list[int]) -> None:
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


def training_bank(text: TextConfig, plan: TrainingPlan, device: torch.device) -> torch.Tensor:
    """(K, D) unit rows of the training classes."""
    encoder = load_encoder(text.encoder, device=device)
    entries = [ClassEntry(id=i, name=c.name, synonyms=c.synonyms) for i, c in enumerate(plan.classes)]
    bank = text_bank(
        entries, encoder, templates=text.templates, seen=[True] * len(entries), synonyms=text.synonyms
    )
    return torch.from_numpy(bank.embeddings)


def initial_network(recipe: Recipe) -> ZegFormer:
    """The network before its first step: seeded weights, the backbone from where the recipe says, parts of it frozen.

    Raises:
        ValueError: the backbone's weights do not fit it.
    """
    torch.manual_seed(recipe.training.seed)
    network = ZegFormer(recipe.model)
    source = recipe.training.backbone_weights
    if source == "efficientnet_lite0":
        fill_by_order(network.backbone, load_classifier().state_dict())
    elif source:
        state = torch.load(source, map_location="cpu", weights_only=True)
        network.backbone.load_state_dict({k: v for k, v in state.items() if not k.startswith("fc.")})
    for name, parameter in network.backbone.named_parameters():
        parameter.requires_grad_(not name.startswith(recipe.training.frozen))
    return network


def _batches(
    plan_ref: Any, recipe: Recipe, first_sample: int, rank: int, world: int, tasks: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """This worker's crops, in order: of every global batch, the samples whose number is congruent to its rank."""
    training = recipe.training
    share = training.batch_size // world
    samples = (training.steps * training.batch_size - first_sample) // world

    def cut(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        torch.set_num_threads(1)
        plan = ray.get(plan_ref)
        crops = [
            training_crop(
                plan, first_sample + int(i) * world + rank, training.augmentation, training.seed, _read
            )
            for i in batch["id"]
        ]
        return {"crop": np.stack([c for c, _ in crops]), "labels": np.stack([t for _, t in crops])}

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    crops = (
        ray.data.range(samples, override_num_blocks=max(1, samples // (2 * share)))
        .map_batches(cut, batch_size=None, num_cpus=0.5, concurrency=tasks)
        .iter_batches(batch_size=share, prefetch_batches=2, drop_last=True)
    )
    for batch in crops:
        yield batch["crop"], batch["labels"]


def _read(uri: str) -> bytes:
    filesystem, path = fsspec.core.url_to_fs(uri)
    return filesystem.cat_file(path)


def _worker(config: dict[str, Any]) -> None:
    """One training worker, on its own machine with its own device."""
    import os

    recipe = recipe_from_json(config["recipe"], origin="training request")
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(config["threads"] or os.cpu_count() or 1)
    plan: TrainingPlan = ray.get(config["plan"])
    bank = training_bank(recipe.query_text, plan, device).to(device)
    network = initial_network(recipe).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = adamw(network, recipe.training.optimizer)
    first = 0
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            network.load_state_dict(load_checkpoint(folder).state)
            state = torch.load(Path(folder) / STATE, map_location=device, weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"].cpu())
        first = int(state["step"])
    wrapped = ray.train.torch.prepare_model(network, parallel_strategy="ddp" if world > 1 else None)
    wrapped.train()
    queue = config["queue"] if rank == 0 else None
    if queue is not None:
        queue.put(first)
    watch = _Watch(recipe, queue, first, config["report_every_s"], world)

    def on_step(report: StepReport) -> None:
        watch.saw(report)
        if report.step % recipe.training.checkpoint_every and report.step != recipe.training.steps:
            return
        metrics = {"step": report.step, "loss": report.loss, **report.terms}
        if rank != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "checkpoint"
            save_checkpoint(folder, recipe, network, [c.name for c in plan.classes])
            state = {"optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(), "step": report.step}
            torch.save(state, folder / STATE)
            (folder / "progress.json").write_text(json.dumps(watch.history))
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def mean_count(count: float) -> float:
        if world == 1:
            return float(count)
        total = torch.tensor(float(count), device=device)
        torch.distributed.all_reduce(total)
        return float(total) / world

    batches = _batches(
        config["plan"], recipe, first * recipe.training.batch_size, rank, world, config["decode_tasks"]
    )
    train_steps(
        wrapped, batches, bank, optimizer, recipe, first_step=first, on_step=on_step, mean_count=mean_count
    )


class _Watch:
    """Means of the last steps, speed and time left; sent on every few seconds."""

    def __init__(self, recipe: Recipe, queue: Queue | None, first: int, every_s: float, world: int) -> None:
        self.recipe, self.queue, self.every_s, self.world = recipe, queue, every_s, world
        self.history: list[dict[str, float]] = []
        self.recent: list[StepReport] = []
        self.last_step, self.last_time = first, time.monotonic()

    def saw(self, report: StepReport) -> None:
        """Take one step's numbers; report when it is time."""
        self.recent.append(report)
        now = time.monotonic()
        steps = self.recipe.training.steps
        if self.queue is None or (now - self.last_time < self.every_s and report.step != steps):
            return
        rate = (report.step - self.last_step) / max(now - self.last_time, 1e-9)
        terms = {k: float(np.mean([r.terms[k] for r in self.recent])) for k in report.terms}
        progress = Progress(
            step=report.step,
            steps=steps,
            loss=float(np.mean([r.loss for r in self.recent])),
            terms=terms,
            images_per_second=rate * report.images * self.world,
            seconds_left=(steps - report.step) / max(rate, 1e-9),
        )
        self.queue.put(progress)
        self.history.append({"step": report.step, "loss": progress.loss, **terms})
        self.recent, self.last_step, self.last_time = [], report.step, now
