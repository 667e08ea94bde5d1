"""What a round of chaos breaks, and when: all of it drawn from the round's seed, so that a seed replays it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["actor", "task", "raylet", "node", "driver", "storage"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""What can be killed: a process with a model, one that reads or writes, a worker node's raylet, all of a worker node,
the process of the command, the object store."""

BLOWS = 4
"""In one round."""

PAUSE_S = (0.5, 4.0)
"""Least and greatest time between two blows, and before the first, in seconds."""

OUTAGE_S = (0.5, 5.0)
"""Least and greatest time that the store is away, in seconds; reads and commits are tried again for longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """One thing that is killed."""

    pause_s: float
    """Seconds since the blow before it, or since the command was first given; then it waits for its victim to come."""
    kind: Kind
    which: float
    """Which of several: a share in [0, 1) of their list in order of their process ids."""
    outage_s: float
    """Seconds after which a killed store is started again."""


def planned(seed: int, blows: int = BLOWS) -> list[Blow]:
    """The blows of the round with this seed, in order."""
    draw = random.Random(seed)
    return [
        Blow(
            pause_s=round(draw.uniform(*PAUSE_S), 2),
            kind=draw.choice(KINDS),
            which=draw.random(),
            outage_s=round(draw.uniform(*OUTAGE_S), 2),
        )
        for _ in range(blows)
    ]
