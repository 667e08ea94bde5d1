"""The network that a configuration describes."""

from __future__ import annotations

from zs3.nets.pixel_level import PixelLevel
from zs3.nets.zegformer import ModelConfig, ZegFormer

Network = ZegFormer | PixelLevel


def build_network(config: ModelConfig) -> Network:
    """The network of a configuration, with random weights."""
    return PixelLevel(config) if config.architecture == "pixel_level" else ZegFormer(config)
