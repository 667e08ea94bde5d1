"""The door to exports: what it prints where, and what it returns."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs import export as door
from jobs.main import COMMANDS, MANUAL
from pipelines.export.export import ExportResult


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Requests that reach the pipeline, which says that all went well."""
    requests: list[Any] = []

    def answer(request: Any, execution: Any, *, on_progress: Any) -> ExportResult:
        requests.append(request)
        on_progress(3)
        return ExportResult(
            images=3, files=4, classes={"cat": 1}, seconds=0.5, to=request.to, out=request.out
        )

    monkeypatch.setattr(door, "export", answer)
    return requests


def test_json_is_the_only_line_of_standard_output(
    asked: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert door.main(["--labels", "l", "--to", "coco", "--out", "o", "--classes", "voc", "--json"]) == 0
    out, err = capsys.readouterr()
    told = {"images": 3, "files": 4, "classes": {"cat": 1}, "seconds": 0.5, "to": "coco", "out": "o"}
    assert [json.loads(line) for line in out.splitlines()] == [told]
    assert "3 images, 4 files" in err
    assert (asked[0].labels, asked[0].to, asked[0].out, asked[0].classes) == ("l", "coco", "o", "voc")


def test_an_unknown_format_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert door.main(["--labels", "l", "--to", "gif", "--out", "o"]) == 2


def test_a_table_that_is_not_there_is_one_line_of_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--labels", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"), "--to"]
    assert door.main([*arguments, "png"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("zs3: error: no label table at") and not (tmp_path / "out").exists()
    assert door.main([*arguments, "parquet", "--classes", "voc"]) == 1
    assert "--classes goes with" in capsys.readouterr().err


def test_the_manual_knows_the_verb() -> None:
    assert "export" in COMMANDS and "    export      " in MANUAL
