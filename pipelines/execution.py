"""How a run is executed: actors, batches, blocks, and the Ray to join. Nothing here changes a result.

Every setting has a default that suits one machine as well as a cluster, so `Execution()` is enough to begin with.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

DECODE_CPUS = 0.5
"""Logical CPUs of a task that reads and decodes. No actor takes the same number, so Ray never fuses the two, and the
graph is the same with and without GPUs."""

WRITE_CPUS = 0.25
"""Logical CPUs of a task that writes table files; it mostly waits for storage."""

RESERVED_CPUS = 1.0
"""Logical CPUs that actors leave to the tasks before and after them; without it a small machine makes no progress."""

_POSITIVE = [
    "num_actors",
    "max_actors",
    "cpus_per_actor",
    "threads",
    "batch_size",
    "images_per_block",
    "images_per_file",
    "images_per_wave",
    "stall_timeout_s",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RaySettings:
    """The Ray that a command joins or starts."""

    ray_address: str | None = None
    """Ray cluster to join. By default RAY_ADDRESS (set inside a Ray job), or a new Ray on this machine."""
    object_store_bytes: int = 512 << 20
    """Shared memory of a new Ray on this machine, in bytes."""

    @property
    def requested_cpus(self) -> float:
        """CPUs that a new Ray on this machine must have, whatever the machine's cores."""
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorSettings(RaySettings):
    """The actors that hold a model, and the images on their way to them."""

    num_actors: int | None = None
    """Actors that hold the model. By default one per GPU, or one per machine where there is no GPU."""
    max_actors: int | None = None
    """Actors that Ray may grow to while images wait; by default num_actors. On GPUs it hardly grows: set num_actors."""
    label_selector: str | None = None
    """Labels of the machines for actors, as market-type=spot or zone=in(a,b). By default any machine."""
    gpus_per_actor: float | None = None
    """GPUs of an actor, or a share of one. By default 1 where Ray has GPUs, else 0."""
    cpus_per_actor: float | None = None
    """Logical CPUs of an actor. By default 1 with a GPU, else all CPUs of its machine except one."""
    threads: int | None = None
    """Threads of a model on a CPU. By default the cores of its machine, divided by the actors there."""
    batch_size: int = 4
    """Images that an actor processes in one call."""
    images_per_block: int = 32
    """Images that one task reads and decodes; Ray splits large blocks further."""
    tasks_in_flight: int = 4
    """Blocks that wait at an actor, so that it never waits for one."""

    @property
    def requested_cpus(self) -> float:
        """Those of all actors, where both numbers are set."""
        return (self.num_actors or 1) * (self.cpus_per_actor or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution(ActorSettings):
    """Settings of a run that fills tables: they change speed and memory, never a result, and are never hashed."""

    images_per_file: int | None = None
    """Images in one Parquet file. By default a sixteenth of the run, at least 16, at most 1024 (segments: 128)."""
    commit_interval_s: float = 5.0
    """Seconds between commits to a table. A killed run loses about this much work."""
    images_per_wave: int = 200_000
    """Images of one graph. A longer run is split, which bounds the driver's memory; each part loads the model anew."""
    max_failures: str | None = None
    """Stop when more images fail: a number, or a share such as 5% of the images so far (after 100). Results stay."""
    stall_timeout_s: float = 1800.0
    """Stop after this many seconds without a finished image. It must cover adding machines and loading models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorPlan:
    """The actors of one run, with every number chosen."""

    num_actors: int
    gpus: float
    cpus: float
    per_machine: int
    """Actors that share a machine, where machines are alike."""
    threads: int | None
    """Threads of each actor; None divides the cores of the machine."""

    @property
    def device(self) -> str:
        """The torch device of an actor's model."""
        return "cuda" if self.gpus else "cpu"

    @property
    def cpu_threads(self) -> int:
        """Threads of each actor on the machine that calls this."""
        return self.threads or max(1, cores() // self.per_machine)


def actor_plan(execution: ActorSettings, nodes: Sequence[Mapping[str, float]]) -> ActorPlan:
    """The actors of a run: settings as given, the others chosen for the resources of the Ray in use.

    Args:
        nodes: resources of each machine, as `ray_session.cluster_nodes` gives them.

    Raises:
        ValueError: a number is not positive, or the label selector is malformed.
    """
    parse_label_selector(execution.label_selector)
    for name in _POSITIVE:
        value = getattr(execution, name, None)
        if value is not None and value <= 0:
            raise ValueError(
                f"{name} is {value}; expected a positive number, or leave it out for the default"
            )
    all_gpus = sum(node.get("GPU", 0.0) for node in nodes)
    all_cpus = sum(node.get("CPU", 0.0) for node in nodes)
    gpus = execution.gpus_per_actor if execution.gpus_per_actor is not None else float(all_gpus > 0)
    default_actors = int(all_gpus / gpus) if gpus else sum(node.get("CPU", 0.0) > 0 for node in nodes)
    num_actors = execution.num_actors or max(1, default_actors)
    if execution.max_actors is not None and execution.max_actors < num_actors:
        raise ValueError(
            f"max_actors is {execution.max_actors}; expected at least num_actors, which is {num_actors}"
        )
    per_machine = -(-num_actors // max(1, len(nodes)))
    cpus = execution.cpus_per_actor
    if cpus is None:
        max_cpus = max((node.get("CPU", 0.0) for node in nodes), default=1.0)
        cpus = 1.0 if gpus and max_cpus > 1 else max(0.5, (max_cpus - RESERVED_CPUS) // per_machine)
    if num_actors * cpus + DECODE_CPUS > all_cpus or num_actors * gpus > all_gpus:
        logger.warning(
            "%d actors of %g CPUs and %g GPUs and a decoding task of %g CPUs do not fit into the %g CPUs and "
            "%g GPUs that Ray has now; it waits for more. Are --num-actors and --cpus-per-actor right?",
            *(num_actors, cpus, gpus, DECODE_CPUS, all_cpus, all_gpus),
        )
    return ActorPlan(
        num_actors=num_actors, gpus=gpus, cpus=cpus, per_machine=per_machine, threads=execution.threads
    )


def actor_options(
    actors: ActorPlan, execution: ActorSettings, max_useful: int | None = None
) -> dict[str, Any]:
    """Arguments of `map_batches` about its actors: how many, where, and the resources of each.

    Args:
        max_useful: more actors than this would have nothing to do.
    """
    from ray.data import ActorPoolStrategy

    min_size = min(actors.num_actors, max_useful or actors.num_actors)
    max_size = min(execution.max_actors or min_size, max_useful or sys.maxsize)
    pool = ActorPoolStrategy(
        min_size=min_size, max_size=max_size, max_tasks_in_flight_per_actor=execution.tasks_in_flight
    )
    return {
        "compute": pool,
        "label_selector": parse_label_selector(execution.label_selector),
        "num_cpus": actors.cpus,
        "num_gpus": actors.gpus,
    }


def images_per_file(execution: Execution, total: int, max_images: int) -> int:
    """Images in one file: as requested, or a sixteenth of all, at least 16 and at most `max_images`."""
    return execution.images_per_file or min(max_images, max(16, total // 16))


def parse_label_selector(text: str | None) -> dict[str, str] | None:
    """A label selector as Ray takes it: label → condition; None for None.

    Args:
        text: name=condition pairs separated by commas; commas in brackets belong to a condition.
    """
    if text is None:
        return None
    parts = [part.strip().partition("=") for part in re.split(r",(?![^(]*\))", text)]
    if not all(name and condition for name, _, condition in parts):
        raise ValueError(
            f"label_selector is {text!r}; expected name=value pairs separated by commas, such as market-type=spot"
        )
    selector = {name.strip(): condition.strip() for name, _, condition in parts}
    problem = importlib.import_module("ray._private.label_utils").validate_label_selector(selector)
    if problem:
        raise ValueError(f"label_selector is {text!r}: {problem}")
    return selector


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
