"""The shipped model and the training it went on from."""

from __future__ import annotations

from dataclasses import replace

from zs3.config import NamingSettings, Recipe, SegmentSettings, TextConfig
from zs3.encoders import EncoderConfig
from zs3.learning.augmentation import Augmentation
from zs3.learning.losses import LossSettings
from zs3.learning.optimizer import OptimizerSettings
from zs3.learning.schedule import ScheduleSettings
from zs3.learning.settings import TrainingConfig
from zs3.nets.zegformer import ModelConfig

EFFICIENTNET_LITE0 = "efficientnet_lite0"
HALF = (127.5, 127.5, 127.5)


def mini_base() -> Recipe:
    """The whole ZegFormer in small, trained and run with no download: the first of the two trainings of `zs3-mini`.

    Paper: none of its own; the parts and formulas of ZegFormer with EfficientNet-Lite0 for ResNet-50 and
    ImageNet words (ConSE, Norouzi et al. 2014) for CLIP.
    Command: zs3 train mini_base --data-root DATA --out runs (DATA holds voc_mini, msrc_mini and coco_things_mini).
    Results, cost and what was tried: docs/mini.md. Reproduced: it was trained by this command.
    """
    words = EncoderConfig(kind="imagenet_words")
    return Recipe(
        name="mini_base",
        model=ModelConfig(
            backbone="timm:tf_efficientnet_lite0",
            pyramid_dim=128,
            mask_dim=128,
            hidden_dim=192,
            num_queries=32,
            num_heads=6,
            feedforward_dim=768,
            num_layers=4,
            dropout=0.1,
            text_dim=384,
            temperature=0.05,
            image_mean=HALF,
            image_std=HALF,
        ),
        query_text=TextConfig(encoder=EncoderConfig(kind="minilm"), templates="plain", synonyms=True),
        image_text=TextConfig(encoder=words, templates="plain", synonyms=True),
        training=TrainingConfig(
            datasets=(("voc", "voc_mini"), ("folder", "msrc_mini"), ("folder", "coco_things_mini")),
            background_is_negative=True,
            steps=1500,
            batch_size=8,
            optimizer=OptimizerSettings(
                learning_rate=4e-4, backbone_multiplier=0.25, weight_decay=0.05, clip_norm=1.0
            ),
            schedule=ScheduleSettings(kind="cosine", warmup_steps=50, floor=0.01),
            precision="bfloat16",
            backbone_weights=EFFICIENTNET_LITE0,
            frozen=("network.conv_stem", "network.bn1", "network.blocks.0", "network.blocks.1"),
            augmentation=Augmentation(crop_px=288, scale_range=(0.9, 2.0), crop_on_label_tries=8),
            losses=LossSettings(
                mask_weight=20.0, dice_weight=3.0, mask_resolution="prediction", spare_queries_on_void=0.5
            ),
            checkpoint_every=200,
        ),
        segmenting=SegmentSettings(
            short_side_px=384,
            max_side_px=1024,
            crop_styles=("crop_and_mask", "square_and_dim", "crop_and_blur"),
            crop_empty_masks=False,
            min_share=0.1,
        ),
        naming=NamingSettings(branches="both_own", query_temperature=2.0, weight=0.75),
    )


def mini() -> Recipe:
    """The shipped `zs3-mini`: `mini_base` trained on, its segment embeddings now also made of the backbone's maps.

    Paper: pooling features under a mask is no part of ZegFormer; see `ModelConfig.segment_features`.
    Command: zs3 train mini --data-root DATA --out runs --set.training.start BASE, where BASE is the checkpoint of a
    finished `mini_base`; the start below is where it was when this was trained.
    Results, cost and what was tried: docs/mini.md. Reproduced: it was trained by this command.
    """
    base = mini_base()
    training = replace(
        base.training,
        start="runs/mini_base/checkpoint",
        steps=900,
        optimizer=replace(base.training.optimizer, learning_rate=3e-4),
    )
    return replace(
        base,
        name="mini",
        model=replace(base.model, segment_features="query_and_pooled"),
        training=training,
        segmenting=replace(base.segmenting, picture_share=0.15),
        naming=NamingSettings(
            branches="both_own",
            query_temperature=1.5,
            weight=0.6,
            image_logit_scale=12.0,
            void_in_image_softmax=False,
        ),
    )
