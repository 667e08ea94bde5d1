"""Class lists as people have them: what other tools write is read as it is meant, or refused with its line."""

import re
from pathlib import Path

import pytest

from zs3.vocabulary import Vocabulary, load_vocabulary, normalised, parse_class_list


def classes(vocabulary: Vocabulary) -> list[tuple[int, str]]:
    """Id and name of the classes to predict."""
    return [(entry.id, entry.name) for entry in vocabulary.candidates]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("data.yaml", "path: ../coco\nnames:\n  0: cat\n  1: dog\n"),
        ("data.yml", "nc: 2\nnames: ['cat', 'dog']\n"),
        ("data.yaml", "names:\n- cat\n- dog\n"),
        ("map.yaml", "names: {cat: 0, dog: 1}\n"),
        ("data.txt", "names:\n  0: cat\n  1: dog\n"),
        ("ids.txt", "0 cat\n1 dog\n"),
        ("ids.txt", "0: cat\n1: dog\n"),
        ("ids.txt", "0\tcat\n1\tdog\n"),
        ("ids.csv", "0,cat\n1,dog\n"),
        ("ids.txt", "cat: 0\ndog: 1\n"),
        ("ids.txt", "cat\t0\ndog\t1\n"),
        ("header.csv", "id,name\n0,cat\n1,dog\n"),
        ("header.csv", 'name;id;colour\n"cat";0;"1;2"\ndog;1;3\n'),
        ("header.tsv", "class_id\tclass_name\n0\tcat\n1\tdog\n"),
        ("labels.txt", "0: unlabeled\n1: cat\n2: dog\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:64,0,0::\ndog:0,64,0::\n"),
    ],
)
def test_a_list_of_another_tool_gives_its_names_and_ids(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text)
    first = 1 if "unlabeled" in text or "background" in text else 0
    assert classes(load_vocabulary(str(tmp_path / file))) == [(first, "cat"), (first + 1, "dog")]


@pytest.mark.parametrize(
    "text",
    ["cat, dog", "cat,dog,\n", '"cat", "dog"', "'cat','dog'", "['cat', 'dog']", '["cat", "dog"]', "'cat'\n\"dog\"",
     '"cat",\n"dog",', "- cat\n- dog", "# pets\ncat\ndog"],
)  # fmt: skip
def test_a_list_without_ids_counts_from_one(text: str) -> None:
    assert classes(parse_class_list(text, "pets")) == [(1, "cat"), (2, "dog")]


def test_the_background_of_other_tools_has_its_role_and_the_ignore_value_is_no_class() -> None:
    labelmap = parse_class_list(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:64,0,0::", "labelmap"
    )
    assert [(entry.id, entry.name, entry.role) for entry in labelmap.classes] == [
        (0, "background", "background"),
        (1, "cat", "seen"),
    ]
    numbered = parse_class_list("0 __background__\n1 cat\n255 void", "numbered")
    assert [(entry.id, entry.role) for entry in numbered.classes] == [(0, "background"), (1, "seen")]
    plain = parse_class_list("background\ncat", "plain")
    assert classes(plain) == [(1, "background"), (2, "cat")]


def test_synonyms_and_marks_work_beside_ids_and_names_with_commas_stay_whole() -> None:
    (sofa, bus) = parse_class_list("3: sofa: couch, settee *\n5: bus", "ids").classes
    assert (sofa.id, sofa.name, sofa.synonyms, sofa.role) == (3, "sofa", ("couch", "settee"), "unseen")
    assert (bus.id, bus.role) == (5, "seen")
    assert classes(parse_class_list("sofa, couch\ncat", "ade")) == [(1, "sofa, couch"), (2, "cat")]
    assert classes(parse_class_list("3 wheeler\ncar", "cars")) == [(1, "3 wheeler"), (2, "car")]
    assert classes(parse_class_list("names:\n  0: no\n  1: yes", "words")) == [(0, "no"), (1, "yes")]
    assert parse_class_list("1 cat\n300 dog", "wide").ignore_id == 65535


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize(("file", "text"), [("a.txt", "café\nchat\n"), ("a.json", '["café", "chat"]')])
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, encoding: str, file: str, text: str) -> None:
    mark = "\ufeff" if encoding.endswith("e") else ""
    (tmp_path / file).write_bytes((mark + text).encode(encoding))
    assert classes(load_vocabulary(str(tmp_path / file))) == [(1, "café"), (2, "chat")]


@pytest.mark.parametrize(
    ("file", "content", "line", "repair"),
    [
        ("latin.txt", "chat\ncafé\n".encode("latin-1"), 2, "save the file as UTF-8"),
        ("bare16.txt", "cat\ndog\n".encode("utf-16-le"), 1, "save the file as UTF-8"),
        ("mixed.txt", b"cat\n0: dog\n", 2, "write an id and a name on every line"),
        ("wide.csv", b"cat,red\ndog,blue\n", 1, "such as id,name"),
        ("tabs.txt", b"cat\tred\ndog\tblue\n", 1, "such as id,name"),
        ("uneven.csv", b"id,name\n0,cat\n1,dog,big\n", 3, "in double quotes"),
        ("word.csv", b"id,name\nzero,cat\n", 2, "a whole number"),
        ("open.csv", b'id,name\n0,"cat\n', 2, "close the quotes"),
        ("labelmap.txt", b"# label:color_rgb:parts:actions\ncat:64,0::\n", 2, "name:R,G,B:parts:actions"),
        ("data.yaml", b"names:\n  0: cat\n  1: [dog\n", 4, "in quotes"),
        ("empty.yaml", b"nc: {}\n", 1, "under 'names:'"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused_with_file_line_and_repair(
    tmp_path: Path, file: str, content: bytes, line: int, repair: str
) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError) as error:
        load_vocabulary(str(tmp_path / file))
    message = str(error.value)
    assert "\n" not in message
    assert f"{str(tmp_path / file)!r}, line {line}" in message
    assert repair in message


def test_names_are_compared_composed(tmp_path: Path) -> None:
    assert normalised("cafe\u0301") == normalised("Caf\u00e9")
    with pytest.raises(ValueError, match="twice, on lines 1 and 2"):
        parse_class_list("cafe\u0301\ncaf\u00e9", "cafes")


def test_names_on_the_command_line_are_a_list_unless_they_look_like_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_vocabulary("cat, sea lion*").digest == parse_class_list("cat\nsea lion*", "x").digest
    Path("a,b").write_text("bird\n")
    assert classes(load_vocabulary("a,b")) == [(1, "bird")]
    for missing in ("a,b.txt", "folder/a,b", "cat", "s3x:a,b"):
        with pytest.raises((FileNotFoundError, ValueError), match=re.escape(missing.partition(":")[0])):
            load_vocabulary(missing)
    with pytest.raises(ValueError, match="'cat' twice"):
        load_vocabulary("cat,cat")
