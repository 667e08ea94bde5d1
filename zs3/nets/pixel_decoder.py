"""The feature pyramid that turns backbone maps into per-pixel mask features (BasePixelDecoder of MaskFormer)."""

# B image, D mask feature, h w cells of stride 4
from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class ConvNorm(nn.Sequential):
    """Convolution without bias, group norm, and optionally a ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, relu: bool) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
            nn.GroupNorm(32, outputs),
        ]
        super().__init__(*layers, *([nn.ReLU(inplace=True)] if relu else []))
        nn.init.kaiming_uniform_(self[0].weight, a=1)  # type: ignore[arg-type]


class PixelDecoder(nn.Module):
    """Feature pyramid network over four maps: 3x3 on the coarsest, then lateral 1x1, nearest upsampling, sum, 3x3.

    Args:
        channels: channels of the backbone maps, finest first.
        width: channels inside the pyramid (256 in the paper), a multiple of 32.
        mask_dim: channels of the mask features.
    """

    def __init__(self, channels: Sequence[int], width: int, mask_dim: int) -> None:
        super().__init__()
        *finer, coarsest = channels
        self.top = ConvNorm(coarsest, width, 3, relu=True)
        self.laterals = nn.ModuleList(ConvNorm(c, width, 1, relu=False) for c in finer)
        self.outputs = nn.ModuleList(ConvNorm(width, width, 3, relu=True) for _ in finer)
        self.mask_features = nn.Conv2d(width, mask_dim, 3, padding=1)
        nn.init.kaiming_uniform_(self.mask_features.weight, a=1)
        nn.init.zeros_(self.mask_features.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Backbone maps, finest first → (B, D, h, w) mask features at stride 4."""
        *finer, coarsest = maps
        y = self.top(coarsest)
        for features, lateral, output in reversed(list(zip(finer, self.laterals, self.outputs))):
            x = lateral(features)
            y = output(x + F.interpolate(y, size=x.shape[-2:], mode="nearest"))
        return self.mask_features(y)
