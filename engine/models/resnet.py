"""Residual networks of bottlenecks over Sentinel-2 patches: ResNet11, in two and three dimensions.

As in DF4LCZ (Jing et al.): a 3x3 stem, three bottlenecks, no pooling before the last mean. In three
dimensions the spectrum is the third axis of a volume of one channel; stride 2 halves it too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Bottleneck", "ResNet11", "ResNet11Volume"]

EPS = 1e-3  # Keras' default, with which the paper trained
_CONV: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
_NORM: dict[int, type[nn.BatchNorm2d] | type[nn.BatchNorm3d]] = {
    2: nn.BatchNorm2d,
    3: nn.BatchNorm3d,
}


def _conv_norm(
    dims: int, into: int, out: int, side: int, stride: int, momentum: float
) -> nn.Module:
    return nn.Sequential(
        _CONV[dims](into, out, side, stride=stride, padding=side // 2),
        _NORM[dims](out, eps=EPS, momentum=momentum),
    )


class Bottleneck(nn.Module):
    """1x1 (stride), 3x3, 1x1 to four times the width; the shortcut is projected where it must be.

    Parameters
    ----------
    dims : 2 or 3
    into, width, stride : int
    momentum : of the batch statistics.
    """

    def __init__(
        self, dims: int, into: int, width: int, stride: int = 1, momentum: float = 0.1
    ) -> None:
        super().__init__()
        out = 4 * width
        self.body = nn.Sequential(
            _conv_norm(dims, into, width, 1, stride, momentum),
            nn.ReLU(),
            _conv_norm(dims, width, width, 3, 1, momentum),
            nn.ReLU(),
            _conv_norm(dims, width, out, 1, 1, momentum),
        )
        self.shortcut: nn.Module = (
            _conv_norm(dims, into, out, 1, stride, momentum)
            if stride > 1 or into != out
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, into, ...) -> (n, 4 width, ...), sides divided by the stride."""
        return torch.relu(self.body(x) + self.shortcut(x))


class _ResNet(nn.Module):
    """A stem, bottlenecks, the mean over all axes, one dense layer."""

    def __init__(
        self,
        dims: int,
        channels: int,
        classes: int,
        width: int,
        strides: Sequence[int],
        momentum: float,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv_norm(dims, channels, width, 3, 1, momentum), nn.ReLU())
        blocks: list[nn.Module] = []
        into = width
        for number, stride in enumerate(strides):
            blocks.append(Bottleneck(dims, into, width * 2**number, stride, momentum))
            into = 4 * width * 2**number
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(into, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, classes) and the mean of the last block (n, 16 width)."""
        features = self.blocks(self.stem(x)).flatten(2).mean(dim=2)
        return self.head(features), features


class ResNet11(_ResNet):
    """2D ResNet11: (n, bands, 32, 32) -> logits (n, classes) and features (n, 16 width).

    Parameters
    ----------
    bands, classes, width : int
        Width of the stem and of the first bottleneck.
    momentum : float
        Of the batch statistics; 0.01 in the paper.
    """

    def __init__(
        self, bands: int = 10, classes: int = 17, width: int = 64, momentum: float = 0.1
    ) -> None:
        super().__init__(2, bands, classes, width, (2, 2, 2), momentum)


class ResNet11Volume(_ResNet):
    """3D ResNet11: (n, bands, 32, 32), as volumes -> logits (n, classes), features (n, 16 width).

    Parameters are those of `ResNet11`; the number of bands is any.
    """

    def __init__(
        self, bands: int = 10, classes: int = 17, width: int = 64, momentum: float = 0.1
    ) -> None:
        super().__init__(3, 1, classes, width, (1, 2, 2), momentum)
        self.bands = bands

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `ResNet11`, with the spectrum as first axis of the volume."""
        return super().forward(x.unsqueeze(1))
