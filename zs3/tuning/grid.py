"""The naming settings to try: values for each setting, crossed, and the settings of the checkpoint."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from zs3.config import Branches, NamingSettings
from zs3.text.bank import template_sets
from zs3.tuning.calibration_sweep import Gammas

OWN = "own"
"""The prompt set that each branch of the checkpoint has."""

MAX_NAMINGS = 1000
"""Each takes three passes over every image."""

MAX_GAMMAS = 1000

SHARES = ("weight", "image_weight_seen", "image_weight_unseen")
"""λ of ZegFormer's fusion, α and β of FC-CLIP's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamingGrid:
    """Values to try, each combined with all others; without values, the checkpoint's own. The checkpoint's own settings
    are always tried first."""

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
    """Branches that give names, and how they are fused."""
    image_weight_seen: tuple[float, ...] | None = None
    """α of the geometric ensemble, in [0, 1]."""
    image_weight_unseen: tuple[float, ...] | None = None
    """β of the geometric ensemble, in [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """One way of naming, for any γ."""

    settings: NamingSettings
    """All settings; γ is the checkpoint's own and not used."""
    templates: str | None
    """Prompt set of both text banks; none keeps the checkpoint's."""

    def changes(self, own: NamingSettings, gamma: float) -> dict[str, Any]:
        """The options of `zs3 name` for this naming under γ: the fields that differ from the checkpoint's own."""
        settings = replace(self.settings, calibration=gamma)
        changed = {field.name: getattr(settings, field.name) for field in fields(NamingSettings)}
        changed = {key: value for key, value in changed.items() if value != getattr(own, key)}
        return changed | ({} if self.templates is None else {"templates": self.templates})


def gammas_of(grid: NamingGrid, own: NamingSettings) -> Gammas:
    """Every γ of the grid, the checkpoint's own among them.

    Raises:
        ValueError: one cannot be tried.
    """
    values = _checked("calibration", grid.calibration, (own.calibration,), math.isfinite, "a finite number")
    if len(values) > MAX_GAMMAS:
        raise ValueError(
            f"calibration is to be tried at {len(values)} values, at most {MAX_GAMMAS} are allowed; give fewer"
        )
    return Gammas(values=tuple(sorted({*map(float, values), own.calibration})))


def namings_of(grid: NamingGrid, own: NamingSettings, own_templates: Iterable[str]) -> tuple[Naming, ...]:
    """Every way of naming of the grid, each once, the checkpoint's own first.

    Args:
        own: settings of the checkpoint.
        own_templates: prompt sets of the branches that encode names; a set that all of them have already is no change.

    Raises:
        ValueError: a value cannot be tried, or there are too many.
    """
    flags = None if grid.void_in_image_softmax is None else [v == "yes" for v in grid.void_in_image_softmax]
    shares = {name: (getattr(grid, name), (getattr(own, name),)) for name in SHARES}
    axes: Mapping[str, tuple[Any, ...]] = {
        name: _checked(name, values, default, lambda v: 0 <= v <= 1, "a share in [0, 1]")
        for name, (values, default) in shares.items()
    } | {
        "query_temperature": _checked(
            "query_temperature", grid.query_temperature, (own.query_temperature,), _positive, "more than 0"
        ),
        "image_logit_scale": _checked(
            "image_logit_scale", grid.image_logit_scale, (own.image_logit_scale,), _positive, "more than 0"
        ),
        "void_in_image_softmax": _checked(
            "void_in_image_softmax", flags, (own.void_in_image_softmax,), lambda v: True, "yes or no"
        ),
        "branches": _checked(
            "branches",
            grid.branches,
            (own.branches,),
            lambda v: v in get_args(Branches),
            f"one of {', '.join(get_args(Branches))}",
        ),
    }
    sets = (OWN, *sorted(template_sets()))
    prompts = _checked("templates", grid.templates, (OWN,), lambda v: v in sets, f"one of {', '.join(sets)}")
    encoded = set(own_templates)
    names = dict.fromkeys(None if name == OWN or encoded <= {name} else name for name in prompts)
    count = math.prod(map(len, axes.values())) * len(names)
    if count > MAX_NAMINGS:
        raise ValueError(
            f"the grid crosses to {count} ways of naming, not counting γ; at most {MAX_NAMINGS} are allowed; "
            "give fewer values, and continue from the best ones"
        )
    tried = [
        Naming(settings=_without_unused(replace(own, **dict(zip(axes, values))), own), templates=name)
        for name in names
        for values in itertools.product(*axes.values())
    ]
    return tuple(dict.fromkeys([Naming(settings=own, templates=None), *tried]))


def range_caveats(namings: Sequence[Naming], gammas: Gammas, best: Naming, gamma: float) -> list[str]:
    """A sentence per number of the best setting that is the smallest or largest tried: values beyond may be better."""
    tried: dict[str, list[float]] = {
        name: sorted({value for naming in namings if (value := getattr(naming.settings, name)) is not None})
        for name in (*SHARES, "query_temperature", "image_logit_scale")
    }
    chosen = {name: getattr(best.settings, name) for name in tried} | {"calibration": gamma}
    tried["calibration"] = list(gammas.values)
    return [
        f"The best {name}, {chosen[name]:g}, is the {which} that was tried: values beyond it may be better."
        for name, values in tried.items()
        if len(values) > 1 and not (name in SHARES and chosen[name] in (0, 1))
        for which, end in (("smallest", values[0]), ("largest", values[-1]))
        if chosen[name] == end
    ]


def _without_unused(settings: NamingSettings, own: NamingSettings) -> NamingSettings:
    """The settings with those shares as they were that the branches do not use."""
    unused = SHARES[:1] if settings.branches == "geometric_ensemble" else SHARES[1:]
    return replace(settings, **{name: getattr(own, name) for name in unused})


def _checked(name: str, values: Any, own: tuple[Any, ...], fits: Any, expected: str) -> tuple[Any, ...]:
    """The values of one setting, checked; its own without values."""
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
