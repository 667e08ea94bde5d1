"""How a network is trained: every field here is hashed, as part of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from zs3.learning.augmentation import Augmentation
from zs3.learning.losses import LossSettings
from zs3.learning.optimizer import OptimizerSettings
from zs3.learning.schedule import ScheduleSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How the network is trained."""

    datasets: tuple[tuple[str, str], ...] = ()
    """(layout, folder below the data root) of each training set. A class unseen in one is unseen in all."""
    background_is_negative: bool = False
    """True: background pixels are outside of every mask. False: they are ignored and enter no loss."""
    split: str = "train"
    """Split of every set to train on."""
    templates: str = ""
    """Prompt templates of the class names in training; empty: those of `query_text`. One published model is trained
    with eight templates and used with one."""
    steps: int = 10_000
    """Optimizer steps."""
    batch_size: int = 32
    """Crops per step, over all workers."""
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    """AdamW's rates, decay and clipping."""
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    """Learning-rate curve over the steps."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the network under autocast; losses and matching stay float32."""
    backbone_weights: str = ""
    """Where the backbone starts: empty for random, efficientnet_lite0 for the packaged ImageNet weights, or path or uri
    of a file of torchvision's or detectron2's weights. Of an fcclip the whole CLIP: a pretrained tag of open_clip, or a
    file in its names."""
    start: str = ""
    """Checkpoint (shipped name, folder or uri) whose weights the whole network starts from, instead of
    `backbone_weights`; parts that it lacks start like those of any other network."""
    frozen: tuple[str, ...] = ()
    """Prefixes of the names of backbone parameters that are not trained."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Resizing, cropping, colour, flips."""
    losses: LossSettings = field(default_factory=LossSettings)
    """Weights and switches of matching and losses."""
    seed: int = 0
    """Seed of weights, order and augmentation."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
