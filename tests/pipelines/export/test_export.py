"""Exports give back the label maps that they were made of, whole and under the same names however often they run."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from pipelines.export.export import ExportRequest, ExportResult, export
from pipelines.tables.delta_writer import open_table, publish, write_data_file
from pipelines.tables.label_table import EXPORTED_REGION, label_rows_graph
from zs3.export.paths import PARTIAL
from zs3.label_rows import label_map, label_rows
from zs3.tables import LABELS
from zs3.vocabulary import Vocabulary, load_vocabulary

VOC = load_vocabulary("voc")
NAMES = {entry.id: entry.name for entry in VOC.candidates}


def regions(seed: int, ids: list[int], shape: tuple[int, int] = (23, 17)) -> np.ndarray:
    """A label map of random regions: the nearest of some points decides."""
    draws = np.random.default_rng(seed)
    points = draws.uniform(0, 1, (draws.integers(1, 9), 2)) * shape
    y, x = np.mgrid[: shape[0], : shape[1]]
    nearest = np.argmin([(y - a) ** 2 + (x - b) ** 2 for a, b in points], axis=0)
    return draws.choice(ids, len(points))[nearest].astype(np.int32)


def table(
    out: Path, maps: dict[str, np.ndarray], vocabulary: Vocabulary | None = VOC, *, per_file: int = 2
) -> str:
    """A label table of these maps, as a labelling run leaves it."""
    names = {entry.id: entry.name for entry in vocabulary.candidates} if vocabulary else NAMES
    ignore = vocabulary.ignore_id if vocabulary else 255
    uri, ids, parts = str(out / "labels"), list(maps), []
    provenance: dict[str, Any] = {"run": {"weights": "w"}}
    if vocabulary:
        provenance["vocabulary"] = vocabulary.to_json()
    held = open_table(uri, LABELS, provenance)
    for start in range(0, len(ids), per_file):
        rows = []
        for one in ids[start : start + per_file]:
            scores = dict.fromkeys(names, 0.25)
            rows += label_rows(one, f"s3://b/{one}.jpg", maps[one], names, {}, scores, "r", ignore_id=ignore)
        parts.append(write_data_file(uri, pa.Table.from_pylist(rows, schema=LABELS)))
    publish(held, LABELS, parts, run="r", written_ms=0)
    return str(out)


def run(labels: str, to: Any, out: Path | str, classes: str | None = None) -> ExportResult:
    return export(ExportRequest(labels=labels, to=to, out=str(out), classes=classes))


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file, hidden ones too: path below the folder -> content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def maps() -> dict[str, np.ndarray]:
    """Label maps of random regions with unlabelled parts, one of nothing, ids with folders and dots."""
    ids = ["2007_000033", "a.b", "sub/one", "sub/deeper/two", "ünïcode name", "bare"]
    found = {one: regions(seed, [*NAMES, 255, 255]) for seed, one in enumerate(ids)}
    found["bare"] = np.full((5, 4), 255, np.int32)
    return found


@pytest.fixture(scope="module")
def labels(maps: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> str:
    return table(tmp_path_factory.mktemp("labelled"), maps)


def test_png_files_hold_the_ids_of_the_data_set_and_255_where_nothing_was_labelled(
    ray_session: None, labels: str, maps: dict[str, np.ndarray], tmp_path: Path
) -> None:
    result = run(labels, "png", tmp_path / "out")
    assert sorted(files_below(tmp_path / "out")) == sorted(f"{one}.png" for one in maps)
    for one, map_HW in maps.items():
        image = Image.open(tmp_path / "out" / f"{one}.png")
        assert image.mode == "P" and np.array_equal(np.asarray(image), map_HW)
    assert (result.images, result.files) == (6, 6) and result.classes["sheep"] == 17


def test_png_files_of_a_list_with_many_classes_have_16_bits(ray_session: None, tmp_path: Path) -> None:
    vocabulary = load_vocabulary("ade20k_full")
    ids = [entry.id for entry in vocabulary.candidates]
    maps = {"a": regions(1, [*ids, vocabulary.ignore_id]), "b": np.full((3, 4), ids[0], np.int32)}
    run(table(tmp_path, maps, vocabulary), "png", tmp_path / "out")
    for one, map_HW in maps.items():
        image = Image.open(tmp_path / "out" / f"{one}.png")
        assert image.mode == "I;16" and np.array_equal(np.asarray(image), map_HW)


def test_another_class_list_gives_its_own_ids_by_name_or_meaning_and_must_have_every_class(
    ray_session: None, tmp_path: Path
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("couch\naeroplane\n")
    labels = table(tmp_path, {"a": np.array([[1, 2, 255]])}, load_vocabulary(str(words)))
    run(labels, "png", tmp_path / "out", classes="voc")
    assert np.asarray(Image.open(tmp_path / "out" / "a.png")).tolist() == [[18, 1, 255]]
    words.write_text("aeroplane\n")
    with pytest.raises(ValueError, match="has no class for couch, which"):
        run(labels, "png", tmp_path / "out", classes=str(words))


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_coco_and_panoptic_files_give_back_label_maps_of_random_regions(
    ray_session: None, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("random")
    maps = {f"i{k}": regions(seed + k, [*NAMES, 255], (9 + k, 13)) for k in range(3)}
    labels = table(folder, maps)
    run(labels, "coco", folder / "coco")
    run(labels, "panoptic", folder / "panoptic")
    assert_same(coco_maps(folder / "coco"), maps)
    assert_same(panoptic_maps(folder / "panoptic"), maps)


def assert_same(found: dict[str, np.ndarray], maps: dict[str, np.ndarray]) -> None:
    assert found.keys() == maps.keys()
    assert all(np.array_equal(found[one], maps[one]) for one in maps)


def coco_maps(out: Path) -> dict[str, np.ndarray]:
    """Image id -> label map, as pycocotools reads the file."""
    coco = COCO(str(out / "coco.json"))
    found = {}
    for number, image in coco.imgs.items():
        map_HW = np.full((image["height"], image["width"]), 255)
        for region in coco.loadAnns(coco.getAnnIds(imgIds=[number])):
            mask = coco.annToMask(region).astype(bool)
            assert region["area"] == mask.sum() and region["id"] > 0
            map_HW[mask] = region["category_id"]
        found[image["image_id"]] = map_HW
    return found


def panoptic_maps(out: Path) -> dict[str, np.ndarray]:
    """Image id -> label map, read as panopticapi does: id = R + 256 G + 256² B, and nothing but listed segments."""
    content = json.loads((out / "panoptic.json").read_text())
    images = {image["id"]: image for image in content["images"]}
    known = {category["id"] for category in content["categories"]}
    found = {}
    for annotation in content["annotations"]:
        png = Image.open(out / "panoptic" / annotation["file_name"])
        assert png.mode == "RGB"
        ids_HW = np.asarray(png).astype(np.int64) @ np.array([1, 256, 65536])
        map_HW = np.full(ids_HW.shape, 255)
        for segment in annotation["segments_info"]:
            mask = ids_HW == segment["id"]
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert segment["area"] == mask.sum() and segment["bbox"] == box and segment["iscrowd"] == 0
            assert segment["category_id"] in known
            map_HW[mask] = segment["category_id"]
        listed = {segment["id"] for segment in annotation["segments_info"]}
        assert set(np.unique(ids_HW).tolist()) - {0} == listed
        found[images[annotation["image_id"]]["image_id"]] = map_HW
    return found


def test_coco_images_keep_their_numbers_where_ids_are_such_and_count_from_1_elsewhere(
    ray_session: None, labels: str, tmp_path: Path
) -> None:
    numbers = table(tmp_path, {f"{k:012d}": regions(k, [1, 255]) for k in (139, 285, 632)})
    run(numbers, "coco", tmp_path / "numbers")
    assert sorted(COCO(str(tmp_path / "numbers" / "coco.json")).imgs) == [139, 285, 632]
    run(labels, "coco", tmp_path / "names")
    coco = COCO(str(tmp_path / "names" / "coco.json"))
    assert list(coco.imgs) == [1, 2, 3, 4, 5, 6]
    assert coco.dataset["info"]["labels"].endswith("labels") and len(coco.cats) == 20
    assert {image["file_name"] for image in coco.imgs.values()} >= {"a.b.jpg", "one.jpg"}


def test_parquet_files_are_the_rows_of_the_table_without_a_log(
    ray_session: None, labels: str, maps: dict[str, np.ndarray], tmp_path: Path
) -> None:
    result = run(labels, "parquet", tmp_path / "out")
    assert (result.images, result.files) == (6, 3)
    assert sorted(files_below(tmp_path / "out")) == [f"labels-0000{k}-of-00003.parquet" for k in (1, 2, 3)]
    held = pq.read_table(tmp_path / "out")
    assert set(LABELS.names) <= set(held.column_names)
    rows = held.to_pylist()
    for one, map_HW in maps.items():
        assert np.array_equal(label_map([row for row in rows if row["image_id"] == one]), map_HW)
    pq.write_table(held, tmp_path / "out" / "mine.parquet")
    with pytest.raises(ValueError, match=r"contains other Parquet files \(mine\.parquet\)"):
        run(labels, "parquet", tmp_path / "out")


def test_cvat_gets_its_layout_with_the_colours_of_its_label_map(
    ray_session: None, labels: str, maps: dict[str, np.ndarray], tmp_path: Path
) -> None:
    result = run(labels, "cvat", tmp_path / "out")
    below = {"labelmap.txt", "ImageSets/Segmentation/default.txt"}
    assert set(files_below(tmp_path / "out")) == below | {f"SegmentationClass/{one}.png" for one in maps}
    assert result.files == len(maps) + 2
    listed = (tmp_path / "out" / "ImageSets/Segmentation/default.txt").read_text().splitlines()
    assert sorted(listed) == sorted(maps)
    lines = (tmp_path / "out" / "labelmap.txt").read_text().splitlines()
    assert lines[:2] == ["# label:color_rgb:parts:actions", "background:0,0,0::"]
    colours = {}
    for line in lines[1:]:
        name, colour, parts, actions = line.split(":")
        assert parts == actions == ""
        colours[tuple(map(int, colour.split(",")))] = name
    ids = {name: class_id for class_id, name in NAMES.items()} | {"background": 255}
    for one, map_HW in maps.items():
        pixels = np.asarray(Image.open(tmp_path / "out" / "SegmentationClass" / f"{one}.png"))
        assert np.array_equal([[ids[colours[tuple(p)]] for p in row] for row in pixels.tolist()], map_HW)


def test_the_command_of_the_handoff_makes_the_archive_that_cvat_expects(
    ray_session: None, labels: str, repo: Path, tmp_path: Path
) -> None:
    import subprocess
    import sys

    command = "python -m zipfile -c ../cvat.zip labelmap.txt ImageSets SegmentationClass"
    assert command in (repo / "docs" / "handoff.md").read_text()
    run(labels, "cvat", tmp_path / "cvat")
    subprocess.run([sys.executable, *command.split()[1:]], cwd=tmp_path / "cvat", check=True)
    with zipfile.ZipFile(tmp_path / "cvat.zip") as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        assert names == set(files_below(tmp_path / "cvat"))
        assert archive.read("labelmap.txt").startswith(b"# label")


@pytest.mark.parametrize("to", ["png", "coco", "panoptic", "cvat", "parquet"])
def test_an_export_that_was_killed_and_is_started_again_leaves_the_same_files(
    ray_session: None, labels: str, tmp_path: Path, to: str
) -> None:
    run(labels, to, tmp_path / "once")
    run(labels, to, tmp_path / "twice")
    partial = tmp_path / "twice" / PARTIAL
    partial.mkdir()
    (partial / "half").write_bytes(b"half a file")
    (files := sorted(path for path in (tmp_path / "twice").rglob("*") if path.is_file()))[1].unlink()
    files[-1].write_bytes(b"older")
    run(labels, to, tmp_path / "twice")
    assert files_below(tmp_path / "once") == files_below(tmp_path / "twice")


def test_ids_that_lead_out_of_the_folder_write_nothing_there_and_are_named(
    ray_session: None, tmp_path: Path
) -> None:
    bad = ["../../escaped", "/tmp/escaped", f"{PARTIAL}/hidden", "a\\b"]
    labels = table(tmp_path / "in", {one: regions(1, [1, 255]) for one in [*bad, "good"]})
    for to in ("png", "panoptic", "cvat"):
        with pytest.raises(ValueError, match=r"^4 of 5 images cannot be exported: .*cannot be a file name"):
            run(labels, to, tmp_path / "deep" / "er" / "out")
    below = {path for path in (tmp_path / "deep").rglob("*") if path.is_file()}
    assert {path.name for path in below} == {"good.png"} and not list(tmp_path.rglob("*escaped*"))


def test_an_image_in_two_places_an_empty_table_and_a_file_in_the_way_are_refused(
    ray_session: None, tmp_path: Path
) -> None:
    twice = table(tmp_path / "twice", {"a": regions(1, [1]), "b": regions(2, [2])}, per_file=1)
    table(tmp_path / "twice", {"a": regions(3, [4])})
    for to in ("png", "coco"):
        with pytest.raises(ValueError, match="rows of 'a' are in two places"):
            run(twice, to, tmp_path / "out")
    assert not (tmp_path / "out" / "coco.json").exists()
    with pytest.raises(ValueError, match="is empty"):
        run(table(tmp_path / "empty", {}), "png", tmp_path / "out")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="is a file, expected a folder"):
        run(twice, "png", tmp_path / "file" / "out")


def test_the_graph_gives_each_image_once_with_all_its_rows(
    ray_session: None, labels: str, maps: dict[str, np.ndarray]
) -> None:
    files = sorted(str(path) for path in Path(labels, "labels").glob("*.parquet"))
    found = list(label_rows_graph(files, EXPORTED_REGION).iter_rows())
    assert sorted(row["image_id"] for row in found) == sorted(maps)
    assert all(len(row["rows"][0]["bbox"]) == 4 for row in found)


def test_pictures_of_one_name_are_refused_where_the_format_drops_their_extension(
    ray_session: None, tmp_path: Path
) -> None:
    names = {1: "aeroplane"}
    uri = str(tmp_path / "labels")
    held = open_table(uri, LABELS, {"run": {"weights": "w"}})
    rows = [
        row
        for one in ("x/a.jpg", "x/a.png")
        for row in label_rows(one, f"/d/{one}", np.ones((2, 2), int), names, {}, {1: 0.5}, "r")
    ]
    publish(
        held, LABELS, [write_data_file(uri, pa.Table.from_pylist(rows, schema=LABELS))], run="r", written_ms=0
    )
    with pytest.raises(ValueError, match=r"two images would be called SegmentationClass/x/a\.png"):
        run(str(tmp_path), "cvat", tmp_path / "out")
    run(str(tmp_path), "png", tmp_path / "png")
    assert sorted(files_below(tmp_path / "png")) == ["x/a.jpg.png", "x/a.png.png"]


def test_a_png_is_as_small_as_a_palette_file_is(ray_session: None, labels: str, tmp_path: Path) -> None:
    run(labels, "png", tmp_path / "out")
    content = (tmp_path / "out" / "a.b.png").read_bytes()
    assert Image.open(io.BytesIO(content)).getpalette()[3:6] == [128, 0, 0]


@pytest.mark.parametrize("to", ["png", "coco", "parquet"])
def test_tables_and_files_in_an_object_store_are_those_on_a_disk(
    ray_session: None, object_store: Any, labels: str, maps: dict[str, np.ndarray], tmp_path: Path, to: str
) -> None:
    bucket = f"export-{to}"
    object_store.make_bucket(bucket)
    table_there = f"s3://{bucket}/run"
    held = open_table(f"{table_there}/labels", LABELS, {"run": {"weights": "w"}, "vocabulary": VOC.to_json()})
    parts = [
        write_data_file(f"{table_there}/labels", pq.read_table(path))
        for path in sorted(Path(labels).rglob("*.parquet"))
    ]
    publish(held, LABELS, parts, run="r", written_ms=0)
    result = run(table_there, to, f"s3://{bucket}/out")
    assert result.images == len(maps)
    import s3fs

    store = s3fs.S3FileSystem()
    there = {
        path.removeprefix(f"{bucket}/out/"): store.cat_file(path) for path in store.find(f"{bucket}/out")
    }
    if to == "png":
        run(labels, to, tmp_path)
        assert there == files_below(tmp_path)
    if to == "coco":
        (tmp_path / "coco.json").write_bytes(there["coco.json"])
        assert_same(coco_maps(tmp_path), maps)
    if to == "parquet":
        rows = [row for content in there.values() for row in pq.read_table(io.BytesIO(content)).to_pylist()]
        assert len({row["image_id"] for row in rows}) == len(maps)
