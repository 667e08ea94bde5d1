"""Sentences that a reader of scores must know besides the numbers."""

from collections.abc import Mapping, Sequence

from zs3.metrics import UNKNOWN
from zs3.vocabulary import Vocabulary, concept
from zs3.wording import first_names

MAX_NAMES = 12
"""Names that a sentence writes out."""


def caveats(
    vocabulary: Vocabulary,
    *,
    seen: Mapping[str, bool],
    matches: Mapping[str, int],
    labelled_with: Vocabulary | None,
    missing: Mapping[str, tuple[int, Sequence[str]]],
    runs: Sequence[str],
) -> list[str]:
    """What a reader must know before the numbers; none where nothing is unusual.

    Args:
        vocabulary: of the data set.
        seen: labelled name -> whether the labeller had training masks of it.
        matches: labelled name -> class id of the data set.
        labelled_with: the class list that was labelled with, if known.
        missing: `without_labels` and `without_truth`: how many images were left out, and ids of the first.
        runs: digests of the labelling runs in the table.
    """
    roles = {entry.id: entry.role for entry in vocabulary.classes}
    leaked = [name for name in seen if seen[name] and roles.get(matches[name]) == "unseen"]
    never = [name for name in seen if not seen[name] and roles.get(matches[name]) == "seen"]
    foreign = [name for name in matches if matches[name] == UNKNOWN]
    sentences = []
    if leaked:
        sentences.append(
            f"The labeller had training masks of {first_names(leaked, MAX_NAMES)}, unseen in this data set: "
            "the unseen and harmonic scores are not zero-shot."
        )
    if never:
        sentences.append(
            f"The labeller never had training masks of {first_names(never, MAX_NAMES)}, seen in this data set: "
            "the seen score holds zero-shot classes."
        )
    if labelled_with is not None:
        offered = {concept(entry.name) for entry in labelled_with.candidates}
        lacking = [entry.name for entry in vocabulary.candidates if concept(entry.name) not in offered]
        if lacking:
            sentences.append(
                f"The class list that was labelled with has no name for {first_names(lacking, MAX_NAMES)}: "
                "no pixel can be called so, and where they are in the truth their IoU is 0."
            )
    if foreign:
        sentences.append(
            f"Labelled classes that the data set lacks count as wrong: {first_names(foreign, MAX_NAMES)}."
        )
    for why, reason in (
        ("without_labels", "they have no labels"),
        ("without_truth", "they are not in the split"),
    ):
        count, first = missing[why]
        if count:
            sentences.append(
                f"Left out, because {reason}: {first_names(first, MAX_NAMES, count=count)} ({count} in all)."
            )
    if len(runs) > 1:
        sentences.append(f"The label table mixes {len(runs)} labelling runs.")
    return sentences
