"""Tuned naming settings as a file: for `zs3 name --settings`, with the data that they were tuned on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zs3.wording import number_of

VERSION = 1
"""Of the file; a change that readers can notice raises it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """Tuned settings and their origin."""

    changes: Mapping[str, Any]
    """Naming settings that differ from the checkpoint's own, `templates` among them."""
    checkpoint: str
    """Digest of the checkpoint that they were tuned for."""
    tuned_on: Mapping[str, Any]
    """Data set, split, truth, protocol and scores of the tuning; stored with labels, in no digest."""

    @classmethod
    def from_json(cls, content: Any, origin: str) -> Tuned:
        """The settings that `to_json` wrote; further keys are ignored.

        Args:
            origin: where it was read from, for messages.

        Raises:
            ValueError: it is no such file, or one of another version.
        """
        if not isinstance(content, Mapping) or not {"settings", "checkpoint", "tuned_on"} <= content.keys():
            raise ValueError(f"{origin} holds no tuned settings; give the --out of a `zs3 tune` run")
        if content.get("version") != VERSION:
            raise ValueError(
                f"{origin} holds tuned settings of version {content.get('version')}, expected {VERSION}; tune again"
            )
        return cls(
            changes=content["settings"], checkpoint=content["checkpoint"], tuned_on=content["tuned_on"]
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "version": VERSION,
            "settings": dict(self.changes),
            "checkpoint": self.checkpoint,
            "tuned_on": dict(self.tuned_on),
        }


def tuning_caveats(tuned_on: Mapping[str, Any] | None, dataset: Mapping[str, Any]) -> list[str]:
    """How the naming settings of scored labels were tuned, as a sentence; none where they were not tuned.

    Args:
        tuned_on: as the label table has it.
        dataset: layout, split, class list and truth of the scores, as a report's provenance has them.
    """
    if not tuned_on:
        return []
    tuning = tuned_on["dataset"]
    title = f"{tuned_on['title']} ({number_of(tuning['images'], 'image')})"
    same_split = all(tuning[key] == dataset[key] for key in ("layout", "split", "vocabulary"))
    if same_split or tuning["truth"] == dataset["truth"]:
        return [
            f"The naming settings were tuned on {title}, the very split of these scores: the scores show how well the "
            "settings fit, not how other pictures would score."
        ]
    return [f"The naming settings were tuned on {title}; these scores are of another split."]
