"""The network that a configuration describes."""

from __future__ import annotations

import torch

from zs3.nets.fcclip import FcClip
from zs3.nets.pixel_level import PixelLevel
from zs3.nets.zegformer import ModelConfig, ZegFormer

Network = ZegFormer | PixelLevel | FcClip

_NETWORKS: dict[str, type[ZegFormer] | type[PixelLevel] | type[FcClip]] = {
    "zegformer": ZegFormer,
    "pixel_level": PixelLevel,
    "fcclip": FcClip,
}


def build_network(config: ModelConfig) -> Network:
    """The network of a configuration, with random weights.

    Raises:
        ValueError: the model is composed of models of others.
    """
    if config.architecture == "composed":
        raise ValueError(
            "a composed model has no network of ours, which could be trained or started from; choose another checkpoint"
        )
    return _NETWORKS[config.architecture](config)


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a configuration's network; no memory is taken for the tensors."""
    with torch.device("meta"):
        network = build_network(config)
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}
