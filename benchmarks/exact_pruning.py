"""What labelling costs by the published procedure and by ours, at identical label maps.

    python benchmarks/exact_pruning.py time   --images FOLDER --limit 8
    python benchmarks/exact_pruning.py memory --images FOLDER --classes ade20k_full --short-side-px 640

`time` labels the same images in one process and on the same threads by three procedures. `published` sends every
segment through the encoder, in one pass and from masked copies of the whole picture, and holds the scores of all
classes at all pixels. `plain` is ours without pruning: batched crops, painting in strips. `exact` also leaves out the
segments that can change no label. Pixels that differ from `published` are counted. `memory` labels one image, resized
to 853 x 640, in a fresh process for each procedure and reads its peak above the loaded model, which the kernel keeps.
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
from zs3.classification.painting import pixel_scores
from zs3.config import NamingSettings, SegmentSettings
from zs3.encoders.masked_crops import boxes_from_masks
from zs3.inference.labeller import Labeller
from zs3.segmentation.segmenter import normalise_and_pad
from zs3.vocabulary import load_vocabulary

MEMORY_SIZE = (853, 640)
"""Width and height in pixels."""
PROCEDURES = ("published", "plain", "exact", "dropped")
PUBLISHED = NamingSettings(branches="both", calibration=0.1)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to measure, and on which images."""

    what: tyro.conf.Positional[Literal["time", "memory", "published", "plain", "exact", "dropped"]]
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
    arguments = tyro.cli(Arguments, description=__doc__)
    torch.set_num_threads(arguments.threads)
    measure = {"time": timing, "memory": memory}.get(arguments.what, peak)
    sys.stdout.write(json.dumps(measure(arguments)) + "\n")
    return 0


def labellers(arguments: Arguments) -> dict[str, Labeller]:
    """One model by two settings: `published` shares the plain one."""
    checkpoint = load_checkpoint(arguments.checkpoint)
    settings = replace(
        checkpoint.recipe.segmenting,
        short_side_px=arguments.short_side_px,
        crop_styles=("crop_and_mask",),
        picture_share=0.0,
        crop_empty_masks=True,
        min_share=0.0,
    )
    if arguments.naming == "published":
        checkpoint = replace(checkpoint, recipe=replace(checkpoint.recipe, naming=PUBLISHED))
    vocabulary, cpu = load_vocabulary(arguments.classes), torch.device("cpu")
    dropped = Labeller(checkpoint, vocabulary, device=cpu, segmenting=replace(settings, min_share=0.1))

    def changed(settings: SegmentSettings) -> Labeller:
        labeller = copy(dropped)  # One model and one pair of text banks for all
        labeller.segmenter = copy(dropped.segmenter)
        labeller.segmenter.settings = settings
        return labeller

    plain = changed(settings)
    exact = changed(replace(settings, prune="exact"))
    return {"published": plain, "plain": plain, "exact": exact, "dropped": dropped}


@torch.inference_mode()
def published(labeller: Labeller, picture: np.ndarray) -> np.ndarray:
    """(H, W) class ids as specification 1.7 computes them, K masked pictures and C x H x W scores in memory."""
    segmenter, classifier = labeller.segmenter, labeller.classifier
    encoder = segmenter.encoder
    assert encoder is not None
    grouped = segmenter.predict_masks(picture)
    masks = interpolate(
        grouped.masks_Khw[None], size=grouped.segments.padded_hw, mode="bilinear", align_corners=False
    )
    inside = masks[0].sigmoid() > 0.5
    image = normalise_and_pad(
        grouped.resized_3HW,
        encoder.image_mean,
        encoder.image_std,
        segmenter.network.config.size_divisibility,
    )
    masked = image[None] * inside[:, None]
    boxes = boxes_from_masks(inside)
    crops = roi_align(
        masked, list(boxes[:, None]), output_size=encoder.image_size_px, sampling_ratio=-1, aligned=True
    )
    segments = replace(grouped.segments, image_embeddings_KE=encoder.encode_images(crops))
    volume = pixel_scores(segments, classifier.scores(segments), classifier._seen_C, classifier.settings)
    return classifier._ids_C[volume.argmax(dim=0).numpy()]


def label(procedure: str, labeller: Labeller, picture: np.ndarray) -> np.ndarray:
    """(H, W) class ids by one of the procedures."""
    return published(labeller, picture) if procedure == "published" else labeller.label([picture])[0][0]


def timing(arguments: Arguments) -> dict[str, Any]:
    """Seconds per image by each procedure, crops that `exact` encodes, and pixels that differ."""
    models, pictures = labellers(arguments), _pictures(arguments)
    for procedure in PROCEDURES:
        label(procedure, models[procedure], pictures[0])
    seconds, differing, pixels = dict.fromkeys(PROCEDURES, 0.0), dict.fromkeys(PROCEDURES, 0), 0
    encoded = segments = 0
    for picture in pictures:
        maps = {}
        for procedure in PROCEDURES:
            began = time.perf_counter()
            maps[procedure] = label(procedure, models[procedure], picture)
            seconds[procedure] += time.perf_counter() - began
            differing[procedure] += int((maps[procedure] != maps["published"]).sum())
        pixels += picture.shape[0] * picture.shape[1]
        kept = _encoded(models["exact"], picture)
        encoded, segments = encoded + int(kept.sum()), segments + len(kept)
    return {
        "images": len(pictures),
        "seconds_per_image": {name: round(value / len(pictures), 3) for name, value in seconds.items()},
        "published_over": {name: round(seconds["published"] / value, 2) for name, value in seconds.items()},
        "encoded": f"{encoded} of {segments}",
        "differing_pixels": differing,
        "pixels": pixels,
    }


def memory(arguments: Arguments) -> dict[str, Any]:
    """Peak of each procedure above the loaded model, in MiB, each in a process of its own."""
    found = {}
    for procedure in PROCEDURES:
        command = [sys.executable, __file__, procedure, *sys.argv[2:]]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[procedure] = json.loads(done.stdout.splitlines()[-1])
    above = {name: value["above_loaded_mib"] for name, value in found.items()}
    ratios = {name: round(value / above["published"], 3) for name, value in above.items()}
    return {"peaks": found, "of_published": ratios}


def peak(arguments: Arguments) -> dict[str, Any]:
    """Peak of this process while it labels one image by the procedure that `what` names."""
    labeller = labellers(arguments)[arguments.what]
    first = _pictures(replace(arguments, limit=1))[0]
    label(arguments.what, labeller, np.array(Image.fromarray(first).resize((64, 48))))
    picture = np.array(Image.fromarray(first).resize(MEMORY_SIZE))
    loaded = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak that VmHWM shows
    label(arguments.what, labeller, picture)
    highest = _resident("VmHWM")
    return {"peak_mib": round(highest), "above_loaded_mib": round(highest - loaded)}


def _encoded(labeller: Labeller, picture: np.ndarray) -> torch.Tensor:
    grouped = labeller.segmenter.predict_masks(picture)
    embed = labeller.segmenter.embed
    return labeller.classifier.prune(grouped.segments, lambda chosen: embed(grouped, chosen)).encoded_K


def _pictures(arguments: Arguments) -> list[np.ndarray]:
    paths = sorted(arguments.images.glob("*.jpg"))
    if not paths:
        raise ValueError(f"no .jpg files in {arguments.images}; name a folder of photographs")
    step = max(1, len(paths) // arguments.limit)
    return [np.array(Image.open(path).convert("RGB")) for path in paths[::step][: arguments.limit]]


def _resident(field: str) -> float:
    """A line of this process's memory status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


if __name__ == "__main__":
    sys.exit(main())
