"""Masks of published segmenters, through transformers: any of `FAMILIES`, from a folder, without their class names.

Mask2Former, EoMT and OneFormer predict a mask and class logits for each query; of the logits only the probability of
`no object` is kept. SAM 2 predicts masks at each point of a grid; those that are sure, stable and different from one
another are kept (Kirillov et al., Segment Anything, ICCV 2023, "automatic mask generation").
"""

# K segment, C class of the source, H W pixels of the picture, h w mask cells
from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import open_clip
import torch
import transformers
from PIL import Image
from torch import Tensor

from zs3.files import parsed_json, read_file
from zs3.masks.binary import INSIDE, NEVER_NO_OBJECT
from zs3.wording import first_names, shortened

FAMILIES = {
    "mask2former": "Mask2FormerForUniversalSegmentation",
    "eomt": "EomtForUniversalSegmentation",
    "oneformer": "OneFormerForUniversalSegmentation",
    "sam2": "Sam2Model",
    "sam2_video": "Sam2Model",
}
"""`model_type` of a model's config.json → its class in transformers."""

TASK = "panoptic"
"""What a OneFormer is asked for; other tasks leave out stuff, or merge the objects of a class."""

GRID = {
    "points_per_crop": 32,
    "pred_iou_thresh": 0.88,
    "stability_score_thresh": 0.95,
    "stability_score_offset": 1,
    "crops_nms_thresh": 0.7,
}
"""How a SAM 2 makes masks: points on each side of the grid; the least overlap with the true mask that it predicts for
itself, and between the mask at thresholds of 1 and -1; the overlap of boxes above which the less sure mask goes."""


class SourceMasks(NamedTuple):
    """The masks of one picture, on the device."""

    mask_logits_Khw: Tensor
    """Float logits over the source's padded input; of SAM 2 int8 logits of -127 and 127 over the shrunk picture."""
    no_object_logits_K: Tensor
    """Logarithm of the odds of `no object`."""
    padded_hw: tuple[int, int]
    """The size of the source's input, in pixels."""
    resized_hw: tuple[int, int]
    """The part of it, from its upper left corner, that holds the picture."""


class MaskSource(Protocol):
    """A segmenter on its device."""

    def masks(self, pixels_HW3: np.ndarray) -> SourceMasks:
        """The masks of an RGB picture of uint8."""
        ...


class QueryMasks:
    """A Mask2Former, EoMT or OneFormer."""

    def __init__(self, model: Any, processor: Any, device: torch.device) -> None:
        self.model, self.processor, self.device = model, processor, device
        self._inputs: dict[str, Tensor] = {}
        if model.config.model_type == "oneformer":
            # The same ids as of its own tokenizer, which is CLIP's, padded with zeros.
            tokens = open_clip.SimpleTokenizer(context_length=model.config.task_seq_len)
            self._inputs = {"task_inputs": tokens([f"the task is {TASK}"]).to(device)}

    @torch.inference_mode()
    def masks(self, pixels_HW3: np.ndarray) -> SourceMasks:
        options = {"return_tensors": "pt"} | ({"task_inputs": [TASK]} if self._inputs else {})
        picture = Image.fromarray(pixels_HW3)
        padded_13HW = self.processor(images=[picture], **options)["pixel_values"]
        resized_13HW = padded_13HW
        if getattr(self.processor, "do_pad", False):
            resized_13HW = self.processor(images=[picture], do_pad=False, **options)["pixel_values"]
        output = self.model(pixel_values=padded_13HW.to(self.device), **self._inputs)
        logits_KC1 = output.class_queries_logits[0].float()
        no_object_K = logits_KC1[:, -1] - logits_KC1[:, :-1].logsumexp(dim=1)
        padded_hw, resized_hw = ((x.shape[2], x.shape[3]) for x in (padded_13HW, resized_13HW))
        return SourceMasks(output.masks_queries_logits[0].float(), no_object_K, padded_hw, resized_hw)


class GridMasks:
    """A SAM 2, asked at each point of a grid (`GRID`).

    Pictures that are larger than its input are shrunk first: masks of the picture's size would take gigabytes.
    """

    def __init__(self, model: Any, processor: Any, device: torch.device) -> None:
        self._generate = transformers.pipeline(
            "mask-generation", model=model, image_processor=processor, device=device
        )
        self._side_px, self.device = int(processor.size["height"]), device

    @torch.inference_mode()
    def masks(self, pixels_HW3: np.ndarray) -> SourceMasks:
        picture = Image.fromarray(pixels_HW3)
        picture.thumbnail((self._side_px, self._side_px), Image.Resampling.BILINEAR)
        found, (width, height) = self._generate(picture, **GRID)["masks"], picture.size
        inside_KHW = (
            torch.stack([torch.as_tensor(mask) for mask in found]).bool()
            if len(found)
            else torch.zeros(0, height, width, dtype=torch.bool)
        )
        logits = torch.where(inside_KHW, int(INSIDE), -int(INSIDE)).to(torch.int8)
        no_object_K = torch.full((len(logits),), NEVER_NO_OBJECT)
        return SourceMasks(
            logits.to(self.device), no_object_K.to(self.device), (height, width), (height, width)
        )


def mask_source(folder: Path, device: torch.device) -> MaskSource:
    """The mask source in a folder.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it is of no family known here, cuts pictures into windows, or its weights do not fit its settings.
    """
    family = mask_source_family(folder)
    if not any(folder.glob("model*.safetensors")):
        raise FileNotFoundError(
            f"{folder} has no model.safetensors; only such weights are read: save it again with save_pretrained"
        )
    # Class lists of a OneFormer's processor would be fetched from the hub.
    others = {"class_info_file": None} if family == "oneformer" else {}
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True, **others)
        transformers.utils.logging.disable_progress_bar()
        model, loading = getattr(transformers, FAMILIES[family]).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{folder} cannot be loaded as a {family}: {shortened(str(error))}") from error
    parameters = dict(model.named_parameters())
    missing = [name for name in loading["missing_keys"] if name in parameters]
    if missing or loading["mismatched_keys"]:
        names = first_names([*missing, *(str(name) for name in loading["mismatched_keys"])])
        raise ValueError(
            f"{folder}: the weights do not fit config.json, which describes another size; they lack, or have in "
            f"another shape: {names}"
        )
    if getattr(processor, "do_split_image", False):
        raise ValueError(
            f"{folder} cuts pictures into windows, whose masks would be cut too; choose a model for panoptic or "
            "instance segmentation"
        )
    kind = GridMasks if FAMILIES[family] == "Sam2Model" else QueryMasks
    return kind(model.eval().requires_grad_(False).to(device), processor, device)


def mask_source_family(folder: Path) -> str:
    """The key of `FAMILIES` that a folder's config.json names.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: it names no family known here.
    """
    where = folder / "config.json"
    if not where.is_file():
        raise FileNotFoundError(f"{folder} has no config.json; expected a model as transformers saves it")
    config = parsed_json(read_file(str(where)), str(where))
    family = config.get("model_type") if isinstance(config, dict) else None
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ValueError(
            f"{folder} is a model of type {family!r}, which is no mask source; known are {known}"
        )
    return str(family)
