"""A file that is written appears whole, and nothing that lies in its way is written to."""

import os

import pytest

from pipelines.storage.atomic import renamed_when_whole, write_whole


def test_a_file_is_written_with_the_rights_of_others_and_leaves_nothing_beside_it(tmp_path):
    write_whole(str(tmp_path / "report.html"), b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_bytes() == b"new"
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "report.html").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_with_the_name_of_this_process_is_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_bytes(b"old")
    (tmp_path / f".report.html.{os.getpid()}").symlink_to(precious)
    write_whole(str(tmp_path / "report.html"), b"new")
    assert precious.read_bytes() == b"old" and (tmp_path / "report.html").read_bytes() == b"new"


def test_a_link_that_lies_in_the_way_is_neither_written_through_nor_removed(tmp_path):
    precious, hidden = tmp_path / "precious", tmp_path / ".part"
    precious.write_bytes(b"old")
    hidden.symlink_to(precious)
    with pytest.raises(FileExistsError), renamed_when_whole(hidden, tmp_path / "new") as file:
        file.write(b"new")
    assert precious.read_bytes() == b"old" and hidden.is_symlink() and not (tmp_path / "new").exists()
