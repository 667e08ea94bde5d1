"""Label tables against truth on Ray: exact sums however rows lie, one clear line for all that is amiss."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from PIL import Image

from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.request import EvaluateRequest
from pipelines.tables.delta_writer import open_table, publish, write_data_file
from zs3.images.codec import encode_label_png
from zs3.label_rows import label_rows
from zs3.metrics import PROTOCOLS, UNLABELLED, confusion, scores, total
from zs3.tables import FAILURES, LABELS, SCORES, failure_row
from zs3.vocabulary import ClassEntry, Vocabulary

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
VOCABULARY = Vocabulary(
    name="farm",
    classes=(
        ClassEntry(id=0, name="ground", role="background"),
        ClassEntry(id=1, name="cat"),
        ClassEntry(id=2, name="sofa"),
        ClassEntry(id=3, name="cow", role="unseen"),
        ClassEntry(id=4, name="blur", role="excluded"),
    ),
)
LABELLED_WITH = Vocabulary(
    name="words",
    classes=(
        ClassEntry(id=10, name="couch"),
        ClassEntry(id=11, name="cat"),
        ClassEntry(id=12, name="cow", role="unseen"),
    ),
)
TO_DATA = {10: 2, 11: 1, 12: 3, 255: UNLABELLED}
IDS = ["a", "b", "c", "d", "e"]


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder data set of five small images, in a folder with a space in its name."""
    root = tmp_path_factory.mktemp("farm data")
    (root / "images").mkdir()
    (root / "masks").mkdir()
    rng = np.random.default_rng(0)
    for image_id in IDS:
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(root / "images" / f"{image_id}.png")
        (root / "masks" / f"{image_id}.png").write_bytes(encode_label_png(truth(image_id)))
    entries = [{"id": entry.id, "name": entry.name, "role": entry.role} for entry in VOCABULARY.classes]
    (root / "classes.json").write_text(json.dumps({"name": "farm", "classes": entries}))
    (root / "splits.json").write_text(json.dumps({"val": IDS, "few": IDS[:2]}))
    return root


def truth(image_id: str) -> np.ndarray:
    """(20, 30) class ids of the data set, all roles and void among them."""
    return (
        np.random.default_rng(len(image_id) + ord(image_id[0]))
        .choice([0, 1, 2, 3, 4, 255], (4, 5))
        .repeat(5, 0)
        .repeat(6, 1)
    )


def painted(image_id: str) -> np.ndarray:
    """(20, 30) class ids of the labelling vocabulary, unlabelled pixels among them."""
    return (
        np.random.default_rng(99 + ord(image_id[0]))
        .choice([10, 11, 12, 255], (5, 6))
        .repeat(4, 0)
        .repeat(5, 1)
    )


def rows_of(image_id: str, label_map_HW: np.ndarray | None = None, run: str = "r") -> list[dict[str, Any]]:
    return label_rows(
        image_id,
        f"{image_id}.png",
        painted(image_id) if label_map_HW is None else label_map_HW,
        {entry.id: entry.name for entry in LABELLED_WITH.classes},
        {entry.id: entry.role == "seen" for entry in LABELLED_WITH.classes},
        dict.fromkeys(TO_DATA, 0.5),
        run,
    )


def table(
    out: Path,
    files: Sequence[list[dict[str, Any]]],
    vocabulary: Vocabulary | None = LABELLED_WITH,
    trained: Sequence[str] | None = None,
) -> str:
    """A label table with these files, as a labelling run leaves it."""
    uri = str(out / "labels")
    provenance: dict[str, Any] = {"run": {"weights": "w"}, "digest": "d", "checkpoint": "none"}
    provenance |= {"trained": trained, "score": "probability"}
    if vocabulary is not None:
        provenance["vocabulary"] = vocabulary.to_json()
    held = open_table(uri, LABELS, provenance)
    parts = [write_data_file(uri, pa.Table.from_pylist(rows, schema=LABELS)) for rows in files]
    publish(held, LABELS, parts, run="r", written_ms=0)
    return str(out)


def run(labels: str, farm: Path, out: Path, **changes: Any) -> dict[str, Any]:
    values = {"dataset": "folder", "root": str(farm), "split": "val"} | changes
    return evaluate(EvaluateRequest(labels=labels, out=str(out), **values), now=NOW)


def all_images() -> list[list[dict[str, Any]]]:
    return [[row for image_id in IDS for row in rows_of(image_id)]]


def test_a_report_holds_exactly_what_a_loop_over_the_images_gives(
    ray_session: None, farm: Path, tmp_path: Path
) -> None:
    report = run(table(tmp_path, all_images()), farm, tmp_path / "out")
    renumbered = [np.vectorize(TO_DATA.get)(painted(image_id)) for image_id in IDS]
    parts = [
        confusion(truth(image_id), prediction, ignore_id=255)
        for image_id, prediction in zip(IDS, renumbered, strict=True)
    ]
    expected = scores(total(parts), VOCABULARY.classes, PROTOCOLS["zs3"])
    assert report["harmonic"]["miou"] == expected.harmonic
    assert [entry["iou"] for entry in report["classes"]] == [entry.iou for entry in expected.classes]
    assert report["images"] == len(IDS) and report["notes"] == [] and report["title"].endswith("val")

    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/jpeg") == len(IDS)
    assert "harmonic" in (tmp_path / "out" / "report.md").read_text()
    assert not list((tmp_path / "out").glob(".report*"))

    held = DeltaTable(str(tmp_path / "out" / "scores")).to_pyarrow_table()
    assert held.column_names == SCORES.names
    assert sorted(held["image_id"].to_pylist()) == IDS
    assert sum(map(sum, held["pixels"].to_pylist())) == int(total(parts).pixels.sum())


def test_how_rows_lie_in_files_and_old_versions_of_the_table_change_nothing(
    ray_session: None, farm: Path, tmp_path: Path
) -> None:
    one = run(table(tmp_path / "one", all_images()), farm, tmp_path / "out1")
    spread = table(tmp_path / "many", [rows_of(image_id) for image_id in reversed(IDS)])
    DeltaTable(f"{spread}/labels").optimize.compact()
    DeltaTable(f"{spread}/labels").delete("image_id = 'c'")
    publish(
        DeltaTable(f"{spread}/labels"),
        LABELS,
        [write_data_file(f"{spread}/labels", pa.Table.from_pylist(rows_of("c"), schema=LABELS))],
        run="r",
        written_ms=0,
    )
    write_data_file(f"{spread}/labels", pa.Table.from_pylist(rows_of("a"), schema=LABELS))
    many = run(spread, farm, tmp_path / "out2")
    for report in (one, many):
        report["provenance"].pop("labels")
    assert one == many
    again = run(f"{spread}/labels", farm, tmp_path / "out2", gallery=0)
    assert again["harmonic"] == many["harmonic"]
    assert DeltaTable(str(tmp_path / "out2" / "scores")).to_pyarrow_table().num_rows == len(IDS)


def test_labels_equal_to_the_truth_score_100(ray_session: None, farm: Path, tmp_path: Path) -> None:
    to_labels = {2: 10, 1: 11, 3: 12}
    perfect = [
        row
        for image_id in IDS
        for row in rows_of(
            image_id, np.vectorize(lambda k: to_labels.get(k, 11))(truth(image_id)).astype(np.int32)
        )
    ]
    report = run(table(tmp_path, [perfect]), farm, tmp_path / "out", gallery=0)
    assert [report[key]["miou"] for key in ("seen", "unseen", "harmonic", "all")] == [100.0] * 4


def refused(labels: str, farm: Path, out: Path, **changes: Any) -> str:
    """The message with which an evaluation stops, after which no report and no scores may be there."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        run(labels, farm, out, **changes)
    assert not list(out.glob("report.*")) and not list(out.glob("scores/_delta_log/*"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_images_without_labels_or_truth_stop_the_run_unless_allowed(
    ray_session: None, farm: Path, tmp_path: Path
) -> None:
    labels = table(tmp_path, [[*rows_of("a"), *rows_of("b"), *rows_of("stranger")]])
    failures = open_table(f"{labels}/failures", FAILURES, {"run": {"weights": "w"}})
    failed = pa.Table.from_pylist(
        [failure_row("c", "c.png", "decode", ValueError("cut"), "r")], schema=FAILURES
    )
    publish(failures, FAILURES, [write_data_file(f"{labels}/failures", failed)], run="r", written_ms=0)
    message = refused(labels, farm, tmp_path / "out")
    assert "3 of 5 images" in message and "(c, d, e; 1 of them are in the table of failures)" in message
    assert "1 labelled image is not in it (stranger)" in message and "--allow-missing" in message

    report = run(labels, farm, tmp_path / "out", allow_missing=True)
    assert report["images"] == 2
    assert report["missing"]["without_labels"] == {"count": 3, "ids": ["c", "d", "e"]}
    assert report["missing"]["without_truth"] == {"count": 1, "ids": ["stranger"]}
    assert list(report["failures"]) == ["c"] and "cut" in report["failures"]["c"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"<b>c</b><span>{report['failures']['c']}</span>" in page and "<b>d</b></li>" in page
    assert len(report["notes"]) == 2
    subset = run(
        table(tmp_path / "two", [[*rows_of("a"), *rows_of("b")]]), farm, tmp_path / "few", split="few"
    )
    assert subset["harmonic"] == report["harmonic"]


def test_a_size_that_differs_is_told_with_image_and_both_sizes(
    ray_session: None, farm: Path, tmp_path: Path
) -> None:
    turned = rows_of("b", np.full((30, 20), 11, np.int32))
    rows = [row for image_id in IDS if image_id != "b" for row in rows_of(image_id)]
    message = refused(table(tmp_path, [[*rows, *turned]]), farm, tmp_path / "out")
    assert "1 of 5 images cannot be scored: labels of 'b' are 20x30 pixels and its truth 30x20" in message


def test_an_image_that_lies_in_two_places_is_refused(ray_session: None, farm: Path, tmp_path: Path) -> None:
    labels = table(tmp_path, [*all_images(), rows_of("d")])
    assert "'d' lie in two places" in refused(labels, farm, tmp_path / "out")


def test_a_truth_id_outside_the_class_list_is_told_with_its_image(
    ray_session: None, farm: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("images", "masks", "splits.json"):
        (broken / name).symlink_to(farm / name)
    entries = [{"id": 1, "name": "cat"}, {"id": 2, "name": "sofa"}]
    (broken / "classes.json").write_text(json.dumps({"classes": entries}))
    message = refused(table(tmp_path, all_images()), broken, tmp_path / "out")
    assert "5 of 5 images cannot be scored" in message
    assert "image 'a': truth holds 0, 3, 4" in message


def test_a_truth_without_one_counted_pixel_is_refused_with_the_repair(
    ray_session: None, farm: Path, tmp_path: Path
) -> None:
    """Masks of 0 and 255, as tools write binary ones: background and void."""
    binary = tmp_path / "binary"
    (binary / "masks").mkdir(parents=True)
    for name in ("images", "classes.json", "splits.json"):
        (binary / name).symlink_to(farm / name)
    for image_id in IDS:
        (binary / "masks" / f"{image_id}.png").write_bytes(encode_label_png(255 * (truth(image_id) == 1)))
    message = refused(table(tmp_path, all_images()), binary, tmp_path / "out")
    assert (
        "the truth of binary val has no pixel of a class that counts" in message
        and "set ignore_index to 0" in message
    )


def test_the_caveats_come_from_checkpoint_class_list_and_data_set_not_from_what_was_predicted(
    ray_session: None, farm: Path, tmp_path: Path
) -> None:
    """The checkpoint had masks of cow, which is unseen here, and none of sofa; neither is predicted, and the class list
    marks cow unseen."""
    reports = []
    for name, only in (("all", None), ("cats", 11)):
        rows = [row for row in all_images()[0] if only in (None, row["class_id"])]
        labels = table(tmp_path / name, [rows], trained=["cat", "cow"])
        reports.append(run(labels, farm, tmp_path / f"{name} out", allow_missing=True))
    for report in reports:
        assert any("had training masks of cow, unseen in this data set" in note for note in report["notes"])
        assert any("never had training masks of sofa, seen in" in note for note in report["notes"])
        trained = {entry["name"]: entry["trained"] for entry in report["classes"]}
        assert trained == {"cat": True, "sofa": False, "cow": True}
    page = (tmp_path / "all out" / "report.html").read_text()
    assert (
        "on seen classes (1 of 2 had training masks)" in page
        and "unseen classes (1 of 1 had training masks)" in page
    )


def test_photographs_that_are_turned_without_another_size_are_counted(
    ray_session: None, farm: Path, tmp_path: Path
) -> None:
    turned = tmp_path / "turned"
    (turned / "images").mkdir(parents=True)
    for name in ("masks", "classes.json", "splits.json"):
        (turned / name).symlink_to(farm / name)
    for number, image_id in enumerate(IDS):
        exif = Image.Exif()
        exif[0x0112] = 3 if number == 1 else 1
        Image.new("RGB", (30, 20)).save(turned / "images" / f"{image_id}.jpg", exif=exif)
    report = run(table(tmp_path, all_images()), turned, tmp_path / "out")
    (note,) = [note for note in report["notes"] if "EXIF" in note]
    assert note.startswith("1 photograph has an EXIF orientation") and "(b)" in note


def test_tables_that_are_none_are_told_apart(ray_session: None, farm: Path, tmp_path: Path) -> None:
    assert "no label table at" in refused(str(tmp_path / "nowhere"), farm, tmp_path / "out")
    assert "is empty" in refused(table(tmp_path / "empty", []), farm, tmp_path / "out")
    failures = str(tmp_path / "failures")
    open_table(failures, FAILURES, {"run": {"weights": "w"}})
    assert "has no column 'height'" in refused(failures, farm, tmp_path / "out")


def test_a_label_id_outside_the_class_list_of_its_table_is_told(
    ray_session: None, farm: Path, tmp_path: Path
) -> None:
    rows = [{**row, "class_id": 77} if row["class_id"] == 12 else row for row in all_images()[0]]
    message = refused(table(tmp_path, [rows]), farm, tmp_path / "out")
    assert "class id 77 ('cow')" in message and "'words' of 3 classes" in message


def test_labels_of_another_class_list_are_refused_when_no_class_matches_and_count_as_wrong_when_some_do(
    ray_session: None, farm: Path, tmp_path: Path
) -> None:
    rows = [
        {**row, "class_name": row["class_name"] and "unicorn", "class_id": 10}
        for row in rows_of("a", np.full((20, 30), 10))
    ]
    alone = table(tmp_path / "alone", [rows], vocabulary=None)
    assert "none of the labelled classes (unicorn)" in refused(alone, farm, tmp_path / "out", split="few")
    mixed = table(tmp_path / "mixed", [[*rows, *rows_of("b", np.full((20, 30), 11))]], vocabulary=None)
    report = run(mixed, farm, tmp_path / "out", split="few", gallery=0)
    (note,) = report["notes"]
    assert note.endswith("classes that the data set lacks, and labels of them count as wrong: unicorn.")


def test_diagnostics_from_a_file_stand_beside_the_oracles(
    ray_session: None, farm: Path, tmp_path: Path
) -> None:
    source = tmp_path / "more.json"
    source.write_text(
        json.dumps([{"title": "Oracle", "seen": 80.5, "unseen": 90, "harmonic": 85, "note": "n"}])
    )
    labels = table(tmp_path, all_images())
    report = run(labels, farm, tmp_path / "out", gallery=0, diagnostics=str(source))
    assert [entry["title"] for entry in report["diagnostics"]] == ["Masks alone", "Names alone", "Oracle"]
    source.write_text("{}")
    assert "expected a list" in refused(labels, farm, tmp_path / "other", diagnostics=str(source))
    assert "there are: zs3, paper" in refused(labels, farm, tmp_path / "other", protocol="mine")


def test_an_out_that_cannot_be_written_is_one_clear_line(
    ray_session: None, farm: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    message = refused(table(tmp_path, all_images()), farm, blocked / "out")
    assert f"{blocked} is a file" in message and "choose another --out" in message
