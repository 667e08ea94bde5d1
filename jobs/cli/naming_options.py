"""Naming settings as options, which `zs3 name` and `zs3 evaluate --segments` share."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class NamingChanges:
    """Naming settings that replace the checkpoint's own; see `zs3.config.NamingSettings`."""

    branches: (
        Literal["both", "both_own", "both_for_every_class", "query", "image", "geometric_ensemble"] | None
    ) = None
    """Which branches name, and how they are fused."""
    output: Literal["semantic", "panoptic"] | None = None
    """Whether pixels get classes alone, or segments of which things are instances of their own."""
    image_weight_seen: float | None = None
    """α of the geometric ensemble: the exponent of the image branch for seen classes, in [0, 1]."""
    image_weight_unseen: float | None = None
    """β of the geometric ensemble: the exponent of the image branch for unseen classes, in [0, 1]."""
    weight: float | None = None
    """λ, the share of the leading branch, in [0, 1]."""
    calibration: float | None = None
    """γ, subtracted from the pixel score of every seen class; a negative value is subtracted from unseen classes."""
    query_temperature: float | None = None
    """Divides the query branch's logits before the softmax."""
    image_logit_scale: float | None = None
    """1 / temperature of the image branch."""
    void_in_image_softmax: Literal["yes", "no"] | None = None
    """Whether `no object` competes in the image branch's softmax."""
    resize_first: Literal["yes", "no"] | None = None
    """Whether masks are resized before scoring, instead of scores after it."""
    templates: str | None = None
    """Prompt set of the text banks of both branches: plain, photo, single, imagenet_select, …"""

    def changes(self) -> dict[str, object]:
        """The settings that have a value, as fields of `NamingSettings`."""
        booleans = {"yes": True, "no": False}
        return {key: booleans.get(value, value) for key, value in asdict(self).items() if value is not None}
