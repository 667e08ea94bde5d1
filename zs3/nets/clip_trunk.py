"""A frozen convolutional CLIP as a backbone: feature maps, and its own embedding of what lies under a mask.

The CLIP is a ConvNeXt or a ResNet of open_clip (FC-CLIP, section 3.2 of arXiv 2308.02487). Its embedding of a mask is
that of the mean of its last map under the mask, or, in a ResNet, of its attention pooling restricted to the mask.
"""

# B image, Q mask, C channels, D embedding, G cells of the position grid, M head, H W pixels, h w cells of stride 32
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from open_clip.model import CLIP

MAX_LOGIT_SCALE = 100.0
"""Upper bound on the factor of cosines, learned as its logarithm and clamped where it is used."""


class ClipTrunk(nn.Module):
    """A whole CLIP whose image tower is the backbone; frozen, in evaluation mode, also while the rest is trained.

    Args:
        architecture: open_clip's name of it.
        clip: with its weights; random ones if None.

    Raises:
        ValueError: open_clip has no such architecture, or its image tower is neither a ConvNeXt nor a ResNet.
    """

    def __init__(self, architecture: str, clip: CLIP | None = None) -> None:
        super().__init__()
        self.model = build_clip(architecture) if clip is None else clip
        visual = self.model.visual
        self.is_resnet = hasattr(visual, "attnpool")
        if not self.is_resnet and not hasattr(getattr(visual, "trunk", None), "stages"):
            raise ValueError(
                f"open_clip's {architecture} is no convolutional CLIP; FC-CLIP needs a ConvNeXt or a ResNet, such as "
                "convnext_large_d_320 or RN50-quickgelu"
            )
        self.channels: tuple[int, ...] = (
            tuple(int(layer[-1].bn3.num_features) for layer in self._stages())
            if self.is_resnet
            else tuple(int(info["num_chs"]) for info in visual.trunk.feature_info)
        )
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> ClipTrunk:
        return super().train(False)

    def _stages(self) -> list[Any]:
        visual = self.model.visual
        names = ("layer1", "layer2", "layer3", "layer4")
        return [getattr(visual, name) for name in names] if self.is_resnet else list(visual.trunk.stages)

    @torch.no_grad()
    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised images → four maps, strides 4, 8, 16, 32; the last is CLIP's dense map."""
        visual: Any = self.model.visual
        features = visual.stem(images_B3HW) if self.is_resnet else visual.trunk.stem(images_B3HW)
        maps = []
        for stage in self._stages():
            features = stage(features)
            maps.append(features)
        return maps

    @torch.no_grad()
    def mask_embeddings(self, dense_BChw: Tensor, mask_logits_BQhw: Tensor) -> tuple[Tensor, Tensor]:
        """CLIP's embedding of each mask, and whether the mask has a cell of the dense map.

        As published, the cells of a mask are those where its logits, resized bilinearly without antialiasing, are above
        0, and all masks without a cell get the same embedding.

        Args:
            mask_logits_BQhw: over the same padded picture, at any stride.

        Returns:
            (B, Q, D), not normalised, and (B, Q) bool.
        """
        logits = F.interpolate(
            mask_logits_BQhw, size=dense_BChw.shape[-2:], mode="bilinear", align_corners=False
        )
        inside_BQhw = logits > 0
        if self.is_resnet:
            embeddings = self._attention_pool(dense_BChw, inside_BQhw)
        else:
            embeddings = self.embed(masked_mean(dense_BChw, inside_BQhw))
        return embeddings, inside_BQhw.flatten(2).any(dim=2)

    def embed(self, pooled: Tensor) -> Tensor:
        """(…, C) vectors of a ConvNeXt's last map → (…, D) by CLIP's own head, not normalised."""
        visual: Any = self.model.visual
        rows = visual.head(visual.trunk.forward_head(pooled.reshape(-1, pooled.shape[-1], 1, 1)))
        return rows.view(*pooled.shape[:-1], -1)

    def _attention_pool(self, dense_BChw: Tensor, inside_BQhw: Tensor) -> Tensor:
        """(B, Q, D): a ResNet's attention pooling, each mask seeing its own cells.

        As published, the mean token asks and is not among the keys, which it is in CLIP.
        """
        pool: Any = self.model.visual.attnpool
        positions_GC, heads = pool.positional_embedding, pool.num_heads
        side = round((len(positions_GC) - 1) ** 0.5)
        grid = positions_GC[1:].T.reshape(1, -1, side, side)
        grid = F.interpolate(grid, size=dense_BChw.shape[-2:], mode="bilinear", align_corners=False)
        cells_BTC = (dense_BChw + grid).flatten(2).transpose(1, 2)
        mean_B1C = dense_BChw.flatten(2).mean(dim=2)[:, None] + positions_GC[0]

        def by_head(values_BNC: Tensor) -> Tensor:
            return values_BNC.unflatten(2, (heads, -1)).transpose(1, 2)

        query, key, value = (
            by_head(project(tokens))
            for project, tokens in (
                (pool.q_proj, mean_B1C),
                (pool.k_proj, cells_BTC),
                (pool.v_proj, cells_BTC),
            )
        )
        logits_BM1T = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        outside_B1QT = ~inside_BQhw.flatten(2)[:, None]
        # Older versions of torch give NaN for a mask without a cell; as recorded, nothing is attended to.
        shares_BMQT = logits_BM1T.masked_fill(outside_B1QT, -torch.inf).softmax(dim=-1).nan_to_num(0.0)
        return pool.c_proj((shares_BMQT @ value).transpose(1, 2).flatten(2))


def build_clip(architecture: str) -> CLIP:
    """An open_clip model with random weights.

    Raises:
        ValueError: there is no such architecture.
    """
    import open_clip  # takes a second, which other networks need not wait for
    from open_clip.model import CLIP

    config = open_clip.get_model_config(architecture)
    if config is None:
        raise ValueError(
            f"open_clip knows no architecture {architecture!r}; open_clip.list_models() names them all"
        )
    return CLIP(**config)


def masked_mean(features_BChw: Tensor, inside_BQhw: Tensor) -> Tensor:
    """(B, Q, C) mean of the features over the cells of each mask; 0 for a mask without a cell."""
    inside = inside_BQhw.to(features_BChw.dtype)
    sums = torch.einsum("bchw,bqhw->bqc", features_BChw, inside)
    return sums / (inside.sum(dim=(-2, -1)) + 1e-8)[..., None]


def bounded_scale(logarithm: Tensor) -> Tensor:
    """The factor of cosines from its learned logarithm, at most `MAX_LOGIT_SCALE`."""
    return logarithm.exp().clamp(max=MAX_LOGIT_SCALE)
