"""Every model by name: what it is, what it costs, under which licence, and the commands from nothing to labels."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One entry of `data/models.json`."""

    name: str
    """Of the shipped checkpoint, or of the recipe."""
    what: str
    source: Literal["shipped", "convert", "train"]
    """How one gets a checkpoint: it is in the package, from released weights, or by training."""
    recipe: str
    parameters: int
    """Numbers of the network, an FC-CLIP's CLIP included."""
    trained: int | None
    """Those of them that training changes; None where zs3 does not train the model."""
    encoders: str
    """What gives the text and image embeddings."""
    weights: str
    """Where the weights are."""
    code_licence: str
    weights_licence: str
    redistribution: str
    published: dict[str, float]
    """Benchmark → published mIoU in percent, or what its name says."""
    published_in: str
    cost: dict[str, float] | None
    """Seconds and peak MB of a picture of 853 x 640 pixels on two cores, with random weights; None: not measured."""
    commands: tuple[str, ...]
    """From nothing to labels."""


@cache
def models() -> dict[str, Model]:
    """All models by name."""
    entries = json.loads(files("zs3").joinpath("data/models.json").read_text(encoding="utf-8"))
    return {entry["name"]: Model(**entry | {"commands": tuple(entry["commands"])}) for entry in entries}


def model(name: str) -> Model:
    """The model of that name.

    Raises:
        ValueError: there is none; the message names near ones.
    """
    known = models()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
        raise ValueError(f"there is no model {name!r}; is it one of {', '.join(near)}? zs3 models lists all")
    return known[name]


def how_to_make(name: str) -> str:
    """What to do about a checkpoint that does not exist and is named like a model; empty for other names."""
    made = models().get(name)
    if made is None or made.source == "shipped":
        return ""
    return f"{name} is a recipe; make its checkpoint with `{made.commands[0]}`, see zs3 models {name}"
