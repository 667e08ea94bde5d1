"""What commands share: the order of options in --help, requests made of options, progress."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from jobs import label, name, retry, segment
from jobs.cli.options import request_from
from jobs.cli.progress import clock, progress_bar
from jobs.cli.run_output import query
from jobs.label import LabelOptions
from pipelines.labelling.label import LabelRequest
from pipelines.runs.run import Progress


@pytest.mark.parametrize(
    ("command", "required"),
    [
        (label, {"--images", "--classes", "--checkpoint", "--out"}),
        (segment, {"--images", "--checkpoint", "--out"}),
        (name, {"--segments", "--classes", "--out"}),
        (retry, {"--out"}),
    ],
)
def test_help_lists_required_options_first_and_execution_options_in_their_own_group(
    command, required, capsys
):
    assert command.main(["--help"]) == 0
    text = capsys.readouterr().out
    options, execution = text.split("execution options")
    listed = re.findall(r"^\W*(--[a-z][a-z-]*)", options, re.MULTILINE)
    assert set(listed[: len(required)]) == required
    assert options.count("(required)") == len(required)
    assert "--num-actors" in execution and "--num-actors" not in options


def test_a_request_takes_the_options_that_define_tables_and_no_others():
    values = {"images": "i", "classes": "c", "checkpoint": "p", "out": "o", "limit": 3}
    options = LabelOptions(**values, storage_options=("secret=s",), json=True, dry_run=True)
    request = request_from(options, LabelRequest)
    assert type(request) is LabelRequest and request == LabelRequest(**values)
    assert request_from(options, LabelRequest, limit=None).limit is None


def test_progress_without_total_or_time_counts_images_and_takes_the_time_itself(capsys):
    with progress_bar("exporting") as show:
        show(Progress(done=3))
        show(Progress(done=4))
    assert re.fullmatch(r"3 images, [\d.]+ images/s\n", capsys.readouterr().err), "the next line is due later"
    with progress_bar("labelling") as show:
        show(Progress(done=1, total=4, failed=1, seconds=2.0))
        show(Progress(done=4, total=4, failed=1, seconds=3.0))
    first, last = capsys.readouterr().err.splitlines()
    assert first == "1/4 images, 0.50 images/s, 0:06 left, 1 failed"
    assert last == "4/4 images, 1.33 images/s, 0:00 left, 1 failed"


def test_a_query_names_the_interpreter_of_this_machine_but_not_that_of_a_cluster(monkeypatch):
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert query("out", "labels", "SELECT 1").startswith(f"{shlex.quote(sys.executable)} -c ")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "raysubmit_x"}}')
    assert query("out", "labels", "SELECT 1").startswith("python -c ")


def test_a_clock_shows_hours_where_there_are_any():
    assert [clock(seconds) for seconds in (0.4, 61, 3601)] == ["0:00", "1:01", "1:00:01"]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["label", "--help"], ["--version"], ["compare", "--help"]], ids=" ".join
)
def test_a_closed_pipe_ends_a_command_without_a_word(repo, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "jobs.main", *arguments]
    ended = subprocess.run(command, cwd=repo, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_a_pipe_that_closes_after_the_last_line_changes_no_exit_code(repo):
    program = "import sys; from jobs.cli.exit_codes import guarded\nsys.exit(guarded(lambda: 3))"
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([sys.executable, "-c", program], cwd=repo, stdout=writer, check=False)
    os.close(writer)
    assert ended.returncode == 3
