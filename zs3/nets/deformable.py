"""The pixel decoder of Mask2Former: deformable attention over three levels, then one step of a feature pyramid.

Zhu et al., Deformable DETR, ICLR 2021; Cheng et al., Mask2Former, CVPR 2022. In plain torch: bilinear sampling instead
of the published CUDA kernel.
"""

# B image, T token of all levels, E channels, M head, L level, P point, d channels of a head, h w cells
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zs3.nets.pixel_decoder import ConvNorm
from zs3.nets.transformer import sine_positions

LEVELS, POINTS = 3, 4
FEEDFORWARD = 1024
"""Hidden channels of a layer's feed-forward; fixed in the published code, whatever its configuration says."""

Size = tuple[int, int]


class DeformableAttention(nn.Module):
    """Each token looks at a few points of every level, at places that it chooses itself."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.sampling_offsets = nn.Linear(dim, heads * LEVELS * POINTS * 2)
        self.attention_weights = nn.Linear(dim, heads * LEVELS * POINTS)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        for linear in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        angles_M = torch.arange(heads) * (2 * math.pi / heads)
        directions_M2 = torch.stack((angles_M.cos(), angles_M.sin()), dim=1)
        directions_M2 = directions_M2 / directions_M2.abs().amax(dim=1, keepdim=True)
        steps_P = torch.arange(1, POINTS + 1)
        offsets_MLP2 = directions_M2[:, None, None] * steps_P[:, None].expand(LEVELS, POINTS, 1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets_MLP2.flatten())

    def forward(
        self, query_BTE: Tensor, tokens_BTE: Tensor, references_T2: Tensor, sizes: Sequence[Size]
    ) -> Tensor:
        """(B, T, E): the weighted sum of the sampled values.

        Args:
            query_BTE: tokens plus positions. tokens_BTE: the levels one after the other, row by row.
            references_T2: (x, y) of each token's own place, in [0, 1]. sizes: (h, w) of each level.
        """
        batch, count, _ = tokens_BTE.shape
        values_BTMd = self.value_proj(tokens_BTE).unflatten(2, (self.heads, -1))
        offsets = self.sampling_offsets(query_BTE).view(batch, count, self.heads, LEVELS, POINTS, 2)
        shares = self.attention_weights(query_BTE).view(batch, count, self.heads, LEVELS * POINTS)
        sampled = []
        parts = values_BTMd.split([height * width for height, width in sizes], dim=1)
        for level, (part_BTMd, (height, width)) in enumerate(zip(parts, sizes)):
            offsets_BTMP2 = offsets[:, :, :, level] / offsets.new_tensor([width, height])
            places_BTMP2 = 2 * (references_T2[:, None, None] + offsets_BTMP2) - 1
            map_Ndhw = part_BTMd.permute(0, 2, 3, 1).reshape(batch * self.heads, -1, height, width)
            places_NTP2 = places_BTMP2.transpose(1, 2).flatten(0, 1)
            sampled.append(F.grid_sample(map_Ndhw, places_NTP2, mode="bilinear", align_corners=False))
        shares_N1TS = shares.softmax(dim=-1).transpose(1, 2).flatten(0, 1)[:, None]
        sums_NdT = (torch.cat(sampled, dim=-1) * shares_N1TS).sum(dim=-1)
        return self.output_proj(sums_NdT.view(batch, -1, count).transpose(1, 2))


class DeformableLayer(nn.Module):
    """Post-norm layer: deformable attention of all tokens, feed-forward."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(dim, heads)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.linear1, self.linear2 = nn.Linear(dim, FEEDFORWARD), nn.Linear(FEEDFORWARD, dim)

    def forward(
        self, tokens_BTE: Tensor, positions_TE: Tensor, references_T2: Tensor, sizes: Sequence[Size]
    ) -> Tensor:
        """(B, T, E) the next tokens; see `DeformableAttention`."""
        attended = self.self_attn(tokens_BTE + positions_TE, tokens_BTE, references_T2, sizes)
        x = self.norm1(tokens_BTE + attended)
        return self.norm2(x + self.linear2(F.relu(self.linear1(x))))


class DeformablePixelDecoder(nn.Module):
    """Backbone maps become mask features of stride 4 and three maps for the query decoder.

    Args:
        channels: of the backbone's maps, finest first.
        width: channels E of the three maps, a multiple of 32 and of the heads.
        mask_dim: channels of the mask features.
    """

    def __init__(
        self, channels: Sequence[int], width: int, mask_dim: int, *, layers: int, heads: int
    ) -> None:
        super().__init__()
        finest, *others = channels
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width, 1), nn.GroupNorm(32, width)) for c in reversed(others)
        )
        self.level_embed = nn.Parameter(torch.randn(LEVELS, width))
        self.layers = nn.ModuleList(DeformableLayer(width, heads) for _ in range(layers))
        self.lateral = ConvNorm(finest, width, 1, relu=False)
        self.output = ConvNorm(width, width, 3, relu=True)
        self.mask_features = nn.Conv2d(width, mask_dim, 1)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Backbone maps, finest first → (B, D, h, w) mask features, and maps of strides 32, 16, 8."""
        finest, *others = maps
        projected = [project(features) for project, features in zip(self.input_proj, reversed(others))]
        sizes = [(int(x.shape[2]), int(x.shape[3])) for x in projected]
        device, dim = finest.device, projected[0].shape[1]
        positions_TE = torch.cat(
            [
                sine_positions(*size, dim, device=device) + embedding
                for size, embedding in zip(sizes, self.level_embed)
            ]
        )
        references_T2 = torch.cat([cell_centres(*size, device=device) for size in sizes])
        tokens_BTE = torch.cat([x.flatten(2).transpose(1, 2) for x in projected], dim=1)
        for layer in self.layers:
            tokens_BTE = layer(tokens_BTE, positions_TE, references_T2, sizes)
        levels = [
            part.transpose(1, 2).unflatten(2, size)
            for part, size in zip(tokens_BTE.split([h * w for h, w in sizes], dim=1), sizes)
        ]
        # The published code's comment says nearest, its call is bilinear.
        lateral = self.lateral(finest)
        upsampled = F.interpolate(levels[-1], size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        return self.mask_features(self.output(lateral + upsampled)), levels


def cell_centres(height: int, width: int, *, device: torch.device) -> Tensor:
    """(h · w, 2) float32 (x, y) of the cells' centres, in [0, 1], row by row."""
    rows = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
    columns = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack((x, y), dim=-1).flatten(0, 1)
