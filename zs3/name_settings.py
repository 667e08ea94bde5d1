"""With which settings stored segments are named, and what then defines the labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from zs3.checkpoint import Checkpoint
from zs3.config import NamingSettings
from zs3.labelling import provenance
from zs3.mask_store import LOSSLESS
from zs3.vocabulary import Vocabulary


def naming_settings(checkpoint: Checkpoint, changes: Mapping[str, Any]) -> NamingSettings:
    """The checkpoint's own naming settings with some fields replaced.

    Raises:
        ValueError: there is no such field.
    """
    known = [field.name for field in fields(NamingSettings)]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise ValueError(f"there is no naming setting {unknown[0]!r}; there are: {', '.join(known)}")
    return replace(checkpoint.recipe.naming, **changes)


def naming_provenance(
    checkpoint: Checkpoint, vocabulary: Vocabulary, naming: NamingSettings, segments: Mapping[str, str]
) -> dict[str, str]:
    """What defines labels that are made of stored segments, part by part.

    With lossless masks these are the parts of `zs3.labelling.provenance`, since the labels are the same. Any other mask
    store is a part of its own, and so is the version of zs3 that made the segments, where it was not this one.

    Args:
        naming: the settings in full.
        segments: what defines the segments, part by part (`zs3.grouping.segments_provenance`).

    Raises:
        ValueError: the segments were made with other weights.
    """
    made_with = segments.get("checkpoint", "unknown")
    if made_with != checkpoint.digest:
        raise ValueError(
            f"the segments were made with the checkpoint {made_with[:12]}, but {checkpoint.origin!r} is "
            f"{checkpoint.digest[:12]} now; segments hold for their own weights only: segment the images again into "
            "another --out, or give the checkpoint that made them with --checkpoint"
        )
    parts = provenance(checkpoint, vocabulary, naming=naming) | {"segmenting": segments["segmenting"]}
    if segments["masks"] != LOSSLESS:
        parts["masks"] = segments["masks"]
    if segments["zs3"] != parts["zs3"]:
        parts["segments_by_zs3"] = segments["zs3"]
    return parts
