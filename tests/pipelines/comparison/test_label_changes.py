"""Label changes against a loop over pixels, whatever files the two tables lie in."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from pipelines.comparison.label_changes import label_changes
from pipelines.execution import Execution
from pipelines.tables.delta_writer import open_table, publish, write_data_file
from pipelines.tables.label_table import open_labels_at
from zs3.label_rows import label_rows
from zs3.tables import LABELS

FIRST = {1: "cat", 2: "cow"}
SECOND = {5: "cow", 6: "cat", 7: "owl"}


def table(uri: Path, maps: dict[str, np.ndarray], names: dict[int, str], per_file: int) -> DeltaTable:
    held = open_table(str(uri), LABELS, {"run": {"weights": "w"}})
    ids = list(maps)
    for start in range(0, len(ids), per_file):
        rows = []
        for image_id in ids[start : start + per_file]:
            rows += label_rows(image_id, "u", maps[image_id], names, {}, dict.fromkeys(names, 0.5), "r")
        publish(
            held,
            LABELS,
            [write_data_file(str(uri), pa.Table.from_pylist(rows, schema=LABELS))],
            run="r",
            written_ms=0,
        )
    return held


def test_label_changes_count_every_pixel_by_both_names_of_images_in_both_tables(
    ray_session: None, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    first = {f"i{k}": rng.choice([1, 2, 255], (6, 8)) for k in range(5)}
    second = {f"i{k}": rng.choice([5, 6, 7, 255], (6, 8)) for k in reversed(range(1, 7))}
    second["i4"] = np.full((8, 6), 5)
    found = label_changes(
        table(tmp_path / "a", first, FIRST, 2), table(tmp_path / "b", second, SECOND, 3), Execution()
    )
    expected: Counter[tuple[str, str]] = Counter()
    for image_id in ("i1", "i2", "i3"):
        for one, other in zip(
            first[image_id].ravel().tolist(), second[image_id].ravel().tolist(), strict=True
        ):
            expected[FIRST.get(one, "no label"), SECOND.get(other, "no label")] += 1
    told = {(change["from"], change["to"]): change["pixels"] for change in found["changes"]}
    assert told == {pair: pixels for pair, pixels in expected.items() if pair[0] != pair[1]}
    assert found["pixels"] == 3 * 48 and found["sizes_differ"] == 1
    assert found["changed"] == sum(told.values())


def test_a_label_table_that_is_gone_or_was_vacuumed_is_none(tmp_path: Path) -> None:
    held = table(tmp_path / "a", {"x": np.ones((2, 2), int)}, FIRST, 1)
    assert open_labels_at(str(tmp_path / "a"), held.version()) is not None
    assert open_labels_at(str(tmp_path / "a"), held.version() + 5) is None
    assert open_labels_at(str(tmp_path / "nowhere"), 0) is None
    for path in (tmp_path / "a").glob("*.parquet"):
        path.unlink()
    assert open_labels_at(str(tmp_path / "a"), held.version()) is None


@pytest.mark.parametrize("per_file", [1, 4])
def test_a_table_against_itself_has_no_label_changes(
    ray_session: None, tmp_path: Path, per_file: int
) -> None:
    held = table(tmp_path / "a", {f"i{k}": np.full((3, 3), 1 + k % 2) for k in range(4)}, FIRST, per_file)
    found = label_changes(held, held, Execution())
    assert (found["changed"], found["pixels"], found["changes"]) == (0, 36, [])
