"""The network that a configuration describes."""

from __future__ import annotations

import torch

from zs3.nets.pixel_level import PixelLevel
from zs3.nets.zegformer import ModelConfig, ZegFormer

Network = ZegFormer | PixelLevel


def build_network(config: ModelConfig) -> Network:
    """The network of a configuration, with random weights."""
    return PixelLevel(config) if config.architecture == "pixel_level" else ZegFormer(config)


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a configuration's network; no memory is taken for the tensors."""
    with torch.device("meta"):
        network = build_network(config)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}
