"""The door to evaluation: what it prints where, and what it returns."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs import evaluate as door
from pipelines.runs.run import Progress

REPORT: dict[str, Any] = {
    "title": "voc val",
    **{key: {"miou": 50.0} for key in ("seen", "unseen", "harmonic", "all")},
    "images": 7,
    "pixels": 50,
    "classes": [{"name": "sheep", "seen": False, "iou": 50.0, "accuracy": 60.0, "pixels": 5, "labelled": 10}],
    "absent": [],
    "notes": ["mind the gap"],
    "diagnostics": [],
    "protocol": {"name": "zs3", "words": []},
}
ARGUMENTS = ["--labels", "l", "--dataset", "voc", "--root", "r", "--split", "val", "--out", "o"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Requests that reach the pipeline, which answers with a small report."""
    requests: list[Any] = []

    def answer(
        request: Any, execution: Any, *, now: Any, model: Any, names: Any, on_progress: Any
    ) -> dict[str, Any]:
        requests.append(request)
        on_progress(Progress(done=3, failed=0, total=7, seconds=1.0))
        return REPORT

    monkeypatch.setattr(door, "evaluate", answer)
    return requests


def test_a_table_goes_to_standard_output_and_names_the_report(
    asked: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert door.main(ARGUMENTS) == 0
    out = capsys.readouterr().out
    assert "sheep" in out and "mind the gap" in out and "o/report.html" in out
    assert "10.0" in out and "20.0" in out, "true and labelled, in percent of the counted pixels"
    assert (asked[0].protocol, asked[0].allow_missing, asked[0].gallery) == ("zs3", False, 12)


def test_json_is_the_only_line_of_standard_output(
    asked: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert door.main([*ARGUMENTS, "--json", "--allow-missing", "--protocol", "paper"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["harmonic"] == {"miou": 50.0}
    assert asked[0].allow_missing and asked[0].protocol == "paper"


def test_segments_are_named_as_the_naming_options_say(
    asked: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--classes", "voc", "--naming.calibration", "0.25", "--naming.resize-first", "yes"]
    assert door.main(["--segments", "s", *ARGUMENTS[2:], *more]) == 0
    (request,) = asked
    assert (request.labels, request.segments, request.checkpoint, request.classes) == (None, "s", None, "voc")
    assert request.naming == {"calibration": 0.25, "resize_first": True}


def test_an_unknown_layout_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert door.main([*ARGUMENTS[:3], "cityscapes", *ARGUMENTS[4:]]) == 2


def test_a_data_set_that_is_not_there_is_one_line_of_standard_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["--labels", "l", "--dataset", "voc", "--root", str(tmp_path / "nowhere"), "--split", "val"]
    assert door.main([*arguments, "--out", str(tmp_path / "out")]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "nowhere" in err.splitlines()[-1] and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_truth_labelled_as_itself_scores_100_through_the_door(
    ray_session: None, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np
    import pyarrow as pa

    from pipelines.tables.delta_writer import open_table, publish, write_data_file
    from zs3.datasets import open_dataset, read_truth
    from zs3.label_rows import label_rows
    from zs3.tables import LABELS

    root = shared / "data" / "msrc_mini"
    dataset = open_dataset("folder", str(root), "val")
    entries = dataset.vocabulary.candidates
    names = {entry.id: entry.name for entry in entries}
    seen = {entry.id: entry.role == "seen" for entry in entries}
    rows = []
    for ref in dataset.refs[:8]:
        truth_HW = read_truth("folder", Path(str(ref.truth_uri)).read_bytes(), dataset.vocabulary)
        label_map_HW = np.where(np.isin(truth_HW, list(names)), truth_HW, entries[0].id)
        rows += label_rows(ref.id, ref.image_uri, label_map_HW, names, seen, dict.fromkeys(names, 1.0), "r")
    uri = str(tmp_path / "labels")
    held = open_table(uri, LABELS, {"run": {"weights": "truth"}, "vocabulary": dataset.vocabulary.to_json()})
    part = write_data_file(uri, pa.Table.from_pylist(rows, schema=LABELS))
    publish(held, LABELS, [part], run="r", written_ms=0)
    arguments = ["--labels", str(tmp_path), "--dataset", "folder", "--root", str(root), "--split", "val"]
    assert (
        door.main([*arguments, "--out", str(tmp_path / "out"), "--allow-missing", "--json", "--gallery", "3"])
        == 0
    )
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["all"]["miou"] == 100.0 and line["images"] == 8
    assert (tmp_path / "out" / "report.html").stat().st_size > 20_000
