"""Ends a process that gets SIGTERM in order: an exception is raised where it runs, and a commit is never cut in two."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

TERMINATED = 128 + signal.SIGTERM
"""Exit code of a process that SIGTERM ended: 143."""


class Terminated(SystemExit):
    """SIGTERM came. Where nothing handles it, the process ends with exit code 143."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


def raise_terminated(number: int, frame: FrameType | None) -> None:
    """A signal handler that raises `Terminated` in the main thread."""
    raise Terminated


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """SIGTERM raises `Terminated` in the block, unless the program has a handler of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can install handlers
        return
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, _handler(before))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def sigterm_raises_afterwards() -> Iterator[None]:
    """SIGTERM raises `Terminated` after the block, whatever handler it installs, unless the program had its own."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _handler(before))


def _handler(before: Any) -> Any:
    """What handles SIGTERM where `before` did."""
    return before if callable(before) or before == signal.SIG_IGN else raise_terminated


@contextmanager
def uninterrupted() -> Iterator[None]:
    """SIGINT and SIGTERM wait until the block ends; a second SIGINT does not."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []

    def wait(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and waiting:
            raise KeyboardInterrupt
        waiting.append(number)

    before = {number: signal.signal(number, wait) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        if waiting:
            signal.raise_signal(waiting[0])
