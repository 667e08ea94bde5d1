"""CLIP and similar models through open_clip: its architectures and weights, or a local file of weights."""

# N prompt or crop, D embedding, S crop side in pixels

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from zs3.encoders.base import EncoderConfig, mean_of_views
from zs3.files import parsed_json, read_file
from zs3.tensor_files import read_tensors
from zs3.wording import shortened

OPENAI_MEAN = (122.7709383, 116.7460125, 104.09373615)
OPENAI_STD = (68.5005327, 66.6321579, 70.3231630)
HEAD_WIDTH = 64
BATCH_SIZE = 256
FOLDER = "local-dir:"
"""What open_clip's name of a model in a folder begins with; its path follows."""
CONFIG = "open_clip_config.json"
IN_CHECKPOINT = "checkpoint"
"""The value of `EncoderConfig.weights` for a CLIP that is part of the checkpoint."""


class OpenClip:
    """A frozen open_clip model as an `Encoder`, loaded on first use.

    Raises:
        ValueError: the architecture is unknown, or lacks the quick-GELU that the weights need.
        FileNotFoundError: the weights are neither a known tag nor a file.
    """

    def __init__(
        self, config: EncoderConfig, *, device: torch.device, state: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        _check(config.architecture, config.weights, state)
        self.config = config
        self.device = device
        self._state = state if config.weights == IN_CHECKPOINT else None
        is_folder = not config.architecture and Path(config.weights).is_dir()
        self._name = f"{FOLDER}{config.weights}" if is_folder else config.architecture

    @cached_property
    def model(self) -> Any:
        """The open_clip model, frozen, float32, on the device."""
        if self._state is not None:
            model = CLIP(**open_clip.get_model_config(self.config.architecture))
            model.load_state_dict(self._state, strict=True)
        elif self._name:
            model = self._created()
        else:
            model = openai_layout(load_weights(self.config.weights))
        return model.eval().requires_grad_(False).to(self.device)

    def _created(self) -> Any:
        is_folder = self._name.startswith(FOLDER)
        try:
            return open_clip.create_model(
                self._name,
                pretrained=None if is_folder else self.config.weights,
                require_pretrained=True,
                weights_only=True,
            )
        except (AssertionError, RuntimeError) as error:  # a line for each tensor that does not fit
            if isinstance(error, RuntimeError) and "state_dict" not in str(error):
                raise ValueError(
                    f"open_clip cannot make {self._name} with {self.config.weights!r}: {error}"
                ) from error
            architecture = "its open_clip_config.json" if is_folder else self.config.architecture
            raise ValueError(
                f"the weights {self.config.weights!r} are of another architecture than {architecture}: "
                f"{shortened(str(error).splitlines()[-1].strip())}"
            ) from error

    @cached_property
    def image_dim(self) -> int:
        """D."""
        if self._name:
            return int(open_clip.get_model_config(self._name)["embed_dim"])
        return int(self.model.text_projection.shape[1])

    @cached_property
    def image_size_px(self) -> int:
        size = self.model.visual.image_size
        return int(size if isinstance(size, int) else size[0])

    @cached_property
    def image_mean(self) -> tuple[float, float, float]:
        return self._per_channel("mean", OPENAI_MEAN)

    @cached_property
    def image_std(self) -> tuple[float, float, float]:
        return self._per_channel("std", OPENAI_STD)

    @cached_property
    def logit_scale(self) -> float:
        return float(self.model.logit_scale.detach().exp())

    def encode_text(self, phrases: list[str]) -> torch.Tensor:
        """(N, D) float32 unit rows on the CPU."""
        with torch.inference_mode():
            rows = [
                self.model.encode_text(self.tokenizer(phrases[start : start + BATCH_SIZE]).to(self.device))
                for start in range(0, len(phrases), BATCH_SIZE)
            ]
            return _unit(torch.cat(rows)).cpu() if rows else torch.zeros(0, self.image_dim)

    def encode_images(self, crops_N3SS: torch.Tensor) -> torch.Tensor:
        """(N, D) float32 unit rows on the encoder's device."""
        with torch.inference_mode():
            return _unit(self.model.encode_image(crops_N3SS.to(self.device)))

    def average_views(self, views_VNE: torch.Tensor, shares_V: torch.Tensor | None = None) -> torch.Tensor:
        """(N, D) unit rows: the direction of the mean over views."""
        return _unit(mean_of_views(views_VNE, shares_V))

    @cached_property
    def tokenizer(self) -> Any:
        """From phrases to token ids, padded to the model's context."""
        if self._name:
            return open_clip.get_tokenizer(self._name)
        return open_clip.SimpleTokenizer(context_length=self.model.context_length)

    def _per_channel(self, key: str, default: tuple[float, ...]) -> tuple[float, float, float]:
        values = default
        if self._name:
            values = tuple(255 * value for value in self.model.visual.preprocess_cfg[key])
        red, green, blue = values
        return red, green, blue


def load_weights(path: str) -> dict[str, torch.Tensor]:
    """The tensors of a local file by name, without the prefix that training on several GPUs leaves."""
    return {name.removeprefix("module."): value for name, value in read_tensors(path).items()}


def openai_layout(weights: dict[str, torch.Tensor]) -> CLIP:
    """A vision-transformer CLIP in OpenAI's names, with shapes from its tensors, quick-GELU, float32.

    Heads are 64 wide, as in every model that OpenAI released.

    Raises:
        ValueError: the tensors are of another model.
    """
    weights = {key: value.float() for key, value in weights.items() if value.ndim or key == "logit_scale"}
    for needed in ("visual.proj", "visual.conv1.weight", "text_projection", "token_embedding.weight"):
        if needed not in weights:
            raise ValueError(
                f"these weights have no {needed!r}, so they are no vision-transformer CLIP in OpenAI's "
                "names; set the architecture to the open_clip model they belong to"
            )
    width, _, _, patch = weights["visual.conv1.weight"].shape
    cells = weights["visual.positional_embedding"].shape[0] - 1
    text_width = weights["ln_final.weight"].shape[0]
    model = CLIP(
        embed_dim=weights["text_projection"].shape[1],
        vision_cfg=CLIPVisionCfg(
            layers=_depth(weights, "visual.transformer."),
            width=width,
            head_width=HEAD_WIDTH,
            patch_size=patch,
            image_size=patch * round(cells**0.5),
        ),
        text_cfg=CLIPTextCfg(
            context_length=weights["positional_embedding"].shape[0],
            vocab_size=weights["token_embedding.weight"].shape[0],
            width=text_width,
            heads=text_width // HEAD_WIDTH,
            layers=_depth(weights, "transformer."),
        ),
        quick_gelu=True,
    )
    model.load_state_dict(weights, strict=True)
    return model


def _check(architecture: str, weights: str, state: Mapping[str, torch.Tensor] | None) -> None:
    """Refuse an impossible configuration before anything is downloaded or built."""
    if not weights:
        raise ValueError('open_clip needs weights: a pretrained tag such as "openai", or a local path')
    if weights == IN_CHECKPOINT:
        if not state or not architecture:
            raise ValueError(
                f'weights "{IN_CHECKPOINT}" are those of an FC-CLIP checkpoint, with the architecture of its CLIP; '
                "here is none: name a pretrained tag or a local path"
            )
        return
    is_file = Path(weights).is_file()
    if not architecture:
        if Path(weights).is_dir():
            _check_folder(Path(weights))
        elif not is_file:
            raise FileNotFoundError(
                f"no weights at {weights!r}; without an architecture they must be a file in OpenAI's layout or a folder"
            )
        return
    model_config = open_clip.get_model_config(architecture)
    if model_config is None:
        raise ValueError(
            f"open_clip knows no architecture {architecture!r}; open_clip.list_models() names them all"
        )
    if is_file:
        return
    tag = open_clip.get_pretrained_cfg(architecture, weights)
    if not tag:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise FileNotFoundError(
            f"{weights!r} is neither a file nor a pretrained tag of {architecture} (tags: {known})"
        )
    if tag.get("quick_gelu", False) and not model_config.get("quick_gelu", False):
        raise ValueError(
            f"weights {weights!r} were trained with quick-GELU, which {architecture!r} does not use; "
            f"set the architecture to '{architecture}-quickgelu'"
        )


def _check_folder(folder: Path) -> None:
    """Refuse a folder that is not as open_clip saves a model for the hub."""
    for name in (CONFIG, "open_clip_model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}; expected a model as open_clip.push_to_hf_hub saves it, in safetensors"
            )
    where = folder / CONFIG
    config = parsed_json(read_file(str(where)), str(where))
    if not isinstance(config, dict) or not {"model_cfg", "preprocess_cfg"} <= set(config):
        raise ValueError(f"{where} is {shortened(config)}, expected model_cfg and preprocess_cfg")
    text = config["model_cfg"].get("text_cfg", {})
    if "hf_model_name" in text:
        raise ValueError(
            f"the text tower of {folder} is {text['hf_model_name']} of transformers, which would be fetched; choose a "
            "model whose text tower is open_clip's own"
        )


def _depth(weights: dict[str, torch.Tensor], prefix: str) -> int:
    """Number of residual blocks under a prefix."""
    return len({match[1] for key in weights if (match := re.match(rf"{prefix}resblocks\.(\d+)\.", key))})


def _unit(rows: torch.Tensor) -> torch.Tensor:
    rows = rows.float()
    return rows / rows.norm(dim=-1, keepdim=True)
