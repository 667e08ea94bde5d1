"""Runs that version 0.1.0 began continue: its tables are read, added to, named from, exported and retried."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import skimage.data
from deltalake import DeltaTable
from PIL import Image

from jobs import export, label, name, retry, segment, status
from zs3.label_rows import label_map
from zs3.tables import FAILURES, LABELS, SEGMENTS, SHARDS

RECORDED = Path(__file__).parent / "data" / "run_of_0_1_0"
ORIGIN = "/photos-of-before"
"""Where the tables say that their photographs lie."""
PHOTOS = {"astronaut": lambda: skimage.data.astronaut()[:240:2, 100:400:2],
          "coffee": lambda: skimage.data.coffee()[50:290:2, 100:420:2]}  # fmt: skip
CLASSES = "person\ncup: mug, saucer\ntable\nwall *\n"


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder with the photographs, the class list and the runs `labelled`, `kept` and `named` of version 0.1.0.

    The photographs' folder and change times are not those of then, so the tables are told of today's.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for image_id, pixels in PHOTOS.items():
        Image.fromarray(pixels()).save(tmp_path / "photos" / f"{image_id}.png")
    (tmp_path / "photos" / "broken.png").write_bytes(b"no picture at all")
    (tmp_path / "classes.txt").write_text(CLASSES)
    for run in RECORDED.iterdir():
        if run.is_dir():
            shutil.copytree(run, tmp_path / run.name)
            shutil.rmtree(tmp_path / run.name / "shards")  # a digest of etags; a run makes it anew
    sizes = {path.name: moved(path, tmp_path) for path in tmp_path.glob("*/*/*.parquet")}
    for log in tmp_path.glob("*/*/_delta_log/*.json"):
        entries = [json.loads(line) for line in log.read_text().replace(ORIGIN, str(tmp_path)).splitlines()]
        for entry in entries:
            if "add" in entry:
                entry["add"]["size"] = sizes[entry["add"]["path"]]
        log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return tmp_path


def moved(path: Path, folder: Path) -> int:
    """Rewrite a Parquet file for photographs that lie in `folder` now; its size in bytes."""
    table = pq.ParquetFile(path).read()
    uris = pc.replace_substring(table["uri"], ORIGIN, str(folder))
    stats = [Path(uri).stat() for uri in uris.to_pylist()]
    etags = pa.array([f"{stat.st_size}-{stat.st_mtime_ns}" for stat in stats])
    for column, values in (("uri", uris), ("etag", etags)):
        index = table.column_names.index(column)
        table = table.set_column(index, table.schema.field(index), values)
    pq.write_table(table, path)
    return path.stat().st_size


def result_of(command, argv, capfd) -> tuple[int, dict]:
    """Exit code and JSON line of a command."""
    code = command.main([*argv, "--json"])
    return code, json.loads(capfd.readouterr().out.splitlines()[-1])


LABEL = ["--images", "photos", "--classes", "classes.txt", "--checkpoint", "zs3-mini", "--out", "labelled"]
SEGMENT = ["--images", "photos", "--checkpoint", "zs3-mini", "--out", "kept"]
NAME = ["--segments", "kept", "--classes", "classes.txt", "--out", "named"]


@pytest.mark.parametrize(
    "schema", [LABELS, SEGMENTS, FAILURES, SHARDS], ids=lambda schema: schema.metadata[b"zs3.table"].decode()
)
def test_the_tables_have_the_columns_that_they_had(schema):
    tables = list(RECORDED.glob(f"*/{schema.metadata[b'zs3.table'].decode()}"))
    assert tables
    for path in tables:
        assert [field.name for field in DeltaTable(path).schema().fields] == schema.names


def test_what_was_done_is_not_done_again(runs, capfd):
    for command, argv, failed in ((label, LABEL, 1), (segment, SEGMENT, 1), (name, NAME, 0)):
        code, plan = result_of(command, [*argv, "--dry-run"], capfd)
        assert code == 0 and plan["images"] == 0, argv
        assert plan["skipped"] == 2 + failed and plan["failed_before"] == failed and not plan["replaces"]


def test_the_run_goes_on_with_new_images_beside_the_old_rows(in_process, runs, capfd):
    before = DeltaTable("labelled/labels").to_pyarrow_table().to_pylist()
    Image.fromarray(skimage.data.coffee()[100:200:2, 100:240:2]).save("photos/new.png")
    code, result = result_of(label, LABEL, capfd)
    assert code == 3, "broken.png failed before"
    assert (result["images"], result["failed"], result["skipped"], result["failed_before"]) == (1, 0, 3, 1)
    rows = DeltaTable("labelled/labels").to_pyarrow_table().to_pylist()
    assert [row for row in rows if row["image_id"] != "new"] == before
    assert {row["run"] for row in rows} == {row["run"] for row in before}
    code, state = result_of(status, ["--out", "labelled"], capfd)
    assert code == 0 and [(table["done"], table["failed"]) for table in state["tables"]] == [(3, 1)]


def test_segments_of_before_are_named_with_another_class_list(in_process, runs, capfd):
    Path("other.txt").write_text("astronaut\ncoffee cup\n")
    argv = ["--segments", "kept", "--classes", "other.txt", "--out", "renamed"]
    code, result = result_of(name, argv, capfd)
    assert code == 0 and result["images"] == 2
    classes = set(DeltaTable("renamed/labels").to_pyarrow_table()["class_name"].to_pylist())
    assert classes <= {"astronaut", "coffee cup"} and classes


def test_segments_of_before_get_the_labels_that_they_got_then(in_process, runs, capfd):
    argv = ["--segments", "kept", "--classes", "classes.txt", "--out", "again"]
    assert result_of(name, argv, capfd)[0] == 0
    then, now = (DeltaTable(f"{run}/labels").to_pyarrow_table().to_pylist() for run in ("named", "again"))
    assert {row["run"] for row in then} == {row["run"] for row in now}
    for image_id in PHOTOS:
        maps = [label_map([row for row in rows if row["image_id"] == image_id]) for rows in (then, now)]
        assert (maps[0] == maps[1]).mean() > 0.999, "only the rounding of another processor may differ"


def test_labels_of_before_are_exported(in_process, runs, capfd):
    assert export.main(["--labels", "labelled", "--to", "png", "--out", "masks"]) == 0
    assert {path.stem for path in Path("masks").rglob("*.png")} == {"astronaut", "coffee"}


def test_what_failed_before_is_tried_again(in_process, runs, capfd):
    shutil.copy("photos/coffee.png", "photos/broken.png")
    code, result = result_of(retry, ["--out", "labelled"], capfd)
    assert code == 0 and result["images"] == 1 and result["failed_before"] == 0
    assert DeltaTable("labelled/failures").to_pyarrow_table().num_rows == 0
