"""MAFT+'s content-dependent transfer: class embeddings that look at the picture before they are compared with it.

Jiao et al., Collaborative Vision-Text Representation Optimizing for Open-Vocabulary Segmentation, ECCV 2024. The
released code was read and not run: no output of it was at hand to compare with.
"""

# R row of a bank, T position of CLIP's last map, D embedding, C channels, h w its cells
from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from zs3.nets.clip_trunk import ClipTrunk
from zs3.nets.transformer import sine_positions

HEADS = 8


class ContentTransfer(nn.Module):
    """One attention of class embeddings to a picture.

    Args:
        kind: which of the two released forms: the sum is normalised (semantic), or what is added is (panoptic).
    """

    def __init__(self, dim: int, kind: Literal["semantic", "panoptic"]) -> None:
        super().__init__()
        self.kind = kind
        self.multihead_attn = nn.MultiheadAttention(dim, HEADS, batch_first=True)
        self.norm, self.linear = nn.LayerNorm(dim), nn.Linear(dim, dim)

    def forward(self, bank_RD: Tensor, context_TD: Tensor, size: tuple[int, int]) -> Tensor:
        """(R, D) rows for one picture, as published not normalised afterwards.

        Args:
            context_TD: of the picture (`picture_context`). size: (h, w), with h · w = T.
        """
        positions_TD = sine_positions(*size, context_TD.shape[1], device=context_TD.device)
        query, key, value = (rows[None] for rows in (bank_RD, context_TD + positions_TD, context_TD))
        added_RD = self.linear(self.multihead_attn(query, key, value, need_weights=False)[0][0])
        if self.kind == "semantic":
            return self.norm(bank_RD + added_RD)
        return bank_RD + self.norm(added_RD)


def picture_context(trunk: ClipTrunk, dense_Chw: Tensor) -> Tensor:
    """(T, D) what class embeddings attend to: CLIP's head on its dense map.

    As published, the map is cut into vectors of C numbers without bringing the channels together first, so that each
    vector mixes cells of a few channels. The released weights were trained with it.
    """
    return trunk.embed(dense_Chw.reshape(-1, dense_Chw.shape[0]))
