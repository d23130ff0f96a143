"""Residual networks (He et al. 2016) as encoders of segmenters; names are torchvision's."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from engine.models.ugsnet import Bottleneck

__all__ = ["Backbone", "conv", "padded"]

_DEPTHS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


def conv(into: int, out: int, side: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the size but for its stride, normalised, without what is below 0."""
    return nn.Sequential(
        nn.Conv2d(into, out, side, stride=stride, padding=side // 2, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


def padded(x: Tensor, multiple: int) -> Tensor:
    """Images with their last row and column repeated up to sides that are multiples."""
    height, width = x.shape[-2:]
    if height % multiple == width % multiple == 0:
        return x
    return functional.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")


class _Basic(nn.Module):
    """3x3, 3x3; the block of ResNet-18."""

    def __init__(self, into: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample: nn.Module | None = None
        if stride > 1 or into != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(into, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class Backbone(nn.Module):
    """ResNet-18 or ResNet-50 -> four levels at 1/4, 1/8, 1/16 and 1/32 of the size.

    Parameters
    ----------
    bands : of the image.
    width : of the stem; 64 is the published one.
    depth : 18 or 50.
    dilated : the last two levels stay at 1/8, and look 2 and 4 pixels far in place of 1.

    Attributes
    ----------
    channels : of each level.
    """

    def __init__(
        self, bands: int, width: int = 64, depth: Literal[18, 50] = 50, dilated: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(bands, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        into, self.channels = width, list[int]()
        for number, count in enumerate(_DEPTHS[depth], 1):
            inner = width * 2 ** (number - 1)
            stride = 1 if number == 1 or (dilated and number > 2) else 2
            apart = 2 ** (number - 2) if dilated and number > 2 else 1
            blocks: list[nn.Module] = []
            for k in range(count):
                step = stride if k == 0 else 1
                if depth == 18:
                    blocks.append(_Basic(into, inner, step))
                    into = inner
                else:
                    blocks.append(Bottleneck(into, inner, step, apart))
                    into = 4 * inner
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            self.channels.append(into)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        """(n, bands, y, x) -> the levels, the finest first."""
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        levels = []
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
            levels.append(x)
        return levels
