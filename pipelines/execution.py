"""How a run is executed: actors, batches, blocks, and the Ray it runs on. Nothing here changes a result.

Every setting has a default that suits one machine as well as a cluster, so `Execution()` is enough to begin
with.
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
"""Logical CPUs of a reading and decoding task. Unlike the actors' share in any plan, so that Ray never fuses
the two and the plan is the same with and without GPUs."""

WRITE_CPUS = 0.25
"""Logical CPUs of a task that writes table files; it mostly waits for storage."""

RESERVED_CPUS = 1.0
"""Logical CPUs left beside the actors, for tasks that feed and drain them; without it a small machine stands
still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """Execution settings: they change speed and memory, never a result, and are never hashed."""

    num_actors: int | None = None
    """Actors that hold the model; by default one per GPU, or one per machine where there is no GPU."""
    max_actors: int | None = None
    """Actors that the run may grow to, beyond num_actors, while images wait and Ray has room or can get it; by default
    it does not grow. Ray grows pools of GPU actors slowly or not at all, so tell num_actors there."""
    label_selector: str | None = None
    """Labels of the machines that actors may run on, as Ray writes them: market-type=spot, or
    ray.io/accelerator-type=in(L4,A10G),zone=!b. By default any machine."""
    gpus_per_actor: float | None = None
    """GPUs (or a share of one) that an actor takes; by default 1 where Ray has GPUs, else 0."""
    cpus_per_actor: float | None = None
    """Logical CPUs that an actor takes; by default 1 beside a GPU, else all of its machine but one."""
    threads: int | None = None
    """Threads of a model on a CPU; by default all cores of the actor's machine, shared among its actors."""
    batch_size: int = 4
    """Images that go through the model together."""
    images_per_block: int = 32
    """Images that one task reads and decodes; decoded blocks of large photographs are split further."""
    images_per_file: int | None = None
    """Images in one Parquet file; by default a sixteenth of the run, at least 16 and at most 1024."""
    tasks_in_flight: int = 4
    """Blocks that wait at an actor, so that it never waits for one."""
    commit_interval_s: float = 5.0
    """Seconds between commits to a table; about this much work is lost when the driver is killed."""
    images_per_wave: int = 200_000
    """Images that one graph processes; a longer run is a row of graphs, so that nothing on the driver grows with it.
    Models are loaded once a chunk."""
    max_failures: str | None = None
    """Stop when more images fail: a number, or a share such as 5% of those processed so far (of 100 at least). What was
    finished is kept."""
    stall_timeout_s: float = 1800.0
    """Seconds without a finished image after which a run is stopped, and says what each stage is at; long enough for
    machines to come and models to load."""
    ray_address: str | None = None
    """Ray to join; by default RAY_ADDRESS (set inside a Ray job), else a Ray of its own on this machine."""
    object_store_bytes: int = 512 << 20
    """Shared memory of a Ray of its own, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorPlan:
    """The actors of one run, every number settled."""

    num_actors: int
    gpus: float
    cpus: float
    per_machine: int
    """Actors that share a machine, where machines are alike."""
    threads: int | None
    """Threads of each; None shares the cores of the machine."""

    @property
    def device(self) -> str:
        """The torch device of an actor's model."""
        return "cuda" if self.gpus else "cpu"

    @property
    def cpu_threads(self) -> int:
        """Threads of each, on the machine that asks."""
        return self.threads or max(1, cores() // self.per_machine)


def actor_plan(execution: Execution, nodes: Sequence[Mapping[str, float]]) -> ActorPlan:
    """Settings left open, settled by what the Ray in use has.

    Args:
        execution: what was asked for.
        nodes: resources of each machine of the cluster, as in `ray.nodes()[i]["Resources"]`.

    Raises:
        ValueError: a number is not positive, or the label selector is none.
    """
    selected(execution.label_selector)
    for name in (
        "num_actors",
        "max_actors",
        "cpus_per_actor",
        "threads",
        "batch_size",
        "images_per_block",
        "images_per_file",
        "images_per_wave",
        "stall_timeout_s",
    ):
        value = getattr(execution, name)
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
        largest = max((node.get("CPU", 0.0) for node in nodes), default=1.0)
        cpus = 1.0 if gpus and largest > 1 else max(0.5, (largest - RESERVED_CPUS) // per_machine)
    if num_actors * cpus + DECODE_CPUS > all_cpus or num_actors * gpus > all_gpus:
        logger.warning(
            "%d actors of %g CPUs and %g GPUs and a decoding task of %g CPUs do not fit into the %g CPUs and "
            "%g GPUs that Ray has now; it waits for more. Are --num-actors and --cpus-per-actor right?",
            *(num_actors, cpus, gpus, DECODE_CPUS, all_cpus, all_gpus),
        )
    return ActorPlan(
        num_actors=num_actors, gpus=gpus, cpus=cpus, per_machine=per_machine, threads=execution.threads
    )


def actor_options(actors: ActorPlan, execution: Execution, most: int | None = None) -> dict[str, Any]:
    """What `map_batches` is told of its actors: how many there are, where they run, and what each takes.

    Args:
        most: actors that have any use.
    """
    from ray.data import ActorPoolStrategy

    least = min(actors.num_actors, most or actors.num_actors)
    greatest = min(execution.max_actors or least, most or sys.maxsize)
    pool = ActorPoolStrategy(
        min_size=least, max_size=greatest, max_tasks_in_flight_per_actor=execution.tasks_in_flight
    )
    return {
        "compute": pool,
        "label_selector": selected(execution.label_selector),
        "num_cpus": actors.cpus,
        "num_gpus": actors.gpus,
    }


def selected(told: str | None) -> dict[str, str] | None:
    """A label selector as Ray takes it: label → condition; None where none was told.

    Args:
        told: name=condition, separated by commas; those in brackets belong to a condition.

    Raises:
        ValueError: it is not that.
    """
    if told is None:
        return None
    parts = [part.strip().partition("=") for part in re.split(r",(?![^(]*\))", told)]
    if not all(name and condition for name, _, condition in parts):
        raise ValueError(
            f"label_selector is {told!r}; expected name=value pairs separated by commas, such as market-type=spot"
        )
    selector = {name.strip(): condition.strip() for name, _, condition in parts}
    wrong = importlib.import_module("ray._private.label_utils").validate_label_selector(selector)
    if wrong:
        raise ValueError(f"label_selector is {told!r}: {wrong}")
    return selector


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
