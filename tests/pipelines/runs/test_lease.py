"""Of two processes that write one run, one goes on and the other is refused; a killed one blocks nobody for long."""

import os
import platform
import subprocess
from dataclasses import replace

import pytest
from deltalake import DeltaTable

import pipelines.runs.lease
import pipelines.runs.stall_timeout
from pipelines.runs.committer import Committer
from pipelines.runs.lease import LEASE_S, new_lease, newest_lease, wait_for_lease
from pipelines.runs.stall_timeout import iterate_with_timeout
from pipelines.storage.objects import storage_options
from pipelines.tables.delta_reader import delta_uri, existing_table
from pipelines.tables.delta_writer import ConflictError, commit_entry
from tests.support.in_process import IDS, add, work_of
from zs3.tables import LABELS


def stored(out, name="labels"):
    """Image ids of the rows of a table."""
    uri = f"{out}/{name}"
    rows = DeltaTable(delta_uri(uri), storage_options=storage_options(uri)).to_pyarrow_table()
    return sorted(rows["image_id"].to_pylist())


HOLDER = (
    rf"another run writes .*: process {os.getpid()} on {platform.node()}, since 20..-.*Z.*then run this again"
)


def test_of_two_runs_that_begin_at_once_one_goes_on_and_the_other_names_it(out):
    works = [work_of(out), work_of(out)]
    first, second = (Committer(work) for work in works)
    first.begin()
    with pytest.raises(ConflictError, match=HOLDER):
        second.begin()
    add(second, works[1], failed="abc")
    second.commit()
    second.release()
    add(first, works[0], done="ab")
    first.commit()
    with pytest.raises(ValueError, match=HOLDER):
        Committer(work_of(out))
    add(first, works[0], failed="c")
    first.commit()
    first.release()
    assert (stored(out), stored(out, "failures")) == (["a", "b"], ["c"])
    third = Committer(work_of(out))
    third.begin()
    third.commit()
    assert (stored(out), stored(out, "failures")) == (["a", "b"], ["c"])


@pytest.fixture
def begun(tmp_path):
    """A run that has taken the lease: its --out, work, committer and table of results."""
    out = str(tmp_path / "out")
    work = work_of(out)
    committer = Committer(work)
    committer.begin()
    return out, work, committer, existing_table(f"{out}/labels")


def hold(table, **changes):
    """Let another process have renewed the lease just now."""
    commit_entry(table, LABELS, "r", replace(new_lease(), **changes).metadata())


def never(seconds):
    pytest.fail("waited")


def test_a_process_of_this_machine_that_is_gone_blocks_nobody(begun):
    out, _, _, table = begun
    ended = subprocess.Popen(["true"])
    hold(table, pid=ended.pid, started="1")
    wait_for_lease(table, out, pause=never)  # not reaped, or reaped and maybe another process by now
    ended.wait()
    wait_for_lease(table, out, pause=never)


def test_a_run_of_this_process_that_ended_without_giving_it_back_blocks_nobody(begun):
    out, _, committer, table = begun
    pipelines.runs.lease.give_up(newest_lease(table).id)
    wait_for_lease(table, out, pause=never)
    again = Committer(work_of(out))
    again.begin()
    assert committer is not again


def test_a_process_elsewhere_that_renews_is_named_and_one_that_does_not_is_waited_for(begun, caplog):
    out, _, _, table = begun
    hold(table, host="other", machine="m", pid=7, job="raysubmit_x")
    paused = []
    wait_for_lease(table, out, pause=paused.append)
    assert LEASE_S - 10 < sum(paused) < LEASE_S + 2
    assert "process 7 on other, job raysubmit_x; waiting up to" in caplog.text
    with pytest.raises(ValueError, match=r"another run writes .*: process 7 on other, since"):
        wait_for_lease(
            table,
            out,
            pause=lambda _: hold(existing_table(f"{out}/labels"), host="other", machine="m", pid=7),
        )
    wait_for_lease(
        table,
        out,
        pause=lambda _: hold(existing_table(f"{out}/labels"), host="other", machine="m", released=True),
    )


def test_a_run_that_has_lost_the_lease_adds_nothing_to_any_table(begun, monkeypatch):
    out, work, committer, table = begun
    hold(table, host="other", machine="m", pid=7)
    add(committer, work, failed="abc")
    with pytest.raises(ConflictError, match=r"another run writes .*: process 7 on other"):
        committer.commit()
    committer.release()
    assert stored(out, "failures") == []
    assert newest_lease(existing_table(f"{out}/labels")).pid == 7, "and gives back nothing"


def test_work_that_was_found_before_another_run_ended_is_not_done_twice(tmp_path):
    out = str(tmp_path / "out")
    works = [work_of(out), work_of(out)]
    first = Committer(works[0])
    first.begin()
    add(first, works[0], done="abc")
    first.commit()
    first.release()
    second = Committer(works[1])
    with pytest.raises(ValueError, match=r"another run has changed .*labels while .*; run this again"):
        second.begin()
    second.release()
    assert stored(out) == [*IDS] and len(work_of(out).pending) == 0


def test_the_lease_is_renewed_while_no_image_is_finished(begun, monkeypatch):
    out, _, committer, table = begun
    monkeypatch.setattr(pipelines.runs.stall_timeout, "PAUSE_S", 0.01)
    before = table.version()

    def slow():
        while existing_table(f"{out}/labels").version() < before + 2:
            yield from ()
        yield 1

    assert list(iterate_with_timeout(slow(), 60, str, committer.renew)) == [1]
    committer.renew(min_age_s=60)
    table.update_incremental()
    assert before + 2 <= table.version() <= before + 3 and newest_lease(table).released is False
