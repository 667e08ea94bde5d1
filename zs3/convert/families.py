"""Which published model a checkpoint is of, told from the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable

ZEGFORMER, FCCLIP = "ZegFormer", "FC-CLIP"

FAMILIES: tuple[tuple[str, str], ...] = (
    ("Mask-Adapter", r"mask_adapter\."),
    (FCCLIP, r"void_embedding\.weight"),
    (ZEGFORMER, r"sem_seg_head\.predictor\.bg_feature"),
    ("SAN", r"side_adapter_network\.|clip_rec_head\."),
    ("OVSeg", r"clip_adapter\."),
    ("ODISE", r"backbone\.feature_extractor\.ldm_extractor\."),
    ("CAT-Seg", r"sem_seg_head\.predictor\.transformer\.(conv1|layers\.\d+\.swin_block)\."),
    ("Mask2Former of transformers", r"model\.pixel_level_module\."),
    ("Mask2Former", r"sem_seg_head\.predictor\.transformer_cross_attention_layers\."),
    ("MaskFormer", r"sem_seg_head\.predictor\.class_embed\.weight"),
)
"""(family, how a name of it begins that no later family has). MAFT+ has the names of FC-CLIP, and some more."""


def family_of(names: Iterable[str], source: str) -> str:
    """`FCCLIP` or `ZEGFORMER`, the latter also for names that are of no family known here.

    Args:
        names: of tensors, without prefixes.

    Raises:
        ValueError: they are of a model that zs3 does not convert; the message says of which.
    """
    names = list(names)
    for family, pattern in FAMILIES:
        found = next((name for name in names if re.match(pattern, name)), None)
        if found is not None and family in (FCCLIP, ZEGFORMER):
            return family
        if found is not None:
            raise ValueError(
                f"{source} is a checkpoint of {family} (it has {found!r}), which zs3 does not convert; it converts "
                "ZegFormer, FC-CLIP and MAFT+"
            )
    return ZEGFORMER
