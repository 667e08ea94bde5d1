"""The query decoder: learned queries attend to the coarsest backbone map and become segment embeddings."""

# B image, Q query, E hidden, h w cells of the memory map, T = h*w tokens
from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sine_positions(height: int, width: int, dim: int, *, device: torch.device | None = None) -> Tensor:
    """Fixed sine positions of a grid, (T, E) float32: half the channels for rows, half for columns.

    A coordinate is (index + 1) / (length + 1e-6) · 2π; channel pairs share the frequency 10000^(2⌊i/2⌋ / (E/2)),
    even channels take the sine and odd ones the cosine (MaskFormer's PositionEmbeddingSine, normalised).
    """
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=device)
    frequency = 10000 ** (2 * torch.div(steps, 2, rounding_mode="floor") / half)

    def axis(length: int) -> Tensor:
        position = (
            torch.arange(1, length + 1, dtype=torch.float32, device=device) / (length + 1e-6) * 2 * math.pi
        )
        angle = position[:, None] / frequency
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)

    rows = axis(height)[:, None].expand(height, width, half)
    columns = axis(width)[None].expand(height, width, half)
    return torch.cat((rows, columns), dim=2).reshape(height * width, dim)


class DecoderLayer(nn.Module):
    """Post-norm layer of DETR: self-attention of the queries, attention to the image, feed-forward."""

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.linear1 = nn.Linear(dim, feedforward)
        self.linear2 = nn.Linear(feedforward, dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, target_BQE: Tensor, query_BQE: Tensor, memory_BTE: Tensor, keys_BTE: Tensor) -> Tensor:
        """(B, Q, E) the next target; `keys` are the memory plus its positions, `query` the learned query positions."""
        placed = target_BQE + query_BQE
        attended = self.self_attn(placed, placed, target_BQE, need_weights=False)[0]
        x = self.norm1(target_BQE + self.dropout(attended))
        attended = self.multihead_attn(x + query_BQE, keys_BTE, memory_BTE, need_weights=False)[0]
        x = self.norm2(x + self.dropout(attended))
        return self.norm3(x + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x))))))


class QueryDecoder(nn.Module):
    """Decoder layers over one memory map, whose outputs all pass the same final norm.

    Args:
        channels: of the memory map.
        dim: hidden channels E.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        *,
        queries: int,
        heads: int,
        feedforward: int,
        layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.input_proj = nn.Conv2d(channels, dim, 1)
        self.query_embed = nn.Embedding(queries, dim)
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, feedforward, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        for parameter in self.layers.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.kaiming_uniform_(self.input_proj.weight, a=1)
        nn.init.zeros_(self.input_proj.bias)  # type: ignore[arg-type]

    def forward(self, features_BChw: Tensor) -> list[Tensor]:
        """(B, C, h, w) memory map → normed (B, Q, E) outputs, one per layer."""
        memory = self.input_proj(features_BChw)
        batch, dim, height, width = memory.shape
        memory = memory.flatten(2).transpose(1, 2)
        keys = memory + sine_positions(height, width, dim, device=memory.device).to(memory.dtype)
        query = self.query_embed.weight.expand(batch, -1, -1)
        target = torch.zeros_like(query)
        outputs = []
        for layer in self.layers:
            target = layer(target, query, memory, keys)
            outputs.append(self.norm(target))
        return outputs
