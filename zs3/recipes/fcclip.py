"""FC-CLIP as released: one function, and a name for each CLIP.

Yu, He, Deng, Shen, Chen: Convolutions Die Hard: Open-Vocabulary Segmentation with Single Frozen Convolutional CLIP,
NeurIPS 2023. What ours computes differently: docs/numerics.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from zs3.config import NamingSettings, Recipe, SegmentSettings, TextConfig
from zs3.encoders import EncoderConfig
from zs3.learning.augmentation import Augmentation
from zs3.learning.losses import LossSettings
from zs3.learning.optimizer import OptimizerSettings
from zs3.learning.schedule import ScheduleSettings
from zs3.learning.settings import TrainingConfig
from zs3.nets.zegformer import ModelConfig

OPENAI_MEAN = (122.7709383, 116.7460125, 104.09373615)
OPENAI_STD = (68.5005327, 66.6321579, 70.32316305)

CLIPS = {
    "fcclip_convnext_large": ("convnext_large_d_320", 768, "laion2b_s29b_b131k_ft_soup"),
    "fcclip_r50": ("RN50-quickgelu", 1024, "openai"),
    "fcclip_r101": ("RN101-quickgelu", 512, "openai"),
    "fcclip_r50x4": ("RN50x4-quickgelu", 640, "openai"),
    "fcclip_r50x16": ("RN50x16-quickgelu", 768, "openai"),
    "fcclip_r50x64": ("RN50x64-quickgelu", 1024, "openai"),
}
"""Recipe → open_clip's architecture of its CLIP, the length of its embeddings, and open_clip's tag of its weights."""


def fcclip(name: str) -> Recipe:
    """An FC-CLIP trained on COCO panoptic: 133 classes, 250 queries, one frozen CLIP.

    Published, ConvNeXt-Large: mIoU of A-150 34.1, A-847 14.8, PC-59 58.4, PC-459 18.2, PAS-21 81.8, PAS-20 95.4; PQ of
    A-150 26.8. A-150 of the ResNets, from RN50 to RN50x64: 23.3, 24.0, 26.8, 29.4, 28.4.
    Command: zs3 convert RELEASED.pth --out models/fcclip; the weights are Google Drive files of bytedance/fc-clip.
    Names: classes are seen if they share a name with a training class (`seen_by`); the released class lists were tuned.
    Masks are resized before scoring, as released for A-150, COCO and Cityscapes; `--resize-first no` is the order of
    A-847, PC-59, PC-459 and PAS. The ResNets leave out CLIP's view of masks without a cell of its map.
    Training: zs3 train fcclip_convnext_large --data-root DATA --out runs, with DATA/coco (images/train2017, and
    panoptic_train2017 and its .json in annotations); open_clip fetches CLIP. Users' own trainings of the released code
    ended at mIoU 32.6 and 32.8, PQ 25.3 and 25.8 on A-150: the release is the checkpoint that was best on it.
    Cost: 368,750 steps of 16 crops of 1024 px; the release used 8 V100 for 3.2 days.
    Reproduced: no, but every stage, loss and optimizer step of small networks (docs/numerics.md); the released weights
    were not available here.
    """
    architecture, text_dim, weights = CLIPS[name]
    names = TextConfig(
        encoder=EncoderConfig(kind="open_clip", architecture=architecture, weights="checkpoint"),
        templates="vild",
        rows="synonym",
    )
    return Recipe(
        name=name,
        model=ModelConfig(
            architecture="fcclip",
            backbone=f"open_clip:{architecture}",
            num_queries=250,
            num_layers=9,
            text_dim=text_dim,
            image_mean=OPENAI_MEAN,
            image_std=OPENAI_STD,
        ),
        query_text=names,
        image_text=names,
        training=TrainingConfig(
            datasets=(("coco_panoptic", "coco"),),
            steps=368_750,
            batch_size=16,
            optimizer=OptimizerSettings(weight_decay=0.05),
            schedule=ScheduleSettings(kind="steps", falls_at=(327_778, 355_092)),
            precision="bfloat16",
            backbone_weights=weights,
            augmentation=Augmentation(
                crop_px=1024,
                fit_range=(0.1, 2.0),
                brightness=0.0,
                contrast=0.0,
                saturation=0.0,
                hue_degrees=0.0,
            ),
            losses=LossSettings(
                class_weight=2.0, mask_weight=5.0, dice_weight=5.0, num_points=12_544, void_is_negative=True
            ),
            checkpoint_every=5000,
        ),
        segmenting=SegmentSettings(
            short_side_px=800, max_side_px=1333, crop_empty_masks=architecture.startswith("convnext")
        ),
        naming=NamingSettings(branches="geometric_ensemble", void_in_image_softmax=False, resize_first=True),
        seen_by="name",
    )


def fcclip_recipes() -> dict[str, Callable[[], Recipe]]:
    """Name → recipe, for each released CLIP."""
    return {name: partial(fcclip, name) for name in CLIPS}
