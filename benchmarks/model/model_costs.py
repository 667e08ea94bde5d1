"""Time and peak memory of one picture by model, at full size, with random weights, which cost what trained ones do.

    python benchmarks/model/model_costs.py [CASE ...] [--repeats 3] [--threads 2]

A picture of 853 x 640 pixels becomes masks (`masks_s`; for an FC-CLIP with the pass of its CLIP, `trunk_s`) and an
image embedding for each (`embed_s`); naming is not part of it. Cases that end in `crops` embed the masks of an FC-CLIP
by crops through the same CLIP instead of pooling. Each case runs in a process of its own, whose peak is read from the
kernel; the median of the repeats counts. Prints one line of JSON for each case.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import tyro
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from zs3.encoders import Encoder, load_encoder
from zs3.nets.clip_trunk import build_clip
from zs3.nets.fcclip import FcClip
from zs3.nets.networks import build_network
from zs3.recipes import recipe
from zs3.segmentation.pooled import PooledSegmenter
from zs3.segmentation.segmenter import Segmenter

SIZE = (640, 853, 3)
"""Of the picture: height and width in pixels, channels."""
CASES = {
    # name: recipe, by crops
    "zegformer_r50": ("coco_stuff_r50", True),
    "fcclip_r50": ("fcclip_r50", False),
    "fcclip_r50_crops": ("fcclip_r50", True),
    "fcclip_convnext_large": ("fcclip_convnext_large", False),
    "fcclip_convnext_large_crops": ("fcclip_convnext_large", True),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure, and how."""

    cases: tyro.conf.Positional[tuple[str, ...]] = tuple(CASES)
    """Cases to measure."""
    repeats: int = 3
    """How often the picture is taken; the median counts."""
    threads: int = 2
    """Of torch."""
    crops: int = 20
    """Masks that are embedded by crops; the time is scaled to all of them."""
    here: bool = False
    """Measure one case in this process."""


def main() -> int:
    """Measure every case in a process of its own."""
    options = tyro.cli(Options, description=__doc__)
    if options.here:
        sys.stdout.write(json.dumps(costs(options.cases[0], options)) + "\n")
        return 0
    for case in options.cases:
        command = [sys.executable, __file__, case, "--here"]
        command += ["--repeats", str(options.repeats), "--threads", str(options.threads)]
        command += ["--crops", str(options.crops)]
        subprocess.run(command, check=True)
    return 0


def costs(case: str, options: Options) -> dict[str, Any]:
    """Seconds of the stages, the peak in MB and the number of parameters of one case."""
    torch.set_num_threads(options.threads)
    name, by_crops = CASES[case]
    made = recipe(name)
    network = build_network(made.model).eval()
    settings = replace(made.segmenting, short_side_px=640, max_side_px=2560, crop_empty_masks=True)
    device = torch.device("cpu")
    segmenter = (
        Segmenter(network, encoder_of(name, network), settings, device=device)  # type: ignore[arg-type]
        if by_crops
        else PooledSegmenter(network, settings, device=device)  # type: ignore[arg-type]
    )
    pixels = np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8)
    result: dict[str, Any] = {"case": case, "masks": made.model.num_queries}
    result["parameters"] = sum(value.numel() for value in network.parameters())
    with torch.inference_mode():
        if isinstance(network, FcClip):
            image = torch.zeros(1, 3, 640, 864).contiguous(memory_format=torch.channels_last)
            result["trunk_s"], _ = medians(lambda: network.backbone(image), options.repeats)
        predicted = segmenter.predict_masks(pixels)
        masks_Khw = predicted.masks_Khw[: options.crops] if by_crops else predicted.masks_Khw
        share = len(masks_Khw) / len(predicted.masks_Khw)
        result["masks_s"], masks_cpu_s = medians(lambda: segmenter.predict_masks(pixels), options.repeats)
        embed_s, embed_cpu_s = medians(lambda: segmenter.embed(predicted, masks_Khw), options.repeats)
    result["embed_s"] = round(embed_s / share, 3)
    result["picture_s"] = round(result["masks_s"] + embed_s / share, 3)
    result["picture_cpu_s"] = round(masks_cpu_s + embed_cpu_s / share, 3)
    result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return result


def encoder_of(name: str, network: Any) -> Encoder:
    """The image encoder of a recipe with random weights; of an FC-CLIP its own CLIP."""
    config = recipe(name).image_text.encoder
    clip = network.backbone.model if isinstance(network, FcClip) else build_clip(config.architecture)
    encoder = load_encoder(
        replace(config, weights="checkpoint"), device=torch.device("cpu"), clip_state=clip.state_dict()
    )
    clip.visual.preprocess_cfg = {"mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD}
    encoder.__dict__["model"] = clip.eval()  # instead of a second copy
    return encoder


def medians(action: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of an action, and of processor time of all threads, which other jobs lengthen less."""
    times = []
    for _ in range(repeats):
        started, cpu = time.perf_counter(), time.process_time()
        action()
        times.append((time.perf_counter() - started, time.process_time() - cpu))
    wall_s, cpu_s = (round(statistics.median(part), 3) for part in zip(*times))
    return wall_s, cpu_s


if __name__ == "__main__":
    sys.exit(main())
