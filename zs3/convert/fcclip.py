"""What is different where a released checkpoint is an FC-CLIP or a MAFT+: sizes, training classes, names, CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from zs3.config import Recipe
from zs3.convert.fcclip_names import CLIP, PIXELS, released_name
from zs3.encoders import Encoder, EncoderConfig, load_encoder
from zs3.nets.fcclip import clip_architecture
from zs3.nets.networks import tensor_shapes
from zs3.open_vocabularies import class_words
from zs3.tensor_files import as_float32, read_tensors, refuse_misfits, refuse_not_finite

VOID = "void_embedding.weight"
CRITERION = "criterion.empty_weight"
DEEPEST = PIXELS + "input_proj.0.0.weight"
TRANSFER, TEACHER = "cdt.", "backbone_t."
"""What MAFT+ has more: its transfer, and the CLIP that its own was kept near to in training."""
COUNTER = "num_batches_tracked"
"""Of batch norms, which are frozen."""

SIZES = {
    (1536, 768): "fcclip_convnext_large",
    (2048, 1024): "fcclip_r50",
    (2048, 512): "fcclip_r101",
    (2560, 640): "fcclip_r50x4",
    (3072, 768): "fcclip_r50x16",
    (4096, 1024): "fcclip_r50x64",
}
"""(channels of CLIP's last map, length of the embeddings) → recipe."""
MAFT_PLUS_SIZES = {(1024, 640): "maft_plus_base", (1536, 768): "maft_plus_large"}


def inferred_recipe(state: Mapping[str, Tensor], source: str) -> tuple[str, str]:
    """The recipe whose CLIP has the checkpoint's channels and embedding length, and these in words.

    Raises:
        ValueError: no recipe has them; the message asks for --recipe.
    """
    sizes = MAFT_PLUS_SIZES if any(name.startswith(TRANSFER) for name in state) else SIZES
    size = (int(state[DEEPEST].shape[1]) if DEEPEST in state else 0, int(state[VOID].shape[-1]))
    why = f"{size[0]} channels of CLIP's last map and embeddings of length {size[1]}"
    if size not in sizes:
        raise ValueError(
            f"{source} has {why}, which is none of the released sizes; say with --recipe which it is: a name "
            f"({', '.join(sizes.values())}) or a recipe.json"
        )
    name = sizes[size]
    if name == "maft_plus_large" and CRITERION in state and state[CRITERION].numel() == 134:
        return "maft_plus_large_panoptic", f"{why}, and 133 classes"
    return name, why


def training_names(state: Mapping[str, Tensor], used: Recipe, source: str) -> tuple[str, ...]:
    """The names of the classes that a recipe trains on, each with its synonyms after commas.

    Raises:
        ValueError: it trains on none of the data sets that FC-CLIPs were released for, or the checkpoint on another.
    """
    layouts = [layout for layout, _ in used.training.datasets]
    lists = {"coco_panoptic": "coco_panoptic", "coco_stuff": "coco_stuff_171"}
    if len(layouts) != 1 or layouts[0] not in lists:
        raise ValueError(
            f"recipe {used.name!r} trains on {layouts or 'nothing'}; a released FC-CLIP saw the classes of one of "
            f"{', '.join(lists)}: set training.datasets"
        )
    names = class_words(lists[layouts[0]])
    if CRITERION in state and state[CRITERION].numel() != len(names) + 1:
        raise ValueError(
            f"{source} was trained on {state[CRITERION].numel() - 1} classes ({CRITERION}), but recipe {used.name!r} "
            f"has {len(names)}; choose another --recipe"
        )
    return names


def with_clip(state: Mapping[str, Tensor], used: Recipe, clip: str | None) -> Mapping[str, Tensor]:
    """The released tensors, CLIP's among them.

    Args:
        clip: a pretrained tag of open_clip, or a file of CLIP's weights in its names, instead of the checkpoint's own;
            None takes the checkpoint's, or those that the release was trained on if it has none.

    Raises:
        FileNotFoundError: `clip` is neither a tag of the recipe's CLIP nor a file.
        ValueError: the file is unreadable, or would run code.
    """
    if clip is None and any(name.startswith(CLIP) for name in state):
        return state
    weights = clip_weights(clip_architecture(used.model), clip or used.training.backbone_weights)
    others = {name: value for name, value in state.items() if not name.startswith(CLIP)}
    return others | {f"{CLIP}{name}": value for name, value in weights.items()}


def clip_weights(architecture: str, source: str) -> dict[str, Tensor]:
    """The tensors of a CLIP in open_clip's names.

    Args:
        source: a file of them, or a pretrained tag of the architecture in open_clip, which fetches it.

    Raises:
        FileNotFoundError: `source` is neither.
        ValueError: the file is unreadable, or would run code.
    """
    if Path(source).is_file():
        return {name.removeprefix("module."): value for name, value in read_tensors(source).items()}
    return dict(pretrained_clip(architecture, source).model.state_dict())  # type: ignore[attr-defined]


def pretrained_clip(architecture: str, tag: str) -> Encoder:
    """A CLIP of open_clip that is fetched when it is first used.

    Raises:
        FileNotFoundError: the architecture has no such tag.
    """
    config = EncoderConfig(kind="open_clip", architecture=architecture, weights=tag)
    return load_encoder(config, device=torch.device("cpu"))


def network_state(state: Mapping[str, Tensor], used: Recipe, source: str) -> dict[str, Tensor]:
    """The network's state dict, float32, from the released one.

    Raises:
        ValueError: the recipe is no FC-CLIP, or tensors are missing, not expected, of another shape or not finite.
    """
    if used.model.architecture != "fcclip":
        raise ValueError(
            f"recipe {used.name!r} is no FC-CLIP but {used.model.architecture}; choose another --recipe"
        )
    ours = tensor_shapes(used.model)
    released = {released_name(name): shape for name, shape in ours.items() if not name.endswith(COUNTER)}
    left_out = ("criterion.", TEACHER)
    given = {
        name: v for name, v in state.items() if not (name.startswith(left_out) or name.endswith(COUNTER))
    }
    refuse_misfits(given, released, source)
    given = as_float32(given, source)
    refuse_not_finite(given, source)
    counters = {name: torch.zeros((), dtype=torch.int64) for name in ours if name.endswith(COUNTER)}
    return counters | {name: given[released_name(name)] for name in ours if name not in counters}
