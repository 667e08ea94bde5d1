"""Weights for the backbone: ImageNet's, in the names of torchvision or of detectron2, or of an FC-CLIP's CLIP."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from zs3.convert.fcclip import clip_weights
from zs3.convert.zegformer_names import our_name
from zs3.nets.fcclip import clip_architecture
from zs3.nets.networks import tensor_shapes
from zs3.nets.zegformer import ModelConfig
from zs3.tensor_files import read_tensors, refuse_misfits, refuse_not_finite

PACKAGED_BACKBONE = "efficientnet_lite0"
"""The value of `training.backbone_weights` for the ImageNet weights of an installed package."""
_NO_BACKBONE = re.compile(r"(stem\.)?fc\.|.*num_batches_tracked$")
"""The classifier (in detectron2 under the stem), and counters that frozen batch norm lacks."""
_DETECTRON = re.compile(r"stem\.|res[2-5]\.")


def read_backbone(config: ModelConfig, uri: str) -> dict[str, Tensor]:
    """The state dict of a model's backbone; raises unless every tensor fits.

    Args:
        config: the model that the weights are for.
        uri: path or uri of a state dict (.pth, .safetensors, .npz, .pkl) in the names of torchvision, which are ours
            (`layer1.0.conv1.weight`), or of detectron2 (`res2.0.conv1.weight`, `stem.conv1.norm.weight`), whose
            `torchvision/R-50.pkl` and `R-101.pkl` hold torchvision's weights. MSRA's `R-101.pkl` is another network.
            For an FC-CLIP: CLIP's weights (`zs3.convert.fcclip.clip_weights`).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is unreadable or would run code, or its tensors are of another network.
    """
    prefix = "backbone."
    if config.architecture == "fcclip":
        weights = clip_weights(clip_architecture(config), uri)
        state = {f"model.{name}": value for name, value in weights.items()}
    else:
        state = torchvision_names(read_tensors(uri))
    state = {name: value for name, value in state.items() if not _NO_BACKBONE.match(name)}
    expected = {
        name.removeprefix(prefix): shape
        for name, shape in tensor_shapes(config).items()
        if name.startswith(prefix) and not _NO_BACKBONE.match(name.removeprefix(prefix))
    }
    refuse_misfits(state, expected, f"backbone weights {uri}")
    refuse_not_finite(state, f"backbone weights {uri}")
    return state


def torchvision_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in torchvision's names, without classifier and counters."""
    kept = {name: value for name, value in state.items() if not _NO_BACKBONE.match(name)}
    if not any(_DETECTRON.match(name) for name in kept):
        return kept
    return {
        (our_name(f"backbone.{name}") or name).removeprefix("backbone.")
        if _DETECTRON.match(name)
        else name: v
        for name, v in kept.items()
    }
