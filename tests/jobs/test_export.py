"""`zs3 export`: files for a real label table, one line of JSON, and one line for what is wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs import export as command
from jobs.main import COMMANDS, MANUAL
from tests.pipelines.export.test_export import table


def test_png_files_appear_and_json_is_the_only_line_of_standard_output(
    ray_session: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    maps = {"one": np.array([[1, 1, 255], [17, 255, 1]]), "two": np.array([[17]])}
    labels, out = table(tmp_path, maps), tmp_path / "masks"
    assert command.main(["--labels", labels, "--to", "png", "--out", str(out), "--json"]) == 0
    output, errors = capfd.readouterr()
    result = json.loads(output)
    assert output.count("\n") == 1 and "2 images, 2 files" in errors
    assert (result["images"], result["files"], result["to"], result["out"]) == (2, 2, "png", str(out))
    assert (result["classes"]["aeroplane"], result["classes"]["sheep"]) == (1, 17)
    assert sorted(path.name for path in out.iterdir()) == ["one.png", "two.png"]
    for image_id, map_HW in maps.items():
        assert np.array_equal(np.asarray(Image.open(out / f"{image_id}.png")), map_HW)


def test_another_class_list_gives_the_ids(ray_session: None, tmp_path: Path) -> None:
    classes = tmp_path / "classes.json"
    classes.write_text(json.dumps({"classes": [{"id": 5, "name": "aeroplane"}, {"id": 9, "name": "sheep"}]}))
    labels = table(tmp_path, {"one": np.array([[1, 17, 255]])})
    argv = ["--labels", labels, "--to", "png", "--out", str(tmp_path / "out"), "--classes", str(classes)]
    assert command.main(argv) == 0
    assert np.asarray(Image.open(tmp_path / "out" / "one.png")).tolist() == [[5, 9, 255]]


def test_an_unknown_format_is_wrong_usage() -> None:
    assert command.main(["--labels", "l", "--to", "gif", "--out", "o"]) == 2


def test_a_missing_table_is_one_line_of_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--labels", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"), "--to"]
    assert command.main([*argv, "png"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("zs3: error: no label table at") and not (tmp_path / "out").exists()
    assert command.main([*argv, "parquet", "--classes", "voc"]) == 1
    assert "--classes has no effect with --to parquet" in capsys.readouterr().err


def test_the_manual_lists_the_command() -> None:
    assert "export" in COMMANDS and "    export      " in MANUAL
