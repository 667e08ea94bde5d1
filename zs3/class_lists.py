"""Class lists as text: one name a line, and the formats of other tools.

What is read beside plain lines: ids before names (`0 cat`, `0: cat`, `0,cat`) or after them (`cat: 0`), CSV with a
header, YAML with `names`, CVAT's labelmap.txt, names in quotes, and names on one line with commas between them. A list
that could mean two things is refused with its line.
"""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import yaml

from zs3.wording import shortened

MAX_BYTES = 16 << 20
"""A file that is larger is no class list."""

NO_CLASS = frozenset({"background", "unlabeled", "unlabelled", "void", "ignore"})
"""Labels by which other tools mark pixels of no class. With an id, in YAML or in labelmap.txt they have the role
`background`; in a plain list they are classes like others, as nothing else in it can be a role."""

_NAME_COLUMNS = ("name", "class_name", "label_name", "class", "label", "category")
_ID_COLUMNS = ("id", "class_id", "label_id", "category_id", "train_id", "trainid", "index", "idx", "value")
_ID_FIRST = re.compile(r"(\d+)(?:\s*[:,;=]\s*|[.)]\s+|\s+)(\S.*)")
_ID_LAST = re.compile(r"(.*\S)\s*[:,;=\t]\s*(\d+)")
_LABELMAP_LINE = re.compile(r"([^:]+):\s*\d+\s*,\s*\d+\s*,\s*\d+\s*:[^:]*:[^:]*")
_YAML_NAMES = re.compile(r"^names\s*:\s*(?:$|[\[{]|#)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedClass:
    """One class of a list."""

    line: int
    """Where it stands, from 1; in YAML and on one line its position."""
    name: str
    id: int | None = None
    """None in lists without ids."""
    role: Literal["seen", "unseen", "background"] = "seen"
    synonyms: tuple[str, ...] = ()


def listed_classes(text: str, origin: str) -> list[ListedClass]:
    """The classes of a text in any of the formats above, in its order; empty where it lists none.

    Args:
        origin: what messages call the list; its suffix tells YAML and CSV apart from plain lines.

    Raises:
        ValueError: a line cannot be read; the message has its number.
    """
    suffix = origin.rpartition(".")[2].lower()
    if suffix in ("yaml", "yml") or _YAML_NAMES.search(text) or text.lstrip().startswith("["):
        return _of_yaml(text, origin)
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if any(line.lower().startswith("# label:color_rgb") for _, line in lines):
        return _of_labelmap([entry for entry in lines if not entry[1].startswith("#")], origin)
    lines = [(number, line) for number, line in lines if not line.startswith("#")]
    if len(lines) > 1 and all(_LABELMAP_LINE.fullmatch(line) for _, line in lines):
        return _of_labelmap(lines, origin)
    delimiter = _header_delimiter(lines[0][1], suffix) if lines else None
    if delimiter:
        return _of_table(lines, delimiter, origin)
    if len(lines) == 1 and "," in lines[0][1] and not re.match(r"[^,]*:|\d+\s*,", lines[0][1]):
        return _of_one_line(*lines[0], origin)
    if lines and all(line.startswith("- ") for _, line in lines):
        lines = [(number, line[2:].strip()) for number, line in lines]
    return _of_lines([(number, _unquoted(line)) for number, line in lines], suffix, origin)


def class_role(name: str) -> Literal["seen", "background"]:
    """The role of a label of another tool; underscores around it do not count (`__background__`)."""
    return "background" if name.strip("_ ").lower() in NO_CLASS else "seen"


def _of_lines(lines: Sequence[tuple[int, str]], suffix: str, origin: str) -> list[ListedClass]:
    """Lines of names, or of ids and names."""
    ids = [(number, _ID_FIRST.fullmatch(line)) for number, line in lines]
    if lines and all(match for _, match in ids):
        return [_of_text(_unquoted(m[2]), number, origin, class_id=m[1]) for number, m in ids if m]
    ids = [(number, _ID_LAST.fullmatch(line)) for number, line in lines]
    if lines and all(match for _, match in ids):
        return [_of_text(_unquoted(m[1]), number, origin, class_id=m[2]) for number, m in ids if m]
    result = [_of_text(line, number, origin) for number, line in lines]
    numbers = [entry for entry in result if entry.name.isdecimal()]
    if numbers and (len(numbers) < len(result) or any(entry.synonyms for entry in numbers)):
        raise _unreadable(
            origin, numbers[0].line, numbers[0].name, "a number is no name; write an id and a name on every line, or "
            "names alone",
        )  # fmt: skip
    for number, line in lines:
        if "\t" in line or (suffix in ("csv", "tsv") and re.search("[,;]", line)):
            raise _unreadable(
                origin, number, line, "it has several columns, but no header tells which one is the name; begin the "
                "file with a line such as id,name, or write one name a line",
            )  # fmt: skip
    return result


def _of_text(
    text: str, number: int, origin: str, *, class_id: str | None = None, position: int | None = None
) -> ListedClass:
    """`name` or `name: synonym, synonym`, a trailing `*` for unseen."""
    head, _, tail = text.partition(":")
    unseen = any(part.rstrip().endswith("*") for part in (head, tail))
    name = " ".join(_unquoted(head.rstrip().removesuffix("*").strip()).split())
    if not name:
        raise ValueError(
            f"class list {origin!r}, line {number}: {text.strip()!r} has no class name; name it or remove it"
        )
    synonyms = (" ".join(part.split()) for part in tail.rstrip().removesuffix("*").split(","))
    whole = position if class_id is None else _whole(class_id, number, origin)
    return ListedClass(
        line=number,
        name=name,
        id=whole,
        role="unseen" if unseen else "seen" if whole is None else class_role(name),
        synonyms=tuple(synonym for synonym in synonyms if synonym),
    )


def _of_one_line(number: int, line: str, origin: str) -> list[ListedClass]:
    """`cat, dog, car`, each with or without quotes."""
    names = (
        next(csv.reader([line.replace("'", '"')], skipinitialspace=True))
        if line[0] in "\"'"
        else line.split(",")
    )
    return [_of_text(name.strip(), number, origin) for name in names if name.strip()]


def _header_delimiter(line: str, suffix: str) -> str | None:
    """What separates the columns of a table whose first line is this, or None where it is no header."""
    for delimiter in (",", ";", "\t"):
        columns = _columns(line, delimiter)
        known = [column for column in columns if column in (*_NAME_COLUMNS, *_ID_COLUMNS)]
        several = len(columns) > 1 and (known == columns or (len(known) > 1 and "name" in "".join(known)))
        if any(name in columns for name in _NAME_COLUMNS) and (
            several or (suffix in ("csv", "tsv") and known)
        ):
            return delimiter
    return None


def _columns(line: str, delimiter: str) -> list[str]:
    return [column.strip().lower() for column in next(csv.reader([line], delimiter=delimiter))]


def _of_table(lines: Sequence[tuple[int, str]], delimiter: str, origin: str) -> list[ListedClass]:
    """A table with a header of a name's column and perhaps one of ids; other columns are ignored."""
    columns = _columns(lines[0][1], delimiter)
    name_at = next(columns.index(name) for name in _NAME_COLUMNS if name in columns)
    id_at = next((columns.index(name) for name in _ID_COLUMNS if name in columns), None)
    result = []
    for number, line in lines[1:]:
        try:
            (fields,) = csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True)
        except (csv.Error, ValueError) as error:
            raise _unreadable(origin, number, line, f"{error}; close the quotes on the same line") from None
        if len(fields) != len(columns):
            raise _unreadable(
                origin, number, line, f"it has {len(fields)} columns and the header {len(columns)}; put a name with "
                f"{delimiter!r} in it in double quotes",
            )  # fmt: skip
        name, class_id = fields[name_at].strip(), None if id_at is None else fields[id_at].strip()
        result.append(_of_text(name, number, origin, class_id=class_id))
    return result


def _of_labelmap(lines: Iterable[tuple[int, str]], origin: str) -> list[ListedClass]:
    """CVAT's `name:R,G,B:parts:actions`; ids count from 0, as CVAT's own masks of indices do."""
    result = []
    for position, (number, line) in enumerate(lines):
        if (match := _LABELMAP_LINE.fullmatch(line)) is None:
            raise _unreadable(origin, number, line, "expected name:R,G,B:parts:actions; export it again")
        name = match[1].strip()
        result.append(ListedClass(line=number, name=name, id=position, role=class_role(name)))
    return result


def _of_yaml(text: str, origin: str) -> list[ListedClass]:
    """The list of names, or the map from ids to names, under `names`, or the whole document."""
    try:
        content = yaml.load(text, Loader=yaml.BaseLoader)  # all words are text: no is a name, and 0 is "0"
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = 1 if mark is None else mark.line + 1
        problem = getattr(error, "problem", None) or type(error).__name__
        raise ValueError(
            f"class list {origin!r}, line {line} is not valid YAML: {problem}; put names with special characters in "
            "quotes"
        ) from error
    if isinstance(content, dict):
        content = next((content[key] for key in ("names", "classes", "labels") if key in content), content)
    if isinstance(content, dict) and all(isinstance(name, str) for name in content.values()):
        if all(class_id.isdecimal() for class_id in content.values()):
            content = {class_id: name for name, class_id in content.items()}
    elif isinstance(content, dict):
        content = {}
    numbered = isinstance(content, dict)
    entries = list(content.items() if numbered else enumerate(content if isinstance(content, list) else ()))
    if not entries:
        raise ValueError(
            f"class list {origin!r}, line 1: the YAML has no list of names and no map from ids to names; write them "
            "under 'names:'"
        )
    plain_list = not numbered and text.lstrip().startswith("[")
    result = []
    for position, (class_id, name) in enumerate(entries, start=1):
        if not isinstance(name, str):
            raise ValueError(
                f"class list {origin!r}: entry {position} of the YAML is a {type(name).__name__}, expected the name of "
                "a class; write one name for each"
            )
        line = _line_of(text, name)
        if plain_list:
            result.append(_of_text(name, position, origin))
        else:
            result.append(_of_text(name, line, origin, class_id=str(class_id)))
    return result


def _line_of(text: str, value: str) -> int:
    """The first line of a text that holds a value, else 1."""
    return next((n for n, line in enumerate(text.splitlines(), start=1) if value in line), 1)


def _whole(text: str, number: int, origin: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise _unreadable(origin, number, text, "expected an id, a whole number of 0 or more; correct it")
    return int(text)


def _unquoted(text: str) -> str:
    """Without the quotes around it, and without the comma after them."""
    bare = text.rstrip().removesuffix(",").rstrip() if text[:1] in ("'", '"') else text
    return bare[1:-1] if len(bare) > 2 and bare[0] == bare[-1] and bare[0] in "\"'" else text


def _unreadable(origin: str, number: int, value: object, problem: str) -> ValueError:
    return ValueError(f"class list {origin!r}, line {number}: {shortened(value)}: {problem}")
