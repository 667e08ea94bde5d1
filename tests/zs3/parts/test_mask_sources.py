"""Mask sources against transformers called directly, on tiny models with random weights, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
import transformers
from PIL import Image
from torch.nn.functional import interpolate

from tests.data.composed_parts import mask_source_folder
from zs3.parts.mask_sources import FAMILIES, GRID, TASK, mask_source
from zs3.segmentation.composed import unpadded

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Family → the folder of a tiny model."""
    root = tmp_path_factory.mktemp("masks")
    return lambda family: (
        root / family if (root / family).exists() else mask_source_folder(family, root / family)
    )


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=["mask2former", "eomt", "oneformer"])
def case(request, folder, picture):
    """The library's own output for a picture, its processor, and the masks that we find."""
    family = request.param
    others = {"class_info_file": None} if family == "oneformer" else {}
    processor = transformers.AutoImageProcessor.from_pretrained(folder(family), **others)
    task = {"task_inputs": [TASK]} if others else {}
    inputs = {"pixel_values": processor(images=[picture], return_tensors="pt", **task)["pixel_values"]}
    if task:
        inputs["task_inputs"] = open_clip.tokenize(f"the task is {TASK}")
    kind = getattr(transformers, FAMILIES[family])
    with torch.inference_mode():
        output = kind.from_pretrained(folder(family)).eval()(**inputs)
    return output, processor, mask_source(folder(family), CPU).masks(picture)


def test_masks_and_no_object_are_what_the_library_post_processes(case):
    output, _, found = case
    assert torch.equal(found.mask_logits_Khw, output.masks_queries_logits[0])
    no_object = output.class_queries_logits[0].softmax(dim=1)[:, -1]
    torch.testing.assert_close(found.no_object_logits_K.sigmoid(), no_object)


def test_masks_lie_where_the_library_lays_them_over_the_picture(case, picture):
    (output, processor, found), size = case, picture.shape[:2]
    logits, is_padded = output.masks_queries_logits, hasattr(processor, "unpad_image")
    if is_padded:
        padded = interpolate(logits, size=(64, 64), mode="bilinear")
        (expected,) = processor.unpad_image(padded, [size], {"shortest_edge": 64, "longest_edge": 64})
    else:
        expected = interpolate(logits, size=size, mode="bilinear")[0]
    ours = unpadded(found.mask_logits_Khw, found.padded_hw, found.resized_hw)
    torch.testing.assert_close(interpolate(ours[None], size=size, mode="bilinear")[0], expected)
    assert (found.resized_hw != found.padded_hw) == is_padded


def test_the_tokens_of_a_oneformers_task_are_those_of_its_own_tokenizer():
    clip = open_clip.SimpleTokenizer()
    merges = sorted(clip.bpe_ranks, key=clip.bpe_ranks.get)
    vocabulary = {
        {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}.get(text, text): index
        for text, index in clip.encoder.items()
    }
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=merges)
    processor = transformers.OneFormerProcessor(transformers.OneFormerImageProcessor(), tokenizer)
    expected = processor._preprocess_text([f"the task is {TASK}"], max_length=77)
    assert torch.equal(clip([f"the task is {TASK}"]), expected)


@pytest.fixture
def few_points(monkeypatch):
    monkeypatch.setitem(GRID, "points_per_crop", 4)


@pytest.mark.parametrize(
    "kind", ["sam2", "sam2_video"]
)  # the published ones call themselves by the second name
def test_masks_of_a_sam_2_are_those_of_the_librarys_mask_generation(
    few_points, folder, picture, tmp_path, kind
):
    found = mask_source(changed(folder("sam2"), tmp_path / kind, model_type=kind), CPU).masks(picture)
    generate = transformers.pipeline("mask-generation", model=str(folder("sam2")))
    small = Image.fromarray(picture)
    small.thumbnail((64, 64), Image.Resampling.BILINEAR)
    expected = np.stack([np.asarray(mask) for mask in generate(small, points_per_crop=4)["masks"]])
    assert np.array_equal(found.mask_logits_Khw.numpy() > 0, expected) and len(expected) > 0
    assert set(np.unique(found.mask_logits_Khw)) == {-127, 127} and found.mask_logits_Khw.dtype == torch.int8
    assert float(found.no_object_logits_K.sigmoid().max()) == 0


def test_a_sam_2_that_is_sure_of_no_mask_gives_none(few_points, folder, picture, tmp_path):
    shutil.copytree(folder("sam2"), tmp_path / "unsure")
    state = safetensors.torch.load_file(tmp_path / "unsure" / "model.safetensors")
    state["mask_decoder.iou_prediction_head.proj_out.bias"] -= 50
    safetensors.torch.save_file(state, tmp_path / "unsure" / "model.safetensors", metadata={"format": "pt"})
    found = mask_source(tmp_path / "unsure", CPU).masks(picture)
    assert found.mask_logits_Khw.shape == (0, 36, 64) and found.no_object_logits_K.shape == (0,)


def changed(folder: Path, to: Path, **settings: object) -> Path:
    """A copy of a model whose config.json says something else."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**config, **settings}))
    return to


def test_a_model_of_no_known_family_is_refused_with_those_that_are_known(folder, tmp_path):
    other = changed(folder("eomt"), tmp_path / "detr", model_type="detr")
    with pytest.raises(ValueError, match=r"of type 'detr'.* known are mask2former, eomt, oneformer, sam2"):
        mask_source(other, CPU)


@pytest.mark.parametrize(("field", "value"), [("hidden_size", 64), ("num_hidden_layers", 5)])
def test_weights_of_another_size_than_the_settings_are_refused_in_one_line(folder, tmp_path, field, value):
    other = changed(folder("eomt"), tmp_path / "other", **{field: value})
    with pytest.raises(ValueError, match=r"other(: the weights do not fit| cannot be loaded)") as refused:
        mask_source(other, CPU)
    assert "\n" not in str(refused.value)


def test_weights_that_are_no_safetensors_and_models_that_cut_windows_are_refused(folder, tmp_path):
    pickled = changed(folder("eomt"), tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(
        FileNotFoundError, match=r"pickled has no model\.safetensors; only such weights are read"
    ):
        mask_source(pickled, CPU)
    windows = changed(folder("eomt"), tmp_path / "windows")
    settings = json.loads((windows / "preprocessor_config.json").read_text())
    (windows / "preprocessor_config.json").write_text(json.dumps({**settings, "do_split_image": True}))
    with pytest.raises(ValueError, match="windows cuts pictures into windows"):
        mask_source(windows, CPU)
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        mask_source(tmp_path, CPU)
