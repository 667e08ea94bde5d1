"""The scripts in `examples/` run as their docstrings say, with the shipped model."""

import json
import runpy
from pathlib import Path

import pytest
from deltalake import DeltaTable
from PIL import Image
from skimage import data


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name, picture in {"cat": data.chelsea(), "astronaut": data.astronaut()}.items():
        Image.fromarray(picture).resize((192, 160)).save(folder / f"{name}.png")
    return folder


def run_example(repo: Path, name: str, *arguments: object) -> None:
    script = repo / "examples" / f"{name}.py"
    assert f"python examples/{name}.py" in script.read_text(), "the docstring shows how to run it"
    runpy.run_path(str(script))["main"](*map(str, arguments))


def rows(table: Path) -> list[dict[str, object]]:
    return DeltaTable(str(table)).to_pyarrow_table().to_pylist()


def test_label_folder_prints_the_pixels_of_each_class_in_the_table(
    ray_session: None, repo: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example(repo, "label_folder", photos, tmp_path / "run")
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "2 images labelled, 0 were done before, 0 failed"
    names = {row["class_name"] for row in rows(tmp_path / "run/labels")} - {""}
    assert len(lines) == len(names) > 0
    for name in names:
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        pixels = sum(row["area"] for row in rows(tmp_path / "run/labels") if row["class_name"] == name)
        assert f" {pixels} pixels" in line


def test_another_class_list_segments_once_and_names_twice(
    ray_session: None,
    in_process: None,
    repo: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_example(repo, "another_class_list", photos, tmp_path)
    assert len(rows(tmp_path / "segments/segments")) == 2
    for line, name in zip(capsys.readouterr().out.splitlines(), ("animals", "pets"), strict=True):
        labels = rows(tmp_path / name / "labels")
        assert line.startswith(f"{name}: ")
        assert {row["image_id"] for row in labels} == {"cat", "astronaut"}
        allowed = {text.split(":")[0] for text in (tmp_path / f"{name}.txt").read_text().splitlines()}
        assert {row["class_name"] for row in labels} <= allowed


def test_score_against_truth_prints_what_the_report_holds(
    ray_session: None, in_process: None, repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_example(repo, "score_against_truth", tmp_path)
    report = json.loads((tmp_path / "report/report.json").read_text())
    printed = capsys.readouterr().out
    assert report["images"] == 2
    assert str({group: report[group]["miou"] for group in ("seen", "unseen", "harmonic")}) in printed
    person = next(entry for entry in report["classes"] if entry["name"] == "person")
    assert person["pixels"] == (512 - 512 // 4) * (512 - 2 * (512 // 4)), "the box is the truth"
    assert person["iou"] > 50, "the model finds the astronaut"


@pytest.mark.parametrize("name", ["label_folder", "another_class_list", "score_against_truth"])
def test_an_example_is_short(repo: Path, name: str) -> None:
    assert len((repo / "examples" / f"{name}.py").read_text().splitlines()) <= 50
