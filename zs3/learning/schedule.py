"""Learning-rate schedules: factors on the base learning rate, pure functions of the step."""

import math
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSettings:
    """How the learning rate runs over training."""

    kind: Literal["poly", "cosine", "steps"] = "poly"
    """poly (published) falls like (1 - progress)^power; cosine falls along half a cosine wave to `floor`; steps falls
    to a tenth at each of `falls_at`."""
    power: float = 0.9
    """Exponent of poly."""
    warmup_steps: int = 0
    """Steps over which the factor first climbs linearly from near 0; 0 as published."""
    floor: float = 0.0
    """Factor at the end of cosine, in [0, 1]."""
    falls_at: tuple[int, ...] = field(default=(), metadata={"later": True})
    """Steps, from 0, from which on the factor of steps is a tenth of what it was."""


def poly(step: int, total_steps: int, *, power: float = 0.9) -> float:
    """(1 - step / total_steps)^power, in [0, 1]; step counts from 0."""
    return (1 - min(step, total_steps) / total_steps) ** power


def cosine(step: int, total_steps: int, *, floor: float = 0.0) -> float:
    """Half a cosine wave from 1 to `floor`; step counts from 0."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(step, total_steps) / total_steps))


def learning_rate_factor(settings: ScheduleSettings, step: int, total_steps: int) -> float:
    """What to multiply every base learning rate with at a step (from 0) of `total_steps`, in [0, 1].

    Raises:
        ValueError: the warm-up is not shorter than the training.
    """
    if not 0 <= settings.warmup_steps < total_steps:
        raise ValueError(
            f"warmup_steps is {settings.warmup_steps}, but training has {total_steps} steps; "
            "the warm-up must be shorter than the training"
        )
    if step < settings.warmup_steps:
        return (step + 1) / (settings.warmup_steps + 1)
    if settings.kind == "steps":
        return float(0.1 ** sum(step >= place for place in settings.falls_at))
    step, total_steps = step - settings.warmup_steps, total_steps - settings.warmup_steps
    if settings.kind == "poly":
        return poly(step, total_steps, power=settings.power)
    return cosine(step, total_steps, floor=settings.floor)
