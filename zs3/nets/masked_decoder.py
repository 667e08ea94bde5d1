"""The query decoder of Mask2Former: each query attends only to the cells of the mask that it predicted before.

Cheng et al., Masked-attention Mask Transformer for Universal Image Segmentation, CVPR 2022.
"""

# B image, Q query, E hidden, D mask feature, T token of a level, h w cells of stride 4
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zs3.nets.transformer import sine_positions


class Prediction(NamedTuple):
    """What a layer predicts for every query."""

    hidden_BQE: Tensor
    """Normed queries."""
    mask_logits_BQhw: Tensor
    """Mask logits at stride 4."""


class MaskedLayer(nn.Module):
    """Post-norm layer: attention to the cells of a query's own mask, self-attention of the queries, feed-forward."""

    def __init__(self, dim: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.heads = heads
        self.multihead_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.self_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(dim, feedforward), nn.Linear(feedforward, dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(
        self, target_BQE: Tensor, query_BQE: Tensor, memory_BTE: Tensor, keys_BTE: Tensor, blocked_BQT: Tensor
    ) -> Tensor:
        """(B, Q, E) the next target.

        Args:
            query_BQE: learned positions of the queries. keys_BTE: the memory plus its positions.
            blocked_BQT: bool, the cells that a query must not see; no query is blocked everywhere.
        """
        blocked = blocked_BQT.repeat_interleave(self.heads, dim=0)
        attended = self.multihead_attn(
            target_BQE + query_BQE, keys_BTE, memory_BTE, attn_mask=blocked, need_weights=False
        )[0]
        x = self.norm1(target_BQE + attended)
        placed = x + query_BQE
        x = self.norm2(x + self.self_attn(placed, placed, x, need_weights=False)[0])
        return self.norm3(x + self.linear2(F.relu(self.linear1(x))))


class MaskedQueryDecoder(nn.Module):
    """Learned queries, and layers that take the levels in turn.

    Args:
        dim: hidden channels E, those of the levels too. mask_dim: channels D of the mask features.
    """

    def __init__(
        self, dim: int, mask_dim: int, *, queries: int, heads: int, feedforward: int, layers: int, levels: int
    ) -> None:
        super().__init__()
        self.query_feat, self.query_embed = nn.Embedding(queries, dim), nn.Embedding(queries, dim)
        self.level_embed = nn.Embedding(levels, dim)
        self.layers = nn.ModuleList(MaskedLayer(dim, heads, feedforward) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.mask_embed = three_layers(dim, mask_dim)
        for parameter in self.layers.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, levels: Sequence[Tensor], mask_features_BDhw: Tensor, *, all_layers: bool = False
    ) -> list[Prediction]:
        """The last prediction, or all: before the first layer and after each.

        Args:
            levels: (B, E, h, w) maps, coarsest first.
        """
        memories_BTE = [
            features.flatten(2).transpose(1, 2) + embedding
            for features, embedding in zip(levels, self.level_embed.weight)
        ]
        keys_BTE = [
            memory + sine_positions(height, width, dim, device=memory.device)
            for memory, (_, dim, height, width) in zip(memories_BTE, (features.shape for features in levels))
        ]
        batch = len(mask_features_BDhw)
        query_BQE = self.query_embed.weight.expand(batch, -1, -1)
        target_BQE = self.query_feat.weight.expand(batch, -1, -1)
        predictions = [self._predict(target_BQE, mask_features_BDhw)]
        for index, layer in enumerate(self.layers):
            level = index % len(levels)
            blocked_BQT = blocked_cells(predictions[-1].mask_logits_BQhw, levels[level])
            target_BQE = layer(target_BQE, query_BQE, memories_BTE[level], keys_BTE[level], blocked_BQT)
            prediction = self._predict(target_BQE, mask_features_BDhw)
            predictions = [*predictions, prediction] if all_layers else [prediction]
        return predictions

    def _predict(self, target_BQE: Tensor, mask_features_BDhw: Tensor) -> Prediction:
        hidden_BQE = self.norm(target_BQE)
        masks = torch.einsum("bqd,bdhw->bqhw", self.mask_embed(hidden_BQE), mask_features_BDhw)
        return Prediction(hidden_BQE, masks)


@torch.no_grad()
def blocked_cells(mask_logits_BQhw: Tensor, level_BEhw: Tensor) -> Tensor:
    """(B, Q, T) bool: the cells of a level outside a query's mask. A query blocked everywhere is blocked nowhere."""
    logits = F.interpolate(mask_logits_BQhw, size=level_BEhw.shape[-2:], mode="bilinear", align_corners=False)
    blocked_BQT = logits.sigmoid().flatten(2) < 0.5
    return blocked_BQT & ~blocked_BQT.all(dim=2, keepdim=True)


def three_layers(dim: int, outputs: int) -> nn.Sequential:
    """Three linear layers with ReLUs between them."""
    return nn.Sequential(
        nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, outputs)
    )
