"""Reading and decoding: an image becomes pixels, or a row of `failures`."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from pipelines.labelling.image_stage import read_and_decode


def picture(path, colour=(200, 10, 10), size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return str(path)


def test_reading_gives_pixels_or_the_stage_that_failed(tmp_path):
    good = picture(tmp_path / "good.png")
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    big = picture(tmp_path / "big.png", size=(101, 100))
    uris = [good, str(tmp_path / "gone.jpg"), str(tmp_path / "cut.jpg"), big, str(tmp_path)]
    refs = pa.table({"image_id": [Path(uri).name for uri in uris], "uri": uris})
    rows = pa.concat_tables(read_and_decode(refs, max_pixels=10_000, run="r")).to_pylist()

    assert [row["uri"] for row in rows] == uris
    pixels = np.frombuffer(rows[0]["pixels"], np.uint8).reshape(rows[0]["height"], rows[0]["width"], 3)
    np.testing.assert_array_equal(pixels, np.full((4, 6, 3), (200, 10, 10), np.uint8))
    assert rows[0]["failures"] == []
    reasons = [(f["stage"], f["error_type"]) for row in rows[1:] for f in row["failures"]]
    assert reasons == [
        ("read", "FileNotFoundError"),
        ("decode", "truncated"),
        ("decode", "too_large"),
        ("read", "IsADirectoryError"),
    ]


def test_a_file_of_more_bytes_than_a_picture_can_have_is_not_read(tmp_path):
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(1 << 40)
    refs = pa.table({"image_id": ["large"], "uri": [str(tmp_path / "large.jpg")]})
    (row,) = pa.concat_tables(read_and_decode(refs, max_pixels=10_000, run="r")).to_pylist()
    (failure,) = row["failures"]
    assert (failure["stage"], failure["error_type"]) == ("read", "too_large")
    assert "has 1099511627776 bytes, more than the 67188864 that are read" in failure["message"]
