"""Tuning on stored segments: its points are the direct evaluations, and its settings carry their origin to a report."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.evaluation.evaluate import EvaluateRequest, evaluate
from pipelines.execution import Execution
from pipelines.labelling.name import NameRequest, load_classifier, name, prepare_name
from pipelines.labelling.segments_table import read_segments
from pipelines.tables.delta_reader import provenance_of
from pipelines.tables.delta_writer import open_table
from pipelines.tuning.request import TuneRequest, prepare_tuning
from pipelines.tuning.tune import TuneActor, sums_of, tune
from tests.pipelines.tuning.farm import write_farm
from tests.support.in_process import graphs_in_process
from zs3.checkpoint import save_checkpoint
from zs3.datasets import read_truth
from zs3.metrics import confusion, scores, total
from zs3.nets.zegformer import ZegFormer
from zs3.segmentation.table import segments_at
from zs3.tuning.calibration_sweep import added
from zs3.tuning.grid import NamingGrid

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GRID = NamingGrid(
    weight=None, calibration=(-0.05, 0.0, 0.02, 0.1), templates=("own", "photo"), query_temperature=(1.0, 4.0)
)
SCORES = ("seen", "unseen", "harmonic", "all")


@pytest.fixture(scope="module")
def farm(tmp_path_factory, tiny_recipe):
    return write_farm(tmp_path_factory.mktemp("data") / "farm", tiny_recipe)


def to_tune(farm, out, **changes):
    values = {
        "segments": str(farm / "kept"), "dataset": "folder", "root": str(farm), "split": "train",
        "out": str(out), "grid": GRID,
    }  # fmt: skip
    return TuneRequest(**{**values, **changes})


def to_name(farm, out, **changes):
    values = {"segments": str(farm / "kept"), "classes": str(farm / "classes.json"), "out": str(out)}
    return NameRequest(**{**values, **changes})


def report_of(farm, labels, split, out):
    request = EvaluateRequest(
        labels=str(labels), dataset="folder", root=str(farm), split=split, out=str(out), replicates=2,
        gallery=0, allow_missing=True,
    )  # fmt: skip
    return evaluate(request, now=NOW)


def stored(plan):
    """The rows that a plan wants, as its tasks read them."""
    return pa.concat_tables(read_segments(pa.table({"file": list(plan.files)}), wanted=plan.image_ids))


def scored_directly(plan, changes):
    """The scores of the label maps that `zs3 name` paints under some settings, made one by one in this process."""
    classifier, rows, vocabulary = (
        load_classifier(f"{plan.request.root}/model", plan.vocabulary, changes),
        stored(plan),
        plan.vocabulary,
    )
    truths = {ref.id: Path(ref.truth_uri).read_bytes() for ref in plan.dataset.refs}
    found = [
        confusion(
            read_truth("folder", truths[image_id], vocabulary),
            classifier.name(segments_at(rows, index))[0],
            ignore_id=vocabulary.ignore_id,
        )
        for index, image_id in enumerate(rows["image_id"].to_pylist())
    ]
    return scores(total(found), vocabulary.classes, plan.protocol)


def test_every_point_is_the_direct_evaluation_and_reports_name_the_tuning_split(ray_session, farm, tmp_path):
    progress = []
    request = to_tune(farm, tmp_path / "tuned")
    tuned = tune(request, Execution(batch_size=1), now=NOW, on_progress=progress.append)
    assert (progress[-1].done, progress[-1].total) == (4, 4)
    assert json.loads((tmp_path / "tuned/tune.json").read_text()) == tuned
    assert (tmp_path / "tuned/tune.png").read_bytes().startswith(b"\x89PNG")
    assert "farm train" in (tmp_path / "tuned/tune.md").read_text()
    assert tuned["tuned_on"]["settings_tried"] == 4 * 4 and len(tuned["namings"]) == 4
    assert tuned["namings"][-1]["settings"] == {"query_temperature": 4.0, "templates": "photo"}

    plan = prepare_tuning(request)
    different = set()
    for held in tuned["namings"]:
        assert (held["curve"][0]["unseen"], held["curve"][-1]["seen"]) == (0, 0)
        for point in held["curve"][1:-1]:
            direct = scored_directly(plan, held["settings"] | {"calibration": point["calibration"]})
            assert {group: getattr(direct, group) for group in SCORES} == {one: point[one] for one in SCORES}
            different.add(direct.harmonic)
    assert len(different) > 8, "settings that all name alike would prove nothing"
    current, best = tuned["current"], tuned["best"]
    assert (current["naming"], current["calibration"]) == (0, 0.0)
    assert best["harmonic"] == max(different) > current["harmonic"]

    with graphs_in_process():
        name(to_name(farm, tmp_path / "named", settings=str(tmp_path / "tuned")))
        report = report_of(farm, tmp_path / "named", "train", tmp_path / "report")
        elsewhere = report_of(farm, tmp_path / "named", "val", tmp_path / "held out")
    assert {group: report[group]["miou"] for group in SCORES} == {group: best[group] for group in SCORES}
    assert any("tuned on" in note and "very split of these scores" in note for note in report["notes"])
    assert report["provenance"]["labels"]["tuning"] == tuned["tuned_on"]
    assert any("train (4 images); these scores are of another split" in note for note in elsewhere["notes"])
    for written in ("report.md", "report.html"):
        assert "The naming settings were tuned on" in (tmp_path / "held out" / written).read_text()
    page = (tmp_path / "held out" / "report.html").read_text()
    points = len(tuned["namings"][best["naming"]]["curve"])
    assert 'id="trade-off"' in page and "on farm train, where its settings were tuned" in page
    assert points > 4 and f"<dt>tuning.curve</dt><dd>{points} entries</dd>" in page


def test_neither_batches_nor_order_change_a_sum(farm, tmp_path):
    plan = prepare_tuning(to_tune(farm, tmp_path))
    rows = stored(plan)
    actor = TuneActor(
        classifiers=plan.classifiers,
        dataset=plan.dataset,
        matches=plan.matches,
        gammas=plan.gammas,
        threads=1,
    )
    together = sums_of(actor(rows))
    alone = [sums_of(actor(rows.slice(index, 1))) for index in (2, 0, 3, 1)]
    summed = added(alone)
    assert together.keys() == summed.keys()
    for key, held in together.items():
        for column in ("truth", "prediction", "pixels"):
            assert np.array_equal(getattr(held, column), getattr(summed[key], column))


def test_an_image_that_cannot_be_swept_is_told_and_leaves_the_others_alone(farm, tmp_path):
    plan = prepare_tuning(to_tune(farm, tmp_path))
    refs = {ref.id: ref for ref in plan.dataset.refs}
    swapped = tuple(
        replace(ref, truth_uri=refs["1"].truth_uri if ref.id == "0" else ref.truth_uri)
        for ref in plan.dataset.refs
    )
    blind = tuple(replace(ref, truth_uri=None if ref.id == "2" else ref.truth_uri) for ref in swapped)
    actor = TuneActor(
        classifiers=plan.classifiers,
        dataset=replace(plan.dataset, refs=blind),
        matches=plan.matches,
        gammas=plan.gammas,
        threads=1,
    )
    (row,) = actor(stored(plan)).to_pylist()
    assert row["image_ids"] == ["0", "1", "2", "3"] and row["truth"]
    first, second = row["errors"]
    assert "image '0': its segments are of a picture of 70x40 pixels and its truth is 61x60" in first
    assert "image '2': it has no truth file in the data set; choose a split with truth" in second


def settings_file(folder, **changes):
    """A tune.json as another run might have left it."""
    content = {
        "version": 1,
        "settings": {"calibration": 0.1},
        "checkpoint": "c",
        "tuned_on": {"title": "a train"},
    }
    folder.mkdir()
    (folder / "tune.json").write_text(json.dumps(content | changes))
    return str(folder)


def test_tuned_settings_define_labels_by_their_values_alone(farm, tmp_path):
    digest = prepare_tuning(to_tune(farm, tmp_path / "x")).checkpoint_digest
    settings = settings_file(tmp_path / "tuned", checkpoint=digest)
    by_hand = prepare_name(to_name(farm, tmp_path / "out", naming={"calibration": 0.1}))
    tuned = prepare_name(to_name(farm, tmp_path / "out", settings=settings))
    assert tuned.work.target.digest == by_hand.work.target.digest
    assert tuned.work.target.provenance["run"] == by_hand.work.target.provenance["run"]
    assert tuned.work.target.provenance["tuning"] == {"title": "a train"}
    assert "templates" not in tuned.work.target.provenance["run"]

    prompts = prepare_name(to_name(farm, tmp_path / "out", naming={"templates": "photo"}))
    own = prepare_name(to_name(farm, tmp_path / "out", naming={"templates": "plain"}))
    assert prompts.work.target.provenance["run"]["templates"] == "photo"
    assert own.work.target.digest == prepare_name(to_name(farm, tmp_path / "out")).work.target.digest

    held = open_table(
        tuned.work.target.uris["labels"], tuned.work.target.schema, tuned.work.target.provenance
    )
    assert provenance_of(held)["tuning"] == {"title": "a train"}
    assert (
        prepare_name(to_name(farm, tmp_path / "out", settings=settings)).work.target.digest
        == tuned.work.target.digest
    )
    with pytest.raises(ValueError, match="as of settings that were tuned on a train, now they are not tuned"):
        prepare_name(to_name(farm, tmp_path / "out", naming={"calibration": 0.1}))


def test_settings_that_cannot_be_used_are_named(farm, tmp_path):
    other = settings_file(tmp_path / "other")
    with pytest.raises(ValueError, match="was tuned for the checkpoint c, and the segments are of"):
        prepare_name(to_name(farm, tmp_path / "out", settings=other))
    with pytest.raises(ValueError, match=r"--settings and --naming\.weight are both given"):
        prepare_name(to_name(farm, tmp_path / "out", settings=other, naming={"weight": 0.5}))
    with pytest.raises(FileNotFoundError, match=r"no tuned settings at .*gone/tune\.json; give the --out"):
        prepare_name(to_name(farm, tmp_path / "out", settings=str(tmp_path / "gone")))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.json is not valid JSON"):
        prepare_name(to_name(farm, tmp_path / "out", settings=str(tmp_path / "bad.json")))
    with pytest.raises(ValueError, match="no prompt templates are called 'poem'"):
        prepare_name(to_name(farm, tmp_path / "out", naming={"templates": "poem"}))


def test_what_cannot_be_tuned_on_is_named(farm, tmp_path, tiny_recipe):
    (farm / "images" / "gone.png").write_bytes((farm / "images" / "3.png").read_bytes())
    (farm / "masks" / "gone.png").write_bytes((farm / "masks" / "3.png").read_bytes())
    with pytest.raises(ValueError, match=r"1 of 3 images of .* more have no segments \(gone; 0 of them"):
        prepare_tuning(to_tune(farm, tmp_path, split="more"))
    assert prepare_tuning(to_tune(farm, tmp_path, split="more", allow_missing=True)).image_ids == {"3", "4"}
    (tmp_path / "seen.txt").write_text("dog\ngrass\n")
    with pytest.raises(
        ValueError, match="all 2 classes of 'seen' are seen for this checkpoint, so there is no"
    ):
        prepare_tuning(to_tune(farm, tmp_path, classes=str(tmp_path / "seen.txt")))
    with pytest.raises(ValueError, match="calibration is to be tried at no value"):
        prepare_tuning(to_tune(farm, tmp_path, grid=replace(GRID, calibration=())))
    save_checkpoint(tmp_path / "other", tiny_recipe, ZegFormer(tiny_recipe.model), ["dog"])
    with pytest.raises(ValueError, match=r"made with the checkpoint .* segment the images again"):
        prepare_tuning(to_tune(farm, tmp_path, checkpoint=str(tmp_path / "other")))
    with pytest.raises(FileNotFoundError, match="no segments table at"):
        prepare_tuning(to_tune(farm, tmp_path, segments=str(tmp_path / "nothing")))
