"""Released checkpoints become checkpoints of zs3, under one of its recipes; what is particular to ZegFormer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zs3.checkpoint import save_checkpoint
from zs3.config import Recipe, recipe_from_json
from zs3.convert import fcclip
from zs3.convert.families import FCCLIP, family_of
from zs3.convert.zegformer_names import NOT_OURS, PREDICTOR, from_released, released_name
from zs3.files import parsed_json, read_file
from zs3.nets.networks import build_network, tensor_shapes
from zs3.recipes import RECIPES, recipe
from zs3.tensor_files import as_float32, read_nested_tensors, refuse_misfits, refuse_not_finite
from zs3.vocabulary import SHIPPED, load_vocabulary
from zs3.wording import first_names

CRITERION = "criterion.empty_weight"
LOGIT_SCALE = PREDICTOR + "logit_scale"
BLOCKS = {6: "resnet50", 23: "resnet101"}
"""Backbone by its number of blocks at stride 16."""
SCALE_TOLERANCE = 1e-3
"""The release stores ln 100 as float32, exact to 3e-7; a temperature of 0.011 instead of 0.01 changes it by 0.1."""
PRECISIONS = (torch.float32, torch.float16, torch.bfloat16)
"""What a logit scale may have been rounded to before it was saved; bfloat16 moves it by 0.01."""
_EMA = re.compile(r"(?<![a-z])ema(?![a-z])")
"""In what stands before the published names: these weights are an exponential moving average."""
_EMA_COUNTS = ("n_averaged", "decay", "num_updates", "updates")
"""Numbers that averages keep beside their weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedWeights:
    """One set of weights of a file, in the published names."""

    state: dict[str, Tensor]
    prefix: str
    """What stands before the published names in the file, as `model.` or `model.module.`."""
    others: tuple[str, ...]
    """What stands before those of the file's other sets of weights."""


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
    prefix: str
    """What stands before the published names in the file, as `model.` or `model.module.`."""
    other_weights: tuple[str, ...]
    """What stands before those of further weights in the file, as `model_ema.`."""
    precision: str
    """Of the weights in the file, as `bfloat16`; they are stored as float32."""


def convert(
    source: str,
    folder: Path,
    recipe_name: str | None = None,
    *,
    clip: str | None = None,
    ema: bool = False,
) -> Conversion:
    """Write a released checkpoint as one of zs3.

    Args:
        source: path or uri of a checkpoint that holds the state dict, or of the state dict alone, with or without
            CLIP's weights. Prefixes before the published names, as `module.`, are left out.
        folder: new or empty.
        recipe_name: a recipe's name or the path of a recipe.json; inferred from the checkpoint if None.
        clip: of an FC-CLIP, where its CLIP's weights come from (`zs3.convert.fcclip.with_clip`).
        ema: take the exponential moving average of the weights, where the file has it besides them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no released checkpoint, its tensors are not those of the recipe, or the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already; name a new folder, or empty this one")
    released = released_weights(read_nested_tensors(source), source, ema=ema)
    state, why = released.state, ""
    is_fcclip = family_of(state, source) == FCCLIP
    if recipe_name is None:
        recipe_name, why = (fcclip.inferred_recipe if is_fcclip else inferred_recipe)(state, source)
    used = load_recipe(recipe_name)
    if is_fcclip:
        seen = fcclip.training_names(state, used, source)
        weights = fcclip.network_state(fcclip.with_clip(state, used, clip), used, source)
    else:
        seen = seen_classes(used)
        refuse_other_classes(state, used, source)
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
        prefix=released.prefix,
        other_weights=released.others,
        precision=", ".join(sorted({str(v.dtype)[6:] for v in state.values() if v.is_floating_point()})),
    )


def released_weights(tensors: Mapping[str, Tensor], source: str, *, ema: bool) -> ReleasedWeights:
    """The weights of one network among all tensors of a file.

    Args:
        ema: take the exponential moving average. Without it, the average is taken where the file has nothing else.

    Raises:
        ValueError: there is no model that zs3 converts, no average, or there are several networks to choose from.
    """
    sets = dict.fromkeys(name.partition(PREDICTOR)[0] for name in tensors if PREDICTOR in name)
    if not sets:
        family_of([*tensors, *(name.partition(".")[2] for name in tensors)], source)  # other models are named
        raise ValueError(
            f"{source} holds no ZegFormer: none of its {len(tensors)} tensors begins with {PREDICTOR} (the first is "
            f"{next(iter(tensors))!r})"
        )
    averages = [prefix for prefix in sets if _EMA.search(prefix)]
    plain = [prefix for prefix in sets if prefix not in averages]
    if ema and not averages:
        raise ValueError(
            f"{source} has no exponential moving average, only the weights {first_names(map(repr, plain))}; leave out "
            "--ema"
        )
    chosen = averages if ema else plain or averages
    if len(chosen) > 1:
        raise ValueError(
            f"{source} has the weights of {len(chosen)} networks ({first_names(map(repr, chosen))}); save the "
            "state_dict() of one of them alone"
        )
    (prefix,) = chosen
    state = {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
        and not name.startswith(tuple(other for other in sets if len(other) > len(prefix)))
    }
    if prefix in averages:
        state = {name: value for name, value in state.items() if name not in _EMA_COUNTS}
    return ReleasedWeights(state=state, prefix=prefix, others=tuple(p for p in sets if p != prefix))


def load_recipe(name: str) -> Recipe:
    """The recipe of a name or of a recipe.json.

    Raises:
        ValueError: there is no such recipe, or the file is none.
    """
    if name in RECIPES or not name.endswith(".json"):
        return recipe(name)
    content = parsed_json(read_file(name), f"recipe {name}", "copy recipe.json of a checkpoint again")
    return recipe_from_json(content, origin=f"recipe {name}")


def inferred_recipe(state: Mapping[str, Tensor], source: str) -> tuple[str, str]:
    """The name of the recipe with the checkpoint's classes and backbone blocks, and these counts in words.

    A checkpoint of a training configuration has the seen classes of its data set, one of an evaluation configuration
    all of them.

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
        if is_released and BLOCKS.get(blocks) == made.model.backbone and classes in class_counts(made):
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


def class_counts(used: Recipe) -> tuple[int, int]:
    """How many seen classes the recipe's data set has, and how many in all."""
    return len(seen_classes(used)), len(load_vocabulary(used.training.datasets[0][0]).candidates)


def refuse_other_classes(state: Mapping[str, Tensor], used: Recipe, source: str) -> None:
    """Raise unless the class weights are those of the recipe's data set: its seen classes or all, and `no object`.

    Raises:
        ValueError: it was trained on another data set.
    """
    seen, every = class_counts(used)
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
    expected_scale = torch.tensor(-math.log(temperature))
    if not any(abs(scale - float(expected_scale.to(kind))) < SCALE_TOLERANCE for kind in PRECISIONS):
        raise ValueError(
            f"{source} has logit_scale {scale:.4f}, but recipe {used.name!r} has model.temperature {temperature:g}, "
            f"whose scale is {expected_scale:.4f}; they must agree"
        )
    network_part = as_float32(network_part, source)
    refuse_not_finite(network_part, source)
    return from_released(network_part)
