"""Networks that DF4LCZ compares with: ResNet50, DenseNet, MSMLA."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from engine.models.resnet import EPS, Bottleneck

__all__ = ["MSMLA", "DenseNet", "ResNet50"]


class ResNet50(nn.Module):
    """The usual ResNet50, from scratch: (n, bands, 32, 32) -> logits (n, classes), features.

    Parameters
    ----------
    bands, classes, width : int
        Width of the first stage's bottlenecks (64 as published).
    momentum : float
        Of the batch statistics.
    """

    def __init__(
        self, bands: int = 10, classes: int = 17, width: int = 64, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(bands, width, 7, stride=2, padding=3),
            nn.BatchNorm2d(width, eps=EPS, momentum=momentum),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        blocks: list[nn.Module] = []
        into = width
        for number, count in enumerate((3, 4, 6, 3)):
            for position in range(count):
                stride = 2 if number and not position else 1
                blocks.append(Bottleneck(2, into, width * 2**number, stride, momentum))
                into = 4 * width * 2**number
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(into, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, classes) and the mean of the last block (n, 32 width)."""
        features = self.blocks(self.stem(x)).mean(dim=(2, 3))
        return self.head(features), features


def _settle(network: nn.Module, momentum: float) -> None:
    """Give all batch statistics of a network their momentum."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum


class _DenseLayer(nn.Module):
    """BN, ReLU, 1x1, 3x3; what it makes stands beside what it got."""

    def __init__(self, into: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(into, eps=EPS),
            nn.ReLU(),
            nn.Conv2d(into, 4 * growth, 1),
            nn.Conv2d(4 * growth, growth, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], dim=1)


class DenseNet(nn.Module):
    """Three dense blocks: (n, bands, 32, 32) -> logits (n, classes), features.

    Parameters
    ----------
    bands, classes : int
    growth, layers : channels that each layer adds, layers of a block.
    width, between : channels of the stem, and of the transitions.
    momentum : of the batch statistics; 0.01 in the paper.
    """

    def __init__(
        self,
        bands: int = 10,
        classes: int = 17,
        growth: int = 12,
        layers: int = 7,
        width: int = 64,
        between: int = 32,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        parts: list[nn.Module] = [
            nn.Conv2d(bands, width, 3, padding=1),
            nn.BatchNorm2d(width, eps=EPS),
            nn.ReLU(),
        ]
        into = width
        for block in range(3):
            for _ in range(layers):
                parts.append(_DenseLayer(into, growth))
                into += growth
            if block < 2:
                parts += [
                    nn.BatchNorm2d(into, eps=EPS),
                    nn.ReLU(),
                    nn.Conv2d(into, between, 1),
                    nn.AvgPool2d(2),
                ]
                into = between
        self.body = nn.Sequential(*parts)
        self.head = nn.Linear(into, classes)
        _settle(self, momentum)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, classes) and the mean of the last block (n, between + layers growth)."""
        features = self.body(x).mean(dim=(2, 3))
        return self.head(features), features


class _Squeeze(nn.Module):
    """Squeeze and excitation (Hu et al.): each channel weighed by what all channels' means say."""

    def __init__(self, channels: int, ratio: int = 8) -> None:
        super().__init__()
        few = max(channels // ratio, 1)
        self.gate = nn.Sequential(
            nn.Linear(channels, few), nn.ReLU(), nn.Linear(few, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.gate(x.mean(dim=(2, 3)))
        return x * weight[:, :, None, None]


class _Attention(nn.Module):
    """CBAM (Woo et al.): channels weighed by their means and maxima, then places likewise."""

    def __init__(self, channels: int, ratio: int = 8) -> None:
        super().__init__()
        few = max(channels // ratio, 1)
        self.channel = nn.Sequential(nn.Linear(channels, few), nn.ReLU(), nn.Linear(few, channels))
        self.place = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.sigmoid(self.channel(x.mean(dim=(2, 3))) + self.channel(x.amax(dim=(2, 3))))
        x = x * weight[:, :, None, None]
        both = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.place(both))


class _SqueezeBlock(nn.Module):
    """A residual block whose branch is squeezed; with bottleneck (50) or without (18)."""

    def __init__(self, into: int, width: int, stride: int, deep: bool, first: bool) -> None:
        super().__init__()
        out = 4 * width if deep else width
        sides = (1, 3, 1) if deep else ((1, 3) if first else (3, 3))
        widths = (width, width, out) if deep else (width, width)
        layers: list[nn.Module] = []
        channels = into
        for number, (side, wide) in enumerate(zip(sides, widths, strict=True)):
            if number:
                layers.append(nn.ReLU())
            layers += [
                nn.Conv2d(channels, wide, side, stride=1 if number else stride, padding=side // 2),
                nn.BatchNorm2d(wide, eps=EPS),
            ]
            channels = wide
        self.body = nn.Sequential(*layers, _Squeeze(out))
        self.shortcut: nn.Module = nn.Identity()
        if first:
            self.shortcut = nn.Sequential(
                nn.Conv2d(into, out, 1, stride=stride), nn.BatchNorm2d(out, eps=EPS)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class MSMLA(nn.Module):
    """Multi-scale, multi-level attention (Kim et al.): patches -> logits (n, classes), features.

    Three scales side by side, three stages of squeezed residual blocks, and after the scales and
    after each stage's first block a branch of attention whose mean goes straight to the end.

    Parameters
    ----------
    bands, classes : int
    depth : {18, 50}
        Blocks of two convolutions, 2 a stage, or bottlenecks, 3, 4 and 6.
    widths : of the three stages; DF4LCZ takes (16, 32, 48).
    momentum : of the batch statistics; 0.01 in DF4LCZ.
    """

    def __init__(
        self,
        bands: int = 10,
        classes: int = 17,
        depth: Literal[18, 50] = 50,
        widths: tuple[int, int, int] = (16, 32, 64),
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        if depth not in (18, 50):
            raise ValueError(f"depth must be 18 or 50, got {depth}")
        deep = depth == 50
        self.scales = nn.ModuleList(
            nn.Conv2d(bands, wide, side, padding=side // 2)
            for wide, side in ((16, 5), (32, 3), (16, 1))
        )
        into = 64
        attention, first, rest = [_Attention(into)], [], []
        for number, (width, count) in enumerate(
            zip(widths, (3, 4, 6) if deep else (2, 2, 2), strict=True)
        ):
            first.append(_SqueezeBlock(into, width, 2 if number else 1, deep, True))
            into = 4 * width if deep else width
            attention.append(_Attention(into))
            more = [_SqueezeBlock(into, width, 1, deep, False) for _ in range(count - 1)]
            rest.append(nn.Sequential(*more))
        self.first, self.rest = nn.ModuleList(first), nn.ModuleList(rest)
        self.attention = nn.ModuleList(attention)
        levels = [64, *(4 * width if deep else width for width in widths)]
        self.head = nn.Linear(sum(levels) + into, classes)
        _settle(self, momentum)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, classes) and all levels' means side by side."""
        x = torch.cat([scale(x) for scale in self.scales], dim=1)
        levels = [self.attention[0](x)]
        for first, rest, attention in zip(self.first, self.rest, self.attention[1:], strict=True):
            x = first(x)
            levels.append(attention(x))
            x = rest(x)
        features = torch.cat([level.mean(dim=(2, 3)) for level in (x, *levels)], dim=1)
        return self.head(features), features
