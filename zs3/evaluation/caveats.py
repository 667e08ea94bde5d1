"""Sentences that a reader of scores must know besides the numbers."""

from collections.abc import Mapping, Sequence

from zs3.vocabulary import Vocabulary, concept
from zs3.wording import first_names, number_of

MAX_NAMES = 12
"""Names that a sentence writes out."""


def caveats(
    vocabulary: Vocabulary,
    *,
    had_masks: Mapping[str, bool | None],
    offered: Sequence[str],
    whole_list: bool,
    missing: Mapping[str, tuple[int, Sequence[str]]],
    runs: Sequence[str],
    turned: tuple[int, Sequence[str]] = (0, ()),
) -> list[str]:
    """What a reader must know before the numbers; none where nothing is unusual.

    Args:
        vocabulary: of the data set.
        had_masks: name of each class of the data set -> whether the labeller had training masks of it, None where
            that is not known.
        offered: names in the class list that was labelled with. What was predicted does not matter, so that the same
            labeller has the same caveats under all naming settings.
        whole_list: false where the list is not known and `offered` holds only the names that occur.
        missing: `without_labels` and `without_truth`: how many images were left out, and ids of the first.
        runs: digests of the labelling runs in the table.
        turned: how many photographs have an EXIF orientation that keeps their size, and ids of the first.
    """
    leaked = [entry.name for entry in vocabulary.classes if entry.role == "unseen" and had_masks[entry.name]]
    never = [
        entry.name for entry in vocabulary.classes if entry.role == "seen" and had_masks[entry.name] is False
    ]
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
    if whole_list:
        concepts = {concept(name) for name in offered}
        lacking = [entry.name for entry in vocabulary.candidates if concept(entry.name) not in concepts]
        if lacking:
            sentences.append(
                f"The class list that was labelled with has no name for {first_names(lacking, MAX_NAMES)}: "
                "no pixel can be called so, and where they are in the truth their IoU is 0."
            )
    known = {concept(entry.name) for entry in vocabulary.classes}
    foreign = [name for name in offered if concept(name) not in known]
    if foreign:
        sentences.append(
            "The class list that was labelled with has classes that the data set lacks, and labels of them count as "
            f"wrong: {first_names(foreign, MAX_NAMES)}."
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
    if turned[0]:
        sentences.append(
            f"{number_of(turned[0], 'photograph has', 'photographs have')} an EXIF orientation that turns or "
            "mirrors but "
            f"keeps the size ({first_names(turned[1], MAX_NAMES, count=turned[0])}): labels are of the upright "
            "picture. "
            "Sizes cannot tell if the truth was drawn on the pixels as the file holds them; then turn it."
        )
    if len(runs) > 1:
        sentences.append(f"The label table mixes {len(runs)} labelling runs.")
    return sentences
