"""Class lists of open-vocabulary benchmarks: the names, ids and seen flags are those of the release."""

import json
from pathlib import Path

import pytest

from zs3.open_vocabularies import OPEN_VOCABULARIES, class_words
from zs3.vocabulary import load_vocabulary

RELEASED = {
    "coco_panoptic": "coco_panoptic_133", "coco_stuff_171": "coco_stuff_171", "ade20k_150": "ade20k_150",
    "ade20k_847": "ade20k_847", "pascal_context_59": "pascal_context_59", "pascal_context_459": "pascal_context_459",
    "voc_20": "pascal_voc_20", "voc_21": "pascal_voc_21", "cityscapes": "cityscapes_19",
    "mapillary_vistas": "mapillary_vistas_65",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "classes", "seen"),
    [
        ("coco_panoptic", 133, 133),
        ("coco_stuff_171", 171, 135),
        ("ade20k_150", 150, 64),
        ("ade20k_847", 847, 101),
        ("pascal_context_59", 59, 51),
        ("pascal_context_459", 459, 85),
        ("voc_20", 20, 20),
        ("voc_21", 21, 21),
        ("cityscapes", 19, 17),
        ("mapillary_vistas", 65, 26),
    ],
)
def test_a_list_has_as_many_classes_and_seen_classes_as_the_release(
    name: str, classes: int, seen: int
) -> None:
    entries = load_vocabulary(name).candidates
    assert (len(entries), sum(entry.role == "seen" for entry in entries)) == (classes, seen)
    for entry, words in zip(entries, class_words(name), strict=True):
        listed = set(words.replace(", ", ",").split(","))
        numbered = {f"{word} {entry.id}" for word in listed}  # the name of a class whose words are all taken
        assert {entry.name, *entry.synonyms} - numbered == listed


@pytest.mark.parametrize("name", OPEN_VOCABULARIES)
def test_words_and_seen_flags_are_the_released_ones(shared: Path, name: str) -> None:
    path = shared / "reference" / "fixtures" / "fcclip" / "official_vocabularies.json"
    released = json.loads(path.read_text())[RELEASED[name]]
    assert list(class_words(name)) == released["names"]
    flags = "".join("01"[entry.role == "seen"] for entry in load_vocabulary(name).candidates)
    assert flags == released["seen_vs_coco_panoptic"]
    things = [index for index, entry in enumerate(load_vocabulary(name).candidates) if entry.thing]
    assert things == (
        released["thing_indices"] if len(released["thing_indices"]) < len(released["names"]) else []
    )


def test_ids_are_the_values_of_the_published_masks() -> None:
    def ids(name: str) -> dict[str, int]:
        return {entry.name: entry.id for entry in load_vocabulary(name).classes}

    assert [entry.id for entry in load_vocabulary("ade20k_847").candidates] == [
        entry.id for entry in load_vocabulary("ade20k_full").candidates
    ]
    voc, coco = load_vocabulary("voc"), load_vocabulary("coco_stuff")
    assert ids("voc_20") == {name: ids("voc_21")[name] for name in ids("voc_20")}
    assert {entry.id for entry in voc.candidates} == set(ids("voc_20").values())
    assert {entry.id for entry in coco.candidates} == set(ids("coco_stuff_171").values())
    assert ids("coco_stuff_171")["car"] == next(entry.id for entry in coco.classes if entry.name == "car")
    # labels.txt of PASCAL Context: 2 aeroplane, 85 computer, 324 road, 397 table, 415 sidewalk.
    few, all_classes = ids("pascal_context_59"), ids("pascal_context_459")
    renamed = {"street": "road", "diningtable": "table", "computer case": "computer"}
    assert all(all_classes[renamed.get(name, name)] == class_id for name, class_id in few.items())
    assert (few["aeroplane"], few["computer case"], few["street"], few["diningtable"]) == (2, 85, 324, 397)
    assert ids("cityscapes")["road"] == 7 and ids("ade20k_150")["wall"] == 1
