"""Feature extractors: the paper's ResNet with frozen batch norm, or any timm network that yields strides 4 to 32."""

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

    All convolutions train, no normalisation statistic does; the stride sits in the 3x3 convolution, nothing is dilated.

    Args:
        blocks: bottlenecks in each of the four stages.
        width: channels of the stem; 64 is the published network, less makes a small one of the same shape.
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
    """Any timm network as a pyramid of the four maps at strides 4 to 32.

    Batch statistics stay frozen when `freeze_statistics` is set: batches of a few crops would spoil them.

    Raises:
        ValueError: the network has no map at one of the strides.
    """

    def __init__(self, name: str, *, freeze_statistics: bool = True) -> None:
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
        self.freeze_statistics = freeze_statistics

    def train(self, mode: bool = True) -> TimmFeatures:
        super().train(mode)
        if self.freeze_statistics:
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
    """The network called `resnet50`, `resnet101` or `timm:<any timm name>`, with random weights.

    Raises:
        ValueError: no such name.
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
    """Copy the tensors of a state dict that names them differently but lists them in the same order.

    A features-only network stops before the classifier, so the source may go on after the target ends.
    `num_batches_tracked` counters are left alone.

    Returns:
        The names of the source tensors that were not used.

    Raises:
        ValueError: a shape differs, or the source ends first.
    """
    wanted = [(k, v) for k, v in target.state_dict().items() if not k.endswith("num_batches_tracked")]
    given = [(k, v) for k, v in source.items() if not k.endswith("num_batches_tracked")]
    if len(given) < len(wanted):
        raise ValueError(
            f"weights hold {len(given)} tensors, the network wants {len(wanted)}: another network?"
        )
    for (name, tensor), (origin, value) in zip(wanted, given):
        if tensor.shape != value.shape:
            raise ValueError(
                f"weights {origin!r} have shape {tuple(value.shape)}, but {name!r} wants {tuple(tensor.shape)}: "
                "another network?"
            )
        tensor.copy_(value)
    return [name for name, _ in given[len(wanted) :]]
