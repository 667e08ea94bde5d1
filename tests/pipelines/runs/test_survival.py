"""Images that kill their process, silence, too many failures: a run ends in rows or in one line, and never hangs."""

import ctypes
import json
import os
import signal
import threading

import pyarrow as pa
import pytest

import pipelines.labelling.image_stage
import pipelines.runs.run
from pipelines.execution import Execution
from pipelines.labelling.image_stage import read_and_decode
from pipelines.labelling.label import label, prepare_label
from pipelines.runs.crash_journal import MAX_CRASHES, CrashJournal, crash_error, remove_journals
from pipelines.runs.run import failure_limit
from pipelines.runs.stall_timeout import StalledError, iterate_with_timeout
from tests.support.colour_labeller import SMALL, colours, expected, make_photos, picture, request_for, table

YELLOW = (250, 250, 0)


def deadly():
    """A model whose process dies of pictures with a yellow corner; nested, so that it travels by value."""
    inner = colours()

    def load(checkpoint, vocabulary, device):
        model = inner.load(checkpoint, vocabulary, device)

        class Deadly:
            seen, digest = model.seen, model.digest

            def label(self, pictures):
                if any(tuple(picture[0, 0]) == (250, 250, 0) for picture in pictures):
                    ctypes.string_at(
                        0
                    )  # a true fault: a signal that is sent may be handled by another thread
                return model.label(pictures)

        return Deadly()

    return type(inner)(load=load, describe=inner.describe)


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path, 7)


def test_an_image_that_kills_its_process_is_given_up_and_costs_its_neighbours_nothing(ray_session, photos):
    picture(photos / "i3x.png", corner=YELLOW)
    request = request_for(photos)
    result = label(request, SMALL, model=deadly())
    assert (result.images, result.failed) == (7, 1)
    (failure,) = table(request, "failures")
    assert (failure["image_id"], failure["stage"], failure["error_type"]) == ("i3x", "label", "crash")
    assert f"the process died {MAX_CRASHES} times while it worked on this image alone" in failure["message"]
    (photos / "i3x.png").unlink()
    assert table(request) == expected(photos)


def test_an_image_that_kills_the_process_that_decodes_it_is_given_up(tmp_path, monkeypatch):
    """The task is repeated as Ray would, each time in a process of its own."""
    for name in "abc":
        picture(tmp_path / f"{name}.png")
    refs = pa.table({"image_id": list("abc"), "uri": [str(tmp_path / f"{name}.png") for name in "abc"]})
    monkeypatch.setattr(pipelines.runs.crash_journal, "journals_folder", lambda: tmp_path / "journals")
    decode = pipelines.labelling.image_stage.decode

    def crashes(content, max_pixels):
        if content == (tmp_path / "b.png").read_bytes():
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(content, max_pixels=max_pixels)

    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes() + b"deadly")
    monkeypatch.setattr(pipelines.labelling.image_stage, "decode", crashes)
    out, deaths = tmp_path / "rows.json", 0
    while not out.exists():
        child = os.fork()
        if not child:
            rows = pa.concat_tables(read_and_decode(refs, max_pixels=10_000, run="r", journal_id="n"))
            out.write_text(json.dumps([row["failures"] for row in rows.to_pylist()]))
            os._exit(0)
        deaths += os.waitpid(child, 0)[1] != 0
    assert deaths == MAX_CRASHES
    good, bad, other = json.loads(out.read_text())
    assert good == other == []
    assert (bad[0]["image_id"], bad[0]["stage"], bad[0]["error_type"]) == ("b", "decode", "crash")


def test_a_journal_tells_the_dead_from_the_living(tmp_path):
    mine = CrashJournal("run", "label", tmp_path)
    mine.enter(["living"])
    for images in (["x"], ["x"], ["y", "z"], []):
        if not (child := os.fork()):
            CrashJournal("run", "label", tmp_path).enter(images)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
    for other in (mine, CrashJournal("run", "label", tmp_path)):
        alone, suspects = other.crashes()
        assert (dict(alone), suspects) == ({"x": 2}, {"x", "y", "z"})
    assert CrashJournal("run", "decode", tmp_path).crashes() == ({}, frozenset())
    assert CrashJournal("later", "label", tmp_path).crashes() == ({}, frozenset())
    remove_journals("run", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["later"]
    assert crash_error(3).kind == "crash"


def test_silence_raises_an_error_with_the_state_of_each_stage():
    released = threading.Event()

    def stream():
        yield 1
        released.wait()

    seen = []
    with pytest.raises(StalledError, match=r"no image was finished for 0 s.*decoding: 3; labelling: 0"):
        for value in iterate_with_timeout(stream(), 0.05, lambda: "decoding: 3; labelling: 0"):
            seen.append(value)
    released.set()
    assert seen == [1]
    assert list(iterate_with_timeout(iter(range(200)), 5, str)) == list(range(200))

    def breaks():
        yield 1
        raise KeyError("x")

    with pytest.raises(KeyError):
        list(iterate_with_timeout(breaks(), 5, str))


def test_a_run_that_falls_silent_stops_keeps_what_it_has_and_is_continued(ray_session, photos, monkeypatch):
    def silent_after_the_first(rows, silence_s, state):
        yield next(rows)
        yield from iterate_with_timeout(rows, 2.0, state)

    monkeypatch.setattr(pipelines.runs.run, "iterate_with_timeout", silent_after_the_first)
    execution = Execution(
        batch_size=2, images_per_block=2, images_per_file=2, commit_interval_s=0.0, tasks_in_flight=1
    )
    with pytest.raises(StalledError, match=r"LabelActor: 1 tasks at work"):
        label(request_for(photos), execution, model=colours(hold_after=4))
    monkeypatch.undo()
    assert prepare_label(request_for(photos), colours()).work.skipped in (2, 4)
    label(request_for(photos), SMALL, model=colours())
    assert table(request_for(photos)) == expected(photos)


def test_a_run_that_goes_wrong_stops_early_and_is_continued(ray_session, photos):
    for index in range(8):
        (photos / f"bad{index}.jpg").write_bytes(b"no picture")
    with pytest.raises(
        RuntimeError, match=r"of the first \d+ images failed, more than --max-failures 3 allows"
    ):
        label(
            request_for(photos),
            Execution(
                batch_size=1, images_per_block=1, images_per_file=1, commit_interval_s=0, max_failures="3"
            ),
            model=colours(),
        )
    result = label(request_for(photos), SMALL, model=colours())
    assert result.failed + result.failed_before == 8
    assert table(request_for(photos)) == expected(photos)
    assert len(table(request_for(photos), "failures")) == 8


@pytest.mark.parametrize(
    ("max_failures", "done", "failed", "stops"),
    [
        (None, 10, 10, False),
        ("0", 1, 1, True),
        ("3", 9, 3, False),
        ("5%", 99, 99, False),
        ("5%", 100, 5, False),
        ("5%", 100, 6, True),
        ("100%", 100, 100, False),
    ],
)
def test_the_limit_of_failures_is_a_number_or_a_share(max_failures, done, failed, stops):
    assert failure_limit(max_failures)(done, failed) is stops


@pytest.mark.parametrize("max_failures", ["many", "-1", "101%", "%", ""])
def test_a_limit_that_is_none_is_named(max_failures):
    with pytest.raises(ValueError, match=f"max_failures is '{max_failures}'"):
        failure_limit(max_failures)
