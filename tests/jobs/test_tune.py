"""The door of `tune`: options, one error line, help."""

import json

import pytest

from jobs import tune as door
from jobs.main import COMMANDS
from pipelines.runs.run import Progress
from zs3.tuning.grid import NamingGrid

POINT = {"naming": 0, "calibration": 0.0, "seen": 40.0, "unseen": 30.0, "harmonic": 34.3, "all": 37.0}
TUNED = {
    "settings": {"weight": 0.5},
    "tuned_on": {"title": "voc val", "dataset": {"images": 3}, "settings_tried": 9},
    "current": POINT,
    "best": POINT | {"naming": 1},
    "namings": [{"area": 0.2}, {"area": None}],
    "seconds": 1.0,
    "startup_seconds": 2.0,
}
ARGV = ["--segments", "kept", "--dataset", "voc", "--root", "data", "--split", "val", "--out", "tuned"]


@pytest.fixture
def asked(monkeypatch):
    """Requests that reach the pipeline, which answers at once."""
    requests = []

    def tune(request, execution, *, now, on_progress):
        requests.append(request)
        on_progress(Progress(done=3, failed=0, total=3, seconds=1.0))
        return TUNED

    monkeypatch.setattr(door, "tune", tune)
    return requests


def test_json_is_one_line_with_the_settings_and_both_points(asked, capfd):
    assert door.main([*ARGV, "--json"]) == 0
    out, _ = capfd.readouterr()
    line = json.loads(out)
    assert out.count("\n") == 1 and line["settings"] == {"weight": 0.5}
    assert (line["current"]["area"], line["best"]["area"], line["images"]) == (0.2, None, 3)
    assert (line["split"], line["out"]) == ("voc val", "tuned")
    assert asked[0].grid == NamingGrid() and asked[0].protocol == "zs3"


def test_values_of_the_grid_come_from_the_command_line(asked, capfd):
    argv = ["--weight", "0.5", "0.7", "--calibration", "-0.1", "0", "--void-in-image-softmax", "yes", "no"]
    argv += ["--templates", "own", "--query-temperature", "2", "--branches", "both", "query"]
    assert door.main([*ARGV, *argv]) == 0
    grid = asked[0].grid
    assert (grid.weight, grid.calibration, grid.templates) == ((0.5, 0.7), (-0.1, 0.0), ("own",))
    assert (grid.void_in_image_softmax, grid.query_temperature) == (("yes", "no"), (2.0,))
    assert (grid.branches, grid.image_logit_scale) == (("both", "query"), None)
    out, _ = capfd.readouterr()
    assert "tuned on voc val, 3 images" in out and "best of 9 settings: weight 0.5" in out
    assert "zs3 name --segments kept --settings tuned" in out


def test_what_cannot_be_used_is_named_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert door.main(ARGV) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("zs3: error: ")


def test_help_ends_with_0_and_wrong_usage_with_2(capsys):
    assert "tune" in COMMANDS
    assert door.main(["--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--weight", "--calibration", "--templates", "--split"):
        assert option in text
    assert door.main([*ARGV, "--weight", "heavy"]) == 2
