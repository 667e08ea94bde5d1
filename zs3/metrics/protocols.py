"""Protocols: which pixels count and how classes are averaged, as small values that are stored with every number."""

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any


class EvaluatedClass(typing.Protocol):
    """A class of the data set: id, name and role (seen, unseen, background or excluded)."""

    @property
    def id(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def role(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """Which pixels count and how classes are averaged. Ignored pixels of the truth never count."""

    name: str
    """Name in reports."""
    void_roles: frozenset[str] = frozenset({"background", "excluded"})
    """True pixels of classes with these roles do not count, as in the paper (VOC's background is ignored).
    Without `background` among them, background is a class like the seen ones, and a pixel with no label, or
    with a label that the data set lacks, is labelled as background."""
    candidates: typing.Literal["generalised", "restricted"] = "generalised"
    """Seen and unseen names compete for every pixel; or only pixels of unseen classes count, for labellers
    that had only the unseen names."""
    absent: typing.Literal["skip", "nan"] = "skip"
    """A class without true pixels is left out of its group's mean, or makes that mean undefined."""
    transductive: bool = False
    """Whether training saw the images of unseen classes, without their masks. Changes no number; numbers with and
    without are not compared."""

    @property
    def background_counts(self) -> bool:
        """Whether background is a class."""
        return "background" not in self.void_roles

    def counts(self, entry: EvaluatedClass) -> bool:
        """Whether true pixels of a class count."""
        return entry.role not in self.void_roles and (
            self.candidates == "generalised" or entry.role == "unseen"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values: every field, and the words."""
        return self.fields() | {"words": list(self.words)}

    def fields(self) -> dict[str, Any]:
        """Plain values that define the protocol."""
        return {
            "name": self.name,
            "void_roles": sorted(self.void_roles),
            "background": "class" if self.background_counts else "void",
            "candidates": self.candidates,
            "absent": self.absent,
            "transductive": self.transductive,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Protocol":
        """The protocol that `to_json` wrote.

        Raises:
            ValueError: a field is missing.
        """
        names = ("name", "void_roles", "candidates", "absent", "transductive")
        lacking = [name for name in names if name not in content]
        if lacking:
            raise ValueError(f"protocol {content.get('name')!r} was stored without {lacking[0]!r}")
        fields = {name: content[name] for name in names}
        return cls(**{**fields, "void_roles": frozenset(content["void_roles"])})

    @property
    def words(self) -> tuple[str, ...]:
        """The protocol as sentences for a report."""
        void = " or ".join(sorted(self.void_roles)) or "no"
        restricted = self.candidates == "restricted"
        which = "an unseen class" if restricted else "a seen or an unseen class"
        which += ", or background" if self.background_counts else ""
        counted = (
            f"A pixel counts when its truth is {which}. Pixels that the truth leaves void, "
            f"or whose class has the role {void}, are ignored, whatever was predicted there."
        )
        names = "Every seen and unseen name competes for every pixel (generalised zero-shot)."
        if restricted:
            names = "Only unseen names compete (restricted zero-shot); any other label of a counted pixel is wrong."
        elif not self.background_counts:
            names += " A counted pixel with no label, or with the label of a class that the data set lacks, is wrong."
        return (
            counted,
            *([_BACKGROUND] if self.background_counts else []),
            names,
            _IOU,
            _MEANS[self.absent],
            "Harmonic = 2 · seen · unseen / (seen + unseen).",
            *([_TRANSDUCTIVE] if self.transductive else []),
        )


_BACKGROUND = (
    "Background is a class and belongs to the seen group. A pixel with no label, or with the label of a "
    "class that the data set lacks, is labelled as background: the labeller found none of its classes."
)
_TRANSDUCTIVE = "Training saw the pictures of unseen classes, without their masks (transductive)."
_IOU = (
    "IoU of a class = its correctly labelled pixels / pixels that are truly it or labelled it, "
    "summed over all images before dividing. Accuracy = its correctly labelled / its true pixels."
)
_MEANS = {
    "skip": (
        "Seen, unseen and all are plain means of IoU over the classes that occur in the truth. "
        "Absent classes are left out and listed; pixels wrongly given to them count as misses."
    ),
    "nan": (
        "As the published evaluator: one class absent from the truth makes its group's mean, and the "
        "harmonic mean, undefined. The mean over all sums the IoU of the classes in the truth and "
        "divides by the number of classes that occur in truth or prediction."
    ),
}

PROTOCOLS = {
    "zs3": Protocol(name="zs3"),
    "paper": Protocol(name="paper", absent="nan"),
    "voc21": Protocol(name="voc21", void_roles=frozenset({"excluded"})),
}
"""`zs3`: the paper's pixels, absent classes skipped; `paper`: the published evaluator, oddities included; `voc21`:
background is a class."""

ALL = "all"
"""Name for every protocol at once; the first of them is the headline."""


def chosen_protocols(
    name: str, classes: Sequence[EvaluatedClass], *, transductive: bool = False
) -> tuple[list[Protocol], list[str]]:
    """The protocols of a name, headline first, and why others of `all` do not fit.

    Raises:
        ValueError: there is none of that name, or the class list does not allow it.
    """
    if name != ALL and name not in PROTOCOLS:
        raise ValueError(f"no protocol {name!r}; there are: {', '.join(PROTOCOLS)}, {ALL}")
    protocols = [
        replace(protocol, transductive=transductive)
        for protocol in (PROTOCOLS.values() if name == ALL else [PROTOCOLS[name]])
    ]
    reasons = [_why_not(protocol, classes) for protocol in protocols]
    if name != ALL and reasons[0]:
        raise ValueError(f"{reasons[0]}; choose another --protocol")
    fitting = [protocol for protocol, reason in zip(protocols, reasons, strict=True) if not reason]
    return fitting, [reason for reason in reasons if reason]


def _why_not(protocol: Protocol, classes: Sequence[EvaluatedClass]) -> str:
    """Why a class list cannot be scored under a protocol; empty where it can."""
    backgrounds = [entry.name for entry in classes if entry.role == "background"]
    if protocol.background_counts and len(backgrounds) != 1:
        return (
            f"protocol {protocol.name!r} needs one class with the role background, and the class list has "
            f"{len(backgrounds)} ({', '.join(backgrounds) or 'none'})"
        )
    return ""


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Fields of two stored protocols that differ, as `field: one against other`."""
    keys = [key for key in (*first, *(key for key in second if key not in first)) if key != "words"]
    return [
        f"{key}: {_plain(first.get(key))} against {_plain(second.get(key))}"
        for key in keys
        if first.get(key) != second.get(key)
    ]


def _plain(value: Any) -> str:
    """A stored value as text."""
    if isinstance(value, list):
        return " and ".join(map(str, value)) or "none"
    return "not stored" if value is None else str(value)
