"""Class lists are checked in the process that starts a run, once: warned of, refused before anything is written."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from jobs import label as label_command
from jobs import name as name_command
from pipelines.evaluation.evaluate import EvaluateRequest, evaluate
from pipelines.labelling.label import LabellerFactory, describe_labeller
from pipelines.labelling.segment import SegmentRequest, prepare_segment
from pipelines.tables.delta_writer import open_table, publish, write_data_file
from tests.zs3.classification.test_semantic_map import random_segments
from zs3.checkpoint import save_checkpoint
from zs3.nets.networks import build_network
from zs3.segmentation.table import segments_row
from zs3.tables import SEGMENTS
from zs3.vocabulary import load_vocabulary

NEAR = "cat\ncats\ngrille: bars\ngrill: bars\n"
SAME = "sofa: lounge\nlounge: sofa\ncat\n"


@pytest.fixture(scope="module", params=["zegformer", "pixel_level"])
def checkpoint(request, tmp_path_factory, tiny_recipe):
    folder = tmp_path_factory.mktemp(request.param) / "model"
    recipe = replace(tiny_recipe, model=replace(tiny_recipe.model, architecture=request.param))
    torch.manual_seed(0)
    save_checkpoint(folder, recipe, build_network(recipe.model), ["cat"])
    return str(folder)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of one photograph and two class lists."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / "photos" / "i.png")
    (tmp_path / "near.txt").write_text(NEAR)
    (tmp_path / "same.txt").write_text(SAME)
    return tmp_path


def label(checkpoint, classes, *more):
    return label_command.main(
        ["--images", "photos", "--classes", classes, "--checkpoint", checkpoint, "--out", "out", *more]
    )


def test_a_dry_run_of_label_warns_and_its_json_has_every_pair(here, checkpoint, capsys, caplog):
    assert label(checkpoint, "near.txt", "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out.splitlines()[-1])
    (pair,) = plan["warnings"]
    assert (pair["first"], pair["second"], pair["shared"]) == ("grille", "grill", ["bars"])
    assert list(pair["cosines"]) == ["query"] and 0.9 < pair["cosines"]["query"] < 1
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("pipelines")]
    assert line.startswith("zs3: warning: classes 'grille' and 'grill' are hard to tell apart: cosine 0.9")
    caplog.clear()
    assert label(checkpoint, "voc", "--dry-run") == 0
    assert not [record for record in caplog.records if record.name.startswith("pipelines")]


def test_label_refuses_a_list_before_anything_is_written(here, checkpoint, capsys):
    for more in ([], ["--dry-run"]):
        assert label(checkpoint, "same.txt", *more) == 1
        err = capsys.readouterr().err
        assert (
            err.count("\n") == 1 and "zs3: error: classes 'sofa' and 'lounge' have the same embedding" in err
        )
    assert not (here / "out").exists()
    assert label(checkpoint, "same.txt", "--dry-run", "--json", "--allow-confusable") == 0
    (pair, *_) = json.loads(capsys.readouterr().out)["warnings"]
    assert (pair["first"], pair["second"]) == ("sofa", "lounge")


def test_a_labeller_takes_the_names_that_were_embedded_and_embeds_none(here, checkpoint, monkeypatch):
    vocabulary = load_vocabulary("near.txt")
    description = describe_labeller(checkpoint, vocabulary)
    model = LabellerFactory().with_names(description)
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    ((expected, scores),) = LabellerFactory().load(checkpoint, vocabulary, "cpu").label([picture])
    monkeypatch.setattr("zs3.inference.labeller.class_bank", None)
    labeller = model.load(checkpoint, vocabulary, "cpu")
    ((labels, same_scores),) = labeller.label([picture])
    assert np.array_equal(labels, expected) and same_scores == scores
    assert labeller.digest == description.digest and labeller.seen == dict(description.seen)


def test_evaluate_with_a_checkpoint_refuses_a_list_before_anything_is_written(here, checkpoint):
    for name in ("images", "masks"):
        (here / "data" / name).mkdir(parents=True)
        Image.fromarray(np.ones((40, 60), np.uint8)).save(here / "data" / name / "i.png")
    (here / "data" / "classes.json").write_text(
        json.dumps({"classes": [{"id": 1, "name": "cat", "role": "seen"}]})
    )
    (here / "data" / "splits.json").write_text('{"val": ["i"]}')
    request = EvaluateRequest(
        dataset="folder", root="data", split="val", out="report", checkpoint=checkpoint, classes="same.txt"
    )
    with pytest.raises(ValueError, match="'sofa' and 'lounge' have the same embedding"):
        evaluate(request, now=datetime(2025, 1, 1, tzinfo=UTC))
    assert not Path("report").exists()


@pytest.mark.parametrize("checkpoint", ["zegformer"], indirect=True)
def test_name_warns_and_refuses_as_label_does(here, checkpoint, capsys, caplog):
    plan = prepare_segment(SegmentRequest(images="photos", checkpoint=checkpoint, out="kept"))
    table = open_table(plan.work.target.uris["segments"], SEGMENTS, plan.work.target.provenance)
    segments = random_segments(0, classes=384)
    row = segments_row(
        "i", str(here / "photos" / "i.png"), segments, 0.0, plan.work.target.digest, store="lossless"
    )
    part = write_data_file(plan.work.target.uris["segments"], pa.Table.from_pylist([row], schema=SEGMENTS))
    publish(table, SEGMENTS, [part], run=plan.work.target.digest, written_ms=0)
    name = lambda classes, *more: name_command.main(  # noqa: E731
        ["--segments", "kept", "--classes", classes, "--out", "named", *more]
    )
    assert name("near.txt", "--dry-run", "--json") == 0
    (pair,) = json.loads(capsys.readouterr().out.splitlines()[-1])["warnings"]
    assert (pair["first"], pair["second"]) == ("grille", "grill")
    assert "'grille' and 'grill' are hard to tell apart" in caplog.text
    for more in ([], ["--dry-run"]):
        assert name("same.txt", *more) == 1
        assert "have the same embedding" in capsys.readouterr().err
    assert not Path("named").exists()
