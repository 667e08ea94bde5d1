"""Bad input at the door to evaluation: exit code 1, nothing written, and one line that names what is wrong."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from jobs import compare as compare_door
from jobs import evaluate as command
from pipelines.tables.delta_writer import open_table, publish, write_data_file
from zs3.images.codec import encode_label_png
from zs3.label_rows import label_rows
from zs3.tables import LABELS
from zs3.vocabulary import Vocabulary

CLASSES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "cow", "role": "unseen"}]
IDS = ["a", "b", "c"]


def truth(image_id: str) -> np.ndarray:
    return np.random.default_rng(ord(image_id)).choice([1, 2, 255], (6, 8)).astype(np.int32)


def data_set(root: Path, *, ids: Sequence[str] = IDS, classes: Sequence[Mapping[str, Any]] = CLASSES) -> Path:
    """A folder data set of small pictures: split `val` with these ids, and `test` with others."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for image_id in {*ids, "x", "y"}:
        Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(root / "images" / f"{image_id}.png")
        (root / "masks" / f"{image_id}.png").write_bytes(encode_label_png(truth(image_id)))
    (root / "classes.json").write_text(json.dumps({"name": "farm", "classes": list(classes)}))
    (root / "splits.json").write_text(json.dumps({"val": list(ids), "test": ["x", "y"]}))
    return root


def labels(
    out: Path,
    ids: Sequence[str] = IDS,
    names: Mapping[int, str] | None = None,
    shape: tuple[int, int] = (6, 8),
    **changes: Any,
) -> str:
    """A label table in which every image is `cat` all over."""
    names = names or {1: "cat", 2: "cow"}
    vocabulary = Vocabulary.from_json({"classes": [{"id": key, "name": name} for key, name in names.items()]})
    uri = str(out / "labels")
    table = open_table(uri, LABELS, {"run": {"weights": "w"}, "vocabulary": vocabulary.to_json()})
    for image_id in ids:
        given = label_rows(image_id, "u", np.full(shape, 1), names, {}, dict.fromkeys(names, 0.5), "r")
        rows = [{**row, **changes} for row in given]
        part = write_data_file(uri, pa.Table.from_pylist(rows, schema=LABELS))
        publish(table, LABELS, [part], run="r", written_ms=0)
    return str(out)


def error_line(capfd: pytest.CaptureFixture[str], root: Path, table: str, out: Path, *more: str) -> str:
    """The one line with which an evaluation stops, after lines of progress; then nothing may be there."""
    split = () if "--split" in more else ("--split", "val")
    arguments = [
        "--dataset",
        "folder",
        "--root",
        str(root),
        *split,
        "--labels",
        table,
        "--out",
        str(out),
        *more,
    ]
    capfd.readouterr()
    assert command.main([*arguments, "--gallery", "0", "--replicates", "20"]) == 1
    printed, errors = capfd.readouterr()
    *progress, line = errors.splitlines()
    assert all(re.match(r"\d+/\d+ images, ", earlier) for earlier in progress)
    assert printed == "" and line.startswith("zs3: error: ") and not (out / "report.json").exists()
    return line.removeprefix("zs3: error: ")


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_set(tmp_path_factory.mktemp("farm"))


def test_labels_of_another_split(
    ray_session: None, farm: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = error_line(capfd, farm, labels(tmp_path), tmp_path / "out", "--split", "test")
    assert line.startswith("none of the 3 labelled images (first: ['a']) is among the 2 of ")
    assert line.endswith("(first: ['x']); were other images labelled?")


def test_a_split_that_does_not_exist(
    ray_session: None, farm: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = error_line(capfd, farm, labels(tmp_path), tmp_path / "out", "--split", "train")
    assert "has no split 'train'; it has: val, test" in line


def test_labels_of_another_vocabulary(
    ray_session: None, farm: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = error_line(capfd, farm, labels(tmp_path, names={1: "rocket"}), tmp_path / "out")
    assert line == "none of the labelled classes (rocket) is one of 'farm' (cat, cow); is --dataset right?"


def test_images_on_one_side_only_are_counted_and_listed_and_may_be_allowed(
    ray_session: None, farm: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = labels(tmp_path, ["a", "b", "stranger"])
    line = error_line(capfd, farm, table, tmp_path / "out")
    assert "1 of 3 images of" in line and "have no labels (c;" in line
    assert "1 labelled image is not in it (stranger)" in line and line.endswith("with --allow-missing")
    arguments = ["--dataset", "folder", "--root", str(farm), "--split", "val", "--labels", table]
    arguments += ["--out", str(tmp_path / "out"), "--gallery", "0", "--replicates", "20"]
    assert command.main([*arguments, "--allow-missing"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["missing"]["without_labels"] == {"count": 1, "ids": ["c"]}
    assert report["missing"]["without_truth"] == {"count": 1, "ids": ["stranger"]}


def test_an_image_twice_in_the_labels(
    ray_session: None, farm: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = error_line(capfd, farm, labels(tmp_path, ["a", "b", "c", "b"]), tmp_path / "out")
    assert "1 of 3 images cannot be scored: the rows of 'b' lie in two places" in line


def test_an_image_twice_in_the_split(
    ray_session: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = data_set(tmp_path / "data", ids=["a", "b", "a"])
    assert "lists 'a' twice" in error_line(capfd, root, labels(tmp_path), tmp_path / "out")


def test_truth_with_unknown_ids(ray_session: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = data_set(tmp_path / "data", classes=CLASSES[:1])
    line = error_line(capfd, root, labels(tmp_path), tmp_path / "out")
    assert "3 of 3 images cannot be scored: image 'a': truth holds 2 on" in line
    assert "is this the class list of these masks?" in line


def test_truth_that_is_no_mask(ray_session: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = data_set(tmp_path / "data")
    (root / "masks" / "b.png").write_bytes(b"not a picture")
    assert "1 of 3 images cannot be scored: image 'b':" in error_line(
        capfd, root, labels(tmp_path), tmp_path / "out"
    )


def test_sizes_that_differ(
    ray_session: None, farm: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = error_line(capfd, farm, labels(tmp_path, shape=(8, 6)), tmp_path / "out")
    assert "3 of 3 images cannot be scored: labels of 'a' are 6x8 pixels and its truth 8x6" in line


def test_an_empty_table_and_none_and_a_class_without_a_name(
    ray_session: None, farm: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "is empty; did the labelling run fail for every image?" in error_line(
        capfd, farm, labels(tmp_path / "empty", []), tmp_path / "out"
    )
    assert "no label table at" in error_line(capfd, farm, str(tmp_path / "nowhere"), tmp_path / "out")
    nameless = labels(tmp_path / "nameless", class_name=" ")
    assert "without a name; label again" in error_line(capfd, farm, nameless, tmp_path / "out")


def test_a_report_of_an_older_schema(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"harmonic": {}, "protocol": {}, "provenance": {}}))
    assert compare_door.main([str(tmp_path), str(tmp_path)]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "is a report of version 1, expected 2; run zs3 evaluate again with this zs3" in line
