"""Compose a checkpoint of published models that were never trained together: a mask source and an image-text encoder.

The checkpoint refers to them by name, commit and digest, and holds none of their weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import open_clip
import torch

from zs3.checkpoint import save_composed
from zs3.config import NamingSettings, Recipe, SegmentSettings, TextConfig
from zs3.encoders import EncoderConfig
from zs3.encoders.open_clip import OpenClip
from zs3.learning.settings import TrainingConfig
from zs3.nets.zegformer import ModelConfig
from zs3.parts.mask_sources import mask_source, mask_source_family
from zs3.parts.references import Part, fetched
from zs3.segmentation.composed import ComposedSegmenter, embeddings_of

Embedding = Literal["crops", "pooled", "class_tokens"]

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """What was composed."""

    checkpoint: str
    """The folder."""
    family: str
    """Of the mask source."""
    embedding: str
    """How masks are embedded."""
    parts: dict[str, Part]
    """masks and encoder → the reference to each."""


def compose(masks: str, encoder: str, folder: Path, embedding: Embedding | None = None) -> Composition:
    """Write a checkpoint that refers to a mask source and an encoder; both are loaded once, to see that they fit.

    Args:
        masks: a model of `zs3.parts.mask_sources.FAMILIES`: a name on the hub, or a folder.
        encoder: ARCHITECTURE/TAG or ARCHITECTURE/FILE in open_clip's names, a name on the hub, a folder as open_clip
            saves it for the hub, or a file of weights in OpenAI's layout.
        folder: new or empty.
        embedding: as `SegmentSettings.embedding`; None takes what suits the encoder.

    Raises:
        FileNotFoundError: a part is neither on this machine nor reached on the hub, or lacks a file.
        ValueError: a part is of no known family, its weights do not fit, or the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already; name a new folder, or empty this one")
    masks_at, masks_part = fetched("masks", masks)
    family = mask_source_family(masks_at)
    architecture, name = encoder_name(encoder)
    encoder_at, encoder_part = fetched("encoder", name)
    config = EncoderConfig(kind="open_clip", architecture=architecture, weights=str(encoder_at))
    if encoder_at.is_dir():
        config = replace(config, architecture="")
    clip = OpenClip(config, device=CPU)
    chosen = embedding or cast(Embedding, embeddings_of(clip)[0])
    segmenting = segment_settings(chosen, clip)
    ComposedSegmenter(mask_source(masks_at, CPU), clip, segmenting, device=CPU)
    names = TextConfig(encoder=replace(config, weights=encoder_part.name), templates="vild")
    recipe = Recipe(
        name=f"{family}_{chosen}",
        model=ModelConfig(
            architecture="composed", backbone=f"transformers:{family}", text_dim=clip.image_dim
        ),
        query_text=names,
        image_text=names,
        training=TrainingConfig(datasets=()),
        segmenting=segmenting,
        naming=NamingSettings(branches="image"),
    )
    parts = {"masks": masks_part, "encoder": encoder_part}
    save_composed(folder, recipe, parts)
    return Composition(checkpoint=str(folder), family=family, embedding=chosen, parts=parts)


def encoder_name(encoder: str) -> tuple[str, str]:
    """open_clip's architecture, empty where the encoder's own files say it, and where the weights are.

    Raises:
        FileNotFoundError: ARCHITECTURE/TAG has an unknown tag.
        ValueError: the weights of the tag are of another architecture or no safetensors, or names would be cut into
            tokens by files that a file of weights does not bring along.
    """
    architecture, _, weights = encoder.partition("/")
    known = None if Path(encoder).exists() else open_clip.get_model_config(architecture)
    if known is None:
        return "", encoder
    OpenClip(
        EncoderConfig(kind="open_clip", architecture=architecture, weights=weights), device=CPU
    )  # or raises
    if Path(weights).is_file():
        if {"hf_tokenizer_name", "hf_model_name"} & set(known["text_cfg"]):
            raise ValueError(
                f"{architecture} needs its tokenizer beside its weights; give a folder as open_clip saves it"
            )
        return architecture, weights
    name, _, file = open_clip.get_pretrained_cfg(architecture, weights).get("hf_hub", "").rpartition("/")
    if not name or file:
        raise ValueError(
            f"{encoder} has no safetensors on the hub, and other weights are not fetched; choose another tag"
        )
    return architecture, name


def segment_settings(embedding: Embedding, clip: OpenClip) -> SegmentSettings:
    """How pictures are seen by the encoder.

    Features of a convolutional CLIP are pooled at the picture size of FC-CLIP. A vision transformer sees pictures at
    one and a half times the size that its positions were trained for: more shows smaller masks, at the cost of the
    square of the patches.
    """
    if embedding == "crops":
        return SegmentSettings(embedding=embedding)
    if "class_tokens" in embeddings_of(clip):
        size = clip.image_size_px
        return SegmentSettings(embedding=embedding, short_side_px=size * 3 // 2, max_side_px=size * 3)
    return SegmentSettings(embedding=embedding, short_side_px=800, max_side_px=1333)
