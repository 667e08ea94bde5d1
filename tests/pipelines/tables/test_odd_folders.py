"""Tables, and what is read from them, in folders whose names have spaces, accents, `#`, `?` and `%`."""

import subprocess
from pathlib import Path

import fsspec
import pytest
from deltalake import DeltaTable

from jobs.cli.run_output import query
from pipelines.storage.objects import storage_options
from pipelines.tables.delta_reader import (
    delta_uri,
    existing_table,
    file_uris,
    image_uris,
    log_entries,
    read_data_file,
    table_folder,
    table_uri,
)
from pipelines.tables.delta_writer import open_table, publish, write_data_file
from tests.pipelines.tables.test_delta import PROVENANCE, failures
from zs3.tables import FAILURES

NAMES = [
    "My Projects é #1 ? 100%",
    "a#b",
    "a%b",
    "a?b=c",
    "cafe\u0301",
    "a b;+&={y}*'\"~<>`",
    "a:b@c,$!()",
    "a::b",
]
REFUSED = {"a%20b": "%20", "a\\b": "\\\\", "a\nb": "\\n"}


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder on this machine, or one in a bucket."""
    if request.param == "local":
        return str(tmp_path)
    bucket = f"odd-{abs(hash(tmp_path)) % 10**9}"
    request.getfixturevalue("object_store").make_bucket(bucket)
    return f"s3://{bucket}"


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_read_rewritten_and_queried_where_the_folder_has_an_odd_name(root: str, name: str) -> None:
    uri = table_uri(f"{root}/{name}", "failures")
    table = open_table(uri, FAILURES, PROVENANCE)
    publish(table, FAILURES, [write_data_file(uri, failures("a", "b"))], run="r", written_ms=1)
    publish(table, FAILURES, [write_data_file(uri, failures("c"))], run="r", written_ms=1, replaced=["a"])
    stored = existing_table(uri)
    assert stored is not None
    assert [entry["version"] for entry in log_entries(stored, 2)] == [2, 1]
    assert [entry.get("run") for entry in log_entries(stored, 9)] == ["r", "r", None]
    assert table_folder(stored) == uri
    assert image_uris(stored) == {"b": "xb", "c": "xc"}
    files = file_uris(stored)
    assert files == sorted(files) and all(file.startswith(f"{uri}/part-") for file in files)
    assert sorted(row for file in files for row in read_data_file(file)["image_id"].to_pylist()) == ["b", "c"]
    filesystem = fsspec.filesystem("s3" if root.startswith("s3") else "file")
    below = filesystem.find(root.removeprefix("s3://"))
    assert all(file.removeprefix("s3://").startswith(uri.removeprefix("s3://")) for file in below)


@pytest.mark.parametrize("name", NAMES)
def test_the_printed_query_reads_a_table_in_such_a_folder(tmp_path: Path, name: str) -> None:
    out = str(tmp_path / name)
    uri = table_uri(out, "failures")
    table = open_table(uri, FAILURES, PROVENANCE)
    publish(table, FAILURES, [write_data_file(uri, failures("a"))], run="r", written_ms=1)
    command = query(out, "failures", "SELECT image_id FROM t")
    # Not its exit code: on a busy machine, threads of the Delta library may abort a process that ends.
    shown = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True).stdout
    assert "│ a " in shown


@pytest.mark.parametrize(("name", "shown"), REFUSED.items())
def test_a_name_that_the_delta_library_cannot_read_again_is_refused_before_anything_is_written(
    root: str, name: str, shown: str
) -> None:
    with pytest.raises(ValueError, match="the Delta library cannot read tables below a folder with") as error:
        open_table(table_uri(f"{root}/{name}", "failures"), FAILURES, PROVENANCE)
    assert f"'{shown}'" in str(error.value) and "choose another" in str(error.value)
    filesystem = fsspec.filesystem("s3" if root.startswith("s3") else "file")
    assert not filesystem.find(root.removeprefix("s3://"))


def test_brackets_are_refused_on_this_machine_and_work_in_a_bucket(root: str) -> None:
    uri = table_uri(f"{root}/photos [2024]", "failures")
    if root.startswith("s3"):
        open_table(uri, FAILURES, PROVENANCE)
        assert image_uris(DeltaTable(delta_uri(uri), storage_options=storage_options(uri))) == {}
    else:
        with pytest.raises(ValueError, match=r"with '\[' in its name"):
            open_table(uri, FAILURES, PROVENANCE)
