"""Class names, synonyms and roles: which classes a pixel may have, and which ones training may use."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from operator import index
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import fsspec

Role = Literal["seen", "unseen", "background", "excluded"]

SHIPPED = ("voc", "coco_stuff", "ade20k_full")
"""Vocabularies that come with the package."""

_ROLES = get_args(Role)
_IGNORE_8_BIT, _IGNORE_16_BIT = 255, 65535


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
        """SHA-256 (hex) of order, ids, names, roles, synonyms and ignore id, without the vocabulary's own name."""
        content = {key: value for key, value in self.to_json().items() if key != "name"}
        canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` makes an equal vocabulary."""
        classes = [
            {"id": entry.id, "name": entry.name, "role": entry.role, "synonyms": list(entry.synonyms)}
            for entry in self.classes
        ]
        return {"name": self.name, "ignore_id": self.ignore_id, "classes": classes}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], name: str = "classes") -> "Vocabulary":
        """A vocabulary from `to_json`, or from the `classes.json` of a folder data set.

        In the latter the ignore id is called `ignore_index`; other keys of its entries are ignored.

        Args:
            content: object with `classes`, a list of objects with `id`, `name`, and optionally `role` and `synonyms`.
            name: the vocabulary's name if the content has none.
        """
        if not isinstance(content, Mapping) or not isinstance(content.get("classes"), list):
            raise ValueError(
                f"vocabulary {name!r}: expected a JSON object with a list 'classes' of objects with id, "
                f"name, role, found {_shortened(content)}"
            )
        name = str(content.get("name", name))
        ignore_id = content.get("ignore_id", content.get("ignore_index", _IGNORE_8_BIT))
        classes = tuple(_entry_from_json(entry, name) for entry in content["classes"])
        return cls(name=name, classes=classes, ignore_id=_IGNORE_8_BIT if ignore_id is None else ignore_id)


def load_vocabulary(source: str) -> Vocabulary:
    """A shipped vocabulary, or that of a file.

    Args:
        source: a shipped name (`voc`, `coco_stuff`, `ade20k_full`); or a path or uri of a `.json` file (ours,
            a folder data set's `classes.json`, or a list of lines as below), or of a text file with one class
            a line: `name`, or `name: synonym, synonym`, where a trailing `*` marks an unseen class. Such
            classes get ids 1, 2, … in order; empty lines are skipped.

    Raises:
        FileNotFoundError: `source` is neither a shipped name nor a file.
        ValueError: the list is empty or malformed, or has a class twice.
    """
    if source in SHIPPED:
        return Vocabulary.from_json(_shipped_json(source), name=source)
    path = PurePosixPath(source)
    try:
        with fsspec.open(source, "rb") as file:
            text = file.read().decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError) as error:
        shipped = ", ".join(SHIPPED)
        raise FileNotFoundError(
            f"class list {source!r} is neither a file nor a shipped name ({shipped}); check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"class list {source!r} is not UTF-8 text ({error}); save it as UTF-8") from error
    if path.suffix.lower() != ".json":
        return parse_class_list(text, name=path.stem)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"class list {source!r} is not valid JSON: {error}") from error
    name = path.parent.name if path.name == "classes.json" else path.stem
    if isinstance(content, list) and all(isinstance(line, str) for line in content):
        return parse_class_list("\n".join(content), name=name)
    return Vocabulary.from_json(content, name=name)


def parse_class_list(text: str, name: str) -> Vocabulary:
    """A vocabulary from lines `name` or `name: synonym, synonym`, a trailing `*` for unseen; ids 1, 2, … .

    The ignore id is 255, or 65535 for 255 classes or more.

    Raises:
        ValueError: there is no class, a line without a name, or a repeated name; the message gives both lines.
    """
    entries: list[ClassEntry] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        entry = _entry_from_line(line, number, class_id=len(entries) + 1, name=name)
        earlier = first_line.setdefault(normalised(entry.name), number)
        if earlier != number:
            raise ValueError(
                f"class list {name!r} names {entry.name!r} twice, on lines {earlier} and {number}; remove one"
            )
        entries.append(entry)
    if not entries:
        raise ValueError(f"class list {name!r} is empty; write one class name a line")
    ignore_id = _IGNORE_8_BIT if len(entries) < _IGNORE_8_BIT else _IGNORE_16_BIT
    return Vocabulary(name=name, classes=tuple(entries), ignore_id=ignore_id)


def normalised(name: str) -> str:
    """A name in the form in which names are compared: lower case, single spaces, underscores as spaces."""
    return " ".join(name.lower().replace("_", " ").split())


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


def unseen_everywhere(vocabularies: Iterable[Vocabulary]) -> frozenset[str]:
    """Concepts that are unseen in at least one vocabulary; training on all of them must not use their masks."""
    return frozenset(
        concept(entry.name)
        for vocabulary in vocabularies
        for entry in vocabulary.classes
        if entry.role == "unseen"
    )


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
        return ClassEntry(
            id=index(entry["id"]),
            name=str(entry["name"]),
            role=entry.get("role", "seen"),
            synonyms=tuple(str(synonym) for synonym in entry.get("synonyms", ())),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"vocabulary {vocabulary!r}: class entry {_shortened(entry)} needs an integer 'id' and a 'name' "
            f"({error!r})"
        ) from error


def _entry_from_line(line: str, number: int, class_id: int, name: str) -> ClassEntry:
    head, _, tail = line.partition(":")
    unseen = any(part.rstrip().endswith("*") for part in (head, tail))
    class_name = " ".join(head.rstrip().removesuffix("*").split())
    if not class_name:
        raise ValueError(
            f"class list {name!r}, line {number}: {line.strip()!r} has no class name; name it or remove it"
        )
    synonyms = (" ".join(part.split()) for part in tail.rstrip().removesuffix("*").split(","))
    return ClassEntry(
        id=class_id,
        name=class_name,
        role="unseen" if unseen else "seen",
        synonyms=tuple(synonym for synonym in synonyms if synonym),
    )


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _shipped_json(name: str) -> Any:
    return json.loads((Path(__file__).parent / "data" / f"{name}.json").read_text(encoding="utf-8"))


@cache
def _representatives() -> dict[str, str]:
    return {name: group[0] for group in _shipped_json("synonyms")["groups"] for name in group}
