"""Images that kill their process, silence, too many failures: a run ends in rows or in one line, and never hangs."""

import ctypes
import json
import os
import signal
import tempfile
import threading
import time
from dataclasses import replace

import pyarrow as pa
import pytest

import pipelines.labelling.image_stage
import pipelines.runs.run
from pipelines.execution import Execution
from pipelines.labelling.image_stage import read_and_decode
from pipelines.labelling.label import label, prepare_label
from pipelines.runs.committer import Committer
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
    (tmp_path / "journals").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "journals"))
    decode = pipelines.labelling.image_stage.decode

    def crashes(content, **options):
        if content == (tmp_path / "b.png").read_bytes():
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(content, **options)

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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["zs3-at-work-later"]
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
    def silent_after_the_first(rows, silence_s, state, while_waiting):
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
        ("0%", 5, 0, False),
        ("0%", 6, 1, True),
    ],
)
def test_the_limit_of_failures_is_a_number_or_a_share(max_failures, done, failed, stops):
    assert failure_limit(max_failures)(done, failed) is stops


@pytest.mark.parametrize("max_failures", ["many", "-1", "101%", "%", "", "inf", "nan", "1_0", "inf%", "٣"])
def test_a_limit_that_is_none_is_named(max_failures):
    with pytest.raises(ValueError, match=f"max_failures is '{max_failures}'"):
        failure_limit(max_failures)


def test_a_clock_that_is_set_back_during_a_run_stops_no_commit_and_changes_no_duration(
    ray_session, photos, monkeypatch
):
    request, real, began = request_for(photos), time.time, time.monotonic()
    committed, progress = [], []
    commit = Committer.commit

    def count(committer):
        committed.append(len(progress))
        commit(committer)

    def show(shown):
        progress.append(shown)
        monkeypatch.setattr(time, "time", lambda: real() - 3600)

    monkeypatch.setattr(Committer, "commit", count)
    execution = replace(SMALL, images_per_block=1, images_per_file=1)
    result = label(request, execution, model=colours(), on_progress=show)
    took = time.monotonic() - began
    assert table(request) == expected(photos)
    assert len(progress) == 7 and committed == [0, 1, 2, 3, 4, 5, 6, 7], (
        "one commit for each file, and the last"
    )
    assert all(0 <= shown.seconds <= took for shown in progress)
    assert 0 < result.seconds <= took and result.seconds + result.startup_seconds <= took
    assert result.images_per_second == pytest.approx(7 / result.seconds)


@pytest.mark.parametrize(
    "content", [b'["x", "y"', b"5", b"[1]", b'{"x": 1}', b"\xff\xfe", b"[" * 100_000, b"null", b'["x", null]']
)
def test_a_damaged_journal_is_no_crash_and_stops_nothing(tmp_path, content):
    mine = CrashJournal("run", "label", tmp_path)
    folder = tmp_path / "zs3-at-work-run" / "label"
    for name in (f"1-{'0' * 32}", f"2-{'0' * 32}.crash"):
        (folder / name).write_bytes(content)
    (folder / f"3-{'0' * 32}").write_text('["z"]')
    for _ in range(2):
        assert mine.crashes() == ({"z": 1}, frozenset("z"))


def test_what_is_no_journal_is_not_read_and_not_removed(tmp_path):
    mine = CrashJournal("run", "label", tmp_path)
    folder, kept = tmp_path / "zs3-at-work-run" / "label", tmp_path / "kept"
    kept.mkdir()
    (kept / f"4-{'0' * 32}").write_text('["of the user"]')
    (folder / f"1-{'0' * 32}").symlink_to(kept / f"4-{'0' * 32}")
    os.mkfifo(folder / f"2-{'0' * 32}")
    (folder / "photo.jpg").write_text('["x"]')
    (folder / "linked").symlink_to(kept)
    assert mine.crashes() == ({}, frozenset())
    mine.close()
    remove_journals("run", tmp_path)
    assert (folder / "photo.jpg").exists() and (folder / "linked").is_symlink()
    assert [path.name for path in kept.iterdir()] == [f"4-{'0' * 32}"]


@pytest.mark.parametrize("trap", ["link", "open to others", "file"])
def test_a_folder_that_another_user_may_have_made_is_not_used(tmp_path, trap):
    kept, place = tmp_path / "kept", tmp_path / "zs3-at-work-run"
    kept.mkdir(mode=0o700)
    (kept / "label").mkdir()
    (kept / "label" / f"4-{'0' * 32}").write_text('["of the user"]')
    if trap == "link":
        place.symlink_to(kept)
    elif trap == "file":
        place.write_text("")
    else:
        place.mkdir()
        place.chmod(0o777)
    with pytest.raises(PermissionError, match=r"zs3-at-work-run is no private folder.*TMPDIR"):
        CrashJournal("run", "label", tmp_path)
    os.utime(place, (0, 0), follow_symlinks=False)
    remove_journals("run", tmp_path)
    assert (kept / "label" / f"4-{'0' * 32}").exists() and list(tmp_path.glob("zs3-at-work-run"))


def test_old_journals_of_killed_runs_are_removed_and_those_of_living_runs_are_not(tmp_path):
    living = CrashJournal("living", "label", tmp_path)
    for name in ("dead", "recent"):
        CrashJournal(name, "label", tmp_path).close()
    for name in ("living", "dead"):
        os.utime(tmp_path / f"zs3-at-work-{name}", (0, 0))
    remove_journals("other", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"zs3-at-work-living", "zs3-at-work-recent"}
    living.enter(["x"])
