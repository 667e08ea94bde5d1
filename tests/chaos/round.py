"""One round of chaos: a run whose parts are killed while it goes, given again until it ends, and what is wrong then."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from pipelines.storage.objects import storage_options
from tests.chaos.plan import Blow
from tests.servers.object_store import ObjectStore
from tests.servers.ray_nodes import Node, Nodes
from tests.support.processes import kill

ENDED = (0, 3)
"""Exit codes of a command that did all it could."""

MAX_GIVEN = 12
"""Commands in a round; one that still does not end then is stuck."""

ROUND_TIMEOUT_S = 600.0
WAIT_FOR_VICTIM_S = 20.0
HANG = "no image was finished for"
"""What a run says that the watchdog had to stop."""

Tables = Mapping[str, list[dict[str, Any]]]


@dataclass(kw_only=True)
class World:
    """What a round happens in; it outlives the round, though parts of it are killed and replaced."""

    nodes: Nodes
    store: ObjectStore
    command: Callable[[str], list[str]]
    """The command that labels to a uri."""
    environment: Mapping[str, str]


@dataclass(kw_only=True)
class Round:
    """How a round went."""

    seed: int
    hits: list[str] = field(default_factory=list)
    """What was killed, and when, in seconds since the command was first given."""
    restarts: int = 0
    """How often the command was given again."""
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    """Why it failed; nothing where it did not."""

    @property
    def line(self) -> str:
        """All of it in one line."""
        ending = "FAILED: " + "; ".join(self.wrong) if self.wrong else "tables equal"
        return (
            f"seed {self.seed}: {', '.join(self.hits) or 'nothing killed'}; given again {self.restarts} times; "
            f"{self.seconds:.0f} s; {ending}"
        )


class Command:
    """The command of a round, given again when it was killed or stopped by an error."""

    def __init__(self, world: World, out: str, log: Path) -> None:
        self._world, self._out, self._log = world, out, log
        self.given = 0
        self._began = time.monotonic()
        self._process = self._give()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def elapsed_s(self) -> float:
        """Seconds since it was first given."""
        return time.monotonic() - self._began

    def ended(self) -> bool:
        """Whether it did all it could; gives it again if it ended otherwise.

        Raises:
            RuntimeError: that happened too often, or all takes too long.
        """
        code = self._process.poll()
        if code in ENDED:
            return True
        if self.elapsed_s > ROUND_TIMEOUT_S:
            raise RuntimeError(f"still not done after {ROUND_TIMEOUT_S:.0f} s")
        if code is not None:
            if self.given >= MAX_GIVEN:
                raise RuntimeError(f"given {self.given} times, the last one ended with exit code {code}")
            self._process = self._give()
        return False

    def close(self) -> None:
        """End it, if it goes."""
        self._process.kill()
        self._process.wait()

    def _give(self) -> subprocess.Popen[bytes]:
        self.given += 1
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._world.command(self._out), env=dict(self._world.environment), stdout=log, stderr=log
            )


def carried_out(seed: int, blows: Sequence[Blow], world: World, out: str, log: Path, wanted: Tables) -> Round:
    """One round.

    Args:
        out: uri that the tables go to; nothing is there yet.
        log: file that gets what the commands say.
        wanted: the tables of an uninterrupted run.
    """
    done = Round(seed=seed)
    command = Command(world, out, log)
    away_until = 0.0
    try:
        pending, since = list(blows), time.monotonic()
        while not command.ended() or not world.store.pid:
            now = time.monotonic()
            if not world.store.pid and now >= away_until:
                world.store.start()
            world.nodes.mend()
            if pending and now - since >= pending[0].pause_s:
                blow = pending[0]
                hit = strike(blow, world, command.pid)
                if hit:
                    done.hits.append(f"{hit} at {command.elapsed_s:.1f} s")
                    if blow.kind == "storage":
                        away_until = time.monotonic() + blow.outage_s
                if hit or now - since > blow.pause_s + WAIT_FOR_VICTIM_S:
                    pending.pop(0)
                    since = time.monotonic()
            time.sleep(0.02)
        done.wrong += differences(read_tables(out), wanted)
    except RuntimeError as error:
        done.wrong.append(str(error))
    finally:
        command.close()
        if not world.store.pid:
            world.store.start()
    if HANG in log.read_text(errors="replace"):
        done.wrong.append("a run fell silent and had to be stopped")
    done.restarts, done.seconds = command.given - 1, command.elapsed_s
    return done


def strike(blow: Blow, world: World, driver: int) -> str:
    """Kill what is to be killed; what it was, or nothing where there is none now."""
    nodes = world.nodes
    if blow.kind == "driver":
        kill(driver)
        return "driver"
    if blow.kind == "storage":
        if not world.store.pid:
            return ""
        world.store.kill()
        return f"storage for {blow.outage_s:.1f} s"
    if blow.kind in ("raylet", "node"):
        ready = [node for node in nodes.workers if node.raylet]
        if not ready:
            return ""
        node = _one_of(ready, blow)
        assert node.raylet
        if blow.kind == "node":
            node.kill()
        else:
            kill(node.raylet)
        nodes.lost(node)
        nodes.join()
        return blow.kind
    found = workers([world.nodes.head, *nodes.workers], actors=blow.kind == "actor")
    if not found:
        return ""
    pid, name = _one_of(sorted(found.items()), blow)
    kill(pid)
    return f"{blow.kind} {name}".removesuffix(" LabelActor")


def workers(nodes: Sequence[Node | None], *, actors: bool) -> dict[int, str]:
    """Process id → what it is at, of Ray's processes that hold a model, or of those that are at a task."""
    found = {}
    for node in nodes:
        for pid, command in (node.processes() if node else {}).items():
            if command.startswith("ray::") and ("LabelActor" in command) == actors:
                for name in ("LabelActor", "read_and_decode", "write_tables"):
                    if name in command:
                        found[pid] = name
    return found


def _one_of(things: Sequence[Any], blow: Blow) -> Any:
    return things[int(blow.which * len(things))]


def read_tables(out: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of all tables of a run, each in an order of its own."""
    held = {}
    for name, key in (
        ("labels", ("image_id", "class_id")),
        ("failures", ("image_id",)),
        ("shards", ("digest",)),
    ):
        table = DeltaTable(f"{out}/{name}", storage_options=storage_options(out)).to_pyarrow_table()
        held[name] = sorted(table.to_pylist(), key=lambda row: tuple(row[column] for column in key))
    return held


def differences(held: Tables, wanted: Tables) -> list[str]:
    """What is wrong with the tables of a run, in words; nothing where they equal those that are wanted."""
    wrong = []
    for name, rows in wanted.items():
        if held[name] == rows:
            continue
        have, want = [[str(row) for row in side] for side in (held[name], rows)]
        missing, more = set(want) - set(have), set(have) - set(want)
        wrong.append(
            f"{name} has {len(have)} rows instead of {len(want)}, {len(have) - len(set(have))} of them twice; "
            f"{len(missing)} are missing, such as {min(missing, default='none')[:200]}; "
            f"{len(more)} are others, such as {min(more, default='none')[:200]}"
        )
    return wrong
