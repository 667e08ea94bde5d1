"""The released name of each tensor of our FC-CLIP."""

from __future__ import annotations

import re

HEAD = "sem_seg_head."
PIXELS = HEAD + "pixel_decoder."
PREDICTOR = HEAD + "predictor."
CLIP = "backbone.clip_model."

# (ours, released), the first that fits counts.
RULES: tuple[tuple[str, str], ...] = (
    (r"backbone\.model\.", CLIP),
    (r"pixel_decoder\.level_embed", PIXELS + "transformer.level_embed"),
    (r"pixel_decoder\.layers\.", PIXELS + "transformer.encoder.layers."),
    (r"pixel_decoder\.lateral\.1\.", PIXELS + "adapter_1.norm."),
    (r"pixel_decoder\.lateral\.0\.", PIXELS + "adapter_1."),
    (r"pixel_decoder\.output\.1\.", PIXELS + "layer_1.norm."),
    (r"pixel_decoder\.output\.0\.", PIXELS + "layer_1."),
    (r"pixel_decoder\.", PIXELS),
    (r"decoder\.layers\.(\d+)\.multihead_attn\.", PREDICTOR + r"transformer_cross_attention_layers.\1.multihead_attn."),
    (r"decoder\.layers\.(\d+)\.norm1\.", PREDICTOR + r"transformer_cross_attention_layers.\1.norm."),
    (r"decoder\.layers\.(\d+)\.self_attn\.", PREDICTOR + r"transformer_self_attention_layers.\1.self_attn."),
    (r"decoder\.layers\.(\d+)\.norm2\.", PREDICTOR + r"transformer_self_attention_layers.\1.norm."),
    (r"decoder\.layers\.(\d+)\.norm3\.", PREDICTOR + r"transformer_ffn_layers.\1.norm."),
    (r"decoder\.layers\.", PREDICTOR + "transformer_ffn_layers."),
    (r"decoder\.norm\.", PREDICTOR + "decoder_norm."),
    (r"decoder\.mask_embed\.0\.", PREDICTOR + "mask_embed.layers.0."),
    (r"decoder\.mask_embed\.2\.", PREDICTOR + "mask_embed.layers.1."),
    (r"decoder\.mask_embed\.4\.", PREDICTOR + "mask_embed.layers.2."),
    (r"decoder\.", PREDICTOR),
    (r"class_embed\.0\.", PREDICTOR + "class_embed.layers.0."),
    (r"class_embed\.2\.", PREDICTOR + "class_embed.layers.1."),
    (r"class_embed\.4\.", PREDICTOR + "class_embed.layers.2."),
    (r"mask_pooling\.", PREDICTOR + "_mask_pooling_proj."),
    (r"transfer\.multihead_attn\.", "cdt.cross_atten.multihead_attn."),
    (r"transfer\.norm\.", "cdt.cross_atten.norm."),
    (r"transfer\.linear\.", "cdt.cross_atten.MLP."),
    (r"logit_scale$", PREDICTOR + "logit_scale"),
    (r"void_embedding\.", "void_embedding."),
)  # fmt: skip


def released_name(ours: str) -> str:
    """The released name of a tensor of our network."""
    for pattern, released in RULES:
        name, count = re.subn("^" + pattern, released, ours)
        if count:
            return name
    raise AssertionError(ours)
