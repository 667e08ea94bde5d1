"""What labelling costs by the published procedure and by ours, at the same label maps.

    python benchmarks/published_procedure.py time   --images FOLDER --limit 8
    python benchmarks/published_procedure.py memory --images FOLDER --classes ade20k_full --short-side-px 640

`published` sends every segment through the encoder, in one pass and from masked copies of the whole picture, and holds
the scores of all classes at all pixels. `ours` crops in batches and makes the label map in strips. `dropped` is ours
with `min_share` at 0.1, which may change labels. `time` labels the same images in one process and on the same threads,
and counts the pixels that differ from `published`. `memory` labels one image, resized to 853 x 640, in a new process
for each procedure, and reads its peak above the loaded model from the kernel.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from PIL import Image
from torch.nn.functional import interpolate
from torchvision.ops import roi_align

from zs3.checkpoint import load_checkpoint
from zs3.classification.semantic_map import calibration_offsets, pixel_scores_of_rows
from zs3.config import NamingSettings
from zs3.encoders.masked_crops import boxes_from_masks
from zs3.inference.labeller import Labeller
from zs3.segmentation.segmenter import normalise_and_pad
from zs3.vocabulary import load_vocabulary

MEMORY_SIZE = (853, 640)
"""Width and height in pixels."""
PROCEDURES = ("published", "ours", "dropped")
PUBLISHED = NamingSettings(branches="both", calibration=0.1)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure, and on which images."""

    what: tyro.conf.Positional[Literal["time", "memory", "published", "ours", "dropped"]]
    """time or memory; the others are the parts of memory, run in processes of their own."""
    images: Path
    """A folder of .jpg files."""
    checkpoint: str = "zs3-mini"
    """As for `zs3 label`."""
    classes: str = "voc"
    """As for `zs3 label`."""
    limit: int = 8
    """Images to label, spread over the folder."""
    short_side_px: int = 384
    """Of the network's input."""
    naming: Literal["own", "published"] = "own"
    """The checkpoint's own naming settings, or those of the published COCO-Stuff models."""
    threads: int = 1
    """Of torch."""


def main() -> int:
    """Measure and print one line of JSON."""
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(options.threads)
    measure = {"time": seconds_per_image, "memory": peaks_of_procedures}.get(options.what, peak_memory)
    sys.stdout.write(json.dumps(measure(options)) + "\n")
    return 0


def labellers(options: Options) -> dict[str, Labeller]:
    """One model under two segment settings; `published` has those of `ours`."""
    checkpoint = load_checkpoint(options.checkpoint)
    settings = replace(
        checkpoint.recipe.segmenting,
        short_side_px=options.short_side_px,
        crop_styles=("crop_and_mask",),
        picture_share=0.0,
        crop_empty_masks=True,
        min_share=0.0,
    )
    if options.naming == "published":
        checkpoint = replace(checkpoint, recipe=replace(checkpoint.recipe, naming=PUBLISHED))
    vocabulary, cpu = load_vocabulary(options.classes), torch.device("cpu")
    dropped = Labeller(checkpoint, vocabulary, device=cpu, segmenting=replace(settings, min_share=0.1))
    ours = copy(dropped)  # one model and one pair of text banks for all
    ours.segmenter = copy(dropped.segmenter)
    ours.segmenter.settings = settings
    return {"published": ours, "ours": ours, "dropped": dropped}


@torch.inference_mode()
def published_label_map(labeller: Labeller, picture: np.ndarray) -> np.ndarray:
    """(H, W) class ids as the released code computes them: K masked pictures and C x H x W scores in memory."""
    segmenter, classifier = labeller.segmenter, labeller.classifier
    encoder = segmenter.encoder
    assert encoder is not None
    predicted = segmenter.predict_masks(picture)
    masks = interpolate(
        predicted.masks_Khw[None], size=predicted.segments.padded_hw, mode="bilinear", align_corners=False
    )
    inside = masks[0].sigmoid() > 0.5
    image = normalise_and_pad(
        predicted.resized_3HW,
        encoder.image_mean,
        encoder.image_std,
        segmenter.network.config.size_divisibility,
    )
    masked = image[None] * inside[:, None]
    boxes = boxes_from_masks(inside)
    crops = roi_align(
        masked, list(boxes[:, None]), output_size=encoder.image_size_px, sampling_ratio=-1, aligned=True
    )
    segments = replace(predicted.segments, image_embeddings_KE=encoder.encode_images(crops))
    settings, seen_C = classifier.settings, torch.tensor(list(classifier.seen.values()))
    volume = pixel_scores_of_rows(
        segments,
        classifier.scores(segments),
        torch.arange(segments.height),
        resize_first=settings.resize_first,
    )
    volume = volume - calibration_offsets(seen_C, settings.calibration)[:, None, None]
    return np.array(list(classifier.seen), dtype=np.int32)[volume.argmax(dim=0).numpy()]


def label_map(procedure: str, labeller: Labeller, picture: np.ndarray) -> np.ndarray:
    """(H, W) class ids by one of the procedures."""
    if procedure == "published":
        return published_label_map(labeller, picture)
    return labeller.label([picture])[0][0]


def seconds_per_image(options: Options) -> dict[str, Any]:
    """Seconds per image by each procedure, and the pixels that differ from the published one."""
    models, pictures = labellers(options), sample_pictures(options)
    for procedure in PROCEDURES:
        label_map(procedure, models[procedure], pictures[0])
    seconds, differing, pixels = dict.fromkeys(PROCEDURES, 0.0), dict.fromkeys(PROCEDURES, 0), 0
    for picture in pictures:
        maps = {}
        for procedure in PROCEDURES:
            start = time.perf_counter()
            maps[procedure] = label_map(procedure, models[procedure], picture)
            seconds[procedure] += time.perf_counter() - start
            differing[procedure] += int((maps[procedure] != maps["published"]).sum())
        pixels += picture.shape[0] * picture.shape[1]
    return {
        "images": len(pictures),
        "seconds_per_image": {name: round(value / len(pictures), 3) for name, value in seconds.items()},
        "published_over": {name: round(seconds["published"] / value, 2) for name, value in seconds.items()},
        "differing_pixels": differing,
        "pixels": pixels,
    }


def peaks_of_procedures(options: Options) -> dict[str, Any]:
    """Peak of each procedure above the loaded model, in MiB, each in a process of its own."""
    peaks = {}
    for procedure in PROCEDURES:
        command = [sys.executable, __file__, procedure, *sys.argv[2:]]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        peaks[procedure] = json.loads(done.stdout.splitlines()[-1])
    above = {name: value["above_loaded_mib"] for name, value in peaks.items()}
    ratios = {name: round(value / above["published"], 3) for name, value in above.items()}
    return {"peaks": peaks, "of_published": ratios}


def peak_memory(options: Options) -> dict[str, Any]:
    """Peak of this process while it labels one image by the procedure that `what` names."""
    labeller = labellers(options)[options.what]
    first = sample_pictures(replace(options, limit=1))[0]
    label_map(options.what, labeller, np.array(Image.fromarray(first).resize((64, 48))))
    picture = np.array(Image.fromarray(first).resize(MEMORY_SIZE))
    loaded = memory_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    label_map(options.what, labeller, picture)
    peak = memory_mib("VmHWM")
    return {"peak_mib": round(peak), "above_loaded_mib": round(peak - loaded)}


def sample_pictures(options: Options) -> list[np.ndarray]:
    """Some photographs of the folder, evenly spaced by name."""
    paths = sorted(options.images.glob("*.jpg"))
    if not paths:
        raise ValueError(f"no .jpg files in {options.images}; name a folder of photographs")
    step = max(1, len(paths) // options.limit)
    return [np.array(Image.open(path).convert("RGB")) for path in paths[::step][: options.limit]]


def memory_mib(field: str) -> float:
    """A line of this process's memory status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


if __name__ == "__main__":
    sys.exit(main())
