"""Progress on standard error: a bar in a terminal, else a line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from pipelines.runs.run import Progress

LINE_INTERVAL_S = 5.0
"""Seconds between lines of progress where standard error is no terminal."""


@contextmanager
def progress_bar(activity: str) -> Iterator[Callable[[Progress], None]]:
    """A function that shows progress.

    Progress without `seconds` is timed from the start of the bar; without `total`, images are counted only.

    Args:
        activity: label of the bar, such as "labelling".
    """
    began = time.monotonic()
    if not sys.stderr.isatty():
        write = _line_writer()
        yield lambda progress: write(_timed(progress, began))
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = TextColumn(activity), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
    with Bar(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("waiting for the first images", total=None)

        def show(progress: Progress) -> None:
            description = _rate(_timed(progress, began))
            bar.update(task, total=progress.total, completed=progress.done, description=description)

        yield show


def _timed(progress: Progress, began: float) -> Progress:
    if progress.seconds is not None:
        return progress
    return replace(progress, seconds=time.monotonic() - began)


def _line_writer() -> Callable[[Progress], None]:
    """A function that writes a line for the first progress, the last, and at intervals between them."""
    last = float("-inf")

    def write(progress: Progress) -> None:
        nonlocal last
        seconds = progress.seconds or 0.0
        if seconds - last >= LINE_INTERVAL_S or progress.done == progress.total:
            last = seconds
            count = f"{progress.done}" if progress.total is None else f"{progress.done}/{progress.total}"
            sys.stderr.write(f"{count} images, {_rate(progress)}\n")
            sys.stderr.flush()

    return write


def _rate(progress: Progress) -> str:
    """Speed, time left and failures, in words."""
    remaining = f", {clock(progress.remaining_s)} left" if progress.remaining_s is not None else ""
    failed = f", {progress.failed} failed" if progress.failed else ""
    return f"{progress.images_per_second:.2f} images/s{remaining}{failed}"


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
