"""How every command ends: an exit code, and one line on standard error when something is wrong.

The codes: 0 all is done, 1 stopped by an error, 2 wrong usage, 3 done but some images failed, 130 interrupted.
`ZS3_DEBUG=1` prints the traceback.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable

DONE, STOPPED, WRONG_USAGE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130

SELF_EXPLANATORY = (ValueError, OSError, RuntimeError)
"""Errors whose message is enough for the reader; for all others the type is printed too."""

_RAISED = re.compile(r"^([A-Za-z_][\w.]*(?:Error|Exception)): (.+)$", re.MULTILINE)
"""The line of a traceback that holds the error."""


def guarded(action: Callable[[], int]) -> int:
    """The exit code of `action`; an error becomes one line on standard error, `SystemExit` its code."""
    try:
        return action()
    except SystemExit as end:  # tyro: 0 after --help, 2 for wrong usage
        return end.code if isinstance(end.code, int) else STOPPED if end.code else DONE
    except KeyboardInterrupt:
        sys.stderr.write("zs3: interrupted; what was finished is kept, and the same command continues it\n")
        return INTERRUPTED
    except Exception as error:
        if os.environ.get("ZS3_DEBUG"):
            traceback.print_exc()
        sys.stderr.write(f"zs3: error: {one_line(error)}\n")
        return STOPPED


def one_line(error: BaseException) -> str:
    """The message of an error in one line; for a failure on the cluster, that of the error raised by zs3 there."""
    if type(error).__module__.startswith("ray."):
        return _cluster_error(error)
    message = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename:
        message = f"{error.filename}: {error.strerror}"
    if isinstance(error, SELF_EXPLANATORY) and message:
        return message
    return f"{type(error).__name__}: {message or 'no message'} (ZS3_DEBUG=1 shows where)"


def _cluster_error(error: BaseException) -> str:
    """The last error in Ray's report that is not one of Ray; the report holds the traceback of a task as text."""
    raised = [match for match in _RAISED.findall(str(error)) if not match[0].startswith("ray.")]
    if not raised:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]} (ZS3_DEBUG=1 shows all)"
    kind, message = raised[-1]
    return message if kind in {"ValueError", "RuntimeError"} else f"{kind}: {message}"
