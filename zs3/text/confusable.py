"""Classes of a list that a model can hardly tell apart, reported before a run.

Two classes are close when they share a name, or when their embeddings are nearly parallel. The limit depends on the
temperature of a branch: to a segment whose embedding is that of one class, the logit of another class is lower by the
logit scale times (1 - cosine), so the same cosine separates two names in CLIP (scale 100) and not in a sentence encoder
(scale 13).
"""

# C class, D embedding

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zs3.text.bank import TextBank, phrases_of
from zs3.vocabulary import ClassEntry, concept, normalised

IDENTICAL = 1 - 1e-6
"""Two embeddings with at least this cosine are the same. The padding of a batch moves a phrase by 1e-12, float16 by
1e-7; the closest two different classes of the shipped lists differ by 5e-3."""

CLOSE_LOGITS = 2.0
"""Two classes are close below this difference of logits: the other class then gets more than an eighth of the share of
the class whose embedding the segment has. With `zs3-mini` this is a cosine of 0.85 (query) and 0.83 (image): no pair of
the 20 VOC classes, 4 pairs of the 171 of COCO-Stuff (train and railroad lead), 87 of the 847 of ADE20K-Full (grille and
grill, soap and soaps)."""

MIN_COSINE = 0.8
"""Two classes with a lower cosine are not close, whatever the temperature."""

MAX_WARNINGS = 5
"""Pairs that get a line of their own."""

MAX_PAIRS = 1000
"""The nearest pairs that are kept; a list of 20,000 names that are all alike has 200 million."""

_ROWS_AT_ONCE = 128


@dataclass(frozen=True, slots=True)
class BranchBank:
    """What one branch compares segments with."""

    branch: str
    """`query` or `image`."""
    bank: TextBank
    logit_scale: float
    """1 / temperature of the branch."""

    @property
    def close_cosine(self) -> float:
        """Two classes with at least this cosine are close."""
        return min(IDENTICAL, max(MIN_COSINE, 1 - CLOSE_LOGITS / self.logit_scale))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosePair:
    """Two classes that are hard to tell apart."""

    first: str
    second: str
    cosines: Mapping[str, float]
    """Branch → cosine of their embeddings."""
    shared: tuple[str, ...] = ()
    """Names that stand for both: synonyms, or their common concept among the shipped groups of synonyms."""

    def __str__(self) -> str:
        cosines = " and ".join(
            f"{cosine:.3f} in the {branch} bank" for branch, cosine in self.cosines.items()
        )
        message = f"classes {self.first!r} and {self.second!r} are hard to tell apart: cosine {cosines}"
        names = ", ".join(map(repr, self.shared))
        return f"{message}; both may be called {names}" if names else message


def close_pairs(
    entries: Sequence[ClassEntry], banks: Sequence[BranchBank], *, allow_identical: bool = False
) -> list[ClosePair]:
    """The pairs of classes that share a name, or are close in a branch; highest cosine first, at most `MAX_PAIRS`.

    Args:
        entries: the classes, in the order of the banks' rows.
        banks: of one branch or two.
        allow_identical: whether classes may have the same embedding in every branch.

    Raises:
        ValueError: two classes have it, and may not.
    """
    names = [_names(entry) for entry in entries]
    owners: dict[str, list[int]] = defaultdict(list)
    for index, own in enumerate(names):
        for name in own:
            owners[name].append(index)
    units = {bank.branch: _unit_rows(bank.bank) for bank in banks}
    nearest = np.zeros((0, 3))  # cosine, first and second index of the nearest pairs so far
    identical, example = 0, (0, 0)
    for start in range(0, len(entries), _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, len(entries))
        cosines = [units[bank.branch][start:stop] @ units[bank.branch].T for bank in banks]
        later = np.arange(len(entries)) > np.arange(start, stop)[:, None]
        close = np.zeros(later.shape, bool)
        for bank, values in zip(banks, cosines):
            close |= values >= bank.close_cosine
        for row, own in enumerate(names[start:stop]):
            for name in own:
                close[row, owners[name]] = True
        close &= later
        same = close & (np.minimum.reduce(cosines) >= IDENTICAL)
        if not identical and same.any():
            row, column = np.argwhere(same)[0].tolist()
            example = (start + row, column)
        identical += int(same.sum())
        rows, columns = np.nonzero(close)
        keys = np.maximum.reduce(cosines)[rows, columns]
        nearest = np.concatenate((nearest, np.stack((keys, rows + start, columns), axis=1)))
        nearest = nearest[np.lexsort((nearest[:, 2], nearest[:, 1], -nearest[:, 0]))][:MAX_PAIRS]
    if identical and not allow_identical:
        _refuse_identical(entries[example[0]].name, entries[example[1]].name, identical, list(units))
    return [
        ClosePair(
            first=entries[i].name,
            second=entries[j].name,
            cosines={branch: float(rows[i] @ rows[j]) for branch, rows in units.items()},
            shared=tuple(name for name in names[i] if name in names[j]),
        )
        for i, j in nearest[:, 1:].astype(int).tolist()
    ]


def confusable_warnings(pairs: Sequence[ClosePair]) -> list[str]:
    """One line for each of the closest pairs, and one that counts the others."""
    lines = [str(pair) for pair in pairs[:MAX_WARNINGS]]
    if len(pairs) > MAX_WARNINGS:
        count = f"{'at least ' if len(pairs) == MAX_PAIRS else ''}{len(pairs) - MAX_WARNINGS}"
        lines.append(
            f"{count} more pairs of classes are hard to tell apart; label or name with --dry-run --json lists them"
        )
    return lines


def _names(entry: ClassEntry) -> tuple[str, ...]:
    """The names of a class: its own, its synonyms, and their common concept among the shipped groups."""
    own = [normalised(phrase) for phrase in phrases_of(entry, synonyms=True)]
    return tuple(dict.fromkeys([*own, concept(entry.name)]))


def _unit_rows(bank: TextBank) -> NDArray[np.float64]:
    """(C, D) rows of length 1 in double precision."""
    rows = bank.class_embeddings.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _refuse_identical(first: str, second: str, count: int, branches: Sequence[str]) -> None:
    more = f" (and {count - 1} more pairs)" if count > 1 else ""
    banks = " and ".join(f"{branch} bank" for branch in branches)
    raise ValueError(
        f"classes {first!r} and {second!r}{more} have the same embedding in the {banks}, so no segment could be "
        f"told to be one and not the other; make them one class ({first}: {second}), rename or remove one, or give "
        "--allow-confusable, and one of them gets the segments of both"
    )
