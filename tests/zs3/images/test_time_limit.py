"""A picture that keeps its decoder busy is given up, and nothing else is held up by it."""

import threading
import time

import pytest

from zs3.images import codec
from zs3.images.codec import ImageError, decode
from zs3.images.time_limit import TimeLimitError, call_within


def busy() -> None:
    while True:
        pass


def threads() -> int:
    return threading.active_count()


def test_a_call_gives_its_result_or_raises_what_it_raised() -> None:
    assert call_within(10, lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        call_within(10, lambda: 1 // 0)
    with pytest.raises(TimeoutError, match="of the function"):
        call_within(10, lambda: (_ for _ in ()).throw(TimeoutError("of the function")))


def test_waiting_does_not_count_as_time() -> None:
    assert call_within(0.05, lambda: time.sleep(0.7)) is None


def test_a_call_that_takes_too_long_is_stopped_and_its_thread_ends() -> None:
    before = threads()
    with pytest.raises(TimeLimitError, match="took more than 0 s of CPU time"):
        call_within(0.1, busy)
    until = time.monotonic() + 30
    while threads() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert threads() == before


def test_a_plain_ppm_that_is_read_number_by_number_becomes_an_image_error(monkeypatch) -> None:
    monkeypatch.setattr(codec, "_LIMIT_S", 0.2)
    monkeypatch.setattr(codec, "_LIMIT_S_PER_PIXEL", 0)
    with pytest.raises(
        ImageError, match=r"decoding the file of \d+ bytes took more than .* save it anew"
    ) as refusal:
        decode(b"P3 4000 4000 255\n" + b"1 " * 48_000_000)
    assert refusal.value.kind == "unsupported"
