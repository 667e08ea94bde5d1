"""How every command ends: an exit code, and one line on standard error when something is wrong.

The codes: 0 all is done, 1 stopped by an error, 2 wrong usage, 3 done but some images failed, 130 interrupted,
141 the reader of the output closed it, 143 ended by SIGTERM.
`ZS3_DEBUG=1` prints the traceback.
"""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from jobs.cli.terminal import write_messages
from pipelines.termination import TERMINATED, Terminated, sigterm_raises

DONE, STOPPED, WRONG_USAGE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130

OUTPUT_CLOSED = 128 + signal.SIGPIPE
"""As a shell reports a program whose output went to `head`: 141."""

SELF_EXPLANATORY = (ValueError, OSError, RuntimeError)
"""Errors whose message is enough for the reader; for all others the type is printed too."""

_RAISED = re.compile(r"^([A-Za-z_][\w.]*(?:Error|Exception)): (.+)$", re.MULTILINE)
"""The line of a traceback that holds the error."""


def guarded(action: Callable[[], int]) -> int:
    """The exit code of `action`; an error becomes one line on standard error, `SystemExit` its code."""
    with sigterm_raises():
        code = _exit_code(action)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = OUTPUT_CLOSED
    for stream in (sys.stdout, sys.stderr):
        if _is_closed(stream):  # Python writes what is left in its buffers when it ends
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    return code


def _exit_code(action: Callable[[], int]) -> int:
    try:
        return action()
    except Terminated:
        _write_line("zs3: ended by SIGTERM; what was finished is kept, and the same command continues it")
        return TERMINATED
    except SystemExit as end:  # tyro: 0 after --help, 2 for wrong usage
        if isinstance(end.__context__, BrokenPipeError):  # rich
            return OUTPUT_CLOSED
        return end.code if isinstance(end.code, int) else STOPPED if end.code else DONE
    except KeyboardInterrupt:
        _write_line("zs3: interrupted; what was finished is kept, and the same command continues it")
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and (_is_closed(sys.stdout) or _is_closed(sys.stderr)):
            return OUTPUT_CLOSED
        if os.environ.get("ZS3_DEBUG"):
            write_messages(traceback.format_exc().splitlines())
        _write_line(f"zs3: error: {one_line(error)}")
        return STOPPED


def _write_line(text: str) -> None:
    with suppress(OSError):
        write_messages([text])


def _is_closed(stream: TextIO) -> bool:
    """Whether a stream is a pipe that nothing reads any more."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # errors are reported whatever is asked for
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError):  # replaced by something without a file
        return False


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
