"""Text banks: one unit vector per class name, against which segments are compared.

A class is put into every prompt template, with every synonym; each prompt is encoded and normalised, the
mean over all prompts of the class is normalised again (ZegFormer; specification, section 1.6). A bank is
encoded once and kept by its digest.
"""

# C class, D embedding

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from zs3.encoders import TextEncoder
    from zs3.vocabulary import ClassEntry

UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class TextBank:
    """Class names with their embeddings: what a segment may be called.

    Raises:
        ValueError: when the parts do not fit each other, a row is no unit vector, or a name comes twice.
    """

    names: tuple[str, ...]
    """Class names, in the order of the rows."""
    embeddings: np.ndarray
    """(C, D) float32, unit rows."""
    seen: np.ndarray
    """(C,) bool: True where the class had training masks."""
    digest: str
    """sha256 (hex) of everything that went into the rows; equal banks have equal digests."""

    def __post_init__(self) -> None:
        count = len(self.names)
        if count == 0:
            raise ValueError("a text bank needs at least one class name, got none")
        if len(set(self.names)) != count:
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ValueError(f"a text bank's names must differ, but {twice} come more than once")
        if self.embeddings.ndim != 2 or self.embeddings.shape[0] != count:
            raise ValueError(f"{count} names need a ({count}, D) matrix, got shape {self.embeddings.shape}")
        if self.embeddings.dtype != np.float32:
            raise ValueError(
                f"embeddings must be float32, got {self.embeddings.dtype}; use .astype('float32')"
            )
        if self.seen.shape != (count,) or self.seen.dtype != np.bool_:
            raise ValueError(
                f"seen must be a bool array of shape ({count},), got {self.seen.dtype} {self.seen.shape}"
            )
        lengths = np.linalg.norm(self.embeddings, axis=1)
        wrong = np.flatnonzero(~(np.abs(lengths - 1) <= UNIT_TOLERANCE))
        if wrong.size:
            first = int(wrong[0])
            raise ValueError(
                f"every row must be a unit vector, but that of {self.names[first]!r} has length "
                f"{float(lengths[first]):.4g}; normalise the rows"
            )


@cache
def template_sets() -> dict[str, tuple[str, ...]]:
    """All shipped prompt template sets by name; each template holds one `{}` for the class name."""
    text = files("zs3").joinpath("data/prompt_templates.json").read_text(encoding="utf-8")
    return {name: tuple(strings) for name, strings in json.loads(text).items()}


def templates(name: str) -> tuple[str, ...]:
    """The templates of one set: plain, photo, single, imagenet_select, imagenet, imagenet_select_clip."""
    sets = template_sets()
    if name not in sets:
        raise ValueError(f"no prompt templates are called {name!r}; choose one of {', '.join(sorted(sets))}")
    return sets[name]


_templates = templates  # text_bank has a parameter of that name


def prompts(names: Iterable[str], templates: Sequence[str]) -> list[str]:
    """Every name in every template, name by name. Articles stay as they are ("a aeroplane")."""
    return [template.format(name) for name in names for template in templates]


def words(entry: ClassEntry, *, synonyms: bool) -> tuple[str, ...]:
    """The phrases that stand for a class, without repetition: its name, split at ", " as the published code splits it,
    and its synonyms where asked for."""
    phrases = [*entry.name.split(", "), *(entry.synonyms if synonyms else ())]
    return tuple(dict.fromkeys(phrase for phrase in phrases if phrase.strip()))


def text_bank(
    entries: Sequence[ClassEntry],
    encoder: TextEncoder,
    *,
    templates: str,
    seen: Sequence[bool],
    synonyms: bool,
    cache_dir: Path | None = None,
) -> TextBank:
    """The text bank of some classes under one encoder and one template set.

    Args:
        entries: the classes, in the order the rows shall have.
        encoder: its `encode_text` gives unit rows; its `digest` stands for its weights and settings.
        templates: name of a template set.
        seen: for each class, whether it had training masks.
        synonyms: whether synonyms (and the parts of a name with ", ") take part in the mean.
        cache_dir: folder that keeps encoded banks by digest; None encodes anew.

    Raises:
        ValueError: unknown template set, or `seen` of another length than `entries`.
    """
    if len(seen) != len(entries):
        raise ValueError(f"{len(entries)} classes need as many seen flags, got {len(seen)}")
    strings = _templates(templates)
    prompts_of_class = [prompts(words(entry, synonyms=synonyms), strings) for entry in entries]
    rows_digest = _digest([encoder.digest, prompts_of_class])
    names = tuple(entry.name for entry in entries)
    cached = None if cache_dir is None else Path(cache_dir) / f"text-{rows_digest[:32]}.npy"
    if cached is not None and cached.exists():
        embeddings = np.load(cached, allow_pickle=False)
    else:
        embeddings = _class_means(prompts_of_class, encoder)
        if cached is not None:
            _save_atomically(cached, embeddings)
    return TextBank(
        names=names,
        embeddings=embeddings,
        seen=np.asarray(seen, dtype=np.bool_),
        digest=_digest([rows_digest, list(names), [bool(flag) for flag in seen]]),
    )


def bank_from_npy(path: str | Path, names: Sequence[str], seen: Sequence[bool]) -> TextBank:
    """The text bank stored as a (C, D) .npy matrix of any float type; its rows are normalised here.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the matrix does not have one finite, non-zero row per name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no text embeddings at {path}; expected a .npy matrix of {len(names)} rows")
    data = path.read_bytes()
    matrix = np.load(path, allow_pickle=False)
    if matrix.ndim != 2 or matrix.shape[0] != len(names) or not np.issubdtype(matrix.dtype, np.floating):
        raise ValueError(
            f"{path} holds {matrix.dtype} {matrix.shape}, expected a float matrix with {len(names)} rows, "
            "one for each class name in the same order"
        )
    rows = matrix.astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.all(np.isfinite(lengths)) or not np.all(lengths > 0):
        raise ValueError(f"{path} has a row that is zero or not finite; every class needs a direction")
    content = hashlib.sha256(data).hexdigest()
    return TextBank(
        names=tuple(names),
        embeddings=rows / lengths,
        seen=np.asarray(seen, dtype=np.bool_),
        digest=_digest([content, list(names), [bool(flag) for flag in seen]]),
    )


def _class_means(prompts_of_class: list[list[str]], encoder: TextEncoder) -> np.ndarray:
    """(C, D) float32: per class the normalised mean of the normalised embeddings of its prompts."""
    unique = list(dict.fromkeys(prompt for group in prompts_of_class for prompt in group))
    row_of = {prompt: row for row, prompt in enumerate(unique)}
    rows = encoder.encode_text(unique).numpy().astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    means = np.stack([rows[[row_of[prompt] for prompt in group]].mean(axis=0) for group in prompts_of_class])
    return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)


def _digest(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _save_atomically(path: Path, array: np.ndarray) -> None:
    """A reader in another process sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npy", delete=False) as stream:
        np.save(stream, array)
    Path(stream.name).replace(path)
