"""The training loop: batches in, a trained network out; everything that depends on a cluster is injected."""

# B image, C crop side in pixels, R row of a text bank, D embedding
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from zs3.learning.losses import segmentation_losses, total_loss
from zs3.learning.optimizer import clip_gradients, set_learning_rate
from zs3.learning.pixel_loss import pixel_loss
from zs3.learning.points import Draw
from zs3.learning.samples import IGNORE, class_index
from zs3.learning.schedule import learning_rate_factor
from zs3.learning.settings import TrainingConfig
from zs3.learning.targets import Targets, count_masks, targets_from_labels, targets_to
from zs3.nets.zegformer import ModelConfig, class_logits

LAST_LAYER = ("loss_ce", "loss_mask", "loss_dice")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one optimizer step did."""

    step: int
    """Steps done, this one included."""
    loss: float
    """Weighted sum of all terms of all layers."""
    terms: dict[str, float]
    """Unweighted terms of the last layer; the pixel-level baseline has only the cross-entropy."""
    images: int
    """Crops of this worker in the step."""


def normalised(crops_BCC3: np.ndarray, config: ModelConfig, device: torch.device) -> Tensor:
    """(B, C, C, 3) uint8 crops → (B, 3, C, C) float32 network input."""
    mean, std = (torch.tensor(v, device=device) for v in (config.image_mean, config.image_std))
    pixels = torch.from_numpy(crops_BCC3).to(device, non_blocking=True).float()
    return ((pixels - mean) / std).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def batch_losses(
    network: nn.Module,
    crops_BCC3: np.ndarray,
    labels_BCC: np.ndarray,
    bank_RD: Tensor,
    config: ModelConfig,
    training: TrainingConfig,
    *,
    class_of_row_R: Tensor | None = None,
    mean_count: Callable[[float], float] = float,
    draw: Draw = torch.rand,
) -> dict[str, Tensor]:
    """Unweighted loss terms of one batch.

    Args:
        labels_BCC: int16 from `training_labels`. bank_RD: unit rows of the training classes.
        class_of_row_R: (R,) int64, the class of each row, where classes have several (`nearest_rows`).
        mean_count: averages the number of target masks, or of labelled pixels, over the workers.
        draw: where points come from, if masks are compared at points.
    """
    device = bank_RD.device
    half = training.precision == "bfloat16"
    images = normalised(crops_BCC3, config, device)
    if config.architecture == "pixel_level":
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            embeddings = network(images)
        resolution, temperature = training.losses.mask_resolution, config.temperature
        loss = pixel_loss(
            embeddings, labels_BCC, bank_RD, temperature, resolution=resolution, mean_count=mean_count
        )
        return {"loss_ce": loss}
    num_classes = len(bank_RD) if class_of_row_R is None else int(class_of_row_R[-1]) + 1
    classes = class_index(num_classes, int(labels_BCC.max(where=labels_BCC < IGNORE, initial=0)))
    targets: list[Targets] = [
        targets_to(targets_from_labels(labels, classes, ignore_id=IGNORE, by_label=True), device)
        for labels in labels_BCC
    ]
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
        outputs = network(images, all_layers=True)
    logits = [class_logits(output, bank_RD, class_of_row_R) for output in outputs]
    masks = [output.mask_logits_BQhw for output in outputs]
    count = max(mean_count(count_masks(targets)), 1.0)
    return segmentation_losses(logits, masks, targets, training.losses, num_masks=count, draw=draw)


def train_steps(
    network: nn.Module,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    bank_RD: Tensor,
    optimizer: torch.optim.Optimizer,
    config: ModelConfig,
    training: TrainingConfig,
    *,
    class_of_row_R: Tensor | None = None,
    first_step: int = 0,
    on_step: Callable[[StepReport], None],
    mean_count: Callable[[float], float] = float,
) -> int:
    """Take one optimizer step per batch until the configured steps are done or the batches end.

    Args:
        network: in training mode; it may be wrapped for distributed training.
        batches: (crops, labels) as `batch_losses` takes them, with the bank and the classes of its rows.
        first_step: steps that an earlier run has done.
        on_step: called after each step, the place for progress and checkpoints.

    Returns:
        Steps done.

    Raises:
        ValueError: the loss is no longer finite; the message names the step and the terms.
    """
    step = first_step
    for crops, labels in batches:
        if step >= training.steps:
            break
        set_learning_rate(optimizer, learning_rate_factor(training.schedule, step, training.steps))
        terms = batch_losses(
            network,
            crops,
            labels,
            bank_RD,
            config,
            training,
            class_of_row_R=class_of_row_R,
            mean_count=mean_count,
        )
        loss = total_loss(terms, training.losses)
        if not bool(torch.isfinite(loss)):
            raise ValueError(
                f"step {step + 1}: the loss is {float(loss)} ({ {k: float(v) for k, v in terms.items()} }); "
                "lower training.optimizer.learning_rate or clip_norm"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_gradients(network.parameters(), training.optimizer.clip_norm)
        optimizer.step()
        step += 1
        last = {name: float(terms[name].detach()) for name in LAST_LAYER if name in terms}
        on_step(StepReport(step=step, loss=float(loss.detach()), terms=last, images=len(crops)))
    return step
