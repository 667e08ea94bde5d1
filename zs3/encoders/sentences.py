"""The MiniLM sentence encoder as a text-only encoder, for query branches that are trained towards its space."""

# N phrase, D embedding (384)
from __future__ import annotations

from functools import cached_property

import torch

from zs3.encoders import minilm
from zs3.encoders.base import EncoderConfig


class Sentences:
    """MiniLM as an `Encoder` without an image side."""

    image_dim = 0
    image_size_px = 0
    image_mean = image_std = (1.0, 1.0, 1.0)
    logit_scale = 1.0

    def __init__(self, config: EncoderConfig, *, device: torch.device) -> None:
        self.config, self.device = config, device

    @cached_property
    def sentences(self) -> minilm.MiniLm:
        """The network, on the CPU: a class list is short."""
        return minilm.MiniLm()

    def encode_text(self, phrases: list[str]) -> torch.Tensor:
        """(N, 384) float32 unit rows on the CPU."""
        return self.sentences.encode(phrases)

    def encode_images(self, crops_N3SS: torch.Tensor) -> torch.Tensor:
        """Raises ValueError: there is no image side."""
        raise ValueError(
            "encoder minilm has no image side; give image_text an encoder of kind imagenet_words or open_clip"
        )

    def average_views(self, views_VNE: torch.Tensor, shares_V: torch.Tensor | None = None) -> torch.Tensor:
        """Raises ValueError: there is no image side."""
        return self.encode_images(views_VNE)
