"""What a door that runs over images tells meanwhile and at the end, on standard error."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipelines.runs.run import Progress, RunResult

LINE_EVERY_S = 5.0
"""Seconds between lines of progress where standard error is no terminal."""


def run_summary(result: RunResult, done: str) -> str:
    """What a run did, in one line.

    Args:
        done: what was done to the images, as `labelled`.
    """
    before = (
        f" ({result.failed_before} of them failed, for `zs3 retry --out {shlex.quote(result.out)}`)"
        if result.failed_before
        else ""
    )
    return (
        f"{result.images} images {done}, {result.failed} failed, {result.skipped} skipped as done before{before}; "
        f"{result.seconds:.1f} s, {result.images_per_second:.2f} images/s, "
        f"after {result.startup_seconds:.1f} s of start-up"
    )


@contextmanager
def progress(doing: str) -> Iterator[Callable[[Progress], None]]:
    """A function that shows progress on standard error: a bar in a terminal, else a line now and then.

    Args:
        doing: what is being done, for the bar.
    """
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = TextColumn(doing), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")
    with Bar(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda seen: bar.update(task, total=seen.total, completed=seen.done, description=_rate(seen))


def _lines() -> Callable[[Progress], None]:
    """A function that writes a line for the first, the last, and every now and then."""
    last = float("-inf")

    def show(seen: Progress) -> None:
        nonlocal last
        if seen.seconds - last >= LINE_EVERY_S or seen.done == seen.total:
            last = seen.seconds
            sys.stderr.write(f"{seen.done}/{seen.total} images, {_rate(seen)}\n")
            sys.stderr.flush()

    return show


def _rate(seen: Progress) -> str:
    """Speed, time left and failures, in words."""
    left = f", {clock(seen.remaining_s)} left" if seen.remaining_s is not None else ""
    failed = f", {seen.failed} failed" if seen.failed else ""
    return f"{seen.images_per_second:.2f} images/s{left}{failed}"


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
