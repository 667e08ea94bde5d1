"""Naming settings as options, which `zs3 name` and `zs3 evaluate --segments` share."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class NamingChanges:
    """Naming settings that replace the checkpoint's own; see `zs3.config.NamingSettings`."""

    branches: Literal["both", "both_own", "both_for_every_class", "query", "image"] | None = None
    """Which branches name, and how they are fused."""
    weight: float | None = None
    """λ, the share of the leading branch, in [0, 1]."""
    calibration: float | None = None
    """γ, subtracted from the pixel score of every seen class; a negative one is taken from unseen classes instead."""
    query_temperature: float | None = None
    """Divides the query branch's logits before the softmax."""
    image_logit_scale: float | None = None
    """1 / temperature of the image branch."""
    void_in_image_softmax: Literal["yes", "no"] | None = None
    """Whether `no object` competes in the image branch's softmax."""
    resize_first: Literal["yes", "no"] | None = None
    """Whether masks are resized before scoring instead of scores after."""
    templates: str | None = None
    """Prompt set of the text banks of both branches: plain, photo, single, imagenet_select, …"""

    def given(self) -> dict[str, object]:
        """The fields that were given, as `NamingSettings` has them."""
        flags = {"yes": True, "no": False}
        return {key: flags.get(value, value) for key, value in asdict(self).items() if value is not None}
