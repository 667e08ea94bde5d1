"""Class lists of open-vocabulary benchmarks, with the names of FC-CLIP's release (`data/open_vocabularies.json`).

A class of the file is an id and the words for it, separated by commas. Here its name is the first word that names no
earlier class, and the other words are its synonyms.
"""

import json
from functools import cache
from importlib.resources import files
from typing import Any

OPEN_VOCABULARIES = (
    "coco_panoptic", "coco_stuff_171", "ade20k_150", "ade20k_847", "pascal_context_59", "pascal_context_459", "voc_20",
    "voc_21", "cityscapes", "mapillary_vistas",
)  # fmt: skip

TRAINING = "coco_panoptic"
"""The list that FC-CLIP is trained on."""


def class_words(name: str) -> tuple[str, ...]:
    """The words of each class of a list, separated by commas, in its order."""
    return tuple(words for _, words in _lists()[name]["classes"])


def open_vocabulary(name: str) -> dict[str, Any]:
    """A list as `Vocabulary.from_json` takes it. A class is seen if it shares a word with a class of `TRAINING`, letter
    by letter, as in FC-CLIP's release.
    """
    seen_words = {word for words in class_words(TRAINING) for word in _split(words)}
    things = _lists()[name].get("things", ())
    taken: set[str] = set()
    classes = []
    for class_id, text in _lists()[name]["classes"]:
        words = _split(text)
        first = next((word for word in words if word.lower() not in taken), f"{words[0]} {class_id}")
        taken.add(first.lower())
        role = "unseen" if seen_words.isdisjoint(words) else "seen"
        synonyms = [word for word in dict.fromkeys(words) if word != first]
        classes.append(
            {"id": class_id, "name": first, "role": role, "synonyms": synonyms, "thing": class_id in things}
        )
    return {"name": name, "ignore_id": _lists()[name]["ignore_id"], "classes": classes}


def _split(words: str) -> list[str]:
    return words.replace(", ", ",").split(",")


@cache
def _lists() -> dict[str, Any]:
    content = json.loads(files("zs3").joinpath("data/open_vocabularies.json").read_text(encoding="utf-8"))
    return dict(content["lists"])
