"""MAFT+ as released: FC-CLIP with a trained CLIP trunk, and class embeddings that look at the picture.

Jiao et al.: Collaborative Vision-Text Representation Optimizing for Open-Vocabulary Segmentation, ECCV 2024.
Its code was read and not run: no recorded output stands behind these recipes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from zs3.config import Recipe
from zs3.learning.settings import TrainingConfig
from zs3.recipes.fcclip import fcclip


def maft_plus_large() -> Recipe:
    """ConvNeXt-Large, trained on the 171 classes of COCO-Stuff; the semantic model.

    Published, mIoU: A-150 36.1, A-847 15.1, PC-59 59.4, PC-459 21.6, PAS-20 96.5.
    Command: zs3 convert RELEASED.pth --out models/maft_plus; the weights are those of jiaosiyu1999/MAFT-Plus.
    Names: the image branch alone gives the class, the query branch only says whether there is an object.
    Tables: zs3 label works; the table of segments has no place for what the class embeddings look at, so zs3 segment
    refuses it.
    Training: not by zs3. The release: 55,000 steps of batch 8, 14 hours on 8 A100. Reproduced: no, read and not run.
    """
    return _maft_plus("maft_plus_large", "convnext_large_d_320", 768, "semantic")


def maft_plus_base() -> Recipe:
    """ConvNeXt-Base, trained on the 171 classes of COCO-Stuff; the semantic model.

    Published, mIoU: A-150 34.6, A-847 13.8, PC-59 57.5, PC-459 16.2, PAS-20 95.4; a user found 14.6 for PC-459.
    Command, names, tables: as maft_plus_large. The release: 60,000 steps of batch 8. Reproduced: no, read and not run.
    """
    return _maft_plus("maft_plus_base", "convnext_base_w_320", 640, "semantic")


def maft_plus_large_panoptic() -> Recipe:
    """ConvNeXt-Large, trained on the 133 classes of COCO panoptic.

    Published: PQ of A-150 27.1, SQ 73.5, RQ 32.9.
    Command, names, tables: as maft_plus_large. Reproduced: no, read and not run.
    """
    return _maft_plus("maft_plus_large_panoptic", "convnext_large_d_320", 768, "panoptic")


def _maft_plus(name: str, architecture: str, text_dim: int, kind: Literal["semantic", "panoptic"]) -> Recipe:
    base = fcclip("fcclip_convnext_large")
    names = replace(base.query_text, encoder=replace(base.query_text.encoder, architecture=architecture))
    return replace(
        base,
        name=name,
        model=replace(
            base.model,
            backbone=f"open_clip:{architecture}",
            num_queries=100,
            text_dim=text_dim,
            text_transfer=kind,
        ),
        query_text=names,
        image_text=names,
        training=TrainingConfig(
            datasets=((("coco_stuff" if kind == "semantic" else "coco_panoptic"), "coco"),),
            steps=60_000 if text_dim == 640 else 55_000,
            batch_size=8,
            backbone_weights="laion_aesthetic_s13b_b82k_augreg"
            if text_dim == 640
            else base.training.backbone_weights,
        ),
        naming=replace(
            base.naming,
            image_weight_seen=1.0,
            image_weight_unseen=1.0,
            resize_first=kind == "panoptic",
        ),
    )
