"""Tiny models with random weights, in folders as transformers and open_clip keep them."""

import json
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import timm
import torch
import transformers
from open_clip.model import CLIP, CustomTextCLIP
from timm.models.vision_transformer import _create_vision_transformer

from tests.data.fcclip_networks import ARCHITECTURES

SWIN = {
    "image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2],
    "window_size": 4, "out_features": ["stage1", "stage2", "stage3", "stage4"],
}  # fmt: skip


def mask_source_folder(family: str, folder: Path) -> Path:
    """A mask source of a family, with its image processor."""
    torch.manual_seed(3)
    model, processor = {
        "mask2former": _mask2former, "eomt": _eomt, "oneformer": _oneformer, "sam2": _sam2,
    }[family]()  # fmt: skip
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


ENCODERS = {
    "vit": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    },
    "siglip": {
        "embed_dim": 32,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 32, "timm_model_name": "vit_siglip_tinytest", "timm_model_pretrained": False,
            "timm_pool": "map", "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1, "no_causal_mask": True,
            "proj_bias": True, "pool_type": "last",
        },
    },
}  # fmt: skip


@timm.models.register_model
def vit_siglip_tinytest(pretrained: bool = False, **options: Any) -> Any:
    """The image tower of a SigLIP."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return _create_vision_transformer(
        "vit_base_patch16_siglip_224",
        pretrained,
        **{**sizes, "class_token": False, "global_pool": "map", **options},
    )


def encoder_folder(name: str, folder: Path) -> Path:
    """An encoder with random weights: `vit`, `siglip`, or a CLIP of the FC-CLIP recordings, `convnext` or `rn`."""
    torch.manual_seed(5)
    config = ENCODERS[name] if name in ENCODERS else open_clip.get_model_config(ARCHITECTURES[name][0])
    folder.mkdir(parents=True)
    settings = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    kind = CustomTextCLIP if config.get("custom_text") else CLIP
    model = kind(**{key: value for key, value in config.items() if key != "custom_text"})
    safetensors.torch.save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def _labels(count: int) -> dict[int, str]:
    return {index: f"class {index}" for index in range(count)}


def _mask2former() -> tuple[Any, Any]:
    config = transformers.Mask2FormerConfig(
        backbone_config=transformers.SwinConfig(**SWIN), feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=32, encoder_layers=1, decoder_layers=3, num_attention_heads=2, dim_feedforward=32,
        num_queries=6, id2label=_labels(4),
    )  # fmt: skip
    processor = transformers.Mask2FormerImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    return transformers.Mask2FormerForUniversalSegmentation(config), processor


def _eomt() -> tuple[Any, Any]:
    config = transformers.EomtConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=64, patch_size=16, mlp_ratio=2,
        num_blocks=1, num_queries=5, id2label=_labels(4),
    )  # fmt: skip
    processor = transformers.EomtImageProcessor(
        size={"shortest_edge": 64, "longest_edge": 64}, do_pad=True, do_split_image=False
    )
    return transformers.EomtForUniversalSegmentation(config), processor


def _oneformer() -> tuple[Any, Any]:
    config = transformers.OneFormerConfig(
        backbone_config=transformers.SwinConfig(**SWIN), num_queries=6, conv_dim=32, mask_dim=32, hidden_dim=32,
        encoder_feedforward_dim=32, encoder_layers=1, decoder_layers=3, num_attention_heads=2, dim_feedforward=32,
        text_encoder_width=16, text_encoder_num_layers=1, text_encoder_proj_layers=1, text_encoder_n_ctx=2,
        query_dec_layers=1, id2label=_labels(4), is_training=False,
    )  # fmt: skip
    processor = transformers.OneFormerImageProcessor(
        size={"shortest_edge": 64, "longest_edge": 96}, class_info_file=None, num_text=4
    )
    return transformers.OneFormerForUniversalSegmentation(config), processor


def _sam2() -> tuple[Any, Any]:
    hiera = transformers.Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, image_size=[64, 64], blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 4, 4, 4], global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    vision = transformers.Sam2VisionConfig(
        backbone_config=hiera, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=16,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )  # fmt: skip
    config = transformers.Sam2Config(
        vision_config=vision,
        prompt_encoder_config=transformers.Sam2PromptEncoderConfig(
            hidden_size=16, image_size=64, patch_size=16, mask_input_channels=4
        ),
        mask_decoder_config=transformers.Sam2MaskDecoderConfig(
            hidden_size=16, mlp_dim=16, num_attention_heads=2, iou_head_hidden_dim=16, iou_head_depth=2
        ),
    )
    processor = transformers.Sam2ImageProcessor(
        size={"height": 64, "width": 64}, mask_size={"height": 16, "width": 16}
    )
    model = transformers.Sam2Model(config)
    with torch.no_grad():  # random masks are neither sure nor stable
        model.mask_decoder.iou_prediction_head.proj_out.bias += 10
        for layers in model.mask_decoder.output_hypernetworks_mlps:
            layers.proj_out.weight *= 1e7
    return model, processor
