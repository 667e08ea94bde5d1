"""Listings of every kind give stable ids; a source without images is refused."""

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.runs.catalogue import Catalogue, catalogue_of
from pipelines.runs.listing import LISTED, files_in_words
from tests.support.listings import list_images


def picture(path, colour=(200, 10, 10), size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return str(path)


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "sub/a.PNG", "c.webp"):
        picture(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.md").write_text("no image")
    picture(tmp_path / "photos" / ".hidden" / "x.jpg")
    picture(tmp_path / "photos" / "._b.jpg")
    return tmp_path / "photos"


def test_a_folder_gives_its_images_in_order_with_stems_as_ids(folder):
    assert list_images(str(folder)) == [
        ("b", f"{folder}/b.jpg"),
        ("c", f"{folder}/c.webp"),
        ("a", f"{folder}/sub/a.PNG"),
    ]


def test_a_folder_gives_every_kind_that_is_read_and_counts_the_others(tmp_path):
    names = ("a.jfif", "b.JPE", "c.pbm", "d.avif", "e.heic", "f", "2019.05.01")
    for name in names:
        picture(tmp_path / "x.png")
        (tmp_path / "x.png").rename(tmp_path / name)
    for name in ("g.jp2", "h.jp2", "i.json", "README", "empty"):
        (tmp_path / name).write_text("no picture" if name != "empty" else "")
    catalogue = catalogue_of(str(tmp_path))
    assert {uri for batch in catalogue.rows() for uri in batch["uri"].to_pylist()} == {
        f"{tmp_path}/{name}" for name in names
    }
    assert catalogue.other_files == {".jp2": 2, ".json": 1, "": 2}
    assert files_in_words(catalogue.other_files) == "2 of kind .jp2, 2 without extension, 1 of kind .json"


def test_kinds_beyond_a_limit_are_counted_together(tmp_path):
    picture(tmp_path / "a.png")
    for number in range(30):
        (tmp_path / f"a.k{number}").touch()
    counts = catalogue_of(str(tmp_path)).other_files
    assert len(counts) == 21 and counts["others"] == 10
    assert files_in_words(counts).endswith("16 of further kinds")


def test_linked_folders_are_listed_once_and_links_in_circles_end(tmp_path):
    picture(tmp_path / "photos" / "b" / "1.png")
    picture(tmp_path / "elsewhere" / "2.png")
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "also").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "a").symlink_to(tmp_path / "photos" / "b")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path)
    (tmp_path / "photos" / "itself").symlink_to(tmp_path / "photos" / "itself")
    assert [uri for _, uri in list_images(f"{tmp_path}/photos")] == [
        f"{tmp_path}/photos/also/2.png",
        f"{tmp_path}/photos/b/1.png",
    ]


def test_repeated_file_names_turn_every_id_into_a_path(folder):
    picture(folder / "sub" / "b.jpg")
    assert [image_id for image_id, _ in list_images(str(folder))] == [
        "b.jpg",
        "c.webp",
        "sub/a.PNG",
        "sub/b.jpg",
    ]


def test_the_limit_takes_the_first_and_changes_no_id(folder):
    picture(folder / "sub" / "b.jpg")
    assert list_images(str(folder), 2) == list_images(str(folder))[:2]


def test_relative_home_and_file_uris_mean_the_same_folder(folder, monkeypatch):
    expected = list_images(str(folder))
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for source in ("photos", "photos/", "./photos/../photos", "~/photos", f"file://{folder}"):
        assert list_images(source) == expected


def test_a_folder_whose_name_looks_like_a_glob_is_a_folder(tmp_path):
    picture(tmp_path / "set [1]" / "ä b#.jpg")
    assert list_images(str(tmp_path / "set [1]"))[0][0] == "ä b#"


def test_a_glob_takes_what_it_matches(folder):
    assert [image_id for image_id, _ in list_images(f"{folder}/*.jpg")] == ["b"]
    assert [image_id for image_id, _ in list_images(f"{folder}/**/*.PNG")] == ["a"]


def test_a_text_file_lists_paths_beside_it_uris_and_absolute_paths(folder):
    listing = folder / "list.txt"
    listing.write_text(f"b.jpg\n\n  sub/a.PNG \n{folder}/c.webp\nfile://{folder}/b.jpg\ns3://bucket/z.jpg\n")
    assert dict(list_images(str(listing))) == {
        "b": f"{folder}/b.jpg",
        "a": f"{folder}/sub/a.PNG",
        "c": f"{folder}/c.webp",
        "z": "s3://bucket/z.jpg",
    }


def test_repeated_names_in_a_list_are_told_apart_below_their_common_folder(tmp_path):
    listing = tmp_path / "list.txt"
    listing.write_text("s3://bucket/x/1/a.jpg\ns3://bucket/x/2/a.jpg\n")
    assert [image_id for image_id, _ in list_images(str(listing))] == ["1/a.jpg", "2/a.jpg"]


def test_a_parquet_table_gives_its_uri_column(folder):
    table = str(folder / "list.parquet")
    pq.write_table(pa.table({"uri": ["b.jpg", None, "c.webp"], "n": [1, 2, 3]}), table)
    assert [image_id for image_id, _ in list_images(table)] == ["b", "c"]
    pq.write_table(pa.table({"path": ["b.jpg"]}), table)
    with pytest.raises(ValueError, match="expected one named 'uri'"):
        list_images(table)


@pytest.mark.parametrize(
    ("values", "kind"),
    [([1, 2], "int64"), ([["a.jpg"]], "list<"), ([{"uri": "a.jpg"}], "struct<"), ([b"a.jpg"], "binary")],
)
def test_uris_of_another_type_are_refused_with_it(tmp_path, values, kind):
    pq.write_table(pa.table({"uri": values}), tmp_path / "list.parquet")
    with pytest.raises(ValueError, match=rf"list\.parquet' has a column 'uri' of the type {kind}"):
        list_images(str(tmp_path / "list.parquet"))


def test_uris_of_every_type_of_text_are_read(folder):
    for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        pq.write_table(
            pa.table({"uri": pa.array(["b.jpg"], pa.string()).cast(kind)}), folder / "list.parquet"
        )
        assert list_images(str(folder / "list.parquet")) == [("b", f"{folder}/b.jpg")]


def test_a_damaged_file_in_a_folder_of_tables_is_named(tmp_path):
    folder = tmp_path / "list.parquet"
    folder.mkdir()
    for name in ("1", "2"):
        pq.write_table(pa.table({"uri": [f"{name}.jpg"]}), folder / f"{name}.parquet")
    assert [image_id for image_id, _ in list_images(str(folder))] == ["1", "2"]
    content = bytearray((folder / "2.parquet").read_bytes())
    content[4:20] = bytes(16)  # the header of the first page; the footer is whole
    (folder / "2.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"2\.parquet' is damaged: .*; write it again"):
        list_images(str(folder))


def test_a_damaged_table_and_a_list_that_is_no_utf8_are_named(tmp_path):
    (tmp_path / "list.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(
        ValueError, match=r"list\.parquet' is no Parquet table: .*; write it again"
    ) as refusal:
        list_images(str(tmp_path / "list.parquet"))
    assert "\n" not in str(refusal.value)
    (tmp_path / "list.txt").write_bytes(b"a.jpg\ncaf\xe9.jpg\n")
    with pytest.raises(ValueError, match=r"list\.txt', line 2: b'caf\\xe9\.jpg\\n' is not UTF-8 text"):
        list_images(str(tmp_path / "list.txt"))
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.jpg\r\n" + b"x" * 70_000)
    with pytest.raises(ValueError, match=r"line 2 has more than 65536 bytes"):
        list_images(str(tmp_path / "list.txt"))


def test_one_image_is_a_listing_too(folder):
    assert list_images(f"{folder}/b.jpg") == [("b", f"{folder}/b.jpg")]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("empty", "nothing at all"),
        ("texts", r"1 of kind \.md"),
        ("blank.txt", "lists no image"),
        ("none/*.jpg", "no file matches"),
        ("texts/notes.md", "expected a folder, a glob"),
        ("nosuch://bucket/x", "cannot open 'nosuch://bucket/x'"),
    ],
)
def test_a_source_without_images_is_named_with_what_it_holds(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.md").write_text("x")
    (tmp_path / "blank.txt").write_text("\n \n")
    with pytest.raises(ValueError, match=message):
        list_images(source)


def test_a_missing_source_and_a_limit_of_nothing_are_refused(folder):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        list_images(str(folder / "gone"))
    with pytest.raises(ValueError, match="limit is 0"):
        list_images(str(folder), 0)


def test_ids_of_web_pages_hold_no_secret_and_stay_apart():
    uris = [f"https://host/image?id={number}&sig=s3cr3t{number}" for number in (1, 2)]
    uris += ["https://me:pw0rd@host/b.jpg?token=t0ken.x", "https://host/plain?id=7", "/photos/token=5.jpg"]
    batch = pa.RecordBatch.from_pylist([{"uri": uri, "etag": ""} for uri in uris], schema=LISTED)
    ids = {row["uri"]: row["image_id"] for part in Catalogue([batch]).rows() for row in part.to_pylist()}
    assert len(set(ids.values())) == len(uris)
    assert not [image_id for image_id in ids.values() if re.search("s3cr3t|pw0rd|t0ken", image_id)]
    assert ids[uris[0]].startswith("image?id=1&sig=***-") and ids[uris[3]] == "plain?id=7"
    assert ids["/photos/token=5.jpg"] == "token=5", "a name on this machine is no secret"
