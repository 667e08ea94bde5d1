"""The settings under which stored segments are classified, and the provenance of the labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from zs3.checkpoint import Checkpoint
from zs3.classification.provenance import provenance
from zs3.config import NamingSettings
from zs3.masks.store import LOSSLESS
from zs3.text.bank import prompt_templates
from zs3.vocabulary import Vocabulary

TEMPLATES = "templates"
"""A further setting beside the fields of `NamingSettings`: the prompt set of both text banks."""


def naming_settings(checkpoint: Checkpoint, changes: Mapping[str, Any]) -> NamingSettings:
    """The checkpoint's own naming settings with some fields replaced, `templates` aside (see `with_prompt_set`).

    Raises:
        ValueError: there is no such field.
    """
    known = [field.name for field in fields(NamingSettings)]
    unknown = sorted(set(changes) - {*known, TEMPLATES})
    if unknown:
        raise ValueError(
            f"there is no naming setting {unknown[0]!r}; there are: {', '.join([*known, TEMPLATES])}"
        )
    fields_of_naming = {key: value for key, value in changes.items() if key != TEMPLATES}
    return replace(checkpoint.recipe.naming, **fields_of_naming)


def with_prompt_set(checkpoint: Checkpoint, name: str | None) -> Checkpoint:
    """The checkpoint with another prompt set for both branches, or unchanged if the name is None.

    Raises:
        ValueError: there is no such set, or both branches read stored embeddings.
    """
    if name is None:
        return checkpoint
    prompt_templates(name)
    recipe = checkpoint.recipe
    if not encoded_sets(checkpoint):
        raise ValueError(
            f"prompt set {name!r} is of no use: checkpoint {checkpoint.origin!r} has stored embeddings of names in "
            "both branches; leave templates out"
        )
    query, image = (replace(text, templates=name) for text in (recipe.query_text, recipe.image_text))
    return replace(checkpoint, recipe=replace(recipe, query_text=query, image_text=image))


def encoded_sets(checkpoint: Checkpoint) -> frozenset[str]:
    """The prompt sets of the branches that encode their names and read no stored embeddings."""
    texts = (checkpoint.recipe.query_text, checkpoint.recipe.image_text)
    return frozenset(text.templates for text in texts if not text.embeddings)


def naming_provenance(
    checkpoint: Checkpoint,
    vocabulary: Vocabulary,
    naming: NamingSettings,
    segments: Mapping[str, str],
    templates: str | None = None,
) -> dict[str, str]:
    """What defines labels of stored segments, part by part.

    With lossless masks these are the parts of `zs3.classification.provenance.provenance`, since the labels are the
    same. Another mask store, external masks, dropped transparency, and segments of another version of zs3 each add a
    part.

    Args:
        naming: the settings in full.
        segments: what defines the segments (`zs3.classification.provenance.segments_provenance`).
        templates: prompt set of both text banks; adds a part if it is not the checkpoint's.

    Raises:
        ValueError: the segments were made with other weights, or there is no such prompt set.
    """
    made_with = segments.get("checkpoint", "unknown")
    if made_with != checkpoint.digest:
        raise ValueError(
            f"the segments were made with the checkpoint {made_with[:12]}, but {checkpoint.origin!r} is "
            f"{checkpoint.digest[:12]} now; segments hold for their own weights only: segment the images again into "
            "another --out, or give the checkpoint that made them with --checkpoint"
        )
    parts = provenance(checkpoint, vocabulary, naming=naming) | {"segmenting": segments["segmenting"]}
    if segments["store"] != LOSSLESS:
        parts["store"] = segments["store"]
    parts |= {key: segments[key] for key in ("proposals", "alpha") if key in segments}
    with_prompt_set(checkpoint, templates)  # raises for an unknown set
    if templates and {templates} != encoded_sets(checkpoint):
        parts["templates"] = templates
    if segments["zs3"] != parts["zs3"]:
        parts["segments_by_zs3"] = segments["zs3"]
    return parts
