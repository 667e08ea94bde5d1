"""What waits in files: rows come back as they were, questions are answered, and small tables are looked up."""

import shutil
from pathlib import Path
from random import Random

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.storage.atomic import whole_file, write_whole
from pipelines.storage.external_sort import SortedSpill, range_ends
from pipelines.storage.lookup_table import row_of
from pipelines.storage.spill import SpillFile

SCHEMA = pa.schema({"image_id": pa.string(), "number": pa.int64()})


def spool(folder: Path, ids: list[str], name: str = "rows") -> SpillFile:
    held = SpillFile(folder, SCHEMA, name)
    for number, image_id in enumerate(ids):
        held.write(pa.table({"image_id": [image_id], "number": [number]}, schema=SCHEMA))
    return held


def test_rows_come_back_as_they_were_and_in_any_order_that_is_asked_for(tmp_path: Path) -> None:
    ids = [f"i{k:03}" for k in range(300, 0, -1)]
    held = spool(tmp_path, ids)
    back = pa.concat_tables(held.tables())
    assert back.schema == SCHEMA and back["image_id"].to_pylist() == ids
    tables = list(held.stream("select * from rows order by image_id", rows_at_once=64))
    assert max(table.num_rows for table in tables) <= 64
    assert [one for table in tables for one in table["image_id"].to_pylist()] == sorted(ids)
    assert held.query("select number from rows where image_id = ?", "i300") == [{"number": 0}]
    assert held.query("select count(*) as n from rows where number < $most", most=5) == [{"n": 5}]


def test_values_that_are_repeated_are_found_and_empty_ones_are_not_values(tmp_path: Path) -> None:
    assert spool(tmp_path, ["b", "a", "b", "", "", "c", "a"]).repeated("image_id", 5) == ["a", "b"]
    assert spool(tmp_path, ["b", "a", ""], "others").repeated("image_id", 5) == []


def test_a_question_may_name_the_rows_of_two_files(tmp_path: Path) -> None:
    first, second = spool(tmp_path, ["a", "b", "c"], "first"), spool(tmp_path, ["c", "b", "d"], "second")
    question = "select image_id from first semi join second using (image_id) order by 1"
    (table,) = first.stream(question, joined_with=[second])
    assert table["image_id"].to_pylist() == ["b", "c"]


@given(st.sets(st.text(min_size=1, max_size=4)), st.text(min_size=1, max_size=4))
def test_a_row_is_looked_up_by_id_whatever_its_characters(ids: set[str], other: str) -> None:
    ordered = sorted(ids)
    table = pa.table(
        {
            "image_id": pa.array(ordered, pa.string()),
            "number": pa.array(list(range(len(ordered))), pa.int64()),
        }
    )
    for number, image_id in enumerate(ordered):
        assert row_of(table, image_id) == {"image_id": image_id, "number": number}
    assert (row_of(table, other) is None) == (other not in ids)


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    target, partial = tmp_path / "deep" / "file", tmp_path / "partial"
    for folder in (None, str(partial)):
        with pytest.raises(RuntimeError), whole_file(str(target), folder) as file:
            file.write(b"half")
            raise RuntimeError("stopped")
        assert not target.exists() and not [path for path in tmp_path.rglob("*") if path.is_file()]
    write_whole(str(target), b"whole", str(partial))
    shutil.rmtree(partial)
    assert target.read_bytes() == b"whole" and not partial.exists()
    with pytest.raises(ValueError, match="is the folder writable"):
        write_whole(str(target / "below"), b"")


@given(st.sets(st.text(min_size=1, max_size=3), max_size=40), st.integers(1, 9), st.randoms())
def test_rows_are_sorted_range_by_range_as_they_would_be_at_once(
    tmp_path_factory: pytest.TempPathFactory, ids: set[str], rows_in_range: int, random: Random
) -> None:
    shuffled = random.sample(sorted(ids), len(ids))
    tables = [pa.table({"image_id": [one], "number": [k]}, schema=SCHEMA) for k, one in enumerate(shuffled)]
    folder = tmp_path_factory.mktemp("sorted")
    held = SortedSpill(folder, SCHEMA, "rows", range_ends(sorted(ids), len(ids), rows_in_range))
    for table in tables:
        held.write(table)
    for _ in range(2):
        found = [row for table in held.tables(rows_at_once=2) for row in table.to_pylist()]
        assert found == [{"image_id": one, "number": shuffled.index(one)} for one in sorted(ids)]
    assert len(list(folder.iterdir())) == 1 + len(ids) // rows_in_range
