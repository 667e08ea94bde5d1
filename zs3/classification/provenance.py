"""What defines labels and segments, part by part, known without loading a network.

Stored text embeddings count by their content, so that a changed file makes another run.
"""

from __future__ import annotations

from zs3 import __version__
from zs3.checkpoint import Checkpoint
from zs3.config import NamingSettings, SegmentSettings, contents, digest_of
from zs3.text.stored_banks import stored_digest
from zs3.vocabulary import Vocabulary


def provenance(
    checkpoint: Checkpoint,
    vocabulary: Vocabulary,
    *,
    segmenting: SegmentSettings | None = None,
    naming: NamingSettings | None = None,
) -> dict[str, str]:
    """What defines the labels of a picture.

    Raises:
        ValueError: a panoptic map is wanted, and the class list has no things, or the model makes no segments.
    """
    naming = naming or checkpoint.recipe.naming
    parts = {
        **_model_parts(checkpoint, segmenting or checkpoint.recipe.segmenting),
        "naming": digest_of(contents(naming)),
        "vocabulary": vocabulary.digest,
    }
    if naming.output == "semantic":
        return parts
    if checkpoint.recipe.model.architecture == "pixel_level":
        raise ValueError(
            f"checkpoint {checkpoint.origin!r} is a pixel_level model, which makes no segments for a panoptic map; "
            "label without it"
        )
    things = [entry.id for entry in vocabulary.candidates if entry.thing]
    if not things:
        raise ValueError(
            f"class list {vocabulary.name!r} says of no class that it is a thing, so a panoptic map has no instances; "
            'write it as .json with "thing": true at these classes, or label without it'
        )
    return parts | {"things": digest_of(things)}


def segments_provenance(checkpoint: Checkpoint, store: str) -> dict[str, str]:
    """What defines the segments of a picture in a mask store.

    Raises:
        ValueError: the checkpoint is a MAFT+.
    """
    if checkpoint.recipe.model.text_transfer != "none":
        raise ValueError(
            f"checkpoint {checkpoint.origin!r} is a MAFT+, whose class embeddings look at the picture, for which the "
            "table of segments has no place; zs3 label works with it"
        )
    return {**_model_parts(checkpoint, checkpoint.recipe.segmenting), "store": store}


def _model_parts(checkpoint: Checkpoint, segmenting: SegmentSettings) -> dict[str, str]:
    recipe = checkpoint.recipe
    stored = {
        name: stored_digest(text.embeddings)
        for name, text in (("query_names", recipe.query_text), ("image_names", recipe.image_text))
        if text.embeddings
    }
    return {
        "checkpoint": checkpoint.digest,
        "segmenting": digest_of(contents(segmenting)),
        "zs3": __version__,
        **stored,
    }
