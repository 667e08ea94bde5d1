"""WordNet's words and definitions of the ImageNet classes, from files that timm ships.

They are read without importing timm, which takes seconds.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ARTICLES = ("a ", "an ", "the ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Synset:
    """One meaning: its words and its definition."""

    words: tuple[str, ...]
    definition: str

    @property
    def sentence(self) -> str:
        """For example "ram, tup: uncastrated adult male sheep"."""
        return f"{', '.join(self.words)}: {self.definition}"


def imagenet_classes() -> list[Synset]:
    """The 1000 ImageNet classes, in the order of a classifier's outputs."""
    synsets = _synsets()
    order = (_folder() / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
    return [synsets[name] for name in order]


def definitions(phrase: str) -> list[str]:
    """The definitions of a word among the 21,843 meanings of WordNet that ImageNet depicts; often none."""
    word = phrase.strip().lower()
    for article in ARTICLES:
        word = word.removeprefix(article)
    return list(_definitions_by_word().get(word, ()))


@cache
def _synsets() -> dict[str, Synset]:
    words, definitions = (
        dict(line.split("\t", 1) for line in (_folder() / name).read_text(encoding="utf-8").splitlines())
        for name in ("imagenet_synset_to_lemma.txt", "imagenet_synset_to_definition.txt")
    )
    return {
        name: Synset(words=tuple(part.strip() for part in text.split(",")), definition=definitions[name])
        for name, text in words.items()
    }


@cache
def _definitions_by_word() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for synset in _synsets().values():
        for word in dict.fromkeys(word.lower() for word in synset.words):
            found[word] = (*found.get(word, ()), synset.definition)
    return found


def _folder() -> Path:
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the ImageNet words are missing: pip install timm")
    return Path(spec.submodule_search_locations[0]) / "data" / "_info"
