"""Image-text encoders: pictures and phrases become unit vectors of one space, compared by cosine.

`open_clip` is the paper's CLIP and every other model of that package. `imagenet_words` combines two models that install
as packages (an ImageNet classifier and a sentence encoder), so it needs no download. `minilm` is that sentence encoder
alone, for text only.
"""

# N prompt or crop, D text embedding, E image embedding (D == E), S crop side in pixels

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

Kind = Literal["imagenet_words", "open_clip", "minilm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """Which encoder, with which weights and settings."""

    kind: Kind = "imagenet_words"
    """`imagenet_words` runs from installed packages; `open_clip` needs CLIP weights; `minilm` has text
    only."""
    architecture: str = ""
    """open_clip: one of its model names, such as "ViT-B-16-quickgelu". Empty with a local path: OpenAI's
    layout, with shapes from the weights and quick-GELU."""
    weights: str = ""
    """open_clip: a pretrained tag, such as "openai", a local file, a folder as open_clip saves models for the hub, or
    "checkpoint" where the encoder is a part of the checkpoint, as in FC-CLIP."""
    image_size_px: int = 224
    """imagenet_words: side of the square crop. EfficientNet-Lite0 was trained at 224."""
    image_temperature: float = 0.6
    """imagenet_words: divides the classifier's logits. With the power below, 0.5 to 0.7 are equally accurate
    (within 0.5 points on training photographs), 1.0 loses 1.5."""
    text_temperature: float = 0.06
    """imagenet_words: divides a phrase's cosines with the ImageNet classes; 0.05 to 0.08 differ by at most 1
    point."""
    text_classes: int = 50
    """imagenet_words: number of ImageNet classes that a phrase may stand for. All 1000 lose 3 points, 20 lose 2."""
    definition_share: float = 0.6
    """imagenet_words: weight of a phrase's WordNet definitions against its own words; 0.5 to 0.7 differ by at
    most 1 point, 0 loses 3."""
    power: float = 0.35
    """imagenet_words: exponent of both distributions before their cosine; 0.5 (Bhattacharyya) loses 1.5."""
    logit_scale: float = 16.0
    """imagenet_words: multiplies cosines before a softmax over classes. The likelihood of the true class on
    training photographs peaks at 20 (VOC, 20 classes) and 12 (MSRC, COCO)."""


class TextEncoder(Protocol):
    """The part of an encoder that a text bank needs."""

    def encode_text(self, phrases: list[str]) -> torch.Tensor: ...


class Encoder(TextEncoder, Protocol):
    """Pictures and phrases to unit rows of one space. The image and the text network load on first use."""

    @property
    def image_dim(self) -> int: ...
    @property
    def image_size_px(self) -> int: ...
    @property
    def image_mean(self) -> tuple[float, float, float]:
        """Per channel (RGB), in 0..255 units; crops are (pixel - mean) / std."""
        ...

    @property
    def image_std(self) -> tuple[float, float, float]: ...
    @property
    def logit_scale(self) -> float:
        """Multiplies cosines before the softmax over classes."""
        ...

    def encode_text(self, phrases: list[str]) -> torch.Tensor:
        """(N, D) float32 unit rows on the CPU."""
        ...

    def encode_images(self, crops_N3SS: torch.Tensor) -> torch.Tensor:
        """(N, E) float32 unit rows on the encoder's device, for normalised crops of side `image_size_px`."""
        ...

    def average_views(self, views_VNE: torch.Tensor, shares_V: torch.Tensor | None = None) -> torch.Tensor:
        """(N, E) unit rows of N things with V crops each, weighted equally or by shares that sum to 1."""
        ...


def mean_of_views(views_VNE: torch.Tensor, shares_V: torch.Tensor | None) -> torch.Tensor:
    """(N, E) mean over views, weighted equally or by shares that sum to 1."""
    return views_VNE.mean(dim=0) if shares_V is None else torch.einsum("v,vne->ne", shares_V, views_VNE)


def load_encoder(
    config: EncoderConfig, *, device: torch.device, clip_state: Mapping[str, torch.Tensor] | None = None
) -> Encoder:
    """The encoder of a configuration; its networks load on first use.

    Args:
        clip_state: weights of open_clip's model, for the value "checkpoint" of `config.weights`.

    Raises:
        ValueError: unknown kind, architecture or weights.
        FileNotFoundError: the path of the weights does not exist.
    """
    if config.kind == "imagenet_words":
        from zs3.encoders.imagenet_words import ImageNetWords

        return ImageNetWords(config, device=device)
    if config.kind == "open_clip":
        from zs3.encoders.open_clip import OpenClip

        return OpenClip(config, device=device, state=clip_state)
    if config.kind == "minilm":
        from zs3.encoders.minilm import Sentences

        return Sentences(config, device=device)
    raise ValueError(f"no encoder is called {config.kind!r}; choose imagenet_words, open_clip or minilm")
