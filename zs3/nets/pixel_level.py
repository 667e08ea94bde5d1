"""The paper's pixel-level baseline: each pixel has an embedding of its own, compared with the text embeddings.

SPNet (Xian et al., CVPR 2019) on ZegFormer's feature pyramid, called "SPNet-FPN" in ZegFormer's paper: the same
backbone and pixel decoder, without queries, masks and `no object`.
"""

# B image, D text embedding, C class, H W pixels, h w cells of stride 4
from __future__ import annotations

import torch
from torch import Tensor, nn

from zs3.nets.backbone import build_backbone
from zs3.nets.pixel_decoder import PixelDecoder
from zs3.nets.zegformer import ModelConfig


class PixelLevel(nn.Module):
    """Backbone, pixel decoder, and a 1x1 convolution from mask features to the text encoder's space."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(
            config.backbone, width=config.backbone_width, bottleneck_width=config.bottleneck_width
        )
        self.pixel_decoder = PixelDecoder(self.backbone.channels, config.pyramid_dim, config.mask_dim)
        self.projection = nn.Conv2d(config.mask_dim, config.text_dim, 1)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Normalised, padded images (B, 3, H, W) → (B, D, h, w) float32 unit embeddings, one for each cell.

        H and W are multiples of `size_divisibility`.
        """
        projected = self.projection(self.pixel_decoder(self.backbone(images_B3HW))).float()
        return projected / projected.norm(dim=1, keepdim=True)


def cell_logits(embeddings_BDhw: Tensor, bank_CD: Tensor, temperature: float) -> Tensor:
    """(B, C, h, w) logits: cosines with the unit rows of a text bank, over the temperature τ."""
    return torch.einsum("bdhw,cd->bchw", embeddings_BDhw, bank_CD) / temperature
