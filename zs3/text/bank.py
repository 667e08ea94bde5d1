"""Text banks: one unit vector per class name, against which segments are compared.

Each synonym of a class is put into each prompt template; each prompt is encoded and normalised; the mean over all
prompts of the class is normalised again (ZegFormer, section 3.3, and the released code's text features). In FC-CLIP the
mean is taken over the prompts of one synonym, and the class has a row for each.
"""

# C class, R row, D embedding

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

import numpy as np

from zs3.vocabulary import names_of

if TYPE_CHECKING:
    from zs3.encoders import TextEncoder
    from zs3.vocabulary import ClassEntry

UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TextBank:
    """Class names with their embeddings.

    Raises:
        ValueError: the parts do not fit each other, a row is not finite or no unit vector, or two names are equal.
    """

    names: tuple[str, ...]
    """Class names, in the order of the rows."""
    embeddings: np.ndarray
    """(R, D) float32, unit rows."""
    seen: np.ndarray
    """(C,) bool: True where the class had training masks."""
    class_of_row: np.ndarray | None = None
    """(R,) int64, ascending: the class of each row, where classes have several; None: row by row."""

    def __post_init__(self) -> None:
        count = len(self.names)
        if count == 0:
            raise ValueError("a text bank needs at least one class name, got none")
        if len(set(self.names)) != count:
            repeated = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ValueError(f"a text bank's names must differ, but {repeated} come more than once")
        owners = np.arange(count) if self.class_of_row is None else self.class_of_row
        if not np.array_equal(np.unique(owners), np.arange(count)):
            raise ValueError(
                f"each of {count} names needs a row, but the rows are of the classes {set(owners)}"
            )
        if self.embeddings.ndim != 2 or self.embeddings.shape[0] != len(owners):
            raise ValueError(
                f"{count} names need a ({len(owners)}, D) matrix, got shape {self.embeddings.shape}"
            )
        if self.embeddings.dtype != np.float32:
            raise ValueError(
                f"embeddings must be float32, got {self.embeddings.dtype}; use .astype('float32')"
            )
        if self.seen.shape != (count,) or self.seen.dtype != np.bool_:
            raise ValueError(
                f"seen must be a bool array of shape ({count},), got {self.seen.dtype} {self.seen.shape}"
            )
        finite = np.isfinite(self.embeddings)
        if not finite.all():
            row, column = (int(index) for index in np.argwhere(~finite)[0])
            raise ValueError(
                f"{int((~finite).sum())} numbers of a text bank are not finite, the first at [{row}, {column}], in the "
                f"row of {self.names[owners[row]]!r}; are the text encoder's weights sound?"
            )
        lengths = np.linalg.norm(self.embeddings, axis=1)
        wrong = np.flatnonzero(~(np.abs(lengths - 1) <= UNIT_TOLERANCE))
        if wrong.size:
            first = int(wrong[0])
            raise ValueError(
                f"every row must be a unit vector, but that of {self.names[owners[first]]!r} has length "
                f"{float(lengths[first]):.4g}; normalise the rows"
            )

    @property
    def class_embeddings(self) -> np.ndarray:
        """(C, D) float32 unit rows: for each class its row, or the direction of the mean of its rows."""
        if self.class_of_row is None:
            return self.embeddings
        starts = np.searchsorted(self.class_of_row, np.arange(len(self.names)))
        return _unit(np.add.reduceat(self.embeddings.astype(np.float64), starts, axis=0))


@cache
def template_sets() -> dict[str, tuple[str, ...]]:
    """All shipped sets of prompt templates by name; each template holds one `{}` for the class name."""
    text = files("zs3").joinpath("data/prompt_templates.json").read_text(encoding="utf-8")
    return {name: tuple(strings) for name, strings in json.loads(text).items()}


def prompt_templates(name: str) -> tuple[str, ...]:
    """The templates of one set.

    Raises:
        ValueError: there is no such set.
    """
    sets = template_sets()
    if name not in sets:
        raise ValueError(f"no prompt templates are called {name!r}; choose one of {', '.join(sorted(sets))}")
    return sets[name]


def prompts(names: Iterable[str], templates: Sequence[str]) -> list[str]:
    """Every name in every template, name by name. Articles stay as they are ("a aeroplane")."""
    return [template.format(name) for name in names for template in templates]


def phrases_of(entry: ClassEntry, *, synonyms: bool) -> tuple[str, ...]:
    """The different phrases for a class: its name, split at ", " as the released code splits it, and, on request, its
    synonyms."""
    phrases = [*entry.name.split(", "), *(entry.synonyms if synonyms else ())]
    return _different(phrases)


def _different(phrases: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(phrase for phrase in phrases if phrase.strip()))


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def text_bank(
    entries: Sequence[ClassEntry],
    encoder: TextEncoder,
    *,
    templates: str,
    seen: Sequence[bool],
    synonyms: bool,
    rows: Literal["class", "synonym"] = "class",
) -> TextBank:
    """The text bank of some classes under one encoder and one set of templates.

    Args:
        entries: the classes, in the order of the rows.
        templates: name of a set of templates.
        seen: for each class, whether it had training masks.
        synonyms: whether the synonyms take part.
        rows: one for each class, or one for each of its names, which are then split as FC-CLIP splits them.

    Raises:
        ValueError: there is no such set of templates, `seen` has another length than `entries`, or a class has no name.
    """
    if len(seen) != len(entries):
        raise ValueError(f"{len(entries)} classes need as many seen flags, got {len(seen)}")
    strings = prompt_templates(templates)
    split = _names if rows == "synonym" else phrases_of
    phrases_of_class = [split(entry, synonyms=synonyms) for entry in entries]
    for entry, phrases in zip(entries, phrases_of_class):
        if not phrases:
            raise ValueError(f"class {entry.name!r} has no name between its commas; write one")
    owners = None
    groups = [prompts(phrases, strings) for phrases in phrases_of_class]
    if rows == "synonym":
        owners = np.repeat(np.arange(len(entries)), [len(phrases) for phrases in phrases_of_class])
        groups = [prompts([phrase], strings) for phrases in phrases_of_class for phrase in phrases]
    unique = list(dict.fromkeys(prompt for group in groups for prompt in group))
    row_of = {prompt: row for row, prompt in enumerate(unique)}
    encoded = encoder.encode_text(unique).numpy().astype(np.float64)
    encoded /= np.linalg.norm(encoded, axis=1, keepdims=True)
    return TextBank(
        names=tuple(entry.name for entry in entries),
        embeddings=_unit(
            np.stack([encoded[[row_of[prompt] for prompt in group]].mean(axis=0) for group in groups])
        ),
        seen=np.asarray(seen, dtype=np.bool_),
        class_of_row=owners,
    )


def _names(entry: ClassEntry, *, synonyms: bool) -> tuple[str, ...]:
    """As `phrases_of`, the name split as FC-CLIP splits it."""
    return _different(names_of(entry if synonyms else replace(entry, synonyms=())))
