"""AdamW in the published parameter groups: a slow backbone, no decay on norms and embeddings."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSettings:
    """Step sizes and decay; the defaults are the published ones."""

    learning_rate: float = 1e-4
    """Base learning rate of everything but the backbone."""
    backbone_multiplier: float = 0.1
    """Learning rate of the backbone relative to the base."""
    weight_decay: float = 1e-4
    """Decoupled decay of everything but norm layers and embeddings; biases decay too, as published."""
    norm_weight_decay: float = 0.0
    """Decay of weights and biases of norm layers."""
    embedding_weight_decay: float = 0.0
    """Decay of `nn.Embedding` tables (the queries)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's moments."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    clip_norm: float = 0.01
    """Maximum global L2 norm of the gradient; 0 turns clipping off."""


_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)


def parameter_groups(model: nn.Module, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """AdamW groups of all parameters that require a gradient, each parameter once.

    Each group has `params`, `lr`, `weight_decay`, `initial_lr` (what the schedule multiplies), `name` and
    `param_paths` (names of its parameters). Parameters of equal settings share a group; the released code has one group
    per tensor, with the same steps.

    Args:
        model: its backbone is the attribute `backbone`.

    Raises:
        ValueError: the model has no attribute `backbone`, or nothing to train.
    """
    slow = getattr(model, "backbone", None)
    if not isinstance(slow, nn.Module):
        raise ValueError(
            f"{type(model).__name__} has no module 'backbone', which has a learning rate of its own"
        )
    backbone = {id(parameter) for parameter in slow.parameters()}
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    seen: set[int] = set()
    for module_path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            part, kind = "backbone" if id(parameter) in backbone else "head", _kind(module)
            rate = settings.learning_rate * (settings.backbone_multiplier if part == "backbone" else 1.0)
            decay = {
                "norm": settings.norm_weight_decay,
                "embedding": settings.embedding_weight_decay,
                "weight": settings.weight_decay,
            }[kind]
            empty = {"params": [], "lr": rate, "initial_lr": rate, "weight_decay": decay}
            group = groups.setdefault((part, kind), empty | {"name": f"{part} {kind}", "param_paths": []})
            group["params"].append(parameter)
            group["param_paths"].append(f"{module_path}.{name}" if module_path else name)
    if not groups:
        raise ValueError(f"no parameter of {type(model).__name__} requires a gradient; unfreeze some")
    return list(groups.values())


def _kind(module: nn.Module) -> str:
    if isinstance(module, _NORMS):
        return "norm"
    return "embedding" if isinstance(module, nn.Embedding) else "weight"


def adamw(model: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """The optimizer of a model, at its base learning rates."""
    return torch.optim.AdamW(
        parameter_groups(model, settings), lr=settings.learning_rate, betas=settings.betas, eps=settings.eps
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets every group's learning rate to `factor` times its base."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group["initial_lr"]


def clip_gradients(parameters: Iterable[Tensor], clip_norm: float) -> float:
    """Scales all gradients to a joint L2 norm of at most `clip_norm` (0: leaves them); returns the norm before.

    Under a GradScaler, unscale first.
    """
    limit = clip_norm if clip_norm > 0 else float("inf")
    return float(torch.nn.utils.clip_grad_norm_(parameters, limit))
