"""Released checkpoints become checkpoints of zs3, under one of its recipes; what is particular to ZegFormer."""

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
from zs3.convert import fcclip
from zs3.convert.families import FCCLIP, family_of
from zs3.convert.zegformer_names import NOT_OURS, PREDICTOR, from_released, released_name
from zs3.nets.networks import build_network, tensor_shapes
from zs3.recipes import RECIPES, recipe
from zs3.tensor_files import read_tensors, refuse_misfits, refuse_not_finite
from zs3.vocabulary import SHIPPED, load_vocabulary

CRITERION = "criterion.empty_weight"
LOGIT_SCALE = PREDICTOR + "logit_scale"
BLOCKS = {6: "resnet50", 23: "resnet101"}
"""Backbone by its number of blocks at stride 16."""
SCALE_TOLERANCE = 1e-3
"""The release stores ln 100 as float32, exact to 3e-7; a temperature of 0.011 instead of 0.01 changes it by 0.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """The result of a conversion."""

    checkpoint: str
    """Folder that `--checkpoint` takes."""
    recipe: str
    """Name of its recipe."""
    why: str
    """What in the checkpoint the recipe was inferred from; empty if the recipe was chosen."""
    tensors: int
    """Tensors of the network."""
    parameters: int
    """Numbers in them."""
    clip_tensors_left_out: int
    """CLIP's weights are not part of the network: the recipe's encoder brings its own."""
    seen_classes: int


def convert(
    source: str, folder: Path, recipe_name: str | None = None, *, clip: str | None = None
) -> Conversion:
    """Write a released checkpoint as one of zs3.

    Args:
        source: path or uri of {"model": state dict} or of the state dict alone, with or without CLIP's weights.
        folder: new or empty.
        recipe_name: a recipe's name or the path of a recipe.json; inferred from the checkpoint if None.
        clip: of an FC-CLIP, where its CLIP's weights come from (`zs3.convert.fcclip.with_clip`).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no released checkpoint, its tensors are not those of the recipe, or the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already; name a new folder, or empty this one")
    state = read_tensors(source)
    is_fcclip = family_of(state, source) == FCCLIP
    if not any(name.startswith(PREDICTOR) for name in state):
        raise ValueError(
            f"{source} holds no ZegFormer: none of its {len(state)} tensors begins with {PREDICTOR} (the first is "
            f"{next(iter(state))!r})"
        )
    why = ""
    if recipe_name is None:
        recipe_name, why = (fcclip.inferred_recipe if is_fcclip else inferred_recipe)(state, source)
    used = load_recipe(recipe_name)
    if is_fcclip:
        seen = fcclip.training_names(state, used, source)
        weights = fcclip.network_state(fcclip.with_clip(state, used, clip), used, source)
    else:
        seen = seen_classes(used)
        refuse_other_classes(state, used, len(seen), source)
        weights = network_state(state, used, source)
    network = build_network(used.model)
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


def load_recipe(name: str) -> Recipe:
    """The recipe of a name or of a recipe.json.

    Raises:
        ValueError: there is no such recipe, or the file is none.
    """
    if name in RECIPES or not name.endswith(".json"):
        return recipe(name)
    try:
        content = json.loads(Path(name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"recipe {name} is not valid JSON: {error}") from error
    return recipe_from_json(content, origin=f"recipe {name}")


def inferred_recipe(state: Mapping[str, Tensor], source: str) -> tuple[str, str]:
    """The name of the recipe with the checkpoint's training classes and backbone blocks, and these counts in words.

    Raises:
        ValueError: no recipe has them; the message asks for --recipe.
    """
    blocks = len({match[1] for name in state if (match := re.match(r"backbone\.res4\.(\d+)\.", name))})
    weights = state.get(CRITERION)
    classes = None if weights is None else weights.numel() - 1
    length = "is missing" if classes is None else f"of length {classes + 1}"
    counts = f"{CRITERION} {length} and {blocks} blocks in res4"
    for name, make in RECIPES.items():
        made = make()
        is_released = made.model.backbone in BLOCKS.values() and len(made.training.datasets) == 1
        if is_released and BLOCKS.get(blocks) == made.model.backbone and len(seen_classes(made)) == classes:
            return name, counts
    raise ValueError(
        f"{source} has {counts}, which no recipe has; say with --recipe which it is: a name ({', '.join(RECIPES)}) or "
        "a recipe.json"
    )


def seen_classes(used: Recipe) -> tuple[str, ...]:
    """The seen classes of the one published data set that a recipe trains on.

    Raises:
        ValueError: it trains on another data set, or on several.
    """
    layouts = [layout for layout, _ in used.training.datasets]
    if len(layouts) != 1 or layouts[0] not in SHIPPED:
        raise ValueError(
            f"recipe {used.name!r} trains on {layouts or 'nothing'}; a released checkpoint saw the classes of one of "
            f"{', '.join(SHIPPED)}: set training.datasets"
        )
    return tuple(entry.name for entry in load_vocabulary(layouts[0]).classes if entry.role == "seen")


def refuse_other_classes(state: Mapping[str, Tensor], used: Recipe, seen: int, source: str) -> None:
    """Raise unless the class weights are those of the recipe's data set: its seen classes or all, and `no object`.

    Raises:
        ValueError: it was trained on another data set.
    """
    every = len(load_vocabulary(used.training.datasets[0][0]).candidates)
    if CRITERION in state and state[CRITERION].numel() not in (seen + 1, every + 1):
        raise ValueError(
            f"{source} was trained on {state[CRITERION].numel() - 1} classes ({CRITERION}), but recipe "
            f"{used.name!r} has {seen} seen classes and {every} in all; choose another --recipe"
        )


def network_state(state: Mapping[str, Tensor], used: Recipe, source: str) -> dict[str, Tensor]:
    """The network's state dict, float32, from the released one.

    Raises:
        ValueError: tensors are missing, not expected, of another shape or not finite, or the temperature is not the
            recipe's.
    """
    if used.model.architecture != "zegformer":
        raise ValueError(
            f"recipe {used.name!r} is no ZegFormer but {used.model.architecture}; choose another --recipe"
        )
    if used.model.num_layers > len(state):
        raise ValueError(
            f"recipe {used.name!r} has model.num_layers {used.model.num_layers}, but {source} has {len(state)} tensors "
            "in all; choose another --recipe"
        )
    expected = {released_name(name): shape for name, shape in tensor_shapes(used.model).items()}
    expected[PREDICTOR + "bg_feature"] = (1, used.model.text_dim)
    expected[LOGIT_SCALE] = (1,)
    network_part = {n: value for n, value in state.items() if n == LOGIT_SCALE or not NOT_OURS.match(n)}
    refuse_misfits(network_part, expected, source)
    scale, temperature = float(state[LOGIT_SCALE][0]), used.model.temperature
    if not abs(scale + math.log(temperature)) < SCALE_TOLERANCE:
        raise ValueError(
            f"{source} has logit_scale {scale:.4f}, but recipe {used.name!r} has model.temperature {temperature:g}, "
            f"whose scale is {-math.log(temperature):.4f}; they must agree"
        )
    refuse_not_finite(network_part, source)
    return {name: value.float() for name, value in from_released(network_part).items()}
