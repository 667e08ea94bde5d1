"""FC-CLIP: one frozen convolutional CLIP as backbone and classifier, with the decoders of Mask2Former on top.

Yu et al., Convolutions Die Hard: Open-Vocabulary Segmentation with Single Frozen Convolutional CLIP, NeurIPS 2023.
"""

# B image, Q query, E hidden, D text embedding, C channels of CLIP's last map, H W pixels, h w cells of stride 4
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zs3.nets.clip_trunk import ClipTrunk, bounded_scale, masked_mean
from zs3.nets.content_transfer import ContentTransfer
from zs3.nets.deformable import LEVELS, DeformablePixelDecoder
from zs3.nets.masked_decoder import MaskedQueryDecoder, Prediction, three_layers
from zs3.nets.zegformer import LayerOutput, ModelConfig

CLIP_PREFIX = "open_clip:"
"""What `ModelConfig.backbone` of an FC-CLIP begins with; open_clip's name of the architecture follows."""


class FcClip(nn.Module):
    """Frozen CLIP, pixel decoder, masked-attention decoder, and the head that embeds each query.

    Masks do not depend on any class name. CLIP's text tower is part of the weights and is not run here.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.hidden_dim
        self.backbone = ClipTrunk(clip_architecture(config))
        self.pixel_decoder = DeformablePixelDecoder(
            self.backbone.channels,
            dim,
            config.mask_dim,
            layers=config.pixel_encoder_layers,
            heads=config.num_heads,
        )
        self.decoder = MaskedQueryDecoder(
            dim,
            config.mask_dim,
            queries=config.num_queries,
            heads=config.num_heads,
            feedforward=config.feedforward_dim,
            layers=config.num_layers,
            levels=LEVELS,
        )
        self.mask_pooling = nn.Sequential(nn.LayerNorm(config.mask_dim), nn.Linear(config.mask_dim, dim))
        self.class_embed = three_layers(dim, config.text_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.void_embedding = nn.Embedding(1, config.text_dim)
        self.transfer = (
            None if config.text_transfer == "none" else ContentTransfer(config.text_dim, config.text_transfer)
        )

    def forward(self, images_B3HW: Tensor, *, all_layers: bool = False) -> list[LayerOutput]:
        """Normalised, padded images (B, 3, H, W) → the last output, or every output for training.

        H and W are multiples of `size_divisibility`.
        """
        return self.decode(self.backbone(images_B3HW), all_layers=all_layers)

    def decode(self, maps: Sequence[Tensor], *, all_layers: bool = False) -> list[LayerOutput]:
        """As `forward`, from the maps of the backbone."""
        # As published, float32 also where the rest runs in mixed precision.
        with torch.autocast(maps[0].device.type, enabled=False):
            mask_features, levels = self.pixel_decoder([features.float() for features in maps])
        predictions = self.decoder(levels, mask_features, all_layers=all_layers)
        return [self._output(prediction, mask_features) for prediction in predictions]

    def segment_embeddings(self, prediction: Prediction, mask_features_BDhw: Tensor) -> Tensor:
        """(B, Q, D) embeddings of the queries, not normalised; no gradient flows into the masks through them."""
        pooled = masked_mean(mask_features_BDhw, prediction.mask_logits_BQhw.detach() > 0)
        return self.class_embed(self.mask_pooling(pooled) + prediction.hidden_BQE)

    def image_embeddings(self, dense_BChw: Tensor, mask_logits_BQhw: Tensor) -> tuple[Tensor, Tensor]:
        """CLIP's own view of each mask: (B, Q, D) unit rows, and (B, Q) bool, whether the mask has a cell there.

        Args:
            dense_BChw: the last map of the backbone.
        """
        embeddings, valid = self.backbone.mask_embeddings(dense_BChw, mask_logits_BQhw)
        return F.normalize(embeddings, dim=-1), valid

    def _output(self, prediction: Prediction, mask_features_BDhw: Tensor) -> LayerOutput:
        embeddings = F.normalize(self.segment_embeddings(prediction, mask_features_BDhw).float(), dim=-1)
        temperature = 1 / bounded_scale(self.logit_scale)
        no_object = (embeddings @ F.normalize(self.void_embedding.weight, dim=1).T)[..., 0] / temperature
        return LayerOutput(embeddings, no_object, prediction.mask_logits_BQhw, temperature)


def clip_architecture(config: ModelConfig) -> str:
    """open_clip's name of the backbone.

    Raises:
        ValueError: the backbone is none of open_clip's.
    """
    if not config.backbone.startswith(CLIP_PREFIX):
        raise ValueError(
            f"an FC-CLIP needs the backbone {CLIP_PREFIX}NAME with a convolutional NAME of open_clip.list_models(), "
            f"got {config.backbone!r}"
        )
    return config.backbone.removeprefix(CLIP_PREFIX)
