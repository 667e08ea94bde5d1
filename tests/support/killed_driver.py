"""A labelling run of its own process that is killed at points: `python killed_driver.py PHOTOS FLAGS POINT …`.

FLAGS is a folder; a process (the driver or a worker) that comes to a point and finds no file of its name there makes
it, and is killed. Where a file `in process` is there, the whole run is in one process, without Ray.
"""

import os
import signal
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pipelines.labelling.image_stage
import pipelines.labelling.label
import pipelines.runs.committer
import pipelines.runs.run
import pipelines.tables.delta_writer
from tests.support.colour_labeller import SMALL, colours, request_for
from tests.support.in_process import graphs_in_process


def die_once(flag, pid=None, by=signal.SIGKILL):
    """Kill this process, or another one, if the flag is not there yet."""
    try:
        os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(pid or os.getpid(), by)
    time.sleep(60)


def around(module, name, before=lambda: None, after=lambda: None):
    """Put something before and behind a function."""
    inner = getattr(module, name)

    def outer(*given, **named):
        before()
        result = inner(*given, **named)
        after()
        return result

    setattr(module, name, outer)


def arm(point, flag):
    """Set the trap of a driver."""
    if point == "driver before a file is written":
        around(pipelines.runs.run, "iterate_with_timeout", before=lambda: die_once(flag))
    elif point == "driver with files that are not committed":
        around(pipelines.runs.committer.Committer, "add", after=lambda: die_once(flag))
    elif point == "driver between the tables":
        around(pipelines.runs.committer, "publish", after=lambda: die_once(flag))
    elif point == "driver during a commit":

        def soon():
            threading.Timer(0.002, die_once, [flag]).start()

        around(pipelines.tables.delta_writer, "_commit", before=soon)
    elif point == "driver after a commit":
        around(pipelines.runs.committer.Committer, "commit", after=lambda: die_once(flag))


def arm_workers(before, after):
    """Set the traps of the tasks that write files; both are flags."""
    write = pipelines.labelling.image_stage.write_tables

    def writes_and_dies(batch, **named):
        die_once(before)
        written = write(batch, **named)
        die_once(after)
        return written

    writes_and_dies.__module__ = "__main__"  # so that it travels by value, with `die_once`
    pipelines.labelling.image_stage.write_tables = writes_and_dies


def child_raylet(pid):
    """Whether a process is a raylet that this process started."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        parent = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]
    except OSError:
        return False
    return words[0].endswith("/raylet") and int(parent) == os.getpid()


def main(photos, flags, *points):
    """Run it."""
    flag = {point: Path(flags) / point for point in points}

    def kill_raylet(progress):
        pids = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        (raylet,) = [int(pid) for pid in pids if child_raylet(pid)]
        die_once(flag["raylet"], raylet)

    for point in points:
        arm(point, flag[point])
    if "worker before a file is written" in points:
        arm_workers(flag["worker before a file is written"], flag["worker after a file is written"])
    model = colours(kill_once=flag.get("actor"))
    show = kill_raylet if "raylet" in points else None
    with graphs_in_process() if (Path(flags) / "in process").exists() else nullcontext():
        pipelines.labelling.label.label(request_for(Path(photos)), SMALL, model=model, on_progress=show)


if __name__ == "__main__":
    main(*sys.argv[1:])
