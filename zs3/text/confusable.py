"""Classes of a list that a model can hardly tell apart, found before a run.

Two classes are close when they share a name, or when their embeddings are nearly parallel. How near is near depends on
how sharply a branch compares: to a segment whose embedding is that of one class, the logit of another one is lower by
the logit scale times (1 - cosine), so the same cosine keeps two names apart in CLIP (scale 100) and not in a sentence
encoder (scale 13).
"""

# C class, D embedding

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from zs3.text.bank import TextBank, words
from zs3.vocabulary import ClassEntry, concept, normalised

IDENTICAL = 1 - 1e-6
"""Cosine from which two embeddings are the same. One phrase encoded in batches of other padding differs from itself by
1e-12, a row kept as float16 by 1e-7; the nearest two different classes of the shipped lists by 5e-3."""

CLOSE_LOGITS = 2.0
"""Difference of logits below which two classes are close: the other class then gets more than an eighth of the share of
the class whose embedding the segment has. With `zs3-mini` this is a cosine of 0.85 (query) and 0.83 (image): no pair of
the 20 VOC classes, 4 pairs of the 171 of COCO-Stuff (train and railroad lead), 87 of the 847 of ADE20K-Full (grille and
grill, soap and soaps)."""

MIN_COSINE = 0.8
"""Two classes less parallel than this are not close, however soft the comparison."""

TOLD = 5
"""Pairs that get a line of their own."""

_ROWS_AT_ONCE = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One branch's view of a class list."""

    branch: str
    """`query` or `image`."""
    bank: TextBank
    logit_scale: float
    """1 / temperature of the branch, as it names."""

    @property
    def close(self) -> float:
        """Cosine from which two classes are close."""
        return min(IDENTICAL, max(MIN_COSINE, 1 - CLOSE_LOGITS / self.logit_scale))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosePair:
    """Two classes that are hard to tell apart."""

    first: str
    second: str
    cosines: Mapping[str, float]
    """Branch → cosine of their embeddings."""
    shared: tuple[str, ...] = ()
    """Names that stand for both: synonyms, or what the shipped groups of synonyms make of their names."""

    def __str__(self) -> str:
        cosines = " and ".join(
            f"{cosine:.3f} in the {branch} bank" for branch, cosine in self.cosines.items()
        )
        told = f"classes {self.first!r} and {self.second!r} are hard to tell apart: cosine {cosines}"
        names = ", ".join(map(repr, self.shared))
        return f"{told}; both may be called {names}" if names else told


def close_pairs(entries: Sequence[ClassEntry], compared: Sequence[Compared]) -> list[ClosePair]:
    """The pairs of classes that share a name, or are close in a branch; nearest first.

    Args:
        entries: the classes, in the order of the banks' rows.
        compared: the branches that name, one or two.

    Raises:
        ValueError: no branch has anything to tell two of the classes apart by.
    """
    shared = _shared_names(entries)
    units = {one.branch: _unit_rows(one.bank) for one in compared}
    pairs = set(shared)
    for one in compared:
        pairs.update(_at_least(one.close, units[one.branch]))
    found = [
        ClosePair(
            first=entries[i].name,
            second=entries[j].name,
            cosines={branch: float(rows[i] @ rows[j]) for branch, rows in units.items()},
            shared=shared.get((i, j), ()),
        )
        for i, j in sorted(pairs)
    ]
    _refuse_identical([pair for pair in found if min(pair.cosines.values()) >= IDENTICAL])
    return sorted(found, key=lambda pair: -max(pair.cosines.values()))


def confusable_warnings(pairs: Sequence[ClosePair]) -> list[str]:
    """The nearest pairs in a line each, and one line that counts the rest."""
    lines = [str(pair) for pair in pairs[:TOLD]]
    if len(pairs) > TOLD:
        count = len(pairs) - TOLD
        lines.append(
            f"{count} more pairs of classes are hard to tell apart; label or name with --dry-run --json lists them"
        )
    return lines


def _shared_names(entries: Sequence[ClassEntry]) -> dict[tuple[int, int], tuple[str, ...]]:
    """(index, index) → what both classes may be called."""
    owners: dict[str, list[int]] = defaultdict(list)
    for index, entry in enumerate(entries):
        own = [normalised(word) for word in words(entry, synonyms=True)]
        for name in dict.fromkeys([*own, concept(entry.name)]):
            owners[name].append(index)
    shared: dict[tuple[int, int], tuple[str, ...]] = defaultdict(tuple)
    for name, indexes in owners.items():
        for pair in combinations(indexes, 2):
            shared[pair] += (name,)
    return dict(shared)


def _unit_rows(bank: TextBank) -> NDArray[np.float64]:
    """(C, D) rows of length 1 to the last bits of double precision."""
    rows = bank.embeddings.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _at_least(cosine: float, rows_CD: NDArray[np.float64]) -> Iterator[tuple[int, int]]:
    """(index, index) of the rows with at least this cosine, a strip of them at a time."""
    for start in range(0, len(rows_CD), _ROWS_AT_ONCE):
        cosines = rows_CD[start : start + _ROWS_AT_ONCE] @ rows_CD.T
        for i, j in zip(*np.nonzero(cosines >= cosine)):
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
