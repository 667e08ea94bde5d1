"""Image-text encoders: pictures and phrases become unit vectors of one space, compared by cosine.

`open_clip` is the paper's CLIP and every other model that package knows. `imagenet_words` is made of two
models that install as packages (an ImageNet classifier and a sentence encoder), so it runs with no download.
`minilm` is that sentence encoder alone, without an image side.
"""

# N prompt or crop, D text embedding, E image embedding (D == E), S crop side in pixels

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch

Kind = Literal["imagenet_words", "open_clip", "minilm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """Which encoder, with which weights and settings; all of it defines the result."""

    kind: Kind = "imagenet_words"
    """`imagenet_words` runs from installed packages; `open_clip` needs CLIP weights; `minilm` has text
    only."""
    architecture: str = ""
    """open_clip: a model name it knows, as "ViT-B-16-quickgelu". Empty with a local path: OpenAI's own
    layout, shapes read from the weights, quick-GELU. Not read by imagenet_words."""
    weights: str = ""
    """open_clip: a pretrained tag, as "openai", or a local path. Not read by imagenet_words."""
    image_size_px: int = 224
    """imagenet_words: side of the square crop. EfficientNet-Lite0 was trained at 224."""
    image_temperature: float = 0.6
    """imagenet_words: what the classifier's logits are divided by. With the power below, 0.5 to 0.7 name
    equally well (within 0.5 points on training photographs), 1.0 loses 1.5."""
    text_temperature: float = 0.06
    """imagenet_words: what a phrase's cosines with the ImageNet classes are divided by; 0.05 to 0.08 within
    1."""
    text_classes: int = 50
    """imagenet_words: how many ImageNet classes a phrase may stand for. All 1000 lose 3 points, 20 lose 2."""
    definition_share: float = 0.6
    """imagenet_words: weight of a phrase's WordNet definitions beside its own words; 0.5 to 0.7 within 1
    point, none at all loses 3."""
    power: float = 0.35
    """imagenet_words: both distributions are raised to it before their cosine; 0.5 (Bhattacharyya) loses
    1.5."""
    logit_scale: float = 16.0
    """imagenet_words: what cosines are multiplied with before a softmax over classes. The likelihood of the
    true class on training photographs peaks at 20 (VOC, 20 classes) and 12 (MSRC, COCO)."""


class TextEncoder(Protocol):
    """The half of an encoder that a text bank needs."""

    def encode_text(self, phrases: list[str]) -> torch.Tensor: ...


class Encoder(TextEncoder, Protocol):
    """Pictures and phrases to unit rows of one space. Each half loads its network when first asked."""

    @property
    def name(self) -> str: ...
    @property
    def text_dim(self) -> int: ...
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
        """What cosines are multiplied with before the softmax over classes."""
        ...

    def encode_text(self, phrases: list[str]) -> torch.Tensor:
        """(N, D) float32 unit rows on the CPU."""
        ...

    def encode_images(self, crops_N3SS: torch.Tensor) -> torch.Tensor:
        """(N, E) float32 unit rows on the encoder's device, for normalised crops of side `image_size_px`."""
        ...

    def average_views(self, views_VNE: torch.Tensor, shares_V: torch.Tensor | None = None) -> torch.Tensor:
        """(N, E) unit rows of things that were each seen in V crops, which count alike or by shares that sum to 1."""
        ...


def mean_of_views(views_VNE: torch.Tensor, shares_V: torch.Tensor | None) -> torch.Tensor:
    """(N, E) mean over views, by shares that sum to 1 where they are given."""
    return views_VNE.mean(dim=0) if shares_V is None else torch.einsum("v,vne->ne", shares_V, views_VNE)


def load_encoder(config: EncoderConfig, *, device: torch.device) -> Encoder:
    """The encoder of a configuration; its networks are loaded when first used.

    Raises:
        ValueError: unknown kind, architecture or weights.
        FileNotFoundError: weights given as a path that is not there.
    """
    if config.kind == "imagenet_words":
        from zs3.encoders.imagenet_words import ImageNetWords

        return ImageNetWords(config, device=device)
    if config.kind == "open_clip":
        from zs3.encoders.open_clip import OpenClip

        return OpenClip(config, device=device)
    if config.kind == "minilm":
        from zs3.encoders.sentences import Sentences

        return Sentences(config, device=device)
    raise ValueError(f"no encoder is called {config.kind!r}; choose imagenet_words, open_clip or minilm")
