"""Official checkpoints into ours: the weights of the published ZegFormer under a recipe of zs3."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from zs3.checkpoint import save_checkpoint
from zs3.config import Recipe, recipe_from_json
from zs3.convert.zegformer_names import NOT_OURS, PREDICTOR, from_released, released_name
from zs3.nets.networks import build_network
from zs3.nets.zegformer import ZegFormer
from zs3.recipes import RECIPES, recipe
from zs3.tensor_files import read_tensors, refuse_misfits
from zs3.vocabulary import SHIPPED, load_vocabulary

CRITERION = "criterion.empty_weight"
LOGIT_SCALE = PREDICTOR + "logit_scale"
BLOCKS = {6: "resnet50", 23: "resnet101"}
"""Backbone by its number of blocks at stride 16."""
SCALE_TOLERANCE = 1e-3
"""The release stores ln 100 as float32, right to 3e-7; a temperature of 0.011 for 0.01 moves the logarithm by 0.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What became of an official checkpoint."""

    checkpoint: str
    """Folder that `--checkpoint` takes."""
    recipe: str
    """Name of the recipe it got."""
    why: str
    """What in the checkpoint told so; empty where the recipe was given."""
    tensors: int
    """Tensors of the network."""
    parameters: int
    """Numbers in them."""
    clip_tensors_left_out: int
    """CLIP's weights are none of the network's: the recipe's encoder brings its own."""
    seen_classes: int


def convert(source: str, folder: Path, chosen: str | None = None) -> Conversion:
    """Write an official checkpoint as one of ours.

    Args:
        source: path or uri of {"model": state dict} or of the state dict alone, with CLIP's weights or without.
        folder: new, or empty.
        chosen: name of a recipe, or path of a recipe.json; by default the checkpoint tells (`inferred_recipe`).

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is no official checkpoint, its tensors are not those of the recipe, or the folder is in use.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already; name a new folder, or empty this one")
    state = read_tensors(source)
    if not any(name.startswith(PREDICTOR) for name in state):
        raise ValueError(
            f"{source} holds no ZegFormer: none of its {len(state)} tensors begins with {PREDICTOR} (the first is "
            f"{next(iter(state))!r})"
        )
    if chosen is None:
        name, why = inferred_recipe(state, source)
        used = recipe(name)
    else:
        used, why = chosen_recipe(chosen), ""
    seen = seen_classes(used)
    refuse_other_classes(state, used, len(seen), source)
    network = build_network(used.model)
    weights = network_state(state, network, used, source)
    network.load_state_dict(weights, strict=True)
    save_checkpoint(folder, used, network, seen)
    return Conversion(
        checkpoint=str(folder),
        recipe=used.name,
        why=why,
        tensors=len(weights),
        parameters=sum(value.numel() for value in weights.values()),
        clip_tensors_left_out=sum(name.startswith(PREDICTOR + "clip_model.") for name in state),
        seen_classes=len(seen),
    )


def chosen_recipe(chosen: str) -> Recipe:
    """The recipe of a name or of a recipe.json.

    Raises:
        ValueError: neither, or the file is no recipe.
    """
    if chosen in RECIPES or not chosen.endswith(".json"):
        return recipe(chosen)
    try:
        described = json.loads(Path(chosen).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"recipe {chosen} is not valid JSON: {error}") from error
    return recipe_from_json(described, origin=f"recipe {chosen}")


def inferred_recipe(state: Mapping[str, Tensor], source: str) -> tuple[str, str]:
    """The recipe of an official checkpoint and what told it: the number of training classes and of backbone blocks.

    Raises:
        ValueError: these are no recipe's; the message says what was found and asks for --recipe.
    """
    blocks = len({match[1] for name in state if (match := re.match(r"backbone\.res4\.(\d+)\.", name))})
    weights = state.get(CRITERION)
    classes = None if weights is None else weights.numel() - 1
    found = f"{CRITERION} {'is missing' if classes is None else f'of length {classes + 1}'} and {blocks} blocks in res4"
    for name, make in RECIPES.items():
        made = make()
        is_official = made.model.backbone in BLOCKS.values() and len(made.training.datasets) == 1
        if is_official and BLOCKS.get(blocks) == made.model.backbone and len(seen_classes(made)) == classes:
            return name, found
    raise ValueError(
        f"{source} has {found}, which no recipe has; say with --recipe which it is: a name ({', '.join(RECIPES)}) or a "
        "recipe.json"
    )


def seen_classes(used: Recipe) -> tuple[str, ...]:
    """The seen classes of the one published data set that a recipe trains on.

    Raises:
        ValueError: it trains on others, or on several.
    """
    layouts = [layout for layout, _ in used.training.datasets]
    if len(layouts) != 1 or layouts[0] not in SHIPPED:
        raise ValueError(
            f"recipe {used.name!r} trains on {layouts or 'nothing'}; an official checkpoint saw the classes of one of "
            f"{', '.join(SHIPPED)}: set training.datasets"
        )
    return tuple(entry.name for entry in load_vocabulary(layouts[0]).classes if entry.role == "seen")


def refuse_other_classes(state: Mapping[str, Tensor], used: Recipe, seen: int, source: str) -> None:
    """Pass a checkpoint whose class weights are of the recipe's data set: its seen classes or all, and `no object`.

    Raises:
        ValueError: it was trained on another data set.
    """
    every = len(load_vocabulary(used.training.datasets[0][0]).candidates)
    if CRITERION in state and state[CRITERION].numel() not in (seen + 1, every + 1):
        raise ValueError(
            f"{source} was trained on {state[CRITERION].numel() - 1} classes ({CRITERION}), but recipe "
            f"{used.name!r} has {seen} seen classes and {every} in all; choose another --recipe"
        )


def network_state(
    state: Mapping[str, Tensor], network: object, used: Recipe, source: str
) -> dict[str, Tensor]:
    """The network's state dict, float32, from the published layout.

    Raises:
        ValueError: tensors are missing, left over or of another shape, or the temperature is another than the recipe's.
    """
    if not isinstance(network, ZegFormer):
        raise ValueError(
            f"recipe {used.name!r} is no ZegFormer but {used.model.architecture}; choose another --recipe"
        )
    wanted = {released_name(name): tuple(value.shape) for name, value in network.state_dict().items()}
    wanted[PREDICTOR + "bg_feature"] = (1, used.model.text_dim)
    wanted[LOGIT_SCALE] = (1,)
    given = {name: value for name, value in state.items() if name == LOGIT_SCALE or not NOT_OURS.match(name)}
    refuse_misfits(given, wanted, source)
    scale, temperature = float(state[LOGIT_SCALE][0]), used.model.temperature
    if not abs(scale + math.log(temperature)) < SCALE_TOLERANCE:
        raise ValueError(
            f"{source} has logit_scale {scale:.4f}, but recipe {used.name!r} has model.temperature {temperature:g}, "
            f"whose scale is {-math.log(temperature):.4f}; they must agree"
        )
    return {name: value.float() for name, value in from_released(given).items()}
