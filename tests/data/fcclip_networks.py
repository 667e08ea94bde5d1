"""The two small FC-CLIPs of the recordings: their CLIPs known to open_clip by name, their recipes and weights."""

import zlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
from timm.models.convnext import _create_convnext

from tests.support.parity import FOLDER, facts
from zs3.checkpoint import Checkpoint
from zs3.config import Recipe
from zs3.convert.fcclip import network_state
from zs3.nets.fcclip import FcClip
from zs3.nets.networks import build_network
from zs3.recipes import recipe
from zs3.vocabulary import ClassEntry, Vocabulary

CONFIGS = Path(__file__).resolve().parent / "clip_configs"
ARCHITECTURES = {"convnext": ("convnext_tinytest", 64), "rn": ("rn_tinytest-quickgelu", 96)}


@timm.models.register_model
def convnext_tinytest(pretrained: bool = False, **options: Any) -> Any:
    """The image tower of the recorded ConvNeXt."""
    return _create_convnext(
        "convnext_base", pretrained, depths=(1, 1, 2, 1), dims=(16, 32, 64, 128), **options
    )


open_clip.add_model_config(CONFIGS)


class RecipeName(str):
    """A recipe's name; a process that gets it from another one imports this file, and so knows the architectures."""


def tiny_fcclip(name: str, short_side_px: int = 96) -> Recipe:
    """The recipe of a recorded network, `convnext` or `rn`."""
    architecture, text_dim = ARCHITECTURES[name]
    released = recipe("fcclip_convnext_large" if name == "convnext" else "fcclip_r50")
    names = replace(
        released.query_text, encoder=replace(released.query_text.encoder, architecture=architecture)
    )
    return replace(
        released,
        name=RecipeName(f"tiny_{name}"),
        model=replace(
            released.model, backbone=f"open_clip:{architecture}", hidden_dim=64, mask_dim=64, num_queries=20,
            num_heads=4, feedforward_dim=128, num_layers=4, pixel_encoder_layers=2 if name == "convnext" else 1,
            text_dim=text_dim,
        ),
        query_text=names,
        image_text=names,
        segmenting=replace(released.segmenting, short_side_px=short_side_px),
    )  # fmt: skip


def small_training() -> Recipe:
    """The recorded ConvNeXt's recipe, in eight steps on the pictures of `write_shapes`, from a random CLIP."""
    made = tiny_fcclip("convnext")
    return replace(
        made,
        training=replace(
            made.training, datasets=(("folder", "shapes"),), steps=8, batch_size=2, checkpoint_every=2,
            backbone_weights="", precision="float32", schedule=replace(made.training.schedule, falls_at=(6,)),
            augmentation=replace(made.training.augmentation, crop_px=64, fit_range=(0.8, 1.5)),
            losses=replace(made.training.losses, num_points=196),
        ),
    )  # fmt: skip


SEEDS = {"convnext": 21, "rn": 22}
TOKENS = "token_embedding.weight"
"""Rows of tokens that no recorded prompt has are 0."""


def normal_numbers(seed: int, key: str, shape: list[int]) -> np.ndarray:
    """The numbers that a tensor was made of, float64."""
    return np.random.default_rng([seed, zlib.crc32(key.encode())]).standard_normal(shape)


def drawn_half(seed: int, key: str, entry: list[Any]) -> np.ndarray:
    """A tensor, float16, from its shape, gain and shift; the gain is over the root of the inputs of a row."""
    shape, gain, shift = entry
    scale = gain / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else gain
    return (scale * normal_numbers(seed, key, shape) + shift).astype(np.float32).astype(np.float16)


@cache
def recorded_state(name: str) -> dict[str, torch.Tensor]:
    """The weights of a recorded network by released names, CLIP included."""
    state = {}
    with np.load(FOLDER / "fcclip_weights.npz") as stored:
        for key, entry in facts("fcclip")["weights"][name].items():
            value = drawn_half(SEEDS[name], key, entry) if len(entry) == 3 else stored[f"{name}/{key}"]
            if key.endswith(TOKENS):
                rows, value = value, np.zeros(entry[0], np.float16)
                value[stored[f"{name}/rows"]] = rows
            state[key] = torch.from_numpy(value)
    return state


@cache
def network_of(name: str) -> FcClip:
    """A recorded network with its weights."""
    made = tiny_fcclip(name)
    network = build_network(made.model).eval()
    network.load_state_dict(network_state(recorded_state(name), made, name), strict=True)
    assert isinstance(network, FcClip)
    return network


def checkpoint_of(name: str, short_side_px: int = 96) -> Checkpoint:
    """The same as a checkpoint that was never written."""
    return Checkpoint(
        origin=name,
        recipe=tiny_fcclip(name, short_side_px),
        state=network_of(name).state_dict(),
        seen_classes=tuple(facts("fcclip")["train"]),
        digest="0" * 64,
    )


def recorded_vocabulary() -> Vocabulary:
    """The twelve classes of the recordings, each with its synonyms in its name."""
    names = facts("fcclip")["test"]
    return Vocabulary(
        name="recorded", classes=tuple(ClassEntry(id=i, name=name) for i, name in enumerate(names, start=1))
    )
