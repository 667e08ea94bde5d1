"""The recordings of the released code, small and full, and the recorded networks drawn again."""

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zs3.nets.zegformer import ModelConfig

FOLDER = Path(__file__).resolve().parents[1] / "data" / "parity"
SEED = 9
SAMPLES = 1000

TINY = ModelConfig(
    backbone_width=16, bottleneck_width=8, pyramid_dim=64, mask_dim=64, hidden_dim=64, num_queries=20,
    num_heads=4, feedforward_dim=128, num_layers=3, text_dim=512,
)  # fmt: skip
"""The recorded network."""


def padded_labels(labels: np.ndarray, side: int = 160) -> np.ndarray:
    """A label map padded on the right and at the bottom with 255, as the recorded batches were."""
    padded = np.full((side, side), 255, labels.dtype)
    padded[: labels.shape[0], : labels.shape[1]] = labels
    return padded


FULL_FILES = {
    "network": {"text/": "tiny/text_features"}
    | {f"{name}/": f"tiny/{name}" for name in ("img0", "img2", "img3")}
    | {
        f"mode_{name}_img0/": f"tiny/mode_{name}_img0"
        for name in ("seg_only", "img_only", "ens_all", "style_crop", "resize_first", "prompts_select")
    },
    "handmade": {"": "postproc/postproc"},
    "training": {"": "tiny_train/train"},
    "evaluator": {"": "eval/eval"},
    "text": {
        "tokens/": "text/tokens",
        "synonyms/": "text/text_features_synonyms",
        "single/": "tiny/text_features",
        "imagenet_select/": "tiny/text_features_prompts_select",
        "imagenet/": "tiny/text_features_prompts_80",
    },
    "fcclip": {
        f"{place}/": f"fcclip/{place}"
        for place in (
            "convnext/img0",
            "convnext/img1",
            "convnext/img2",
            "convnext/text",
            "convnext/mode_other_alpha_beta_img2",
            "convnext/mode_in_vocab_only_img2",
            "convnext/mode_out_vocab_only_img2",
            "convnext/mode_semantic_only_img0",
            "convnext/mode_valid_mask_img1",
            "convnext/mode_thresholds_img0",
            "rn/img4",
            "rn/img5",
            "rn/text",
            "rn/mode_no_valid_mask_img4",
        )
    }
    | {"postproc/": "fcclip/postproc/postproc"},
    "fcclip_training": {"": "fcclip/train/train"},
}
"""Which files of the full recordings hold the arrays of each small file, by the prefix of their keys."""

FULL_WEIGHTS = {
    "zegformer": "tiny/model_no_clip.pth",
    "zegformer_train": "tiny_train/model_train.pth",
    "clip": "tiny/clip_openai_names.pth",
}
"""The files of recorded weights among the full recordings."""


class Recording(Mapping[str, np.ndarray]):
    """One .npz of recordings: `[key]` is an array that was kept whole, or the values kept of a larger one.

    Given the folder of the full recordings, every array is whole and nothing is read from tests/data/parity.
    """

    def __init__(self, name: str, full: Path | None = None) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        self._shapes: dict[str, str] = {}
        files = {"": FOLDER / f"{name}.npz"}
        if full is not None:
            files = {prefix: full / f"{file}.npz" for prefix, file in FULL_FILES[name].items()}
        for prefix, file in files.items():
            with np.load(file, allow_pickle=False) as stored:
                for key in stored.files:
                    path, _, shape = f"{prefix}{key}".partition("@")
                    self._arrays[path] = stored[key]
                    if shape:
                        self._shapes[path] = shape

    def __getitem__(self, key: str) -> np.ndarray:
        return self._arrays[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def pair(self, key: str, ours: Any) -> tuple[np.ndarray, np.ndarray]:
        """The values of `ours` at the places that were kept of the recorded array, and the recorded ones, float64."""
        ours, recorded = np.asarray(ours, dtype=np.float64), self[key].astype(np.float64)
        shape = self._shapes.get(key, "x".join(map(str, recorded.shape)))
        assert "x".join(map(str, ours.shape)) == shape, f"{key} is {ours.shape} instead of {shape}"
        return (ours.ravel()[places(key, ours.size)] if key in self._shapes else ours), recorded

    def worst(self, key: str, ours: Any) -> float:
        """The largest difference from what was kept of a recorded array."""
        kept, recorded = self.pair(key, ours)
        return float(np.abs(kept - recorded).max())

    def worst_by_row(self, key: str, ours: Any) -> np.ndarray:
        """(N,) the same for each entry along the first axis."""
        kept, recorded = self.pair(key, ours)
        size = np.asarray(ours).size
        rows = np.arange(size) if key not in self._shapes else places(key, size)
        result = np.zeros(len(ours))
        np.maximum.at(result, rows // (size // len(ours)), np.abs(kept - recorded).ravel())
        return result

    def equals(self, key: str, ours: np.ndarray) -> bool:
        """Whether a picture has the recorded shape, and the recorded values or CRC-32."""
        if key not in self._shapes:
            return np.array_equal(ours, self[key])
        pixels = ours.astype(np.uint8)
        same_shape = "x".join(map(str, ours.shape)) == self._shapes[key]
        return same_shape and np.array_equal(pixels, ours) and np.array_equal(crc(pixels), self[key])


Recordings = Callable[[str], Recording]
"""Returns the recording of a name: a small one of tests/data/parity, or the full one."""

SMALL: Recordings = cache(Recording)


@cache
def full_recordings(folder: Path) -> Recordings:
    """The recordings in the folder of full ones, each read once."""
    return cache(lambda name: Recording(name, folder))


def facts(name: str) -> Any:
    """One .json of recordings."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def places(key: str, size: int) -> np.ndarray:
    """Where the values of a flattened array are kept."""
    return np.random.default_rng(zlib.crc32(key.encode())).integers(size, size=SAMPLES)


def crc(array: np.ndarray) -> np.ndarray:
    """CRC-32 of an array's bytes."""
    return np.array(zlib.crc32(np.ascontiguousarray(array).tobytes()))


def drawn(key: str, entry: Mapping[str, Any]) -> np.ndarray:
    """A recorded tensor, float32: normal numbers that depend on its name, scaled and shifted."""
    if "values" in entry:
        return np.array(entry["values"], dtype=np.float32).reshape(entry["shape"])
    draw = np.random.default_rng([SEED, zlib.crc32(key.encode())])
    numbers = draw.standard_normal(entry["shape"]).astype(np.float32)
    numbers = np.float32(entry["scale"]) * (np.tanh(numbers) if entry.get("tanh") else numbers)
    numbers = np.float32(entry["shift"]) + numbers
    steps = entry.get("steps_per_unit")
    return (np.round(numbers * steps) / steps).astype(np.float16).astype(np.float32) if steps else numbers


@cache
def released_state(name: str) -> dict[str, torch.Tensor]:
    """The recorded weights by their released names: `zegformer`, `zegformer_train` or `clip`."""
    tables = facts("weights")
    table = tables["zegformer"] | tables[name] if name == "zegformer_train" else tables[name]
    prefix = "clip." if name == "clip" else ""
    return {key: torch.from_numpy(drawn(prefix + key, entry)) for key, entry in table.items()}
