"""Feature extractors: the paper's ResNet with frozen batch norm, or any timm network with strides 4 to 32."""

# B image, C channels, H W pixels
from __future__ import annotations

from collections.abc import Sequence

import timm
import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck
from torchvision.ops import FrozenBatchNorm2d

RESNET_BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
STRIDES = (4, 8, 16, 32)


class ResNet(nn.Module):
    """Bottleneck ResNet with frozen batch norm, names as in torchvision (detectron2's `build_resnet_backbone`).

    All convolutions are trained, normalisation is not; the stride is in the 3x3 convolution, nothing is dilated.

    Args:
        blocks: bottlenecks in each of the four stages.
        width: channels of the stem; 64 in the published network.
        bottleneck_width: channels of the first bottleneck; None takes those of the stem.
    """

    def __init__(self, blocks: Sequence[int], width: int = 64, bottleneck_width: int | None = None) -> None:
        super().__init__()
        planes = width if bottleneck_width is None else bottleneck_width
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = FrozenBatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = width
        self.channels: tuple[int, ...] = ()
        for stage, count in enumerate(blocks):
            layer, inputs = self._stage(inputs, planes * 2**stage, count, stride=1 if stage == 0 else 2)
            self.add_module(f"layer{stage + 1}", layer)
            self.channels += (inputs,)

    @staticmethod
    def _stage(inputs: int, planes: int, count: int, stride: int) -> tuple[nn.Sequential, int]:
        outputs = planes * Bottleneck.expansion
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), FrozenBatchNorm2d(outputs)
        )
        layers: list[nn.Module] = [
            Bottleneck(inputs, planes, stride, downsample=shortcut, norm_layer=FrozenBatchNorm2d)
        ]
        layers += [Bottleneck(outputs, planes, norm_layer=FrozenBatchNorm2d) for _ in range(count - 1)]
        return nn.Sequential(*layers), outputs

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised images → four maps, strides 4, 8, 16, 32."""
        features = self.maxpool(self.relu(self.bn1(self.conv1(images_B3HW))))
        maps = []
        for stage in range(4):
            features = self.get_submodule(f"layer{stage + 1}")(features)
            maps.append(features)
        return maps


class TimmFeatures(nn.Module):
    """Any timm network as a pyramid of four maps at strides 4 to 32.

    Batch statistics stay frozen in training, because batches of a few crops would spoil them.

    Raises:
        ValueError: the network lacks a map at one of the strides.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        probe = timm.create_model(name, features_only=True, pretrained=False)
        reductions = list(probe.feature_info.reduction())  # type: ignore[union-attr, operator]
        missing = [stride for stride in STRIDES if stride not in reductions]
        if missing:
            raise ValueError(
                f"backbone timm:{name} yields strides {reductions}, but {missing} are needed; "
                "choose a network with maps at strides 4, 8, 16 and 32"
            )
        indices = tuple(reductions.index(stride) for stride in STRIDES)
        self.network = timm.create_model(name, features_only=True, pretrained=False, out_indices=indices)
        self.channels = tuple(self.network.feature_info.channels())  # type: ignore[union-attr, operator]

    def train(self, mode: bool = True) -> TimmFeatures:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, images_B3HW: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised images → four maps, strides 4, 8, 16, 32."""
        return list(self.network(images_B3HW))


def build_backbone(
    name: str, *, width: int = 64, bottleneck_width: int | None = None
) -> ResNet | TimmFeatures:
    """`resnet50`, `resnet101` or `timm:NAME`, with random weights.

    Raises:
        ValueError: there is no such network.
    """
    if name in RESNET_BLOCKS:
        return ResNet(RESNET_BLOCKS[name], width, bottleneck_width)
    if name.startswith("timm:") and name[5:] in timm.list_models():
        return TimmFeatures(name[5:])
    raise ValueError(
        f"backbone {name!r} is not known; expected {', '.join(RESNET_BLOCKS)} or timm:NAME "
        "with a NAME of timm.list_models()"
    )


@torch.no_grad()
def fill_by_order(target: nn.Module, source: dict[str, Tensor]) -> list[str]:
    """Copy the tensors of a state dict that has other names in the same order.

    The source may have more tensors: a features-only network stops before the classifier. Counters
    (`num_batches_tracked`) are not copied.

    Returns:
        The names of the source tensors that were not used.

    Raises:
        ValueError: a shape differs, or the source ends first.
    """
    targets = [(k, v) for k, v in target.state_dict().items() if not k.endswith("num_batches_tracked")]
    sources = [(k, v) for k, v in source.items() if not k.endswith("num_batches_tracked")]
    if len(sources) < len(targets):
        raise ValueError(
            f"weights hold {len(sources)} tensors, the network wants {len(targets)}: another network?"
        )
    for (name, tensor), (origin, value) in zip(targets, sources):
        if tensor.shape != value.shape:
            raise ValueError(
                f"weights {origin!r} have shape {tuple(value.shape)}, but {name!r} wants {tuple(tensor.shape)}: "
                "another network?"
            )
        tensor.copy_(value)
    return [name for name, _ in sources[len(targets) :]]
