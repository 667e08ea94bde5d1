"""SIGTERM is an exception, also after Ray has started, and waits for the end of a commit."""

import os
import signal
import subprocess
import sys

import pytest

from pipelines.termination import (
    TERMINATED,
    Terminated,
    sigterm_raises,
    sigterm_raises_afterwards,
    uninterrupted,
)


@pytest.fixture(autouse=True)
def default_handler():
    """SIGTERM as a fresh process handles it; the Ray of other tests has installed a handler of its own."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def test_sigterm_waits_for_the_end_of_a_block_and_is_then_raised_once():
    done = []
    with pytest.raises(Terminated) as ended, sigterm_raises():
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("committed")
        done.append("never reached")
    assert done == ["committed"] and ended.value.code == TERMINATED == 143


def test_a_second_interrupt_ends_a_block_that_hangs():
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second interrupt was swallowed")


def test_the_handler_of_a_program_stays_and_that_of_a_block_does_not():
    before = signal.getsignal(signal.SIGTERM)
    seen = []
    try:
        signal.signal(signal.SIGTERM, lambda *_: seen.append("own"))
        with sigterm_raises_afterwards():
            signal.signal(signal.SIGTERM, lambda *_: seen.append("of the block"))
        signal.raise_signal(signal.SIGTERM)
        assert seen == ["own"]
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with sigterm_raises_afterwards():
            signal.signal(signal.SIGTERM, lambda *_: seen.append("of the block"))
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("where", "code", "line"),
    [
        (
            "os.getpid()",
            143,
            "zs3: ended by SIGTERM; what was finished is kept, and the same command continues it\n",
        )
    ],
)
def test_a_command_that_gets_sigterm_writes_one_line(repo, where, code, line):
    program = (
        "import os, signal, sys, time; from jobs.cli.exit_codes import guarded\n"
        f"sys.exit(guarded(lambda: os.kill({where}, signal.SIGTERM) or time.sleep(60)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=repo, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", line)
