"""Exported files give back the label maps that they were made of."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from zs3.export.coco import annotations, write_file
from zs3.export.paths import relative_path
from zs3.export.png import VOID_8, VOID_16, needs_16_bits, palette, png_bytes
from zs3.tables import label_rows


def test_a_palette_file_gives_back_its_label_map() -> None:
    map_HW = np.random.default_rng(0).integers(0, 256, (31, 47)).astype(np.int32)
    image = Image.open(io.BytesIO(png_bytes(map_HW, ignore_id=255, wide=False)))
    assert image.mode == "P"
    assert image.getpalette() == palette().ravel().tolist()
    assert np.array_equal(np.asarray(image), map_HW)


def test_a_wide_file_keeps_class_255_apart_from_unlabelled() -> None:
    map_HW = np.array([[0, 255, 846], [-1, 254, 256]], dtype=np.int32)
    image = Image.open(io.BytesIO(png_bytes(map_HW, ignore_id=-1, wide=True)))
    assert np.array_equal(np.asarray(image), np.where(map_HW == -1, VOID_16, map_HW))


def test_an_id_that_would_read_as_unlabelled_is_refused() -> None:
    with pytest.raises(ValueError, match=r"do not fit a PNG of 8 bits; expected 0\.\.254"):
        png_bytes(np.array([[255]]), ignore_id=-1, wide=False)
    assert needs_16_bits(VOID_8) and not needs_16_bits(VOID_8 - 1)


def test_colours_differ_between_all_ids_and_begin_as_those_of_voc() -> None:
    assert len({tuple(colour) for colour in palette().tolist()}) == 256
    assert palette()[[0, 1, 2, 15, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [192, 128, 128],
        [224, 224, 192],
    ]


@pytest.mark.parametrize("image_id", ["", "/a", "../a", "a/../b", "a//b", "a/", "./a", "c:a", "a\\b", "a\0"])
def test_an_id_that_leads_out_of_the_folder_is_refused(image_id: str) -> None:
    with pytest.raises(ValueError, match="cannot be a file name"):
        relative_path(image_id, ".png")


def test_folders_of_an_id_become_subfolders() -> None:
    assert relative_path("train/2007.a", ".png") == "train/2007.a.png"


def test_pycocotools_reads_back_the_label_maps(tmp_path: Path) -> None:
    names = {1: "cat", 7: '</script> "dog"'}
    draws = np.random.default_rng(1)
    maps = [draws.choice([1, 7, 255], (9 + n, 13)).astype(np.int32) for n in range(3)] + [
        np.full((4, 5), 255)
    ]
    regions, images = [], []
    for number, map_HW in enumerate(maps, 1):
        rows = label_rows(str(number), "u", map_HW, names, {}, dict.fromkeys(names, 0.5), "run")
        ids = {name: key for key, name in names.items()}
        regions += annotations(rows, image_number=number, first=len(regions) + 1, category_ids=ids)
        images.append({"id": number, "height": map_HW.shape[0], "width": map_HW.shape[1], "file_name": "x"})
    path = tmp_path / "stuff.json"
    with path.open("w") as out:
        categories = [{"id": key, "name": name} for key, name in names.items()]
        write_file(out, categories=categories, images=iter(images), regions=iter(regions))
    coco = COCO(str(path))
    for number, map_HW in enumerate(maps, 1):
        back_HW = np.full(map_HW.shape, 255)
        for region in coco.loadAnns(coco.getAnnIds(imgIds=[number])):
            back_HW[coco.annToMask(region).astype(bool)] = region["category_id"]
        assert np.array_equal(back_HW, map_HW)


def test_a_class_without_a_category_is_named() -> None:
    rows = label_rows("a", "u", np.array([[3]]), {3: "owl"}, {}, {3: 1.0}, "run")
    with pytest.raises(ValueError, match="class 'owl' of image 'a' is none of the 0 categories"):
        annotations(rows, image_number=1, first=1, category_ids={})
