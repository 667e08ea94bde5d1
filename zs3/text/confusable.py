"""Classes of a list that a model can hardly tell apart, reported before a run.

Two classes are close when they share a name, or when their embeddings are nearly parallel. The limit depends on the
temperature of a branch: to a segment whose embedding is that of one class, the logit of another class is lower by the
logit scale times (1 - cosine), so the same cosine separates two names in CLIP (scale 100) and not in a sentence encoder
(scale 13).
"""

# C class, D embedding

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

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

_ROWS_AT_ONCE = 512


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


def close_pairs(entries: Sequence[ClassEntry], banks: Sequence[BranchBank]) -> list[ClosePair]:
    """The pairs of classes that share a name, or are close in a branch; highest cosine first.

    Args:
        entries: the classes, in the order of the banks' rows.
        banks: of one branch or two.

    Raises:
        ValueError: two classes have the same embedding in every branch.
    """
    shared = _shared_names(entries)
    units = {bank.branch: _unit_rows(bank.bank) for bank in banks}
    indexes = set(shared)
    for bank in banks:
        indexes.update(_pairs_from(bank.close_cosine, units[bank.branch]))
    pairs = [
        ClosePair(
            first=entries[i].name,
            second=entries[j].name,
            cosines={branch: float(rows[i] @ rows[j]) for branch, rows in units.items()},
            shared=shared.get((i, j), ()),
        )
        for i, j in sorted(indexes)
    ]
    _refuse_identical([pair for pair in pairs if min(pair.cosines.values()) >= IDENTICAL])
    return sorted(pairs, key=lambda pair: -max(pair.cosines.values()))


def confusable_warnings(pairs: Sequence[ClosePair]) -> list[str]:
    """One line for each of the closest pairs, and one that counts the others."""
    lines = [str(pair) for pair in pairs[:MAX_WARNINGS]]
    if len(pairs) > MAX_WARNINGS:
        count = len(pairs) - MAX_WARNINGS
        lines.append(
            f"{count} more pairs of classes are hard to tell apart; label or name with --dry-run --json lists them"
        )
    return lines


def _shared_names(entries: Sequence[ClassEntry]) -> dict[tuple[int, int], tuple[str, ...]]:
    """(index, index) → the names that both classes have."""
    owners: dict[str, list[int]] = defaultdict(list)
    for index, entry in enumerate(entries):
        own = [normalised(phrase) for phrase in phrases_of(entry, synonyms=True)]
        for name in dict.fromkeys([*own, concept(entry.name)]):
            owners[name].append(index)
    shared: dict[tuple[int, int], tuple[str, ...]] = defaultdict(tuple)
    for name, indexes in owners.items():
        for pair in combinations(indexes, 2):
            shared[pair] += (name,)
    return dict(shared)


def _unit_rows(bank: TextBank) -> NDArray[np.float64]:
    """(C, D) rows of length 1 in double precision."""
    rows = bank.embeddings.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _pairs_from(min_cosine: float, rows_CD: NDArray[np.float64]) -> Iterator[tuple[int, int]]:
    """(index, index) of the rows with at least this cosine, computed in blocks of rows."""
    for start in range(0, len(rows_CD), _ROWS_AT_ONCE):
        cosines = rows_CD[start : start + _ROWS_AT_ONCE] @ rows_CD.T
        for i, j in zip(*np.nonzero(cosines >= min_cosine)):
            if start + i < j:
                yield int(start + i), int(j)


def _refuse_identical(pairs: Sequence[ClosePair]) -> None:
    if not pairs:
        return
    first, second = pairs[0].first, pairs[0].second
    more = f" (and {len(pairs) - 1} more pairs)" if len(pairs) > 1 else ""
    branches = " and ".join(f"{branch} bank" for branch in pairs[0].cosines)
    raise ValueError(
        f"classes {first!r} and {second!r}{more} have the same embedding in the {branches}, so no segment could be "
        f"told to be one and not the other; make them one class ({first}: {second}), or rename or remove one"
    )
