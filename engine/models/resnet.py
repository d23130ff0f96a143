"""Residual networks of bottlenecks over Sentinel-2 patches: ResNet11, in two and three dimensions.

As in DF4LCZ (Jing et al.): a 3x3 stem, three bottlenecks, no pooling before the last mean. In three
dimensions the spectrum is the third axis of a volume of one channel; stride 2 halves it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.models.dense import Trail, convolve, crop, gather, kept, window_mean

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

    def lead(self, x: Tensor, trail: Trail, after: int = 1) -> Tensor:
        """The same with real neighbours: sides shrink by one sample of the trail each way.

        Parameters
        ----------
        x : of which only the samples are there that this block's stride keeps.
        trail : of `x`; moved on.
        after : the next block's stride, taken early: the last layers are of one sample each.
        """
        parts: Any = self.body
        first, _, second, _, third = parts
        shortcut: Any = self.shortcut
        dilation = trail.dilation
        y = functional.relu(convolve(first[0], x, 1, first[1]), inplace=True)
        y = functional.relu(convolve(second[0], y, dilation, second[1]), inplace=True)
        here = kept(after, trail, y.dim() - 2)
        y = convolve(third[0], y[here], 1, third[1])
        x = crop(x, dilation)[here]
        if not isinstance(shortcut, nn.Identity):
            x = convolve(shortcut[0], x, 1, shortcut[1])
        return functional.relu(y + x, inplace=True)


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
        leading: int,
    ) -> None:
        super().__init__()
        if not 0 <= leading <= len(strides):
            raise ValueError(f"leading must be 0 to {len(strides)}, got {leading}")
        self.leading = leading
        spacing, context = 1, 1
        for stride in strides[:leading]:
            spacing *= stride
            context += spacing
        self.context, self._spacing = context if leading else 0, spacing
        self._strides = tuple(strides)
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
        x = self._lead(x, Trail()) if self.leading else self.stem(x)
        return self._classify(x)

    def dense(
        self, x: Tensor, rows: int, cols: int, step: int, patch: int
    ) -> tuple[Tensor, Tensor]:
        """What `forward` gives for each of rows x cols patches, from one image of them all.

        Parameters
        ----------
        x : (1, channels, …, height, width)
            From the first patch's context to the last one's.
        rows, cols : patches down and across.
        step, patch : px from one to the next, and of its side.
        """
        trail = Trail(step)
        x = self._lead(x, trail)
        side = patch // self._spacing
        if self.leading < len(self.blocks):
            return self._classify(gather(x, trail, rows, cols, side))
        if x.dim() == 5:  # the mean over the spectrum first: it is of one length for all
            x = x.mean(dim=2)
        features = window_mean(x, trail, rows, cols, side)
        return self.head(features), features

    def _lead(self, x: Tensor, trail: Trail) -> Tensor:
        """Stem and blocks that see real neighbours."""
        stem: Any = self.stem
        x = functional.relu(convolve(stem[0][0], x, 1, stem[0][1]), inplace=True)
        blocks: Any = self.blocks[: self.leading]
        strides = [*self._strides[: self.leading], 1]
        x = x[kept(strides[0], trail, x.dim() - 2)]
        for block, after in zip(blocks, strides[1:], strict=True):
            x = block.lead(x, trail, after)
        return x

    def _classify(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The other blocks, each patch alone, the mean, the dense layer."""
        features = self.blocks[self.leading :](x).flatten(2).mean(dim=2)
        return self.head(features), features


class ResNet11(_ResNet):
    """2D ResNet11: (n, bands, 32, 32) -> logits (n, classes) and features (n, 16 width).

    Parameters
    ----------
    bands, classes, width : int
        Width of the stem and of the first bottleneck.
    momentum : float
        Of the batch statistics; 0.01 in the paper.
    leading : int
        Stem and so many blocks see real neighbours instead of zeros; patches then come with
        `context` px more each side, and many are evaluated as one (`dense`).

    Attributes
    ----------
    context : px
    """

    def __init__(
        self,
        bands: int = 10,
        classes: int = 17,
        width: int = 64,
        momentum: float = 0.1,
        leading: int = 0,
    ) -> None:
        super().__init__(2, bands, classes, width, (2, 2, 2), momentum, leading)


class ResNet11Volume(_ResNet):
    """3D ResNet11: (n, bands, 32, 32), as volumes -> logits (n, classes), features (n, 16 width).

    Parameters are those of `ResNet11`; the number of bands is any.
    """

    def __init__(
        self,
        bands: int = 10,
        classes: int = 17,
        width: int = 64,
        momentum: float = 0.1,
        leading: int = 0,
    ) -> None:
        super().__init__(3, 1, classes, width, (1, 2, 2), momentum, leading)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `ResNet11`, with the spectrum as first axis of the volume."""
        return super().forward(x.unsqueeze(1))

    def dense(
        self, x: Tensor, rows: int, cols: int, step: int, patch: int
    ) -> tuple[Tensor, Tensor]:
        """As `ResNet11`, with the spectrum as first axis of the volume."""
        return super().dense(x.unsqueeze(1), rows, cols, step, patch)
