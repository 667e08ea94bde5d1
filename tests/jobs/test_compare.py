"""Two reports side by side: what is told of them, when CI stops, and which reports are not compared."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs import compare as door
from jobs.compare import WORSE
from pipelines.evaluation.outputs import REPORT_VERSION, commit_scores
from zs3.evaluation.image_scores import image_score_row
from zs3.label_rows import label_rows
from zs3.metrics import PROTOCOLS
from zs3.tables import SCORES
from zs3.vocabulary import ClassEntry, Vocabulary

VOCABULARY = Vocabulary(
    name="farm", classes=(ClassEntry(id=1, name="cat"), ClassEntry(id=2, name="cow", role="unseen"))
)
NAMES = {1: "cat", 2: "cow"}
IDS = [f"i{number:02}" for number in range(30)]


def run(out: Path, *, right: float, ids: list[str] = IDS, protocol: str = "zs3", truth_seed: int = 0) -> str:
    """The report and scores table of a labeller that is right this often."""
    rows = []
    for image_id in ids:
        truth = (
            np.random.default_rng((int(image_id[1:]), truth_seed))
            .choice([1, 2, 255], (12, 12))
            .astype(np.int32)
        )
        wrong = np.random.default_rng((int(image_id[1:]), 9)).random(truth.shape) > right
        prediction = np.where(truth == 255, 1, np.where(wrong, 3 - truth, truth)).astype(np.int32)
        given = label_rows(image_id, "u", prediction, NAMES, {}, {1: 0.5, 2: 0.5}, "r")
        columns, _ = image_score_row(given, truth, VOCABULARY, {"cat": 1, "cow": 2})
        rows.append({"image_id": image_id, **columns})
    held = PROTOCOLS[protocol].to_json()
    table = pa.Table.from_pylist(rows, schema=SCORES)
    commit_scores(str(out), [table], {"vocabulary": VOCABULARY.to_json(), "protocol": held})
    labels = {"uri": str(out / "gone"), "version": 0}
    report = {"version": REPORT_VERSION, "protocol": held, "harmonic": {}, "provenance": {"labels": labels}}
    (out / "report.json").write_text(json.dumps(report))
    return str(out)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A good run and a worse one of the same images."""
    folder = tmp_path_factory.mktemp("runs")
    return {"good": run(folder / "good", right=0.9), "bad": run(folder / "bad", right=0.7)}


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a comparison stops."""
    assert door.main([*arguments, "--replicates", "20"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_differences_have_intervals_and_the_exit_code_tells_a_loss(
    runs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [runs["good"], f"{runs['bad']}/report.json", "--replicates", "100"]
    assert door.main([*arguments, "--json", "--fail-below", "-50"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    harmonic = found["scores"]["iou"]["harmonic"]
    assert harmonic["difference"] == pytest.approx(harmonic["second"] - harmonic["first"])
    assert harmonic["low"] < harmonic["difference"] < harmonic["high"] < 0 and harmonic["p"] == pytest.approx(
        1 / 101
    )
    assert found["images"] == 30 and found["failed"] is False
    assert [move["name"] for move in found["classes"]] in (["cat", "cow"], ["cow", "cat"])
    assert found["churn"] is None and "is gone" in found["notes"][0]

    assert door.main([*arguments, "--fail-below", "-5"]) == WORSE
    out, err = capsys.readouterr()
    assert "harmonic changed by -" in err and "classes that changed most" in out and "cow" in out
    assert door.main([*reversed(arguments[:2]), *arguments[2:], "--fail-below", "0", "--score", "seen"]) == 0


def test_reports_of_different_protocols_are_refused_with_both_named(
    runs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = run(tmp_path / "paper", right=0.9, protocol="paper")
    line = told([runs["good"], other], capsys)
    assert "different protocols (name: zs3 against paper; absent: skip against nan)" in line


def test_other_images_are_refused_unless_allowed_and_other_truth_always(
    runs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = run(tmp_path / "fewer", right=0.9, ids=[*IDS[:20], "i99"])
    line = told([runs["good"], fewer], capsys)
    assert "10 only in" in line and "1 only in" in line and "(i99)" in line and "--allow-missing" in line
    assert door.main([runs["good"], fewer, "--allow-missing", "--replicates", "20", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["images"] == 20 and found["scores"]["iou"]["all"]["difference"] == 0
    truth = run(tmp_path / "truth", right=0.9, truth_seed=4)
    assert "the truth of image 'i00' differs" in told([runs["good"], truth], capsys)


def test_an_image_twice_in_a_scores_table_is_named(
    runs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = run(tmp_path / "twice", right=0.9, ids=[*IDS, "i07"])
    assert "holds image 'i07' twice" in told([runs["good"], twice], capsys)


def test_reports_that_are_older_damaged_or_absent_are_one_clear_line(
    runs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no report at" in told([runs["good"], str(tmp_path / "nowhere")], capsys)
    old = tmp_path / "old"
    shutil.copytree(runs["good"], old)
    content = json.loads((old / "report.json").read_text())
    del content["version"]
    (old / "report.json").write_text(json.dumps(content))
    line = told([runs["good"], str(old)], capsys)
    assert "is a report of version 1, expected 2; run zs3 evaluate again" in line
    (old / "report.json").write_text("{")
    assert "is not valid JSON" in told([runs["good"], str(old)], capsys)
    (old / "report.json").write_text("{}")
    assert "is no report of zs3" in told([runs["good"], str(old)], capsys)
    (old / "report.json").write_text(json.dumps({**content, "version": REPORT_VERSION}))
    shutil.rmtree(old / "scores")
    assert "no table" in told([runs["good"], str(old)], capsys)


def test_a_scores_table_of_an_older_schema_is_one_clear_line(
    runs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from deltalake import write_deltalake

    old = tmp_path / "old"
    old.mkdir()
    shutil.copy(Path(runs["good"], "report.json"), old)
    table = pa.table({"image_id": ["a"], "truth": [[1]], "prediction": [[1]], "pixels": [[1]]})
    write_deltalake(str(old / "scores"), table, name="scores", description='{"labels": "l"}')
    assert "is a scores table of version 1, expected 2; run zs3 evaluate again" in told(
        [runs["good"], str(old)], capsys
    )
