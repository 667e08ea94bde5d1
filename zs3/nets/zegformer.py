"""ZegFormer: images in, class-agnostic masks with an embedding each out. It knows no class name."""

# B image, Q query, C class, R row of a text bank, E hidden, D text embedding, H W pixels, h w cells of stride 4
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from zs3.nets.backbone import build_backbone
from zs3.nets.pixel_decoder import PixelDecoder
from zs3.nets.transformer import QueryDecoder

RGB = tuple[float, float, float]
IMAGENET_MEAN: RGB = (123.675, 116.280, 103.530)
IMAGENET_STD: RGB = (58.395, 57.120, 57.375)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Size and parts of the network; the defaults are the published R50 model."""

    architecture: Literal["zegformer", "pixel_level", "fcclip", "composed"] = "zegformer"
    """zegformer: segments with an embedding each; pixel_level: the paper's baseline with an embedding for every pixel
    (`zs3.nets.pixel_level`), which ignores the decoder's fields; fcclip: masks on a frozen CLIP (`zs3.nets.fcclip`),
    which ignores `pyramid_dim`, `dropout` and `temperature` (its own is among its weights); composed: a mask source of
    transformers (`zs3.parts.mask_sources`), which ignores all fields but `backbone` and `text_dim`."""
    backbone: str = "resnet50"
    """resnet50, resnet101 or timm:NAME; of an fcclip open_clip:NAME, of a composed model transformers:FAMILY."""
    backbone_width: int = 64
    """Channels of a ResNet's stem; ignored by timm networks."""
    bottleneck_width: int | None = None
    """Channels of a ResNet's first bottleneck; None takes those of the stem."""
    pyramid_dim: int = 256
    """Channels inside the pixel decoder, a multiple of 32."""
    mask_dim: int = 256
    """Channels of the mask features and mask embeddings."""
    hidden_dim: int = 256
    """Channels of the query decoder."""
    num_queries: int = 100
    """Segments per image."""
    num_heads: int = 8
    """Attention heads."""
    feedforward_dim: int = 2048
    """Hidden channels of the decoder's feed-forward."""
    num_layers: int = 6
    """Decoder layers."""
    pixel_encoder_layers: int = field(default=6, metadata={"later": True})
    """fcclip: layers of deformable attention in the pixel decoder."""
    text_transfer: Literal["none", "semantic", "panoptic"] = field(default="none", metadata={"later": True})
    """fcclip: which form of MAFT+'s content-dependent transfer the image branch's class embeddings take."""
    dropout: float = 0.1
    """Dropout inside the decoder, a share."""
    segment_features: Literal["query", "query_and_pooled"] = "query"
    """Input of a segment embedding: the decoder's query, as published, or also the backbone's two coarsest maps
    averaged under the segment's mask."""
    text_dim: int = 512
    """Length of the text embeddings that segment embeddings are compared with."""
    temperature: float = 0.01
    """τ of the cosine classifier; the logits are cosines / τ."""
    image_mean: RGB = IMAGENET_MEAN
    """Subtracted from RGB values in 0..255."""
    image_std: RGB = IMAGENET_STD
    """Divides the values after the mean is subtracted."""
    size_divisibility: int = 32
    """Images are zero-padded right and below to a multiple of this, in pixels."""


class LayerOutput(NamedTuple):
    """The output of one decoder layer for every query."""

    embeddings_BQD: Tensor
    """Unit-length segment embeddings."""
    no_object_logits_BQ: Tensor
    """Logit of `no object`, already divided by the temperature."""
    mask_logits_BQhw: Tensor
    """Mask logits at stride 4."""
    temperature: float | Tensor
    """τ, what cosines are divided by."""


class ZegFormer(nn.Module):
    """Backbone, pixel decoder, query decoder, mask head and segment-embedding head (ZegFormer, section 3).

    Class names are not part of it: `class_logits` compares the embeddings with any text bank.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.hidden_dim
        self.backbone = build_backbone(
            config.backbone, width=config.backbone_width, bottleneck_width=config.bottleneck_width
        )
        self.pixel_decoder = PixelDecoder(self.backbone.channels, config.pyramid_dim, config.mask_dim)
        self.decoder = QueryDecoder(
            self.backbone.channels[-1],
            dim,
            queries=config.num_queries,
            heads=config.num_heads,
            feedforward=config.feedforward_dim,
            layers=config.num_layers,
            dropout=config.dropout,
        )
        self.mask_embed = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, config.mask_dim)
        )
        self.projection = nn.Linear(dim, config.text_dim)
        self.pooled = (
            PooledFeatures(self.backbone.channels[-2:], config.text_dim)
            if config.segment_features == "query_and_pooled"
            else None
        )
        # As published, this vector is not normalised, so the logit of `no object` is no cosine like those of classes.
        self.void_embedding = nn.Parameter(torch.empty(config.text_dim))
        nn.init.uniform_(self.void_embedding, -1 / math.sqrt(config.text_dim), 1 / math.sqrt(config.text_dim))

    def forward(self, images_B3HW: Tensor, *, all_layers: bool = False) -> list[LayerOutput]:
        """Normalised, padded images (B, 3, H, W) → outputs of the last layer, or of every layer for training.

        H and W are multiples of `size_divisibility`.
        """
        maps = self.backbone(images_B3HW)
        mask_features = self.pixel_decoder(maps)
        hidden = self.decoder(maps[-1])
        return [self._heads(h, mask_features, maps[-2:]) for h in (hidden if all_layers else hidden[-1:])]

    def _heads(self, hidden_BQE: Tensor, mask_features_BDhw: Tensor, maps: Sequence[Tensor]) -> LayerOutput:
        masks = torch.einsum("bqd,bdhw->bqhw", self.mask_embed(hidden_BQE), mask_features_BDhw)
        projected = self.projection(hidden_BQE).float()
        if self.pooled is not None:
            projected = projected + self.pooled(masks, maps).float()
        embeddings = projected / projected.norm(dim=-1, keepdim=True)
        no_object = embeddings @ self.void_embedding.float() / self.config.temperature
        return LayerOutput(embeddings, no_object, masks, self.config.temperature)


class PooledFeatures(nn.Module):
    """Backbone features under each segment, for its embedding.

    Maps are averaged under the mask probabilities, each normalised, then projected together. No gradient flows into the
    masks: they are trained to segment, not to be easily classified.

    Args:
        channels: of the maps. text_dim: D.
    """

    def __init__(self, channels: Sequence[int], text_dim: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(count) for count in channels)
        self.projection = nn.Linear(sum(channels), text_dim, bias=False)

    def forward(self, mask_logits_BQhw: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """(B, Q, h, w) mask logits and the maps (B, C, h / n, w / n) → (B, Q, D), not normalised."""
        shares_BQhw = mask_logits_BQhw.detach().float().sigmoid()
        pooled = []
        for norm, features_BChw in zip(self.norms, maps):
            height, width = features_BChw.shape[-2:]
            weights_BQhw = functional.adaptive_avg_pool2d(shares_BQhw, (height, width))
            sums_BQC = torch.einsum("bqhw,bchw->bqc", weights_BQhw, features_BChw.float())
            pooled.append(norm(sums_BQC / weights_BQhw.sum((-2, -1)).clamp(min=1e-6)[..., None]))
        return self.projection(torch.cat(pooled, dim=-1))


def class_logits(output: LayerOutput, bank_RD: Tensor, class_of_row_R: Tensor | None = None) -> Tensor:
    """(B, Q, C + 1) logits: cosines with the text bank over the temperature, `no object` in the last column.

    Args:
        output: of one layer.
        bank_RD: (R, D) unit rows.
        class_of_row_R: see `nearest_rows`.
    """
    classes = nearest_rows(output.embeddings_BQD @ bank_RD.T, class_of_row_R) / output.temperature
    return torch.cat((classes, output.no_object_logits_BQ[..., None]), dim=-1)


def nearest_rows(cosines: Tensor, class_of_row_R: Tensor | None) -> Tensor:
    """(…, R) cosines with the rows of a text bank → (…, C): of the rows of a class, the largest counts.

    Args:
        class_of_row_R: (R,) int64, ascending, the class of each row; None: row by row.
    """
    if class_of_row_R is None:
        return cosines
    best = cosines.new_zeros(*cosines.shape[:-1], int(class_of_row_R[-1]) + 1)
    return best.scatter_reduce(-1, class_of_row_R.expand_as(cosines), cosines, "amax", include_self=False)
