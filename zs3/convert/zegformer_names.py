"""The names that the published release gives to our tensors, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

HEAD = "sem_seg_head."
PREDICTOR = HEAD + "predictor."
DECODER = PREDICTOR + "transformer.decoder."

# Official pattern -> ours, tried in order; backbone names of ours are torchvision's.
RULES: tuple[tuple[str, str], ...] = (
    (r"backbone\.stem\.conv1\.norm\.(.+)", r"backbone.bn1.\1"),
    (r"backbone\.stem\.conv1\.(.+)", r"backbone.conv1.\1"),
    (r"backbone\.res(\d)\.(\d+)\.shortcut\.norm\.(.+)", r"backbone.layer<\1>.\2.downsample.1.\3"),
    (r"backbone\.res(\d)\.(\d+)\.shortcut\.(.+)", r"backbone.layer<\1>.\2.downsample.0.\3"),
    (r"backbone\.res(\d)\.(\d+)\.conv(\d)\.norm\.(.+)", r"backbone.layer<\1>.\2.bn\3.\4"),
    (r"backbone\.res(\d)\.(\d+)\.conv(\d)\.(.+)", r"backbone.layer<\1>.\2.conv\3.\4"),
    (HEAD + r"pixel_decoder\.mask_features\.(.+)", r"pixel_decoder.mask_features.\1"),
    (HEAD + r"pixel_decoder\.layer_4\.norm\.(.+)", r"pixel_decoder.top.1.\1"),
    (HEAD + r"pixel_decoder\.layer_4\.(.+)", r"pixel_decoder.top.0.\1"),
    (HEAD + r"pixel_decoder\.adapter_(\d)\.norm\.(.+)", r"pixel_decoder.laterals.<\1>.1.\2"),
    (HEAD + r"pixel_decoder\.adapter_(\d)\.(.+)", r"pixel_decoder.laterals.<\1>.0.\2"),
    (HEAD + r"pixel_decoder\.layer_(\d)\.norm\.(.+)", r"pixel_decoder.outputs.<\1>.1.\2"),
    (HEAD + r"pixel_decoder\.layer_(\d)\.(.+)", r"pixel_decoder.outputs.<\1>.0.\2"),
    (PREDICTOR + r"bg_feature", r"void_embedding"),
    (PREDICTOR + r"projection_layer\.(.+)", r"projection.\1"),
    (PREDICTOR + r"query_embed\.(.+)", r"decoder.query_embed.\1"),
    (PREDICTOR + r"input_proj\.(.+)", r"decoder.input_proj.\1"),
    (PREDICTOR + r"mask_embed\.layers\.(\d)\.(.+)", r"mask_embed.{\1}.\2"),
    (DECODER + r"norm\.(.+)", r"decoder.norm.\1"),
    (DECODER + r"layers\.(.+)", r"decoder.layers.\1"),
)
NOT_OURS = re.compile(r"criterion\.|sem_seg_head\.predictor\.(clip_model\.|logit_scale$)")


def our_name(official: str) -> str | None:
    """Our name of an official tensor, or none where it has no counterpart in the network.

    Text temperature, CLIP weights and the criterion's class weights live elsewhere here.

    Raises:
        ValueError: the name is neither.
    """
    if NOT_OURS.match(official):
        return None
    for pattern, ours in RULES:
        match = re.fullmatch(pattern, official)
        if match:
            name = match.expand(ours)
            name = re.sub(r"layer<(\d)>", lambda m: f"layer{int(m[1]) - 1}", name)
            name = re.sub(r"<(\d)>", lambda m: str(int(m[1]) - 1), name)
            return re.sub(r"\{(\d)\}", lambda m: str(2 * int(m[1])), name)
    raise ValueError(
        f"tensor {official!r} is not one of the published ZegFormer's; is this another model's checkpoint?"
    )


def from_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's state dict from the published layout, values untouched."""
    named = {our_name(key): value for key, value in state.items()}
    return {
        key: value[0] if key == "void_embedding" else value for key, value in named.items() if key is not None
    }


# Ours -> official pattern, tried in order; <n> is one more than ours, {n} half of it.
BACK: tuple[tuple[str, str], ...] = (
    (r"backbone\.bn1\.(.+)", r"backbone.stem.conv1.norm.\1"),
    (r"backbone\.conv1\.(.+)", r"backbone.stem.conv1.\1"),
    (r"backbone\.layer(\d)\.(\d+)\.downsample\.1\.(.+)", r"backbone.res<\1>.\2.shortcut.norm.\3"),
    (r"backbone\.layer(\d)\.(\d+)\.downsample\.0\.(.+)", r"backbone.res<\1>.\2.shortcut.\3"),
    (r"backbone\.layer(\d)\.(\d+)\.bn(\d)\.(.+)", r"backbone.res<\1>.\2.conv\3.norm.\4"),
    (r"backbone\.layer(\d)\.(\d+)\.(.+)", r"backbone.res<\1>.\2.\3"),
    (r"pixel_decoder\.top\.0\.(.+)", HEAD + r"pixel_decoder.layer_4.\1"),
    (r"pixel_decoder\.top\.1\.(.+)", HEAD + r"pixel_decoder.layer_4.norm.\1"),
    (r"pixel_decoder\.laterals\.(\d)\.0\.(.+)", HEAD + r"pixel_decoder.adapter_<\1>.\2"),
    (r"pixel_decoder\.laterals\.(\d)\.1\.(.+)", HEAD + r"pixel_decoder.adapter_<\1>.norm.\2"),
    (r"pixel_decoder\.outputs\.(\d)\.0\.(.+)", HEAD + r"pixel_decoder.layer_<\1>.\2"),
    (r"pixel_decoder\.outputs\.(\d)\.1\.(.+)", HEAD + r"pixel_decoder.layer_<\1>.norm.\2"),
    (r"pixel_decoder\.(.+)", HEAD + r"pixel_decoder.\1"),
    (r"void_embedding", PREDICTOR + "bg_feature"),
    (r"projection\.(.+)", PREDICTOR + r"projection_layer.\1"),
    (r"decoder\.((?:query_embed|input_proj)\..+)", PREDICTOR + r"\1"),
    (r"decoder\.(.+)", DECODER + r"\1"),
    (r"mask_embed\.(\d)\.(.+)", PREDICTOR + r"mask_embed.layers.{\1}.\2"),
)


def released_name(ours: str) -> str:
    """The published name of a tensor of our network; `our_name` of it is the tensor's name again.

    Raises:
        ValueError: the published network has no such tensor.
    """
    for pattern, official in BACK:
        match = re.fullmatch(pattern, ours)
        if match:
            name = re.sub(r"<(\d)>", lambda m: str(int(m[1]) + 1), match.expand(official))
            return re.sub(r"\{(\d)\}", lambda m: str(int(m[1]) // 2), name)
    raise ValueError(
        f"tensor {ours!r} has no counterpart in the published ZegFormer; is the recipe of another model?"
    )
