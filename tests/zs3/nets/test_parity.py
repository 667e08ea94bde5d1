"""The network computes what the published network computed, stage by stage, on the recorded inputs."""

import pytest
import torch

from tests.support.parity import TINY, facts, released_state
from zs3.config import SegmentSettings
from zs3.convert.zegformer_names import from_released, our_name
from zs3.nets.zegformer import ModelConfig, ZegFormer, class_logits
from zs3.segmentation.segmenter import normalise_and_pad, resize


@pytest.fixture(scope="module")
def network():
    network = ZegFormer(TINY).eval()
    network.load_state_dict(from_released(released_state("zegformer")), strict=True)
    return network


@pytest.mark.parametrize(("image", "short_side_px"), [("img0", 128), ("img2", 128), ("img3", 64)])
def test_every_stage_of_the_network_equals_the_recorded_stage(network, recordings, image, short_side_px):
    recording = recordings("network")
    bank = torch.from_numpy(recording["text/test"])
    settings = SegmentSettings(short_side_px=short_side_px, max_side_px=512)

    def worst(key, ours):
        return recording.worst(f"{image}/{key}", ours[0])

    def recorded(key):
        return f"{image}/{key}" in recording

    with torch.no_grad():
        resized = resize(recording[f"{image}/image"], settings)
        x = normalise_and_pad(resized, TINY.image_mean, TINY.image_std, TINY.size_divisibility)[None]
        assert x.shape[-2:] == tuple(recording[f"{image}/padded_hw"])
        maps = network.backbone(x)
        # Frozen batch norm folds its factors in another order: 1e-5 on values up to 10. A wrong stride moves units.
        for level, features in enumerate(maps if recorded("feat_res2") else (), start=2):
            assert worst(f"feat_res{level}", features) < 2e-4
        assert worst("mask_features", network.pixel_decoder(maps)) < 5e-4
        assert worst("hs_last", network.decoder(maps[-1])[-1]) < 2e-4
        *earlier, last = network(x, all_layers=True)
        assert worst("pred_logits", class_logits(last, bank)) < 1e-3
        # Mask logits reach ±40; two independent implementations differed by 7e-4.
        assert worst("pred_masks", last.mask_logits_BQhw) < 2e-3
        if recorded("aux_logits"):
            logits = torch.stack([class_logits(output, bank)[0] for output in earlier])
            assert worst("aux_logits", logits[None]) < 1e-3
            assert worst("aux_masks", torch.stack([o.mask_logits_BQhw[0] for o in earlier])[None]) < 2e-3


def test_only_the_last_layer_is_computed_outside_training(network):
    with torch.no_grad():
        x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        every, last = network(x, all_layers=True), network(x)
    assert len(every) == TINY.num_layers and len(last) == 1
    assert all(torch.equal(a, b) for a, b in zip(every[-1][:3], last[0][:3]))


def test_every_released_name_has_one_place_and_another_name_is_refused():
    ours = [our for our in map(our_name, facts("text")["state_dict_keys"]) if our is not None]
    assert len(ours) == len(set(ours)) == len(ZegFormer(TINY).state_dict())
    with pytest.raises(ValueError, match=r"roi_heads\.box"):
        our_name("roi_heads.box")


def test_the_published_size_has_the_published_number_of_parameters():
    network = ZegFormer(ModelConfig())
    count = sum(v.numel() for v in network.state_dict().values())
    assert abs(count / 1e6 - 41.45) < 0.01
