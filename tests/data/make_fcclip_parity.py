"""Cut the full recordings of the released FC-CLIP code down to the small set of tests/data/parity.

    python tests/data/make_fcclip_parity.py FIXTURES

FIXTURES is the folder of full recordings, with the folder `fcclip`. What is kept follows tests/data/make_parity.py.
Most recorded weights are random numbers drawn by the name of each tensor and rounded to float16, so that two numbers
for each tensor draw them again, bit for bit; the others, and the rows of tokens that occur, are stored.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.data.fcclip_networks import SEEDS, TOKENS, drawn_half, normal_numbers
from tests.data.make_parity import kept, sampled, write_json, write_npz
from tests.support.parity import FULL_FILES

LEFT_OUT = ("sem_seg_stride3", "mask_at_output_first2", "inst_masks_packed", "tokens", "prompt_features")
"""Beginnings of the names of arrays that no test of the small set reads."""
WHOLE = ("classifier_test", "panoptic_seg")
SHORT = ("img1", "img2", "img5")
"""Pictures of which only the picture, the scores and the label map are kept."""
OF_SHORT = (
    "image", "image_resized", "padded_hw", "pred_masks", "pred_logits", "mask_cls_log", "argmax", "maskpool_raw",
    "maskpool_proj", "class_embed", "pooled_clip_embed", "mask_for_pooling", "out_vocab_logits",
)  # fmt: skip


def main() -> None:
    """Write `fcclip.npz`, `fcclip.json`, `fcclip_weights.npz`, `fcclip_training.npz` and `fcclip_training.json`."""
    source = Path(sys.argv[1])
    write_arrays(source)
    write_facts(source / "fcclip")
    write_training(source / "fcclip" / "train")


def write_arrays(source: Path) -> None:
    """`fcclip.npz`: every stage of two pictures, what three more end in, the modes, and twenty handmade masks."""
    arrays: dict[str, np.ndarray] = {}
    for prefix, file in FULL_FILES["fcclip"].items():
        for name, value in np.load(source / f"{file}.npz").items():
            key = prefix + name
            if name.startswith(LEFT_OUT):
                continue
            if any(f"/{image}/" in key for image in SHORT) and name not in OF_SHORT:
                continue
            arrays[key] = value
    masks = {key: value for key, value in arrays.items() if key.endswith("pred_masks")}
    whole = {key: v for key, v in arrays.items() if key.endswith(WHOLE) or key.startswith("postproc/")}
    others = {key: value for key, value in arrays.items() if key not in masks | whole}
    write_npz("fcclip.npz", kept(others) | sampled(masks) | whole)


def write_facts(source: Path) -> None:
    """`fcclip.json`: class names, panoptic segments, and how weights are drawn; `fcclip_weights.npz`: the others."""
    tables: dict[str, dict[str, Any]] = {}
    stored: dict[str, np.ndarray] = {}
    for network, seed in SEEDS.items():
        state = torch.load(source / network / "model.pth", weights_only=True)["model"]
        tables[network] = {}
        for key, value in state.items():
            entry = draw_of(seed, key, value.numpy())
            tables[network][key] = entry
            if len(entry) == 1 and key.endswith(TOKENS):
                rows = value.abs().sum(dim=1).nonzero()[:, 0]
                stored |= {f"{network}/{key}": value[rows].numpy(), f"{network}/rows": rows.numpy()}
            elif len(entry) == 1:
                stored[f"{network}/{key}"] = value.numpy()
    vocabulary = json.loads((source / "vocab.json").read_text())
    write_npz("fcclip_weights.npz", stored)
    write_json(
        "fcclip.json",
        {
            "templates": vocabulary["templates"],
            "train": [entry["name"] for entry in vocabulary["train"]],
            "test": [entry["name"] for entry in vocabulary["test"]],
            "things": [entry["isthing"] for entry in vocabulary["test"]],
            "panoptic": json.loads((source / "postproc" / "postproc.json").read_text()),
            "weights": tables,
        },
    )


def write_training(source: Path) -> None:
    """`fcclip_training.npz` and `.json`: assignments, costs, losses, gradients and three steps of the optimizer."""
    arrays = dict(np.load(source / "train.npz"))
    inputs = {key: v for key, v in arrays.items() if key.startswith("image") or "_packed" in key}
    others = {key: v for key, v in arrays.items() if key not in inputs}
    write_npz("fcclip_training.npz", inputs | kept(others))
    facts = json.loads((source / "train.json").read_text())
    write_json(
        "fcclip_training.json", {key: facts[key] for key in ("num_points", "cases", "optimizer", "steps")}
    )


def draw_of(seed: int, key: str, value: np.ndarray) -> list[Any]:
    """[shape, gain, shift], from which `drawn_half` draws the tensor bit for bit; [shape] if it does not."""
    shape = list(value.shape)
    if value.dtype == np.float16 and value.size > 1:
        unit = normal_numbers(seed, key, shape)
        scale, shift = np.polyfit(unit.ravel(), value.ravel().astype(np.float64), 1)
        root = np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 1.0
        for gain in (round(scale * root, 2), scale.round(2) * root, scale.round(3) * root):
            entry = [shape, float(gain), float(round(shift, 2))]
            if np.array_equal(drawn_half(seed, key, entry), value):
                return entry
    return [shape]


if __name__ == "__main__":
    main()
