"""`zs3 tune`: what it prints is what it wrote; options, one error line, help."""

import json

import pytest

from jobs import tune as command
from jobs.cli.options import parse_command_line
from jobs.main import COMMANDS
from tests.pipelines.tuning.farm import write_farm
from zs3.tuning.grid import NamingGrid

ARGV = ["--segments", "kept", "--dataset", "voc", "--root", "data", "--split", "val", "--out", "tuned"]


@pytest.mark.parametrize("as_json", [True, False])
def test_the_best_point_that_is_printed_is_the_one_in_the_file(
    ray_session, in_process, tiny_recipe, tmp_path, capfd, as_json
):
    farm, out = write_farm(tmp_path / "farm", tiny_recipe), tmp_path / "tuned"
    argv = ["--segments", str(farm / "kept"), "--dataset", "folder", "--root", str(farm), "--split", "train"]
    argv += ["--out", str(out), "--weight", "0.5", "--calibration", "0", "0.1", "--templates", "own"]
    assert command.main([*argv, *(["--json"] if as_json else [])]) == 0
    printed = capfd.readouterr().out
    written = json.loads((out / "tune.json").read_text())
    assert written["best"]["harmonic"] >= written["current"]["harmonic"]
    if as_json:
        line = json.loads(printed)
        assert printed.count("\n") == 1 and line["settings"] == written["settings"]
        for key in ("current", "best"):
            area = line[key].pop("area")
            assert line[key] == written[key]
            assert area == written["namings"][written[key]["naming"]]["area"]
        assert (line["images"], line["split"], line["out"]) == (4, "farm train", str(out))
    else:
        assert "tuned on farm train, 4 images" in printed and f"{written['best']['harmonic']:.1f}" in printed
        assert f"zs3 name --segments {farm / 'kept'} --settings {out}" in printed


def test_values_of_the_grid_come_from_the_command_line():
    argv = ["--weight", "0.5", "0.7", "--calibration", "-0.1", "0", "--void-in-image-softmax", "yes", "no"]
    argv += ["--templates", "own", "--query-temperature", "2", "--branches", "both", "query"]
    options = parse_command_line(command.TuneOptions, "zs3 tune", [*ARGV, *argv])
    assert options.grid == NamingGrid(
        weight=(0.5, 0.7), calibration=(-0.1, 0.0), void_in_image_softmax=("yes", "no"), templates=("own",),
        query_temperature=(2.0,), branches=("both", "query"),
    )  # fmt: skip
    default = parse_command_line(command.TuneOptions, "zs3 tune", ARGV)
    assert default.grid == NamingGrid() and default.protocol == "zs3"


def test_what_cannot_be_used_is_named_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main(ARGV) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("zs3: error: ")


def test_help_ends_with_0_and_wrong_usage_with_2(capsys):
    assert "tune" in COMMANDS
    assert command.main(["--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--weight", "--calibration", "--templates", "--split"):
        assert option in text
    assert command.main([*ARGV, "--weight", "heavy"]) == 2
