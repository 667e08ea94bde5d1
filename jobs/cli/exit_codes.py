"""One way for every door to end: an exit code, and one line on standard error when something is wrong.

The codes: 0 all was done, 1 stopped by an error, 2 wrong usage, 3 done but some images failed, 130
interrupted. `ZS3_DEBUG=1` shows the traceback.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable

DONE, STOPPED, WRONG_USAGE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130

TELLING = (ValueError, OSError, RuntimeError)
"""Errors whose message was written for the reader; of all others the kind is told too."""

_RAISED = re.compile(r"^([A-Za-z_][\w.]*(?:Error|Exception)): (.+)$", re.MULTILINE)
"""The line of a traceback that says what was raised."""


def guarded(action: Callable[[], int]) -> int:
    """The exit code of `action`, whose errors become one line on standard error.

    Args:
        action: the door's work; `SystemExit` passes as the exit code it carries.
    """
    try:
        return action()
    except SystemExit as ending:  # tyro: 0 after --help, 2 for wrong usage
        return ending.code if isinstance(ending.code, int) else STOPPED if ending.code else DONE
    except KeyboardInterrupt:
        sys.stderr.write("zs3: interrupted; what was finished is kept, and the same command continues it\n")
        return INTERRUPTED
    except Exception as error:
        if os.environ.get("ZS3_DEBUG"):
            traceback.print_exc()
        sys.stderr.write(f"zs3: error: {one_line(error)}\n")
        return STOPPED


def one_line(error: BaseException) -> str:
    """What went wrong in one line; of a failure on the cluster, the error that our code raised there."""
    if type(error).__module__.startswith("ray."):
        return _raised_on_cluster(error)
    message = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename:
        message = f"{error.filename}: {error.strerror}"
    if isinstance(error, TELLING) and message:
        return message
    return f"{type(error).__name__}: {message or 'no message'} (ZS3_DEBUG=1 shows where)"


def _raised_on_cluster(error: BaseException) -> str:
    """The last error of ours in Ray's report, which holds the traceback of a task or actor as text alone."""
    raised = [found for found in _RAISED.findall(str(error)) if not found[0].startswith("ray.")]
    if not raised:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]} (ZS3_DEBUG=1 shows all)"
    kind, message = raised[-1]
    return message if kind in {"ValueError", "RuntimeError"} else f"{kind}: {message}"
