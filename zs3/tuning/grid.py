"""Which naming settings are tried: values for each setting, crossed, beside the settings as they are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from zs3.config import NamingSettings
from zs3.text.bank import template_sets
from zs3.tuning.calibration_sweep import Gammas

OWN = "own"
"""Among prompt sets: the one that each branch of the checkpoint has."""

MAX_NAMINGS = 1000
"""Each is painted three times for every picture."""

MAX_GAMMAS = 1000

Branches = Literal["both", "both_own", "both_for_every_class", "query", "image"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamingGrid:
    """Values to try, every one with every other; where there are none, the checkpoint's own. Its settings as they are
    come first, whatever the values."""

    weight: tuple[float, ...] | None = (0.4, 0.5, 0.6, 0.7, 0.8)
    """λ, the share of the leading branch, in [0, 1]."""
    calibration: tuple[float, ...] | None = (
        *(-1.0, -0.7, -0.5, -0.3, -0.2, -0.15, -0.1, -0.05, -0.02),
        *(0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0),
    )
    """γ, subtracted from the pixel score of every seen class. Further values cost next to nothing."""
    templates: tuple[str, ...] | None = (OWN, "photo")
    """Prompt sets of both text banks; `own` is the checkpoint's."""
    query_temperature: tuple[float, ...] | None = None
    """Divides the query branch's logits before the softmax."""
    image_logit_scale: tuple[float, ...] | None = None
    """1 / temperature of the image branch."""
    void_in_image_softmax: tuple[Literal["yes", "no"], ...] | None = None
    """Whether `no object` competes in the image branch's softmax."""
    branches: tuple[Branches, ...] | None = None
    """Which branches name, and how they are fused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """One way of naming, whatever γ."""

    settings: NamingSettings
    """In full; its γ is the checkpoint's own and not used."""
    templates: str | None
    """Prompt set of both text banks; none leaves each its own."""

    def changes(self, own: NamingSettings, gamma: float) -> dict[str, Any]:
        """What to pass to `zs3 name` for this naming under γ: the fields that differ from the checkpoint's own."""
        settings = replace(self.settings, calibration=gamma)
        changed = {field.name: getattr(settings, field.name) for field in fields(NamingSettings)}
        told = {key: value for key, value in changed.items() if value != getattr(own, key)}
        return told | ({} if self.templates is None else {"templates": self.templates})


def gammas_of(grid: NamingGrid, own: NamingSettings) -> Gammas:
    """Every γ of the grid, the checkpoint's own among them.

    Raises:
        ValueError: one cannot be tried.
    """
    values = _given("calibration", grid.calibration, (own.calibration,), math.isfinite, "a finite number")
    if len(values) > MAX_GAMMAS:
        raise ValueError(
            f"calibration is to be tried at {len(values)} values; at most {MAX_GAMMAS} are of use"
        )
    return Gammas(values=tuple(sorted({*map(float, values), own.calibration})))


def namings_of(grid: NamingGrid, own: NamingSettings, own_templates: Iterable[str]) -> tuple[Naming, ...]:
    """Every way of naming of the grid, each once, the checkpoint's own first.

    Args:
        own: settings of the checkpoint.
        own_templates: prompt sets of the branches that encode names; another set is no change where all have it, or
            where no branch encodes.

    Raises:
        ValueError: a value cannot be tried, or there are too many.
    """
    flags = None if grid.void_in_image_softmax is None else [v == "yes" for v in grid.void_in_image_softmax]
    axes: Mapping[str, tuple[Any, ...]] = {
        "weight": _given("weight", grid.weight, (own.weight,), lambda v: 0 <= v <= 1, "a share in [0, 1]"),
        "query_temperature": _given(
            "query_temperature", grid.query_temperature, (own.query_temperature,), _positive, "more than 0"
        ),
        "image_logit_scale": _given(
            "image_logit_scale", grid.image_logit_scale, (own.image_logit_scale,), _positive, "more than 0"
        ),
        "void_in_image_softmax": _given(
            "void_in_image_softmax", flags, (own.void_in_image_softmax,), lambda v: True, "yes or no"
        ),
        "branches": _given(
            "branches",
            grid.branches,
            (own.branches,),
            lambda v: v in get_args(Branches),
            f"one of {', '.join(get_args(Branches))}",
        ),
    }
    sets = (OWN, *sorted(template_sets()))
    prompts = _given("templates", grid.templates, (OWN,), lambda v: v in sets, f"one of {', '.join(sets)}")
    held = set(own_templates)
    names = dict.fromkeys(None if one == OWN or not held or {one} == held else one for one in prompts)
    count = math.prod(map(len, axes.values())) * len(names)
    if count > MAX_NAMINGS:
        raise ValueError(
            f"the grid crosses to {count} ways of naming beside γ, at most {MAX_NAMINGS} are tried; "
            "give fewer values, and go on from the best ones"
        )
    tried = [
        Naming(settings=replace(own, **dict(zip(axes, values))), templates=name)
        for name in names
        for values in itertools.product(*axes.values())
    ]
    return tuple(dict.fromkeys([Naming(settings=own, templates=None), *tried]))


def edges(namings: Sequence[Naming], gammas: Gammas, best: Naming, gamma: float) -> list[str]:
    """Sentences on the numbers of the best setting that are the least or the largest tried: beyond may be better."""
    tried: dict[str, list[float]] = {
        name: sorted({value for naming in namings if (value := getattr(naming.settings, name)) is not None})
        for name in ("weight", "query_temperature", "image_logit_scale")
    }
    chosen = {name: getattr(best.settings, name) for name in tried} | {"calibration": gamma}
    tried["calibration"] = list(gammas.values)
    return [
        f"The best {name}, {chosen[name]:g}, is the {which} that was tried: values beyond it may be better."
        for name, values in tried.items()
        if len(values) > 1 and not (name == "weight" and chosen[name] in (0, 1))
        for which, end in (("least", values[0]), ("largest", values[-1]))
        if chosen[name] == end
    ]


def _given(name: str, values: Any, own: tuple[Any, ...], fits: Any, expected: str) -> tuple[Any, ...]:
    """The values of one setting, checked; its own where none are given."""
    if values is None:
        return own
    if not values:
        raise ValueError(
            f"{name} is to be tried at no value; give one or more, or leave it out to keep its own"
        )
    for value in values:
        if not fits(value):
            raise ValueError(f"{name} is to be tried at {value!r}; expected {expected}")
    return tuple(dict.fromkeys(values))


def _positive(value: float) -> bool:
    return 0 < value < math.inf
