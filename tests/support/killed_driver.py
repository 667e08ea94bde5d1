"""A labelling run of its own process that is killed at a point: `python killed_driver.py PHOTOS POINT FLAG`.

FLAG is a file; the process (or a worker of its) that comes to the point and does not find it makes it, and is killed.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pipelines.labelling.image_stage
import pipelines.labelling.label
import pipelines.runs.committer
import pipelines.runs.run
import pipelines.tables.delta_writer
from tests.support.colour_labeller import SMALL, colours, request_for


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
    """Set the trap, and give the model to label with."""
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
    elif point.startswith("worker"):
        write = pipelines.labelling.image_stage.write_tables

        def writes_and_dies(batch, **named):
            if "before" in point:
                die_once(flag)
            written = write(batch, **named)
            die_once(flag)
            return written

        writes_and_dies.__module__ = "__main__"  # so that it travels by value, with `die_once`
        pipelines.labelling.image_stage.write_tables = writes_and_dies
    return colours(kill_once=flag if point == "actor" else None)


def child_raylet(pid):
    """Whether a process is a raylet that this process started."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        parent = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]
    except OSError:
        return False
    return words[0].endswith("/raylet") and int(parent) == os.getpid()


def main(photos, point, flag):
    """Run it."""

    def kill_raylet(progress):
        pids = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        (raylet,) = [int(pid) for pid in pids if child_raylet(pid)]
        die_once(flag, raylet)

    model = colours() if point == "raylet" else arm(point, flag)
    show = kill_raylet if point == "raylet" else None
    pipelines.labelling.label.label(request_for(Path(photos)), SMALL, model=model, on_progress=show)


if __name__ == "__main__":
    main(*sys.argv[1:])
