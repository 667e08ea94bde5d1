"""The network computes what the published network computed, stage by stage, on the recorded inputs."""

import numpy as np
import pytest
import torch

from zs3.convert.zegformer_names import from_released, our_name
from zs3.nets.zegformer import ModelConfig, ZegFormer, class_logits

TINY = ModelConfig(
    backbone_width=16, bottleneck_width=8, pyramid_dim=64, mask_dim=64, hidden_dim=64, num_queries=20,
    num_heads=4, feedforward_dim=128, num_layers=3, text_dim=512,
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny(shared):
    folder = shared / "reference/fixtures/tiny"
    network = ZegFormer(TINY).eval()
    state = torch.load(folder / "model_no_clip.pth", weights_only=True)["model"]
    network.load_state_dict(from_released(state), strict=True)
    return folder, network


def padded(image_3hw, config):
    mean, std = (torch.tensor(v)[:, None, None] for v in (config.image_mean, config.image_std))
    image = (torch.from_numpy(image_3hw).float() - mean) / std
    height, width = image.shape[-2:]
    multiple = config.size_divisibility
    return torch.nn.functional.pad(image, (0, -width % multiple, 0, -height % multiple))[None]


def worst(ours, recorded):
    return float((ours - torch.from_numpy(recorded).float()).abs().max())


@pytest.mark.parametrize("image", ["img0", "img2", "img3"])
def test_every_stage_of_the_network_equals_the_recorded_stage(tiny, image):
    folder, network = tiny
    record = np.load(folder / f"{image}.npz")
    bank = torch.from_numpy(np.load(folder / "text_features.npz")["test"]).float()
    with torch.no_grad():
        x = padded(record["image_resized"], TINY)
        assert x.shape[-2:] == tuple(record["padded_hw"])
        maps = network.backbone(x)
        # Frozen batch norm folds its factors in another order: 1e-5 on values up to 10. A wrong stride moves units.
        for level, features in enumerate(maps if image != "img3" else ()):  # not recorded of that one
            assert worst(features[0], record[f"feat_res{level + 2}"].reshape(features[0].shape)) < 2e-4
        features = network.pixel_decoder(maps)
        assert worst(features[0], record["mask_features"].reshape(features[0].shape)) < 5e-4
        hidden = network.decoder(maps[-1])
        assert worst(hidden[-1][0], record["hs_last"].reshape(hidden[-1][0].shape)) < 2e-4
        outputs = network(x, all_layers=True)
        assert worst(class_logits(outputs[-1], bank, TINY.temperature)[0], record["pred_logits"]) < 1e-3
        # Mask logits reach ±40; two independent implementations differed by 7e-4.
        assert worst(outputs[-1].mask_logits_BQhw[0], record["pred_masks"]) < 2e-3
        earlier = zip(record["aux_logits"], record["aux_masks"]) if image != "img3" else ()
        for layer, (logits, masks) in enumerate(earlier):
            assert worst(class_logits(outputs[layer], bank, TINY.temperature)[0], logits) < 1e-3
            assert worst(outputs[layer].mask_logits_BQhw[0], masks) < 2e-3


def test_only_the_last_layer_is_computed_outside_training(tiny):
    _, network = tiny
    with torch.no_grad():
        x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        every, last = network(x, all_layers=True), network(x)
    assert len(every) == TINY.num_layers and len(last) == 1
    assert all(torch.equal(a, b) for a, b in zip(every[-1], last[0]))


def test_every_official_name_has_one_place_and_a_stranger_is_named(shared):
    lines = shared / "reference/fixtures/tiny/state_dict_keys.txt"
    names = [line.split("\t")[0] for line in lines.read_text().splitlines()]
    ours = [our for our in map(our_name, names) if our is not None]
    assert len(ours) == len(set(ours)) == len(ZegFormer(TINY).state_dict())
    with pytest.raises(ValueError, match=r"roi_heads\.box"):
        our_name("roi_heads.box")


def test_the_published_size_has_the_published_number_of_parameters():
    network = ZegFormer(ModelConfig())
    count = sum(v.numel() for v in network.state_dict().values())
    assert abs(count / 1e6 - 41.45) < 0.01
