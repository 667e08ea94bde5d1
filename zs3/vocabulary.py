"""Class names, synonyms and roles: which classes a pixel may have, and which ones training may use."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from zs3.class_lists import MAX_BYTES, listed_classes
from zs3.files import decoded, parsed_json, read_file
from zs3.open_vocabularies import OPEN_VOCABULARIES, open_vocabulary
from zs3.wording import first_names, shortened

Role = Literal["seen", "unseen", "background", "excluded"]

SHIPPED = ("voc", "coco_stuff", "ade20k_full")
"""Vocabularies of zero-shot splits that come with the package, beside those of `zs3.open_vocabularies`."""

_ROLES = get_args(Role)
_IGNORE_8_BIT, _IGNORE_16_BIT = 255, 65535
_SUFFIXES = (".txt", ".json", ".csv", ".tsv", ".yaml", ".yml", ".names")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassEntry:
    """One class of a vocabulary."""

    id: int
    """Value in truth and label maps, as in the published data set."""
    name: str
    """Name in tables and reports, unique in its vocabulary."""
    role: Role = "seen"
    """seen: training may use its masks. unseen: it must not. background, excluded: never predicted, and its truth
    pixels are ignored in evaluation."""
    synonyms: tuple[str, ...] = ()
    """Other names of the class, for text banks that average over them."""
    thing: bool = False
    """Whether its objects can be counted, and so are instances of their own in a panoptic map. Of no account elsewhere,
    and no part of the digest of the list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """A list of classes with unique ids and names, and the value that means no class.

    Raises:
        ValueError: there is no class to predict, a repeated id or name, an empty name, an unknown role, or an id
            that is negative or equals `ignore_id`.
    """

    name: str
    classes: tuple[ClassEntry, ...]
    ignore_id: int = _IGNORE_8_BIT
    """Value of ignored pixels: 255, or 65535 if ids need 16 bits."""

    def __post_init__(self) -> None:
        _refuse_bad_entries(self)

    @property
    def candidates(self) -> tuple[ClassEntry, ...]:
        """The classes to predict: seen and unseen ones, in file order."""
        return tuple(entry for entry in self.classes if entry.role in ("seen", "unseen"))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of order, ids, names, roles, synonyms and ignore id, without its own name and `thing`."""
        content = {key: value for key, value in self.to_json().items() if key != "name"}
        for entry in content["classes"]:
            entry.pop("thing", None)
        canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` makes an equal vocabulary."""
        classes = [
            {"id": entry.id, "name": entry.name, "role": entry.role, "synonyms": list(entry.synonyms)}
            | ({"thing": True} if entry.thing else {})
            for entry in self.classes
        ]
        return {"name": self.name, "ignore_id": self.ignore_id, "classes": classes}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], name: str = "classes") -> "Vocabulary":
        """A vocabulary from `to_json`, or from the `classes.json` of a folder data set.

        In the latter the ignore id is called `ignore_index`; other keys of its entries are ignored.

        Args:
            content: object with `classes`, a list of objects with `id`, `name`, and optionally `role`, `synonyms` and
                `thing` (true or false; COCO's `isthing`, 1 or 0, means the same).
            name: the vocabulary's name if the content has none.
        """
        if not isinstance(content, Mapping) or not isinstance(content.get("classes"), list):
            raise ValueError(
                f"vocabulary {name!r}: expected a JSON object with a list 'classes' of objects with id, "
                f"name, role, found {shortened(content)}"
            )
        name = str(content.get("name", name))
        ignore_id = content.get("ignore_id", content.get("ignore_index", _IGNORE_8_BIT))
        classes = tuple(_entry_from_json(entry, name) for entry in content["classes"])
        if ignore_id is None:
            return cls(name=name, classes=classes)
        try:
            return cls(name=name, classes=classes, ignore_id=_whole(ignore_id, "ignore_index"))
        except TypeError as error:
            raise ValueError(f"vocabulary {name!r}: {error}") from None


def load_vocabulary(source: str) -> Vocabulary:
    """A shipped vocabulary, that of a file, or names with commas between them.

    Args:
        source: a shipped name (of `SHIPPED` or `OPEN_VOCABULARIES`); or a path or uri of a `.json` file (ours,
            a folder data set's `classes.json`, or a list of lines as in a text), or of a text that
            `parse_class_list` reads; or, where there is no such file, the names themselves: `cat,dog*`.

    Raises:
        FileNotFoundError: `source` is neither a shipped name nor a file.
        ValueError: the list is empty or malformed, or has a class twice.
    """
    if source in SHIPPED:
        return Vocabulary.from_json(_shipped_json(source), name=source)
    if source in OPEN_VOCABULARIES:
        return Vocabulary.from_json(open_vocabulary(source), name=source)
    path = PurePosixPath(source)
    try:
        data = read_file(source, MAX_BYTES)
    except (FileNotFoundError, IsADirectoryError) as error:
        if "," in source and not re.search(r"[:/\\\n]", source) and path.suffix.lower() not in _SUFFIXES:
            return parse_class_list(source.replace(",", "\n"), name="classes")
        shipped = ", ".join((*SHIPPED, *OPEN_VOCABULARIES))
        raise FileNotFoundError(
            f"class list {source!r} is neither a file nor a shipped name ({shipped}); check the path, or write names "
            "with commas between them (cat,dog)"
        ) from error
    origin = f"class list {source!r}"
    if path.suffix.lower() != ".json":
        return parse_class_list(decoded(data, origin), name=path.stem, origin=source)
    content = parsed_json(data, origin, "write one class name a line in a .txt file instead")
    name = path.parent.name if path.name == "classes.json" else path.stem
    if isinstance(content, list) and content and all(isinstance(line, str) for line in content):
        return parse_class_list("\n".join(content), name=name, origin=source)
    return Vocabulary.from_json(content, name=name)


def parse_class_list(text: str, name: str, *, origin: str | None = None) -> Vocabulary:
    """A vocabulary from a text with one class a line, or in a format of another tool (`zs3.class_lists`).

    A line is `name` or `name: synonym, synonym`, a trailing `*` marks an unseen class, and a line that begins with `#`
    is a comment. Ids are those of the text, or 1, 2, … in lists without ids. The ignore id is 255, or 65535 if there
    are 255 classes or more, or ids from 255 on; a label of no class with the id 255 is left out, as it is that value.

    Args:
        origin: what messages call the list; its suffix tells YAML and CSV. By default `name`.

    Raises:
        ValueError: there is no class, a line without a name, or a repeated name; the message gives both lines.
    """
    origin = origin or name
    listed = [
        entry
        for entry in listed_classes(text, origin)
        if not (entry.id == _IGNORE_8_BIT and entry.role == "background")
    ]
    first_line: dict[str, int] = {}
    for entry in listed:
        if normalised(entry.name) in first_line:
            raise ValueError(
                f"class list {origin!r} names {entry.name!r} twice, on lines {first_line[normalised(entry.name)]} and "
                f"{entry.line}; remove one"
            )
        first_line[normalised(entry.name)] = entry.line
    if not listed:
        raise ValueError(f"class list {origin!r} is empty; write one class name a line")
    entries = tuple(
        ClassEntry(
            id=position if entry.id is None else entry.id,
            name=entry.name,
            role=entry.role,
            synonyms=entry.synonyms,
        )
        for position, entry in enumerate(listed, start=1)
    )
    small = len(entries) < _IGNORE_8_BIT and max(entry.id for entry in entries) < _IGNORE_8_BIT
    return Vocabulary(name=name, classes=entries, ignore_id=_IGNORE_8_BIT if small else _IGNORE_16_BIT)


def normalised(name: str) -> str:
    """A name in the form in which names are compared: NFC, lower case, single spaces, underscores as spaces."""
    return " ".join(unicodedata.normalize("NFC", name.lower()).replace("_", " ").split())


def concept(name: str) -> str:
    """The one lower-case name that represents `name` and its synonyms: couch -> sofa, tvmonitor -> tv.

    Groups of synonyms are shipped with the package; a name in no group represents itself. Of a name that
    lists its own synonyms (`sofa, couch, lounge`), the first counts.
    """
    representatives = _representatives()
    whole = normalised(name)
    first = whole.split(",")[0].strip()
    return representatives.get(whole) or representatives.get(first, first)


def known(entry: ClassEntry, seen_concepts: frozenset[str]) -> bool:
    """Whether a model trained on masks of `seen_concepts` has seen this class; False if it is marked unseen."""
    return entry.role != "unseen" and concept(entry.name) in seen_concepts


def names_of(entry: ClassEntry) -> tuple[str, ...]:
    """Every name of a class, letter by letter: its name, split at commas as FC-CLIP splits it, and its synonyms.

    Only a blank after a comma goes: "road ,highway, lane" is "road ", "highway" and "lane".
    """
    return (*entry.name.replace(", ", ",").split(","), *entry.synonyms)


def unseen_everywhere(vocabularies: Iterable[Vocabulary]) -> frozenset[str]:
    """Concepts that are unseen in at least one vocabulary; training on all of them must not use their masks."""
    return frozenset(
        concept(entry.name)
        for vocabulary in vocabularies
        for entry in vocabulary.classes
        if entry.role == "unseen"
    )


def differences_in_words(
    first: Vocabulary, second: Vocabulary, places: tuple[str, str] = ("there", "now")
) -> str:
    """How two class lists differ, naming the first few classes: `only there: cat; only now: dog, yak`.

    Args:
        places: what the two lists are called.
    """
    there, now = places
    entries, others = ({entry.name: entry for entry in part.classes} for part in (first, second))
    only = {there: entries.keys() - others.keys(), now: others.keys() - entries.keys()}
    parts = [f"only {place}: {first_names(sorted(names))}" for place, names in only.items() if names]
    for field in ("id", "role", "synonyms"):
        changed = [
            f"{name} ({_plain(getattr(entry, field))} {there}, {_plain(getattr(others[name], field))} {now})"
            for name, entry in entries.items()
            if name in others and getattr(entry, field) != getattr(others[name], field)
        ]
        if changed:
            parts.append(f"other {field if field == 'synonyms' else field + 's'}: {first_names(changed)}")
    if first.ignore_id != second.ignore_id:
        parts.append(f"ignore id {first.ignore_id} {there}, {second.ignore_id} {now}")
    return "; ".join(parts) or "the same classes in another order"


def _plain(value: Any) -> str:
    return (", ".join(value) or "none") if isinstance(value, tuple) else str(value)


def _refuse_bad_entries(vocabulary: Vocabulary) -> None:
    where = f"vocabulary {vocabulary.name!r}"
    if not vocabulary.candidates:
        raise ValueError(f"{where} has no class with role seen or unseen; a pixel could be called nothing")
    by_id: dict[int, str] = {}
    by_name: dict[str, int] = {}
    for entry in vocabulary.classes:
        if entry.role not in _ROLES:
            raise ValueError(
                f"{where}: class {entry.name!r} has role {entry.role!r}, expected one of {_ROLES}"
            )
        if not entry.name.strip():
            raise ValueError(f"{where}: class {entry.id} has an empty name; name it or remove it")
        if entry.id < 0 or entry.id == vocabulary.ignore_id:
            raise ValueError(
                f"{where}: class {entry.name!r} has id {entry.id}, expected 0 or more and not the ignore id "
                f"{vocabulary.ignore_id}; renumber it, or set another ignore_id"
            )
        if entry.id in by_id:
            raise ValueError(
                f"{where}: {by_id[entry.id]!r} and {entry.name!r} share id {entry.id}; renumber one"
            )
        if normalised(entry.name) in by_name:
            raise ValueError(
                f"{where} names {entry.name!r} twice, with ids {by_name[normalised(entry.name)]} and "
                f"{entry.id}; remove or rename one"
            )
        by_id[entry.id] = entry.name
        by_name[normalised(entry.name)] = entry.id


def _entry_from_json(entry: Any, vocabulary: str) -> ClassEntry:
    try:
        if not isinstance(entry["name"], str):
            raise TypeError(f"name is {shortened(entry['name'])}; expected a text")
        return ClassEntry(
            id=_whole(entry["id"], "id"),
            name=entry["name"],
            role=entry.get("role", "seen"),
            synonyms=_texts(entry.get("synonyms")),
            thing=entry.get("thing", entry.get("isthing", False)) in (True, 1),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"vocabulary {vocabulary!r}: class entry {shortened(entry)} needs an integer 'id' and a 'name' "
            f"({error})"
        ) from error


def _whole(value: Any, what: str) -> int:
    """A whole number of JSON, also where it is written as 255.0 or as the text "255".

    Raises:
        TypeError: it is something else.
    """
    number = value.strip() if isinstance(value, str) else value
    if isinstance(number, str) and re.fullmatch(r"[+-]?[0-9]+", number):
        return int(number)
    if isinstance(number, float) and number.is_integer():
        return int(number)
    if isinstance(number, int) and not isinstance(number, bool):
        return number
    raise TypeError(
        f"{what} is {shortened(value)}, a {type(value).__name__}; expected a whole number such as 255"
    )


def _texts(value: Any) -> tuple[str, ...]:
    """A list of texts; a text alone is a list of one.

    Raises:
        TypeError: it is no list.
    """
    if value is None or isinstance(value, str):
        return (value,) if value else ()
    if not isinstance(value, list | tuple):
        raise TypeError(f"synonyms is {shortened(value)}; expected a list of names")
    return tuple(str(text) for text in value)


def _shipped_json(name: str) -> Any:
    return json.loads((Path(__file__).parent / "data" / f"{name}.json").read_text(encoding="utf-8"))


@cache
def _representatives() -> dict[str, str]:
    return {name: group[0] for group in _shipped_json("synonyms")["groups"] for name in group}
