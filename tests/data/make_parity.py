"""Cut the full recordings of the released ZegFormer code down to the small set of tests/data/parity.

    python tests/data/make_parity.py FIXTURES

FIXTURES is the folder of full recordings: `tiny`, `tiny_train`, `postproc`, `eval` and `text`. Inputs are kept whole.
Of a large output, 1000 values at pseudo-random places are kept (`tests.support.parity.places`). Of resized pictures,
which have to be equal bit for bit, a CRC-32 is kept. The recorded weights are random numbers drawn by the name of each
tensor, so that a shift and a scale per tensor are enough to draw them again.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.support.parity import FOLDER, SAMPLES, crc, drawn, places

NETWORK = {
    "img0": "image image_resized height width padded_hw pred_logits pred_masks clip_logits mask_area_px boxes mask_cls "
    "argmax sem_seg semseg_padded clip_image_feat crops_mean crops_std crops_first4 hs_last feat_res2 feat_res3 "
    "feat_res4 feat_res5 mask_features aux_logits aux_masks",
    "img2": "image image_resized padded_hw pred_logits hs_last feat_res2 feat_res3 feat_res4 feat_res5 mask_features "
    "aux_logits aux_masks",
    "img3": "image image_resized height width padded_hw pred_logits pred_masks clip_logits mask_area_px boxes mask_cls "
    "argmax sem_seg clip_image_feat hs_last mask_features",
    **dict.fromkeys(
        ("mode_seg_only_img0", "mode_img_only_img0", "mode_ens_all_img0", "mode_style_crop_img0",
         "mode_resize_first_img0", "mode_prompts_select_img0"),
        "pred_logits clip_logits mask_cls argmax sem_seg",
    ),
}  # fmt: skip
WHOLE = {"image", "pred_masks", "argmax", "label"}
"""What is kept whole although it is large: inputs of a later stage, and label maps."""


def main() -> None:
    """Write every file of the small set."""
    source = Path(sys.argv[1])
    FOLDER.mkdir(exist_ok=True)
    write_weights(source)
    write_network(source / "tiny")
    write_handmade(source / "postproc")
    write_training(source / "tiny_train")
    write_evaluator(source / "eval")
    write_text(source)


def write_weights(source: Path) -> None:
    """`weights.json`: per tensor its shape, dtype, and how it is drawn, checked against the recorded values."""
    files = {
        "zegformer": ("tiny/model_no_clip.pth", ""),
        "zegformer_train": ("tiny_train/model_train.pth", ""),
        "clip": ("tiny/clip_openai_names.pth", "clip."),
    }
    tables: dict[str, dict[str, Any]] = {}
    for name, (file, prefix) in files.items():
        state = torch.load(source / file, weights_only=True)
        state = state.get("model", state)
        tables[name] = {key: draw_of(prefix + key, value.numpy()) for key, value in state.items()}
    same = tables["zegformer"]
    tables["zegformer_train"] = {k: v for k, v in tables["zegformer_train"].items() if v != same.get(k)}
    write_json("weights.json", tables)


def draw_of(key: str, value: np.ndarray) -> dict[str, Any]:
    """The entry of `weights.json` for one tensor."""
    entry: dict[str, Any] = {"shape": list(value.shape)}
    if value.size < 2 or key == "criterion.empty_weight":
        return entry | {"values": value.ravel().tolist()}
    if value.dtype == np.float16:
        entry["steps_per_unit"] = 1024
    if key.endswith("running_var"):
        entry["tanh"] = True
    unit = drawn(key, {"shape": entry["shape"], "tanh": "tanh" in entry, "shift": 0, "scale": 1})
    fit, shift = np.polyfit(unit.ravel().astype(np.float64), value.ravel().astype(np.float64), 1)
    entry["shift"] = abs(round(float(shift), 4))
    nearby = [
        round(float(fit), 4),
        *(float(str(np.float32(fit * (1 + step * 6e-8)))) for step in range(-4, 5)),
    ]
    entry["scale"] = min(nearby, key=lambda scale: error_of(key, entry | {"scale": scale}, value))
    assert error_of(key, entry, value) < 2e-7 * np.abs(value).max(), key
    return entry


def error_of(key: str, entry: Mapping[str, Any], value: np.ndarray) -> float:
    """The largest difference between a drawn tensor and the recorded one."""
    return float(np.abs(drawn(key, entry).astype(np.float64) - value).max())


def write_network(source: Path) -> None:
    """`network.npz`: every stage of three pictures, and the fusion modes of one."""
    arrays = {}
    for record, keys in NETWORK.items():
        stored = np.load(source / f"{record}.npz")
        arrays |= kept({f"{record}/{key}": stored[key] for key in keys.split() if key in stored})
    arrays |= sampled({"img2/pred_masks": np.load(source / "img2.npz")["pred_masks"]})
    texts = np.load(source / "text_features.npz")
    arrays |= {f"text/{key}": texts[key] for key in ("test", "test_clip")}
    write_npz("network.npz", arrays)


def write_handmade(source: Path) -> None:
    """`handmade.npz`: handmade masks through boxes, crops, encoder and fusion."""
    stored = np.load(source / "postproc.npz")
    write_npz("handmade.npz", kept({key: stored[key] for key in stored.files}))


def write_training(source: Path) -> None:
    """`training.npz` and `training.json`: assignments, losses, gradients and five steps of the optimizer."""
    stored, facts = np.load(source / "train.npz"), json.loads((source / "train.json").read_text())
    # The network recomputes the predictions of the second case: whole ones would take another megabyte.
    masks = [
        key for key in stored.files if key.startswith("three_with_empty/") and key.endswith("pred_masks")
    ]
    others = [key for key in stored.files if key not in (*masks, "text_features")]  # those are in network.npz
    write_npz("training.npz", kept({k: stored[k] for k in others}) | sampled({k: stored[k] for k in masks}))
    keys = (
        "cases", "losses", "losses_unweighted", "optimizer", "grad_norm_per_param", "steps", "after5_param_norm"
    )  # fmt: skip
    write_json("training.json", {key: facts[key] for key in keys})


def write_evaluator(source: Path) -> None:
    """`evaluator.npz` and `evaluator.json`: six cases with absent classes."""
    stored = np.load(source / "eval.npz")
    write_npz("evaluator.npz", {key: stored[key] for key in stored.files if not key.endswith("scores0")})
    write_json("evaluator.json", json.loads((source / "eval.json").read_text()))


def write_text(source: Path) -> None:
    """`text.npz` and `text.json`: class lists, prompts, tokens and text features."""
    text, tiny = source / "text", source / "tiny"
    arrays = {f"tokens/{key}": value for key, value in np.load(text / "tokens.npz").items()}
    for name, file in (
        ("synonyms", text / "text_features_synonyms.npz"),
        ("single", tiny / "text_features.npz"),
        ("imagenet_select", tiny / "text_features_prompts_select.npz"),
        ("imagenet", tiny / "text_features_prompts_80.npz"),
    ):
        arrays |= kept({f"{name}/{key}": value for key, value in np.load(file).items()})
    write_npz("text.npz", arrays)
    summary = json.loads((tiny / "summary.json").read_text())
    label_maps = json.loads((text / "label_maps.json").read_text())
    prompts = {
        key: json.loads((text / f"prompts_{key}.json").read_text()) for key in ("voc", "coco", "ade847")
    }
    keys = (tiny / "state_dict_keys.txt").read_text().splitlines()
    write_json(
        "text.json",
        {
            "class_names": json.loads((text / "class_names.json").read_text()),
            "ids": {key: ids_in_order(label_maps[key]) for key in ("voc", "coco", "ade")},
            "templates": json.loads((text / "prompt_templates.json").read_text()),
            "prompts": {key: digest_of_lines(lines) for key, lines in prompts.items()},
            "train_class_names": summary["train_class_names"],
            "test_class_names": summary["class_names"],
            "state_dict_keys": [line.split("\t")[0] for line in keys],
        },
    )


def ids_in_order(label_map: list[dict[str, Any]]) -> list[int]:
    """Raw ids of a data set in the order of training ids."""
    return [entry["id"] for entry in sorted(label_map, key=lambda entry: entry["trainId"])]


def digest_of_lines(lines: Iterable[str]) -> str:
    """SHA-256 (hex) of lines of text."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def kept(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays as they are kept: whole, sampled, or as a CRC-32."""
    result: dict[str, np.ndarray] = {}
    for key, value in arrays.items():
        name = key.split("/")[-1].rstrip("012")
        if name == "image_resized":
            result[f"{key}@{'x'.join(map(str, value.shape))}"] = crc(value)
        elif name in WHOLE or value.size <= SAMPLES:
            result[key] = value
        else:
            result |= sampled({key: value})
    return result


def sampled(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Some values of each array, whose shape goes into its name."""
    return {
        f"{key}@{'x'.join(map(str, value.shape))}": value.ravel()[places(key, value.size)]
        for key, value in arrays.items()
    }


def write_npz(name: str, arrays: Mapping[str, np.ndarray]) -> None:
    np.savez_compressed(FOLDER / name, allow_pickle=False, **arrays)


def write_json(name: str, value: Any) -> None:
    (FOLDER / name).write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
