"""What defines a model and its results. Every field here is hashed; how a run is executed is kept elsewhere."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
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
    """The text encoder; the image branch uses the same one's image side."""
    templates: str = "plain"
    """Name of a set of prompt templates in zs3/data/prompt_templates.json."""
    embeddings: str = ""
    """Stored embeddings instead of encoding names: a .npy matrix with one row per class, in the order of the class
    list, or a folder of embeddings.npy and names.json whose rows are found by name."""
    synonyms: bool = True
    """Average the synonyms of a class into its row. The published code has none beside the names, which it splits at
    ", "; of the shipped lists, ade20k_full holds the rest of such names as synonyms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSettings:
    """How pictures become segments."""

    short_side_px: int = 640
    """Pictures are resized so that the shorter side has this length, in pixels."""
    max_side_px: int = 2560
    """Unless the longer side would exceed this, in pixels."""
    crop_styles: tuple[Style, ...] = ("crop_and_mask",)
    """What the image encoder sees of a segment; the embeddings of several styles are averaged."""
    picture_share: float = 0.0
    """Share, in [0, 1), that the whole picture has in the image embedding of each of its segments: what surrounds a
    segment says what it may be. 0 as published."""
    image_branch: bool = True
    """Off: no crops are made and segments carry no image embedding (ZegFormer-seg)."""
    crop_empty_masks: bool = True
    """As published, also masks without a pixel go through the encoder; off, their image embedding is zero."""
    min_share: float = 0.0
    """Segments that hold less than this share of every pixel are dropped before any crop is made; 0, as published,
    keeps all. See `zs3.segmentation.segmenter.max_shares`."""
    prune: Literal["none"] = "none"
    """Nothing else is left (docs/numerics.md, "Pruning"); the field stays, so that digests of earlier runs stay."""
    crops_per_pass: int = 16
    """Crops that go through the encoder together; bounds memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamingSettings:
    """How segments become labels."""

    branches: Literal["both", "both_own", "both_for_every_class", "query", "image"] = "both"
    """both: the geometric mean of the paper, which takes the mean image-branch probability of all seen classes for
    each of them; both_own: each seen class keeps its own; both_for_every_class: the image branch leads everywhere."""
    weight: float = 2 / 3
    """λ, the share of the leading branch: the query branch for seen classes, the image branch for unseen ones."""
    calibration: float = 0.0
    """γ, subtracted from the pixel score of every seen class; a negative one is taken from unseen classes instead."""
    query_temperature: float = 1.0
    """The query branch's logits, `no object` included, are divided by this before the softmax; 1 as published."""
    image_logit_scale: float | None = None
    """1 / temperature of the image branch; none takes the encoder's own."""
    void_in_image_softmax: bool = True
    """As published, `no object` also competes in the image branch's softmax; the paper's formula has no such term."""
    resize_first: bool = False
    """Resize masks to the picture before scoring instead of resizing the scores after (a published switch)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that defines a model: its network, its encoders, its training and its settings at use."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    """What the recipe is called on the command line."""
    model: ModelConfig
    """The network."""
    query_text: TextConfig
    """Names for the query branch."""
    image_text: TextConfig
    """Names for the image branch."""
    training: TrainingConfig
    """How it is trained."""
    segmenting: SegmentSettings
    """How it groups."""
    naming: NamingSettings
    """How it names."""

    @property
    def digest(self) -> str:
        """SHA-256 of every field, hex."""
        return digest_of(asdict(self))


def digest_of(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def recipe_from_json(value: dict[str, Any], *, origin: str) -> Recipe:
    """The recipe that `asdict` wrote.

    Raises:
        ValueError: a field is missing, unknown or of another type; the message names the first such field.
    """
    try:
        return TypeAdapter(Recipe).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{origin}: recipe field {where!r}: {first['msg']}; was it written by another version of zs3?"
        ) from error
