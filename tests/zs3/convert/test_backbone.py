"""ImageNet weights of either publisher fill the same backbone; those of another network are named."""

import pickle

import pytest
import torch

from tests.data.fcclip_networks import network_of, tiny_fcclip
from zs3.convert.backbone import read_backbone, torchvision_names
from zs3.nets.backbone import build_backbone
from zs3.nets.networks import build_network
from zs3.nets.zegformer import ModelConfig


def small(name="resnet50"):
    """A model with a ResNet of 4 channels, random weights of that, and these in torchvision's own file layout."""
    torch.manual_seed(0)
    config = ModelConfig(backbone=name, backbone_width=4, bottleneck_width=4)
    backbone = build_backbone(name, width=4, bottleneck_width=4)
    state = {key: torch.rand_like(value) for key, value in backbone.state_dict().items()}
    extra = {
        "fc.weight": torch.ones(2, 2),
        "fc.bias": torch.ones(2),
        "bn1.num_batches_tracked": torch.tensor(5),
    }
    return config, state, {**state, **extra}


def detectron_name(name):
    """What detectron2's converter of torchvision's weights calls a tensor."""
    if not name.startswith("layer"):
        name = f"stem.{name}"
    for number in (1, 2, 3, 4):
        name = name.replace(f"layer{number}", f"res{number + 1}")
    for number in (1, 2, 3):
        name = name.replace(f"bn{number}", f"conv{number}.norm")
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


@pytest.mark.parametrize("publisher", ["torchvision", "detectron2"])
@pytest.mark.parametrize("name", ["resnet50", "resnet101"])
def test_every_tensor_of_either_publisher_finds_its_place(tmp_path, publisher, name):
    config, state, file = small(name)
    if publisher == "torchvision":
        path = tmp_path / "resnet.pth"
        torch.save(file, path)
    else:
        path = tmp_path / "R.pkl"
        arrays = {detectron_name(key): value.numpy() for key, value in file.items()}
        content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
        path.write_bytes(pickle.dumps(content))
    loaded = read_backbone(config, str(path))
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_a_clip_is_read_in_open_clips_names_and_another_one_is_refused(tmp_path):
    config = tiny_fcclip("convnext").model
    clip = network_of("convnext").backbone.model.state_dict()
    torch.save({f"module.{name}": value for name, value in clip.items()}, tmp_path / "clip.pt")
    loaded = read_backbone(config, str(tmp_path / "clip.pt"))
    build_network(config).backbone.load_state_dict(loaded, strict=True)
    assert torch.equal(loaded["model.logit_scale"], clip["logit_scale"])
    with pytest.raises(ValueError, match=r"clip\.pt: .*not expected \(model\.visual"):
        read_backbone(tiny_fcclip("rn").model, str(tmp_path / "clip.pt"))


def test_names_of_either_publisher_become_torchvisions():
    _, state, file = small()
    assert torchvision_names(file).keys() == state.keys()
    assert (
        torchvision_names({detectron_name(key): value for key, value in file.items()}).keys() == state.keys()
    )


def test_weights_of_another_depth_and_of_msra_are_refused_with_the_first_names(tmp_path):
    config, _, _ = small("resnet50")
    _, _, deeper = small("resnet101")
    torch.save(deeper, tmp_path / "resnet101.pth")
    with pytest.raises(ValueError, match="255 not expected") as refusal:
        read_backbone(config, str(tmp_path / "resnet101.pth"))
    assert "255 not expected (layer3.6." in str(refusal.value) and "and 243 more" in str(refusal.value)
    msra = {"conv1_w": torch.ones(64, 3, 7, 7).numpy(), "res2_0_branch2a_w": torch.ones(1).numpy()}
    (tmp_path / "R-101.pkl").write_bytes(pickle.dumps({"model": msra}))
    with pytest.raises(
        ValueError, match=r"missing \(conv1.weight, .*2 not expected \(conv1_w, res2_0_branch2a_w\)"
    ):
        read_backbone(config, str(tmp_path / "R-101.pkl"))


def test_torchvision_itself_names_its_tensors_so():
    models = pytest.importorskip("torchvision.models")
    for name in ("resnet50", "resnet101"):
        with torch.device("meta"):
            theirs = torchvision_names(getattr(models, name)().state_dict())
            config = ModelConfig()
            ours = build_backbone(name, width=config.backbone_width, bottleneck_width=None).state_dict()
        assert {key: value.shape for key, value in theirs.items()} == {
            key: value.shape for key, value in ours.items()
        }
