"""Stops a run that gives no result for too long, with an error that names the state of each stage."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

MAX_WAITING = 64
"""Results that may wait to be taken."""

PAUSE_S = 5.0
"""Seconds between calls of `while_waiting`."""


class StalledError(RuntimeError):
    """No result came for too long."""


def iterate_with_timeout(
    stream: Iterator[T],
    timeout_s: float,
    state: Callable[[], str],
    while_waiting: Callable[[], None] = lambda: None,
) -> Iterator[T]:
    """The values of a stream, which a thread of its own reads, so that waiting for it can end.

    Args:
        timeout_s: seconds to wait for a value.
        state: describes the state of each stage, for the error.
        while_waiting: called every few seconds while no value comes.

    Raises:
        StalledError: no value came within `timeout_s`.
        Exception: what the stream raised.
    """
    waiting: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(MAX_WAITING)
    stopped = threading.Event()

    def put(kind: str, value: T | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                waiting.put((kind, value), timeout=0.5)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for value in stream:
                if not put("value", value):
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    threading.Thread(target=read, name="zs3-results", daemon=True).start()
    since = time.monotonic()
    try:
        while True:
            try:
                kind, value = waiting.get(
                    timeout=max(0.0, min(since + timeout_s - time.monotonic(), PAUSE_S))
                )
            except queue.Empty:
                if time.monotonic() - since < timeout_s:
                    while_waiting()
                    continue
                raise StalledError(
                    f"no image was finished for {timeout_s:.0f} s, so the run was stopped; {state()}. What was "
                    "finished is kept, and the same command continues it; --stall-timeout-s sets how long to wait"
                ) from None
            if kind == "end":
                return
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            yield value  # type: ignore[misc]
            since = time.monotonic()
    finally:
        stopped.set()


def graph_state() -> str:
    """How much each stage of the running Ray Data graph has to do, in one line."""
    stages = []
    for executor in _executors():
        for operator, state in (executor._topology or {}).items():
            name = operator.name.removeprefix("MapBatches(").removesuffix(")")
            stages.append(
                f"{name}: {operator.num_active_tasks()} tasks at work, {state.total_enqueued_input_blocks()} blocks "
                f"before it, {state.total_enqueued_output_blocks()} behind"
            )
    return "; ".join(stages) or "no graph is running"


def stop_graphs() -> None:
    """Stop what Ray Data runs in this process."""
    for executor in _executors():
        executor.shutdown(force=True)


def _executors() -> list:  # type: ignore[type-arg]  # a private class of Ray
    """Ray Data's executors of this process. They are threads; before a first result, nothing else refers to them."""
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

    return [thread for thread in threading.enumerate() if isinstance(thread, StreamingExecutor)]
