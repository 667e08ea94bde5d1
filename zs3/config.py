"""What defines a model and its results. Every field is part of a digest; execution settings are elsewhere."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from zs3.encoders import EncoderConfig
from zs3.encoders.masked_crops import Style
from zs3.learning.settings import TrainingConfig
from zs3.nets.zegformer import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """How class names become a text bank."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The encoder of the names; for the image branch also of the crops."""
    templates: str = "plain"
    """Name of a set of prompt templates in zs3/data/prompt_templates.json."""
    embeddings: str = ""
    """Stored embeddings to use instead of encoding names: a .npy matrix with one row per class, in the order of the
    class list, or a folder of embeddings.npy and names.json whose rows are looked up by name."""
    synonyms: bool = True
    """Average the synonyms of a class into its row. The published code has no synonyms but splits names at ", "; the
    shipped list ade20k_full stores the other parts of such names as synonyms."""
    rows: Literal["class", "synonym"] = field(default="class", metadata={"later": True})
    """class: one row, the mean over the names of the class; synonym: one row for each name, of which the nearest to a
    segment counts, and names are split at "," (FC-CLIP)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSettings:
    """How pictures become segments."""

    short_side_px: int = 640
    """Length of the shorter side after resizing, in pixels."""
    max_side_px: int = 2560
    """Upper bound on the longer side, in pixels, for which the shorter side is reduced."""
    crop_styles: tuple[Style, ...] = ("crop_and_mask",)
    """How segments are cropped for the image encoder; the embeddings of several styles are averaged."""
    picture_share: float = 0.0
    """Share, in [0, 1), of the whole picture in the image embedding of each segment; surroundings help to recognise
    it. 0 as published."""
    image_branch: bool = True
    """Off: no crops are made and segments carry no image embedding (ZegFormer-seg)."""
    crop_empty_masks: bool = True
    """On, as published: masks without a pixel go through the encoder too. Off: their image embedding is zero. In an
    FC-CLIP, masks without a cell of CLIP's map; the released ResNets have it off."""
    min_share: float = 0.0
    """Segments whose share of every pixel is lower are dropped before any crop is made
    (`zs3.segmentation.segmenter.max_shares`). 0, as published, keeps all."""
    prune: Literal["none"] = "none"
    """The only value (docs/numerics.md, "Pruning"). The field remains because digests of existing tables include it."""
    crops_per_pass: int = 16
    """Crops that go through the encoder together; this bounds memory."""
    embedding: Literal["crops", "pooled", "class_tokens"] = field(default="crops", metadata={"later": True})
    """Composed models: how the image encoder embeds a mask. crops: as ZegFormer, one pass for each mask; pooled: the
    mean of its dense features under the mask, as FC-CLIP; class_tokens: a class token for each mask, which sees the
    patches under its mask only. The last two take one pass for all masks."""


Branches = Literal["both", "both_own", "both_for_every_class", "query", "image", "geometric_ensemble"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamingSettings:
    """How segments become labels."""

    branches: Branches = "both"
    """both: the paper's geometric mean, which gives each seen class the mean image-branch probability of all seen
    classes; both_own: each seen class keeps its own; both_for_every_class: the image branch leads for all classes;
    geometric_ensemble: FC-CLIP's, renormalised, without `no object` in the branches' softmaxes."""
    weight: float = 2 / 3
    """λ, the share of the leading branch: the query branch for seen classes, the image branch for unseen ones."""
    calibration: float = 0.0
    """γ, subtracted from the pixel scores of seen classes; if negative, −γ is subtracted from unseen ones instead."""
    query_temperature: float = 1.0
    """Divides the query branch's logits, `no object` included, before the softmax; 1 as published."""
    image_logit_scale: float | None = None
    """1 / temperature of the image branch; None takes the encoder's own."""
    void_in_image_softmax: bool = True
    """On, as published: `no object` also competes in the image branch's softmax; the paper's formula has none."""
    resize_first: bool = False
    """Resize masks to the picture before scoring instead of resizing the scores after (a published switch)."""
    output: Literal["semantic", "panoptic"] = field(default="semantic", metadata={"later": True})
    """semantic: each pixel gets its best class; panoptic: each pixel gets one segment, whose class is its best, and
    things are instances (`zs3.classification.panoptic`); γ and `resize_first` are not read then."""
    image_weight_seen: float = field(default=0.4, metadata={"later": True})
    """geometric_ensemble: α, the exponent of the image branch for seen classes, in [0, 1]."""
    image_weight_unseen: float = field(default=0.8, metadata={"later": True})
    """geometric_ensemble: β, the exponent of the image branch for unseen classes, in [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that defines a model: its network, its encoders, its training and its settings at use."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    """Name of the recipe on the command line."""
    model: ModelConfig
    """The network."""
    query_text: TextConfig
    """Names for the query branch."""
    image_text: TextConfig
    """Names for the image branch."""
    training: TrainingConfig
    """How it is trained."""
    segmenting: SegmentSettings
    """How it segments."""
    naming: NamingSettings
    """How it classifies segments."""
    seen_by: Literal["concept", "name"] = field(default="concept", metadata={"later": True})
    """Which classes of a list count as seen: those that mean the same as a training class (`zs3.vocabulary.concept`),
    or those that share a name with one, letter by letter (FC-CLIP)."""

    @property
    def digest(self) -> str:
        """SHA-256 of `contents`, hex."""
        return digest_of(contents(self))


def contents(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, as `asdict`, for digests and files.

    A field that was added after the first version has the metadata `later`, and is left out while it has its default:
    the digests of settings that existed before stay what they were.
    """
    return {
        one.name: contents(value) if is_dataclass(value) else value
        for one in fields(settings)
        for value in [getattr(settings, one.name)]
        if not (one.metadata.get("later") and value == one.default)
    }


def digest_of(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def recipe_from_json(value: dict[str, Any], *, origin: str) -> Recipe:
    """The recipe from the JSON of its `contents`.

    Raises:
        ValueError: a field is missing, unknown or of another type; the message names the first one.
    """
    try:
        return TypeAdapter(Recipe).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{origin}: recipe field {where!r}: {first['msg']}; was it written by another version of zs3?"
        ) from error
