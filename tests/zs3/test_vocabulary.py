"""Vocabularies: the laws of their digest and of synonyms, the shipped lists, and class lists gone wrong."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zs3.vocabulary
from tests.support.parity import facts
from zs3.vocabulary import (
    SHIPPED,
    ClassEntry,
    Role,
    Vocabulary,
    concept,
    differences_in_words,
    known,
    load_vocabulary,
    parse_class_list,
    unseen_everywhere,
)

NAMES = st.lists(st.text("abcdefgh", min_size=1, max_size=6), min_size=2, max_size=8, unique=True)


@st.composite
def vocabularies(draw: st.DrawFn) -> Vocabulary:
    names = draw(NAMES)
    ids = draw(st.lists(st.integers(0, 254), min_size=len(names), max_size=len(names), unique=True))
    drawn: list[Role] = ["seen", "unseen"]
    roles = draw(st.lists(st.sampled_from(drawn), min_size=len(names), max_size=len(names)))
    synonyms = draw(st.lists(st.text("xyzé", min_size=1), max_size=2))
    classes = tuple(
        ClassEntry(id=class_id, name=name, role=role, synonyms=tuple(synonyms))
        for class_id, name, role in zip(ids, names, roles, strict=True)
    )
    return Vocabulary(name="drawn", classes=classes)


def entries(*names: str) -> tuple[ClassEntry, ...]:
    return tuple(ClassEntry(id=number, name=name) for number, name in enumerate(names, start=1))


@settings(deadline=None)
@given(vocabularies())
def test_a_vocabulary_survives_json(vocabulary: Vocabulary) -> None:
    copy = Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json())))
    assert copy == vocabulary
    assert copy.digest == vocabulary.digest


@settings(deadline=None)
@given(vocabularies())
def test_order_ids_names_roles_synonyms_and_ignore_id_all_change_the_digest(vocabulary: Vocabulary) -> None:
    first, *others = vocabulary.classes
    unused = next(number for number in range(255) if all(number != entry.id for entry in vocabulary.classes))
    variants = [
        replace(vocabulary, classes=(*others, first)),
        replace(vocabulary, classes=(replace(first, id=unused), *others)),
        replace(vocabulary, classes=(replace(first, name="zebra"), *others)),
        replace(
            vocabulary, classes=(replace(first, role="excluded"), *others, ClassEntry(id=300, name="zebra"))
        ),
        replace(
            vocabulary,
            classes=(replace(first, role="seen" if first.role == "unseen" else "unseen"), *others),
        ),
        replace(vocabulary, classes=(replace(first, synonyms=(*first.synonyms, "zebra")), *others)),
        replace(vocabulary, ignore_id=65535),
    ]
    assert len({vocabulary.digest, *(variant.digest for variant in variants)}) == 1 + len(variants)


def test_the_same_list_under_another_name_has_the_same_digest() -> None:
    assert parse_class_list("cat\ndog", name="a").digest == parse_class_list("cat\ndog", name="b").digest


def test_candidates_leave_out_background_and_excluded_classes() -> None:
    roles = ("background", "seen", "excluded", "unseen")
    classes = tuple(ClassEntry(id=i, name=role, role=role) for i, role in enumerate(roles))  # type: ignore[arg-type]
    vocabulary = Vocabulary(name="roles", classes=classes)
    assert [entry.name for entry in vocabulary.candidates] == ["seen", "unseen"]


def test_a_class_list_gives_names_synonyms_and_unseen_marks_in_order() -> None:
    text = "cat\n\n  sofa : couch, settee ,\ncaf\u00e9  table*\r\ntv: telly, tv set *\n   \nbus*: coach"
    vocabulary = parse_class_list(text, name="mine")
    assert vocabulary.classes == (
        ClassEntry(id=1, name="cat"),
        ClassEntry(id=2, name="sofa", synonyms=("couch", "settee")),
        ClassEntry(id=3, name="café table", role="unseen"),
        ClassEntry(id=4, name="tv", role="unseen", synonyms=("telly", "tv set")),
        ClassEntry(id=5, name="bus", role="unseen", synonyms=("coach",)),
    )


def test_a_class_list_is_read_from_text_json_list_and_json_alike(tmp_path: Path) -> None:
    (tmp_path / "pets.txt").write_bytes("\ufeffcat\ndog: puppy *\n".encode())
    (tmp_path / "pets.json").write_text(json.dumps(["cat", "dog: puppy *"]))
    from_text = load_vocabulary(str(tmp_path / "pets.txt"))
    assert from_text == load_vocabulary(str(tmp_path / "pets.json"))
    (tmp_path / "again.json").write_text(json.dumps(from_text.to_json()))
    assert load_vocabulary(f"file://{tmp_path}/again.json") == from_text
    assert from_text.name == "pets"


def test_the_classes_of_a_folder_data_set_take_its_name_and_ignore_index(tmp_path: Path) -> None:
    folder = tmp_path / "fields"
    folder.mkdir()
    content = {
        "classes": [{"id": 0, "name": "wheat", "kind": "stuff"}],
        "ignore_index": 9,
        "background": None,
    }
    (folder / "classes.json").write_text(json.dumps(content))
    vocabulary = load_vocabulary(str(folder / "classes.json"))
    expected = Vocabulary(name="fields", classes=(ClassEntry(id=0, name="wheat"),), ignore_id=9)
    assert vocabulary == expected


def test_numbers_of_json_may_be_written_as_texts_and_a_synonym_alone_as_one() -> None:
    content = {
        "classes": [{"id": "7", "name": "sofa", "synonyms": "couch"}, {"id": 8.0, "name": "cow"}],
        "ignore_index": "255",
    }
    assert Vocabulary.from_json(content, "mine") == Vocabulary(
        name="mine",
        classes=(ClassEntry(id=7, name="sofa", synonyms=("couch",)), ClassEntry(id=8, name="cow")),
    )


def test_lists_that_differ_are_told_apart_by_their_classes() -> None:
    old = Vocabulary(name="a", classes=(*entries("cat", "dog", "cow"), ClassEntry(id=9, name="yak")))
    new = Vocabulary(
        name="b",
        classes=(ClassEntry(id=1, name="cat", role="unseen"), ClassEntry(id=5, name="dog"),
                 ClassEntry(id=9, name="yak", synonyms=("ox",)), ClassEntry(id=4, name="ape")),
        ignore_id=99,
    )  # fmt: skip
    assert differences_in_words(old, new) == (
        "only there: cow; only now: ape; other ids: dog (2 there, 5 now); other roles: cat (seen there, unseen now); "
        "other synonyms: yak (none there, ox now); ignore id 255 there, 99 now"
    )
    turned = Vocabulary(name="a", classes=old.classes[::-1])
    assert differences_in_words(old, turned) == "the same classes in another order"


def test_a_long_class_list_never_gives_a_class_the_ignore_id() -> None:
    vocabulary = parse_class_list("\n".join(f"class {number}" for number in range(300)), name="long")
    assert vocabulary.classes[254].id == 255
    assert vocabulary.ignore_id == 65535


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; write one class name a line"),
        ("\n  \n", "is empty"),
        ("cat\n\ndog\nCat *", "names 'Cat' twice, on lines 1 and 4"),
        ("dining table\ndining_table", "twice, on lines 1 and 2"),
        ("cat\n: kitten", "line 2: ': kitten' has no class name"),
        ("cat\n*", "line 2: '\\*' has no class name"),
    ],
)
def test_a_bad_class_list_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_class_list(text, name="mine")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((), "has no class with role seen or unseen"),
        ((ClassEntry(id=0, name="background", role="background"),), "has no class with role seen or unseen"),
        ((*entries("cat", "dog"), ClassEntry(id=1, name="bird")), "'cat' and 'bird' share id 1"),
        ((*entries("cat"), ClassEntry(id=7, name="CAT")), "names 'CAT' twice, with ids 1 and 7"),
        ((ClassEntry(id=255, name="cat"),), "id 255, expected 0 or more and not the ignore id 255"),
        ((ClassEntry(id=-1, name="cat"),), "id -1, expected 0 or more"),
        ((ClassEntry(id=1, name=" "),), "class 1 has an empty name"),
        ((*entries("cat"), ClassEntry(id=2, name="dog", role="maybe")), "role 'maybe', expected one of"),  # type: ignore[arg-type]
    ],
)
def test_a_bad_vocabulary_is_refused(classes: tuple[ClassEntry, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary(name="mine", classes=classes)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", "is not valid JSON"),
        ("a.json", b"[1, 2]", "expected a JSON object with a list 'classes'"),
        ("a.json", b'{"classes": [{"id": 1}]}', "needs an integer 'id' and a 'name'"),
        (
            "a.json",
            b'{"classes": [{"id": "one", "name": "cat"}]}',
            "id is 'one', a str; expected a whole number",
        ),
        (
            "a.json",
            b'{"classes": [{"id": true, "name": "cat"}]}',
            "id is True, a bool; expected a whole number",
        ),
        (
            "a.json",
            b'{"classes": [{"id": 1.5, "name": "cat"}]}',
            "id is 1.5, a float; expected a whole number",
        ),
        (
            "a.json",
            b'{"classes": [{"id": 1, "name": "cat", "synonyms": 3}]}',
            "synonyms is 3; expected a list",
        ),
        (
            "a.json",
            b'{"classes": [{"id": 1, "name": "cat"}], "ignore_index": "void"}',
            "'void', a str; expected a whole",
        ),
        (
            "a.json",
            b'{"classes": [{"id": 1, "name": "cat"}], "ignore_index": [9]}',
            r"\[9\], a list; expected a whole",
        ),
        ("a.json", b'{"classes": ["cat"]}', "needs an integer 'id' and a 'name'"),
        ("a.json", b'{"classes": [{"id": 1, "name": 5}]}', "name is 5; expected a text"),
        (
            "a.json",
            b'{"classes": [{"id": 1, "name": "dog", "synonyms": 5}]}',
            "synonyms is 5; expected a list",
        ),
        ("a.json", b"[" * 200_000, "a.json' is not valid JSON: it is nested too deeply"),
        ("a.json", b"1" * 5000, "a.json' is not valid JSON: Exceeds the limit"),
        ("a.json", b"[\n\xe9]", "a.json', line 2: byte 0xe9 is not UTF-8 text"),
        ("a.yaml", b"[" * 200_000, "a.yaml', line 1 is not valid YAML"),
        ("a.txt", b"caf\xe9", "line 1: byte 0xe9 is not UTF-8 text; save the file as UTF-8"),
    ],
)
def test_a_bad_class_file_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_vocabulary(str(tmp_path / name))


@pytest.mark.parametrize("missing", ["absent.txt", ""])
def test_a_missing_class_list_names_the_shipped_ones(tmp_path: Path, missing: str) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"shipped name \(voc, coco_stuff, ade20k_full, coco_panoptic,"
    ):
        load_vocabulary(str(tmp_path / missing))


@pytest.mark.parametrize(
    ("name", "seen", "unseen", "ignore_id"),
    [("voc", 15, 5, 255), ("coco_stuff", 156, 15, 255), ("ade20k_full", 572, 275, 65535)],
)
def test_shipped_lists_hold_the_published_splits(name: str, seen: int, unseen: int, ignore_id: int) -> None:
    vocabulary = load_vocabulary(name)
    roles = [entry.role for entry in vocabulary.candidates]
    assert (roles.count("seen"), roles.count("unseen"), vocabulary.ignore_id) == (seen, unseen, ignore_id)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("voc", "voc_15_5"),
        ("coco_stuff", "coco_stuff_156_15"),
        ("ade20k_full", "ade20k_full_572_275"),
    ],
)
def test_shipped_lists_agree_with_the_published_ones_in_order(shared: Path, name: str, split: str) -> None:
    published = json.loads((shared / "data" / "splits" / f"{split}.json").read_text())["classes"]
    published.sort(key=lambda entry: entry["trainId"])
    ours = load_vocabulary(name).candidates
    assert [(entry.id, entry.role == "seen") for entry in ours] == [(e["id"], e["seen"]) for e in published]
    for entry, theirs in zip(ours, published, strict=True):
        if name == "ade20k_full":  # a name of theirs is a list of synonyms; one of them is the name of ours
            assert sorted([entry.name, *entry.synonyms]) == sorted(re.split(r"\s*, ", theirs["name"]))
        else:
            assert entry.name == theirs["name"]


@pytest.mark.parametrize(
    ("name", "key", "parts"),
    [
        ("voc", "voc", ("voc", "voc_seen", "voc_unseen")),
        ("coco_stuff", "coco", ("coco", "coco_seen", "coco_unseen")),
        ("ade20k_full", "ade", ("ade847", "ade572", "ade275")),
    ],
)
def test_ids_order_names_and_roles_are_those_of_the_published_code(
    name: str, key: str, parts: tuple[str, str, str]
) -> None:
    recorded = facts("text")
    published = recorded["class_names"]
    ours = load_vocabulary(name).candidates
    assert [entry.id for entry in ours] == recorded["ids"][key]
    for role, part in zip((("seen", "unseen"), ("seen",), ("unseen",)), parts, strict=True):
        # Theirs hold all names of a class; ours is called by one of them and has the others as synonyms.
        names = [{name.strip() for name in names.split(", ")} for names in published[part]]
        entries = [entry for entry in ours if entry.role in role]
        assert len(names) == len(entries)
        for entry, theirs in zip(entries, names, strict=True):
            assert theirs == ({entry.name, *entry.synonyms} if name == "ade20k_full" else {entry.name})


@pytest.mark.parametrize("name", SHIPPED)
def test_no_concept_is_both_seen_and_unseen_in_a_shipped_list(name: str) -> None:
    classes = load_vocabulary(name).candidates
    unseen = unseen_everywhere([load_vocabulary(name)])
    assert [entry.name for entry in classes if entry.role == "seen" and concept(entry.name) in unseen] == []
    assert len(unseen) == sum(entry.role == "unseen" for entry in classes)


def test_groups_of_synonyms_do_not_overlap() -> None:
    file = Path(zs3.vocabulary.__file__).parent / "data" / "synonyms.json"
    names = [name for group in json.loads(file.read_text())["groups"] for name in group]
    assert len(names) == len(set(names))
    assert all(concept(concept(name)) == concept(name) for name in names)


@pytest.mark.parametrize(
    "names",
    [
        ("sofa", "Couch", "settee", "sofa, couch, lounge"),
        ("tv", "tvmonitor", "television", "TV monitor"),
        ("aeroplane", "airplane", "Plane"),
        ("motorbike", "motorcycle"),
        ("diningtable", "dining table", "dining_table"),
        ("potted plant", "pottedplant", "houseplant"),
        ("hair drier", "hair dryer"),
        ("quokka", " Quokka "),
    ],
)
def test_synonyms_are_one_concept(names: tuple[str, ...]) -> None:
    assert {concept(name) for name in names} == {concept(names[0])}


def test_known_means_its_concept_was_trained_and_it_is_not_marked_unseen() -> None:
    trained = frozenset({concept("sofa"), concept("cat")})
    assert known(ClassEntry(id=1, name="couch"), trained)
    assert not known(ClassEntry(id=1, name="dog"), trained)
    assert not known(ClassEntry(id=1, name="cat", role="unseen"), trained)


def test_a_class_unseen_in_one_data_set_is_unseen_in_all(shared: Path) -> None:
    folders = [shared / "data" / name / "classes.json" for name in ("msrc_mini", "coco_things_mini")]
    union = unseen_everywhere([load_vocabulary("voc"), *(load_vocabulary(str(path)) for path in folders)])
    voc = {"potted plant", "sheep", "sofa", "train", "tv"}
    msrc = {"tree", "cow", "chair", "cat", "boat"}
    coco = {
        *("aeroplane", "parking meter", "bear", "suitcase", "frisbee", "snowboard", "fork", "sandwich"),
        *("hot dog", "toilet", "mouse", "toaster", "hair drier"),
    }
    assert union == voc | msrc | coco
    assert concept("couch") in union
    assert concept("airplane") in union
