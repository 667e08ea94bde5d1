"""The released names of our tensors: one table, read in both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

HEAD = "sem_seg_head."
PREDICTOR = HEAD + "predictor."
DECODER = PREDICTOR + "transformer.decoder."

# (ours, released), tried in order. {stage} is one more in released names, {layer} is half of ours.
NAMES: tuple[tuple[str, str], ...] = (
    ("backbone.bn1.{rest}", "backbone.stem.conv1.norm.{rest}"),
    ("backbone.conv1.{rest}", "backbone.stem.conv1.{rest}"),
    ("backbone.layer{stage}.{block}.downsample.1.{rest}", "backbone.res{stage}.{block}.shortcut.norm.{rest}"),
    ("backbone.layer{stage}.{block}.downsample.0.{rest}", "backbone.res{stage}.{block}.shortcut.{rest}"),
    ("backbone.layer{stage}.{block}.bn{conv}.{rest}", "backbone.res{stage}.{block}.conv{conv}.norm.{rest}"),
    ("backbone.layer{stage}.{block}.conv{conv}.{rest}", "backbone.res{stage}.{block}.conv{conv}.{rest}"),
    ("pixel_decoder.mask_features.{rest}", HEAD + "pixel_decoder.mask_features.{rest}"),
    ("pixel_decoder.top.1.{rest}", HEAD + "pixel_decoder.layer_4.norm.{rest}"),
    ("pixel_decoder.top.0.{rest}", HEAD + "pixel_decoder.layer_4.{rest}"),
    ("pixel_decoder.laterals.{stage}.1.{rest}", HEAD + "pixel_decoder.adapter_{stage}.norm.{rest}"),
    ("pixel_decoder.laterals.{stage}.0.{rest}", HEAD + "pixel_decoder.adapter_{stage}.{rest}"),
    ("pixel_decoder.outputs.{stage}.1.{rest}", HEAD + "pixel_decoder.layer_{stage}.norm.{rest}"),
    ("pixel_decoder.outputs.{stage}.0.{rest}", HEAD + "pixel_decoder.layer_{stage}.{rest}"),
    ("void_embedding", PREDICTOR + "bg_feature"),
    ("projection.{rest}", PREDICTOR + "projection_layer.{rest}"),
    ("mask_embed.{layer}.{rest}", PREDICTOR + "mask_embed.layers.{layer}.{rest}"),
    ("decoder.query_embed.{rest}", PREDICTOR + "query_embed.{rest}"),
    ("decoder.input_proj.{rest}", PREDICTOR + "input_proj.{rest}"),
    ("decoder.norm.{rest}", DECODER + "norm.{rest}"),
    ("decoder.layers.{rest}", DECODER + "layers.{rest}"),
)
NOT_OURS = re.compile(r"criterion\.|sem_seg_head\.predictor\.(clip_model\.|logit_scale$)")
"""Text temperature, CLIP weights and the criterion's class weights, which are not part of our network."""


def our_name(released: str) -> str | None:
    """Our name of a released tensor, or None if it is not part of the network.

    Raises:
        ValueError: the released network has no such tensor.
    """
    if NOT_OURS.match(released):
        return None
    for ours, pattern in NAMES:
        if (parts := _match(pattern, released)) is not None:
            numbers = {"stage": parts.get("stage", 0) - 1, "layer": parts.get("layer", 0) * 2}
            return ours.format(**parts | numbers)
    raise ValueError(
        f"tensor {released!r} is not one of the published ZegFormer's; is this another model's checkpoint?"
    )


def released_name(ours: str) -> str:
    """The released name of a tensor of our network; the inverse of `our_name`.

    Raises:
        ValueError: the released network has no such tensor.
    """
    for pattern, released in NAMES:
        if (parts := _match(pattern, ours)) is not None:
            numbers = {"stage": parts.get("stage", 0) + 1, "layer": parts.get("layer", 0) // 2}
            return released.format(**parts | numbers)
    raise ValueError(
        f"tensor {ours!r} has no counterpart in the published ZegFormer; is the recipe of another model?"
    )


def from_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's state dict from the released one, values untouched."""
    named = {our_name(key): value for key, value in state.items()}
    return {
        key: value[0] if key == "void_embedding" else value for key, value in named.items() if key is not None
    }


def _match(pattern: str, name: str) -> dict[str, Any] | None:
    """The parts of a name that fit a pattern's placeholders."""
    regex = re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(pattern)).replace(
        r"(?P<rest>\d+)", "(?P<rest>.+)"
    )
    match = re.fullmatch(regex, name)
    if match is None:
        return None
    return {key: value if key == "rest" else int(value) for key, value in match.groupdict().items()}
