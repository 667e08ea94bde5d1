"""`zs3 models`: a line for each model, a card for one, and the same as JSON."""

import json

from jobs import models as command
from zs3.models import models


def test_every_model_has_a_line_with_its_size_and_licence(capsys):
    assert command.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(models())]] == list(models())
    (line,) = (line for line in lines if line.startswith("fcclip_convnext_large"))
    assert line.split() == ["fcclip_convnext_large", "372.5", "M", "34.1", "zs3", "convert", "unknown"]


def test_a_card_has_the_licence_the_numbers_and_the_commands(capsys):
    assert command.main(["maft_plus_base"]) == 0
    card = capsys.readouterr().out
    for part in (
        "201.8 M",
        "A-847 13.8",
        "code MIT",
        "zs3 bundles none",
        "    zs3 convert maftp_b.pth --out ",
    ):
        assert part in card, part


def test_json_is_one_line_with_everything(capsys):
    assert command.main(["zs3-mini", "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert one["source"] == "shipped" and one["commands"][-1].startswith("zs3 label ")
    assert command.main(["--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)["models"]] == list(models())


def test_an_unknown_model_ends_in_one_line_with_near_names(capsys):
    assert command.main(["fcclip_r51"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        "there is no model 'fcclip_r51'; is it one of fcclip_r50, " in line and "zs3 models lists all" in line
    )
