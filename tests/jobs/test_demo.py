"""The demo's data is sound; the demo labels, evaluates and says where the results are."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.demo import SPLIT, UNLABELLED, demo_data, main, photograph_path, polygons_to_map, write_dataset
from pipelines.labelling.label import LabellerFactory, ModelInfo
from zs3.datasets import open_dataset, read_truth
from zs3.vocabulary import Vocabulary, load_vocabulary


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "dataset"
    write_dataset(folder)
    return folder


def test_the_demo_is_a_folder_data_set_like_any_other(root: Path) -> None:
    dataset = open_dataset("folder", str(root), SPLIT)
    assert [ref.id for ref in dataset.refs] == [entry["id"] for entry in demo_data()["photographs"]]
    for ref in dataset.refs:
        assert ref.truth_uri is not None
        truth_HW = read_truth("folder", Path(ref.truth_uri).read_bytes(), dataset.vocabulary)
        with Image.open(ref.image_uri) as photograph:
            assert truth_HW.shape == (photograph.height, photograph.width)


def test_every_photograph_holds_at_least_a_twentieth_of_labelled_pixels(root: Path) -> None:
    for mask in (root / "masks").glob("*.png"):
        assert (np.array(Image.open(mask)) != UNLABELLED).mean() > 0.05, mask.name


def test_writing_the_data_set_again_writes_the_same_bytes(root: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path)
    write_dataset(tmp_path)
    names = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert all((root / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)


def test_the_class_list_offers_wrong_names_beside_the_right_ones(root: Path) -> None:
    vocabulary = load_vocabulary(str(root / "classes.json"))
    drawn_names = {region["class"] for entry in demo_data()["photographs"] for region in entry["regions"]}
    absent = {entry.name for entry in vocabulary.candidates} - drawn_names
    assert drawn_names - {"void"} <= {entry.name for entry in vocabulary.candidates}
    assert {"dog", "car", "sofa"} <= absent
    assert {entry.role for entry in vocabulary.candidates if entry.name in drawn_names} == {"seen", "unseen"}


def test_polygons_lie_inside_their_photographs_and_have_corners() -> None:
    for photograph in demo_data()["photographs"]:
        for region in photograph["regions"]:
            corners = np.array(region["polygon"])
            assert len(corners) >= 3
            assert (corners >= 0).all()
            assert (corners <= (photograph["width"], photograph["height"])).all(), photograph["id"]


def test_every_photograph_says_whose_it_is() -> None:
    assert all(photograph["credit"] for photograph in demo_data()["photographs"])


def test_later_regions_cover_earlier_ones_and_the_rest_is_unlabelled() -> None:
    square = [[2, 2], [7, 2], [7, 7], [2, 7]]
    inner = [[4, 4], [5, 4], [5, 5], [4, 5]]
    regions = [{"class": "cup", "polygon": square}, {"class": "void", "polygon": inner}]
    truth_HW = polygons_to_map(regions, {"cup": 3, "void": UNLABELLED}, 10, 9)
    assert truth_HW.shape == (9, 10)
    assert (truth_HW == 3).sum() == 36 - 4
    assert truth_HW[4, 4] == truth_HW[0, 0] == UNLABELLED


def test_a_photograph_of_another_size_is_refused_by_name() -> None:
    photograph = demo_data()["photographs"][0] | {"width": 100}
    with pytest.raises(ValueError, match=r"'cat' is 451x300 pixels.*100x300.*constraints\.txt"):
        photograph_path(photograph)


def test_a_photograph_that_is_gone_is_named_with_its_package() -> None:
    photograph = demo_data()["photographs"][0] | {"file": "data/nothing.png"}
    with pytest.raises(FileNotFoundError, match=r"'cat'.*nothing\.png.*install skimage"):
        photograph_path(photograph)


def painter() -> LabellerFactory:
    """A model that calls every pixel person; closures, since Ray's workers cannot import the tests."""

    class Painter:
        def __init__(self) -> None:
            self.seen, self.digest = {1: True}, "painter"

        def label(self, pictures: Sequence[np.ndarray], /) -> list[tuple[np.ndarray, dict[int, float]]]:
            return [(np.ones(picture.shape[:2], np.int32), {1: 0.5}) for picture in pictures]

    def describe(checkpoint: str, vocabulary: Vocabulary) -> ModelInfo:
        return ModelInfo(digest="painter", provenance={"checkpoint": "painter"}, seen={1: True})

    return LabellerFactory(describe=describe, load=lambda checkpoint, vocabulary, device: Painter())


def test_the_demo_labels_evaluates_and_says_where_the_results_are(
    ray_session: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["--out", str(out), "--json"], model=painter()) == 0
    printed = capfd.readouterr().out
    last = json.loads(printed.splitlines()[-1])
    report = json.loads((out / "report" / "report.json").read_text())
    people = next(entry for entry in report["classes"] if entry["name"] == "person")
    assert (last["images"], last["failed"], last["skipped"]) == (8, 0, 0)
    assert last["harmonic"] == report["harmonic"]
    assert people["accuracy"] == 100
    assert 0 < people["iou"] < 100
    assert str(out / "report" / "report.html") in printed
    assert "data:image/jpeg" in (out / "report" / "report.html").read_text()

    query = next(line for line in printed.splitlines() if line.startswith("Query the label table:"))
    command = query.removeprefix("Query the label table:")
    answer = subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout
    assert "person" in answer


def test_a_checkpoint_that_is_not_there_is_one_line_and_exit_code_1(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path), "--checkpoint", str(tmp_path / "nothing")]) == 1
    complaint = capfd.readouterr().err.splitlines()[-1]
    assert complaint.startswith("zs3: error: checkpoint") and "nothing" in complaint
    assert not (tmp_path / "labels").exists()
