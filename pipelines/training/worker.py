"""The work of a training worker: its network, its share of the crops, its checkpoints and its progress."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
import ray.train
import ray.train.torch
import torch
from ray.util.queue import Queue

from pipelines.storage.objects import read_bytes
from zs3.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from zs3.config import Recipe, recipe_from_json
from zs3.convert.backbone import PACKAGED_BACKBONE
from zs3.encoders.imagenet_words import load_efficientnet
from zs3.learning.loop import StepReport, train_steps
from zs3.learning.optimizer import adamw
from zs3.learning.samples import TrainingPlan, training_crop
from zs3.nets.backbone import fill_by_order
from zs3.nets.fcclip import FcClip
from zs3.nets.networks import Network, build_network
from zs3.text.bank import TextBank
from zs3.text.stored_banks import class_bank
from zs3.vocabulary import ClassEntry

STATE = "trainer.pt"
"""Optimizer, random state and step, stored with the model in a checkpoint of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """One progress report of rank 0."""

    step: int
    steps: int
    loss: float
    terms: dict[str, float] = field(default_factory=dict)
    images_per_second: float = 0.0
    seconds_left: float = 0.0


def training_bank(recipe: Recipe, plan: TrainingPlan, device: torch.device, network: Network) -> TextBank:
    """The text bank of the training classes.

    Args:
        network: its CLIP encodes the names, where the recipe says so.

    Raises:
        ValueError: they are of another length than the network's embeddings, or do not fit the classes.
    """
    entries = [ClassEntry(id=i, name=c.name, synonyms=c.synonyms) for i, c in enumerate(plan.classes)]
    text = replace(recipe.query_text, templates=recipe.training.templates or recipe.query_text.templates)
    clip_state = network.backbone.model.state_dict() if isinstance(network, FcClip) else None
    bank = class_bank(text, entries, [True] * len(entries), device=device, clip_state=clip_state)
    length = bank.embeddings.shape[1]
    if length != recipe.model.text_dim:
        raise ValueError(
            f"text embeddings have {length} numbers, but model.text_dim is {recipe.model.text_dim}; "
            f"set model.text_dim to {length}"
        )
    return bank


def seen_names(recipe: Recipe, plan: TrainingPlan) -> list[str]:
    """The training classes as a checkpoint names them: with all synonyms, where shared names decide what is seen."""
    if recipe.seen_by == "name":
        return [",".join((c.name, *c.synonyms)) for c in plan.classes]
    return [c.name for c in plan.classes]


def initial_network(
    recipe: Recipe, start: Checkpoint | None = None, backbone: dict[str, torch.Tensor] | None = None
) -> Network:
    """The network before its first step: seeded weights, the backbone from where the recipe says, parts of it frozen.

    Args:
        start: the checkpoint of `training.start`; it takes the place of the backbone's weights.
        backbone: the weights of the file that `training.backbone_weights` names, where it names one.

    Raises:
        ValueError: the weights do not fit.
    """
    torch.manual_seed(recipe.training.seed)
    network = build_network(recipe.model)
    if start is not None:
        start_from(network, start)
    elif backbone is not None:
        network.backbone.load_state_dict(backbone, strict=False)  # counters of batch norm stay as they are
    elif recipe.training.backbone_weights == PACKAGED_BACKBONE:
        fill_by_order(network.backbone, load_efficientnet().state_dict())
    for name, parameter in network.backbone.named_parameters():
        if name.startswith(recipe.training.frozen):
            parameter.requires_grad_(False)
    return network


def start_from(network: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Copy the weights of a checkpoint; parts of the network that it lacks keep theirs.

    Raises:
        ValueError: it holds tensors that the network lacks or has in another shape.
    """
    target = network.state_dict()
    for name, value in checkpoint.state.items():
        if name not in target or target[name].shape != value.shape:
            shape = tuple(target[name].shape) if name in target else "no such tensor"
            raise ValueError(
                f"training.start {checkpoint.origin!r} holds {name!r} of shape {tuple(value.shape)}, the network has "
                f"{shape}; start from a checkpoint of the same model"
            )
    network.load_state_dict({**target, **checkpoint.state})


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
                plan, first_sample + int(i) * world + rank, training.augmentation, training.seed, read_bytes
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


def train_worker(config: dict[str, Any]) -> None:
    """One training worker, on its own machine with its own device."""
    recipe = recipe_from_json(config["recipe"], origin="training request")
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(config["threads"] or os.cpu_count() or 1)
    plan: TrainingPlan = ray.get(config["plan"])
    start, backbone = (ray.get(config[key]) if config[key] else None for key in ("start", "backbone"))
    network = initial_network(recipe, start, backbone).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    bank = training_bank(recipe, plan, device, network)
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
    tracker = _ProgressTracker(recipe, queue, first, config["report_every_s"], world)

    def on_step(report: StepReport) -> None:
        tracker.add(report)
        if report.step % recipe.training.checkpoint_every and report.step != recipe.training.steps:
            return
        metrics = {"step": report.step, "loss": report.loss, **report.terms}
        if rank != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "checkpoint"
            save_checkpoint(folder, recipe, network, seen_names(recipe, plan))
            state = {"optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(), "step": report.step}
            torch.save(state, folder / STATE)
            (folder / "progress.json").write_text(json.dumps(tracker.history))
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def mean_count(count: float) -> float:
        if world == 1:
            return float(count)
        total = torch.tensor(float(count), device=device)
        torch.distributed.all_reduce(total)
        return float(total) / world

    owners = bank.class_of_row
    batches = _batches(
        config["plan"], recipe, first * recipe.training.batch_size, rank, world, config["decode_tasks"]
    )
    train_steps(
        wrapped,
        batches,
        torch.from_numpy(bank.embeddings).to(device),
        optimizer,
        recipe.model,
        recipe.training,
        class_of_row_R=None if owners is None else torch.from_numpy(owners).to(device),
        first_step=first,
        on_step=on_step,
        mean_count=mean_count,
    )


class _ProgressTracker:
    """Means of the last steps, speed and time left; put into the queue every few seconds."""

    def __init__(self, recipe: Recipe, queue: Queue | None, first: int, every_s: float, world: int) -> None:
        self.recipe, self.queue, self.every_s, self.world = recipe, queue, every_s, world
        self.history: list[dict[str, float]] = []
        self.recent: list[StepReport] = []
        self.last_step, self.last_time = first, time.monotonic()

    def add(self, report: StepReport) -> None:
        """Add the numbers of one step; report if the interval has passed."""
        self.recent.append(report)
        now = time.monotonic()
        steps = self.recipe.training.steps
        if self.queue is None or (now - self.last_time < self.every_s and report.step != steps):
            return
        rate = (report.step - self.last_step) / max(now - self.last_time, 1e-9)
        terms = {k: float(np.mean([r.terms[k] for r in self.recent])) for k in report.terms}
        progress = TrainingProgress(
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
