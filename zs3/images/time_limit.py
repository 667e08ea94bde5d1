"""A limit on the time that decoding a picture may take: a small file can keep a decoder busy for minutes."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")

CHECK_S = 0.5
"""Seconds between two looks at the clock."""


class TimeLimitError(RuntimeError):
    """A call took too long."""


class _StopThread(BaseException):
    """Raised in a thread that is to end; no `except Exception` catches it."""


def call_within(limit_s: float, function: Callable[[], T]) -> T:
    """The result of a function, which runs in a thread of its own.

    Where that thread has taken more than `limit_s` seconds of CPU, it is stopped at its next step in Python, and is not
    waited for: code of a library goes on until it returns. CPU time does not pass while a busy machine lets the thread
    wait.

    Raises:
        TimeLimitError: it took too long.
        BaseException: what the function raised.
    """
    outcome: Future[T] = Future()
    clocks: list[int] = []

    def run() -> None:
        clocks.append(time.pthread_getcpuclockid(threading.get_ident()))
        try:
            result = function()
        except BaseException as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while not wait([outcome], CHECK_S).done:
        if clocks and _seconds(clocks[0]) > limit_s:
            stop = ctypes.py_object(_StopThread)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), stop)
            raise TimeLimitError(f"took more than {limit_s:.0f} s of CPU time")
    return outcome.result()


def _seconds(clock: int) -> float:
    """CPU time of a thread; 0 if it has just ended."""
    try:
        return time.clock_gettime(clock)
    except OSError:
        return 0.0
