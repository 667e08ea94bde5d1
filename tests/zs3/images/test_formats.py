"""Which files are pictures: by their names, else by their first bytes."""

from io import BytesIO

import pytest
from PIL import Image

from zs3.images.formats import FIRST_BYTES, FORMATS, begins_image, container_format, names_image


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.jpg", True), ("b.JPE", True), ("b.jfif", True), ("b.Heic", True), ("b.avif", True), ("b.pbm", True),
        ("b.jp2", False), ("b.json", False), ("b.tar.gz", False), ("a.jpg/notes.md", False),
        ("b", None), ("a.jpg/b", None), ("2019.05.01", None), ("photo.12 (copy)", None),
    ],
)  # fmt: skip
def test_a_name_tells_a_picture_another_file_or_nothing(name: str, expected: bool | None) -> None:
    assert names_image(name) is expected


@pytest.mark.parametrize("image_format", [name for name in FORMATS if name != "HEIF"])
def test_pictures_begin_as_pictures(image_format: str) -> None:
    file = BytesIO()
    Image.new("RGB", (9, 7), "red").save(file, image_format)
    assert begins_image(file.getvalue()[:FIRST_BYTES])


@pytest.mark.parametrize(
    "content",
    [b"", b"Python is a language", b"BMW is a car, and no picture", b"P7", b"{}", b"RIFF0000WAVEfmt ", b"PK\3\4",
     b"\0\0\0\x18ftypisom\0\0\0\0isommp42", b"\0\0\0\x0cjP  \r\n\x87\n"],
)  # fmt: skip
def test_other_files_do_not(content: bytes) -> None:
    assert not begins_image(content)


def test_boxes_are_told_apart_by_all_their_brands() -> None:
    assert container_format(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif") == "AVIF"
    assert container_format(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic") == "HEIF"
    assert container_format(b"\0\0\0\x14ftypheic\0\0\0\0mif1avif") == "HEIF", (
        "the last brand is beyond the box"
    )
