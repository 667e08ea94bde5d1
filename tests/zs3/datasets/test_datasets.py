"""Data sets: each layout is written small as its publisher lays it out, and read back."""

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from zs3.datasets import LAYOUTS, ImageRef, open_dataset, read_truth
from zs3.images.codec import ImageError, decode, encode_label_png
from zs3.vocabulary import ClassEntry, Vocabulary, load_vocabulary

VOID = 255


def write(root: Path, files: Mapping[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def masks(*values: int) -> bytes:
    return encode_label_png(np.array([values]))


def colours_png(rows: list[list[tuple[int, int, int]]]) -> bytes:
    file = BytesIO()
    Image.fromarray(np.array(rows, np.uint8)).save(file, "PNG")
    return file.getvalue()


def voc_files() -> dict[str, bytes | str]:
    return {
        "JPEGImages/2007_000001.jpg": b"",
        "JPEGImages/2007_000002.jpg": b"",
        "JPEGImages/2007_000003.jpg": b"",
        "SegmentationClass/2007_000001.png": masks(0, 1, 20, VOID),
        "SegmentationClass/2007_000002.png": masks(5),
        "ImageSets/Segmentation/train.txt": "2007_000002\n2007_000001\n\n",
        "ImageSets/Segmentation/val.txt": "2007_000001\n",
        "ImageSets/Segmentation/test.txt": "2007_000003\n",
    }


def folder_files() -> dict[str, bytes | str]:
    classes = [
        {"id": 0, "name": "background", "role": "background"},
        {"id": 3, "name": "wheat", "kind": "stuff", "role": "seen"},
        {"id": 7, "name": "poppy", "role": "unseen"},
    ]
    return {
        "images/one.jpg": b"",
        "images/two.PNG": b"",
        "images/.hidden.jpg": b"",
        "images/notes.txt": b"",
        "masks/one.png": masks(0, 3, 7, VOID),
        "masks/two.png": masks(3),
        "classes.json": json.dumps({"classes": classes, "ignore_index": VOID}),
        "splits.json": json.dumps({"train": ["two"], "val": ["one", "two"]}),
    }


def test_a_voc_split_follows_its_list(tmp_path: Path) -> None:
    root = write(tmp_path, voc_files())
    dataset = open_dataset("voc", str(root), "train")
    assert (dataset.name, dataset.split, dataset.vocabulary) == ("voc", "train", load_vocabulary("voc"))
    assert [ref.id for ref in dataset.refs] == ["2007_000002", "2007_000001"]
    assert dataset.refs[1] == ImageRef(
        id="2007_000001",
        image_uri=str(root / "JPEGImages/2007_000001.jpg"),
        truth_uri=str(root / "SegmentationClass/2007_000001.png"),
    )


def test_an_augmented_voc_list_reads_the_augmented_masks(tmp_path: Path) -> None:
    files = voc_files() | {
        "SegmentationClassAug/2007_000002.png": masks(6),
        "ImageSets/Segmentation/train_aug.txt": "2007_000002\n",
        "ImageSets/Segmentation/trainaug.txt": "/JPEGImages/2007_000002.jpg /SegmentationClassAug/x.png\n",
    }
    root = write(tmp_path, files)
    for split in ("train_aug", "trainaug"):
        (ref,) = open_dataset("voc", str(root), split).refs
        assert ref.truth_uri == str(root / "SegmentationClassAug/2007_000002.png")
    (ref,) = open_dataset("voc", str(root), "val").refs
    assert ref.truth_uri == str(root / "SegmentationClass/2007_000001.png")


def test_a_split_none_of_whose_images_has_truth_is_one_without_truth(tmp_path: Path) -> None:
    (ref,) = open_dataset("voc", str(write(tmp_path, voc_files())), "test").refs
    assert ref.truth_uri is None


def test_voc_truth_keeps_ids_and_background(tmp_path: Path) -> None:
    truth = read_truth("voc", masks(0, 1, 20, VOID), load_vocabulary("voc"))
    assert truth.dtype == np.int32
    assert truth.tolist() == [[0, 1, 20, VOID]]


def test_background_of_voc_is_void_where_it_is_no_class_and_a_class_where_it_is_one() -> None:
    data = masks(0, 1, 20, VOID)
    assert read_truth("voc_20", data, load_vocabulary("voc_20")).tolist() == [[VOID, 1, 20, VOID]]
    assert read_truth("voc_21", data, load_vocabulary("voc_21")).tolist() == [[0, 1, 20, VOID]]
    assert load_vocabulary("voc_21").candidates[0].id == 0


def test_ade20k_150_pairs_annotations_with_images_and_0_is_no_class(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "images/validation/ADE_val_00000002.jpg": b"",
            "images/validation/ADE_val_00000001.jpg": b"",
            "annotations/validation/ADE_val_00000001.png": masks(0, 1, 150),
            "annotations/validation/ADE_val_00000002.png": masks(7),
        },
    )
    dataset = open_dataset("ade20k_150", str(root), "val")
    assert [ref.id for ref in dataset.refs] == ["ADE_val_00000001", "ADE_val_00000002"]
    assert read_truth("ade20k_150", masks(0, 1, 150), dataset.vocabulary).tolist() == [[VOID, 1, 150]]
    with pytest.raises(ValueError, match="truth holds 151"):
        read_truth("ade20k_150", masks(151), dataset.vocabulary)


def label_map_mat(label_map: object, variable: str = "LabelMap") -> bytes:
    file = BytesIO()
    savemat(file, {"note": "other content", variable: label_map}, do_compression=True)
    return file.getvalue()


def test_pascal_context_reads_label_maps_and_the_59_classes_are_some_of_the_459(tmp_path: Path) -> None:
    mat = label_map_mat(np.array([[0, 2, 85], [459, 400, 397]], np.uint16))
    files = {
        "JPEGImages/2008_000002.jpg": b"",
        "JPEGImages/2008_000003.jpg": b"",
        "trainval/2008_000002.mat": mat,
        "ImageSets/Main/val.txt": "2008_000002\n2008_000003\n",
    }
    root = write(tmp_path, files)
    few = open_dataset("pascal_context_59", str(root), "val")
    assert [ref.id for ref in few.refs] == ["2008_000002"], (
        "an image without a label map is not in the data set"
    )
    void = few.vocabulary.ignore_id
    assert read_truth(few.name, mat, few.vocabulary).tolist() == [[void, 2, 85], [void, void, 397]]
    every = open_dataset("pascal_context_459", str(root), "val").vocabulary
    assert read_truth("pascal_context_459", mat, every).tolist() == [[void, 2, 85], [459, 400, 397]]
    with pytest.raises(
        FileNotFoundError, match=r"1 of 1 image have no image file, the first is .2008_000009"
    ):
        open_dataset("pascal_context_59", str(write(root, {"pascalcontext_val.txt": "2008_000009\n"})), "val")
    with pytest.raises(
        FileNotFoundError, match=r"neither pascalcontext_train\.txt nor ImageSets/Main/train\.txt"
    ):
        open_dataset("pascal_context_59", str(root), "train")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no mat file", "not a readable .mat file"),
        (label_map_mat(np.ones((2, 2), np.uint8), "Other"), "LabelMap has shape"),
        (label_map_mat(np.ones((2, 2, 2), np.uint8)), r"LabelMap has shape \(2, 2, 2\)"),
        (label_map_mat(np.ones((2, 2))), "holds float64, expected whole numbers"),
        (label_map_mat(np.ones((2, 2), np.uint16))[:-9], "not a readable .mat file"),
    ],
)
def test_a_label_map_that_is_none_is_refused_with_its_reason(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_truth("pascal_context_59", data, load_vocabulary("pascal_context_59"))


def test_a_label_map_takes_no_memory_for_a_size_that_it_only_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zs3.datasets.pascal_context.DEFAULT_MAX_PIXELS", 3)
    monkeypatch.setattr("zs3.datasets.pascal_context.loadmat", lambda *_, **__: pytest.fail("read it"))
    with pytest.raises(ImageError, match=r"LabelMap has shape \(2, 2\)"):
        data = label_map_mat(np.ones((2, 2), np.uint16))
        read_truth("pascal_context_59", data, load_vocabulary("pascal_context_59"))


def test_a_folder_data_set_follows_its_splits_and_classes(tmp_path: Path) -> None:
    root = write(tmp_path, folder_files())
    dataset = open_dataset("folder", str(root), "val")
    assert [ref.id for ref in dataset.refs] == ["one", "two"]
    assert dataset.refs[1].image_uri == str(root / "images/two.PNG")
    assert dataset.refs[1].truth_uri == str(root / "masks/two.png")
    assert [(entry.id, entry.role) for entry in dataset.vocabulary.candidates] == [(3, "seen"), (7, "unseen")]
    assert read_truth("folder", masks(0, 3, 7, VOID), dataset.vocabulary).tolist() == [[0, 3, 7, VOID]]


def test_a_folder_data_set_with_equal_names_in_subfolders_uses_paths_as_ids(tmp_path: Path) -> None:
    files = folder_files() | {
        "images/a/one.jpg": b"",
        "masks/a/one.png": masks(3),
        "splits.json": json.dumps({"val": ["a/one.jpg", "one.jpg"]}),
    }
    refs = open_dataset("folder", str(write(tmp_path, files)), "val").refs
    assert [ref.truth_uri for ref in refs] == [
        str(tmp_path / "masks/a/one.png"),
        str(tmp_path / "masks/one.png"),
    ]


def test_a_folder_without_splits_or_masks_is_one_split_without_truth(tmp_path: Path) -> None:
    files = {
        name: content for name, content in folder_files().items() if not name.startswith(("mask", "split"))
    }
    refs = open_dataset("folder", str(write(tmp_path, files)), "all").refs
    assert [(ref.id, ref.truth_uri) for ref in refs] == [("one", None), ("two", None)]


def test_a_data_set_in_a_bucket_is_read_like_a_local_one(tmp_path: Path) -> None:
    bucket = fsspec.filesystem("memory")
    for name, content in folder_files().items():
        bucket.pipe(f"/bucket/fields/{name}", content.encode() if isinstance(content, str) else content)
    try:
        dataset = open_dataset("folder", "memory://bucket/fields", "val")
        for ref in dataset.refs:
            assert ref.truth_uri is not None
            with fsspec.open(ref.truth_uri) as file:
                read_truth("folder", file.read(), dataset.vocabulary)
        assert dataset.vocabulary.name == "fields"
    finally:
        bucket.rm("/bucket", recursive=True)


@pytest.mark.parametrize("place", ["annotations", "stuffthingmaps", "annotations/stuffthingmaps"])
@pytest.mark.parametrize("split", ["val", "val2017"])
def test_coco_stuff_is_read_as_its_archives_unpack(tmp_path: Path, place: str, split: str) -> None:
    files = {
        "images/val2017/000000000139.jpg": b"",
        "images/val2017/000000000042.jpg": b"",
        "images/train2017/000000000009.jpg": b"",
        f"{place}/val2017/000000000139.png": masks(0, 181, VOID),
        f"{place}/val2017/000000000042.png": masks(20),
    }
    refs = open_dataset("coco_stuff", str(write(tmp_path, files)), split).refs
    assert [ref.id for ref in refs] == ["000000000042", "000000000139"]
    assert refs[0].truth_uri == str(tmp_path / place / "val2017/000000000042.png")


def test_coco_stuff_truth_holds_category_ids_less_one_and_no_unused_ones() -> None:
    vocabulary = load_vocabulary("coco_stuff")
    assert read_truth("coco_stuff", masks(0, 20, 181, VOID), vocabulary).tolist() == [[0, 20, 181, VOID]]
    with pytest.raises(ValueError, match="truth holds 11, 182 on 3 pixels"):
        read_truth("coco_stuff", masks(11, 182, 11, 0), vocabulary)


@pytest.mark.parametrize("split", ["val", "validation"])
def test_ade20k_is_read_as_its_archive_unpacks(tmp_path: Path, split: str) -> None:
    scene = "images/ADE/validation/urban/street"
    files = {
        f"{scene}/ADE_val_00000002.jpg": b"",
        f"{scene}/ADE_val_00000002_seg.png": b"",
        f"{scene}/ADE_val_00000002_parts_1.png": b"",
        f"{scene}/ADE_val_00000002/instance_000_ADE_val_00000002.png": b"",
        f"{scene}/ADE_val_00000002.json": b"",
        "images/ADE/validation/nature/ADE_val_00000001.jpg": b"",
        "images/ADE/validation/nature/ADE_val_00000001_seg.png": b"",
        "images/ADE/training/nature/ADE_train_00000001.jpg": b"",
    }
    refs = open_dataset("ade20k_full", str(write(tmp_path, files)), split).refs
    assert [ref.id for ref in refs] == ["ADE_val_00000001", "ADE_val_00000002"]
    assert refs[1].truth_uri == str(tmp_path / scene / "ADE_val_00000002_seg.png")


@pytest.mark.parametrize(
    ("layout", "files", "message"),
    [
        ("voc", {"ImageSets/Segmentation/val.txt": "2007_000001\n2007_999999\n"},
         "1 of 2 images have no image file, the first is '2007_999999'"),
        ("voc", {"ImageSets/Segmentation/val.txt": "2007_000001\n2007_000003\n"},
         "1 of 2 images have no truth mask file, the first is '2007_000003'"),
        ("voc", {"ImageSets/Segmentation/val.txt": "\n"}, "voc split 'val' at .* lists no image"),
        ("voc", {"ImageSets/Segmentation/val.txt": "2007_000001\n2007_000001\n"}, "lists '2007_000001' twice"),
        ("coco_stuff", {"images/val2017/1.jpg": b"", "images/val2017/2.jpg": b"",
                        "annotations/val2017/2.png": b""},
         "1 of 2 images have no truth mask file, the first is '1'"),
        ("ade20k_full", {"images/ADE/validation/a/ADE_val_00000001.jpg": b"",
                         "images/ADE/validation/a/ADE_val_00000002.jpg": b"",
                         "images/ADE/validation/a/ADE_val_00000002_seg.png": b""},
         "1 of 2 images have no truth mask file, the first is 'ADE_val_00000001'"),
    ],
)  # fmt: skip
def test_a_published_layout_with_files_missing_is_refused(
    tmp_path: Path, layout: str, files: dict[str, bytes | str], message: str
) -> None:
    root = write(tmp_path, (voc_files() if layout == "voc" else {}) | files)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_dataset(layout, str(root), "val")


def test_coco_stuff_without_its_masks_is_a_split_without_truth(tmp_path: Path) -> None:
    (ref,) = open_dataset("coco_stuff", str(write(tmp_path, {"images/val2017/1.jpg": b""})), "val").refs
    assert ref.truth_uri is None


def test_the_augmented_list_is_read_whole_and_in_its_order(tmp_path: Path) -> None:
    ids = [f"2008_{number:06d}" for number in np.random.default_rng(0).permutation(300)]
    folder = write(tmp_path, {"ImageSets/Segmentation/train_aug.txt": "\n".join(ids)})
    for name, suffix in (("JPEGImages", "jpg"), ("SegmentationClassAug", "png")):
        (folder / name).mkdir()
        for one in ids:
            (folder / name / f"{one}.{suffix}").touch()
    refs = open_dataset("voc", str(folder), "train_aug").refs
    assert [ref.id for ref in refs] == ids
    assert all(str(ref.truth_uri).endswith(f"SegmentationClassAug/{ref.id}.png") for ref in refs)


@settings(deadline=None)
@given(st.lists(st.sampled_from([entry.id for entry in load_vocabulary("ade20k_full").classes]), min_size=1))
def test_ade20k_colours_code_the_class_index(ids: list[int]) -> None:
    # As the publisher writes them: ten shades of red per 256 indices, blue for the instance.
    row = [(index // 256 * 10, index % 256, 7) for index in ids]
    truth = read_truth("ade20k_full", colours_png([row]), load_vocabulary("ade20k_full"))
    assert truth.tolist() == [ids]


def test_ade20k_objects_outside_the_list_are_void() -> None:
    vocabulary = load_vocabulary("ade20k_full")
    listed = {entry.id for entry in vocabulary.classes}
    other = next(index for index in range(1, 3000) if index not in listed)
    data = colours_png([[(0, 0, 0), (other // 256 * 10, other % 256, 0), (110, 162, 0)]])
    assert read_truth("ade20k_full", data, vocabulary).tolist() == [[65535, 65535, 2978]]


@pytest.mark.parametrize("name", ["voc", "folder"])
def test_a_label_outside_the_class_list_is_named_with_its_pixels(tmp_path: Path, name: str) -> None:
    vocabulary = load_vocabulary("voc")
    with pytest.raises(
        ValueError, match=r"holds 21, 99 on 3 pixels, but vocabulary 'voc' has 21 classes, ids 0..20"
    ):
        read_truth(name, masks(0, 21, 99, 99, VOID), vocabulary)


@pytest.mark.parametrize("inside", [1, 255, 65535])
def test_binary_masks_are_read_where_the_class_list_says_so_and_refused_with_the_repair_elsewhere(
    inside: int,
) -> None:
    entries = (ClassEntry(id=7, name="scratch"),)
    data = encode_label_png(np.array([[0, inside, inside]]))
    with pytest.raises(
        ValueError, match="binary: with one class, give it that value as its id and set ignore_index to 0"
    ):
        read_truth("folder", data, Vocabulary(name="mine", classes=entries))
    told = Vocabulary(name="mine", classes=(ClassEntry(id=inside, name="scratch"),), ignore_id=0)
    assert read_truth("folder", data, told).tolist() == [[0, inside, inside]]


def test_a_data_set_lies_in_any_folder(tmp_path: Path) -> None:
    """fsspec takes `::` for a chain of file systems."""
    root = tmp_path / "a::b#c 100%"
    (root / "images").mkdir(parents=True)
    Image.new("RGB", (3, 2)).save(root / "images" / "x.png")
    (root / "classes.json").write_text('{"classes": [{"id": 1, "name": "cat"}]}')
    dataset = open_dataset("folder", str(root), "all")
    assert [ref.image_uri for ref in dataset.refs] == [str(root / "images" / "x.png")]


def test_a_photograph_is_no_truth() -> None:
    with pytest.raises(ImageError, match="not colours"):
        read_truth("voc", colours_png([[(1, 2, 3)]]), load_vocabulary("voc"))


@pytest.mark.parametrize(
    ("layout", "split", "message"),
    [
        ("voc", "trian", "has no split 'trian'; its ImageSets/Segmentation holds: test, train, val"),
        ("folder", "trian", "has no split 'trian'; it has: train, val"),
        ("coco_stuff", "test", "has no split 'test'; it has: train, val"),
        ("ade20k_full", "test", "has no split 'test'; it has: train, val"),
        ("vok", "val", "no data set layout 'vok'; there are: voc, folder, coco_stuff, ade20k_full"),
    ],
)
def test_an_unknown_layout_or_split_names_those_there_are(
    tmp_path: Path, layout: str, split: str, message: str
) -> None:
    write(tmp_path, voc_files() | folder_files())
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_dataset(layout, str(tmp_path), split)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_missing_root_is_named(tmp_path: Path, layout: str) -> None:
    root = tmp_path / "absent"
    with pytest.raises(FileNotFoundError, match=str(root)):
        open_dataset(layout, str(root), "val")


def test_missing_images_and_masks_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    write(tmp_path, folder_files())
    (tmp_path / "masks/one.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 2 images have no truth mask file, the first is 'one'"):
        open_dataset("folder", str(tmp_path), "val")
    (tmp_path / "images/two.PNG").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 2 images have no image file, the first is 'two'"):
        open_dataset("folder", str(tmp_path), "val")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ('{"val": []}', "split 'val' at .* lists no image"),
        ('{"val": ["one", "two", "one"]}', "lists 'one' twice"),
        ('{"val": "one"}', "has to map each split's name to a list"),
        ('["one"]', "has to map each split's name to a list"),
        ("{", "splits.json at .* is not valid JSON"),
        ("[" * 200_000, "splits.json at .* is not valid JSON: it is nested too deeply"),
    ],
)
def test_malformed_splits_are_refused(tmp_path: Path, splits: str, message: str) -> None:
    root = write(tmp_path, folder_files() | {"splits.json": splits})
    with pytest.raises(ValueError, match=message):
        open_dataset("folder", str(root), "val")


@pytest.mark.parametrize(
    ("layout", "name", "train", "val"),
    [
        ("voc", "voc_mini", 535, 200),
        ("folder", "msrc_mini", 253, 99),
        ("folder", "coco_things_mini", 178, 69),
    ],
)
def test_real_data_sets_have_their_counts_and_truth_fits_the_pictures(
    shared: Path, layout: str, name: str, train: int, val: int
) -> None:
    root = str(shared / "data" / name)
    assert len(open_dataset(layout, root, "train").refs) == train
    dataset = open_dataset(layout, root, "val")
    assert len(dataset.refs) == val
    for ref in dataset.refs[:: val // 5]:
        assert ref.truth_uri is not None
        truth: NDArray[np.int32] = read_truth(layout, Path(ref.truth_uri).read_bytes(), dataset.vocabulary)
        assert decode(Path(ref.image_uri).read_bytes()).shape[:2] == truth.shape
        assert not set(np.unique(truth)) <= {dataset.vocabulary.ignore_id}


def test_the_class_list_of_the_small_voc_agrees_with_the_shipped_one(shared: Path) -> None:
    theirs = load_vocabulary(str(shared / "data" / "voc_mini" / "classes.json"))
    ours = load_vocabulary("voc")
    assert [(e.id, e.name, e.role) for e in ours.classes] == [(e.id, e.name, e.role) for e in theirs.classes]
