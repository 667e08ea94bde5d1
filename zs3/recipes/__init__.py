"""Named models, each a function whose docstring is its lab note.

Imports `zs3.config`, `zs3.nets`, `zs3.encoders` and `zs3.learning`.
Begin with `paper.coco_stuff_r101`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from zs3.config import Recipe
from zs3.recipes.fcclip import fcclip_recipes
from zs3.recipes.maft_plus import maft_plus_base, maft_plus_large, maft_plus_large_panoptic
from zs3.recipes.mini import mini, mini_base
from zs3.recipes.paper import ade20k_full_r50, coco_stuff_r50, coco_stuff_r101, voc_r50, voc_r101

RECIPES: dict[str, Callable[[], Recipe]] = {
    "mini": mini,
    "mini_base": mini_base,
    "voc_r50": voc_r50,
    "voc_r101": voc_r101,
    "coco_stuff_r50": coco_stuff_r50,
    "coco_stuff_r101": coco_stuff_r101,
    "ade20k_full_r50": ade20k_full_r50,
    **fcclip_recipes(),
    "maft_plus_base": maft_plus_base,
    "maft_plus_large": maft_plus_large,
    "maft_plus_large_panoptic": maft_plus_large_panoptic,
}

__all__ = ["RECIPES", "mini", "mini_base", "note", "recipe"]


def recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: there is none.
    """
    return _maker(name)()


def note(name: str) -> str:
    """What is known of a recipe: its paper, command, data, published results and cost.

    Raises:
        ValueError: there is none.
    """
    made = _maker(name)
    return inspect.getdoc(getattr(made, "func", made)) or ""


def _maker(name: str) -> Callable[[], Recipe]:
    if name not in RECIPES:
        raise ValueError(f"recipe {name!r} is not known; expected one of {', '.join(RECIPES)}")
    return RECIPES[name]
