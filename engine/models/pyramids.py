"""PSPNet (Zhao et al. 2017) and UperNet (Xiao et al. 2018): what a pixel is told by its window.

Both pool the deepest level of ResNet-50 to 1, 2, 3 and 6 cells each way. Neither has the second
loss that its authors train it with beside.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.models.backbone import Backbone, conv, padded
from engine.models.ugsnet import Trained

__all__ = ["PSPNet", "UperNet"]

_BINS = (1, 2, 3, 6)


def _to(x: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    return functional.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


class _Pyramid(nn.Module):
    """A level beside itself pooled to a few cells each way."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.pooled = nn.ModuleList(conv(into, out, 1) for _ in _BINS)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x]
        for number, layer in zip(_BINS, self.pooled, strict=True):
            parts.append(_to(layer(functional.adaptive_avg_pool2d(x, number)), x.shape[-2:]))
        return torch.cat(parts, dim=1)


class PSPNet(nn.Module):
    """Images (n, bands, y, x) -> logits (n, classes, y, x); in training as UGSNet gives them.

    Parameters
    ----------
    bands, classes : int
    width : of the stem; 64 is the published one.
    """

    def __init__(self, bands: int = 3, classes: int = 2, width: int = 64) -> None:
        super().__init__()
        self.encoder = Backbone(bands, width, dilated=True)
        deep, level = self.encoder.channels[-1], 8 * width
        self.pyramid = _Pyramid(deep, deep // 4)
        self.out = nn.Sequential(
            conv(2 * deep, level), nn.Dropout2d(0.1), nn.Conv2d(level, classes, 1)
        )

    def forward(self, x: Tensor) -> Tensor | Trained:
        """Logits of each pixel; in training those at 1/8 of the size."""
        height, width = x.shape[-2:]
        x = padded(x, 32)
        coarse = self.out(self.pyramid(self.encoder(x)[-1]))
        if self.training:
            return Trained(coarse, None, None)
        return _to(coarse, x.shape[-2:])[..., :height, :width]


class UperNet(nn.Module):
    """Images (n, bands, y, x) -> logits (n, classes, y, x); in training as UGSNet gives them.

    Parameters
    ----------
    bands, classes : int
    width : of the stem; 64 is the published one.
    """

    def __init__(self, bands: int = 3, classes: int = 2, width: int = 64) -> None:
        super().__init__()
        self.encoder = Backbone(bands, width)
        *levels, deep = self.encoder.channels
        out = 8 * width
        self.pyramid = _Pyramid(deep, out)
        self.top = conv(deep + len(_BINS) * out, out)
        self.sides = nn.ModuleList(conv(into, out, 1) for into in levels)
        self.smooth = nn.ModuleList(conv(out, out) for _ in levels)
        self.fused = conv(4 * out, out)
        self.out = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(out, classes, 1))

    def forward(self, x: Tensor) -> Tensor | Trained:
        """Logits of each pixel; in training those at 1/4 of the size."""
        height, width = x.shape[-2:]
        x = padded(x, 32)
        *levels, deep = self.encoder(x)
        found = [self.top(self.pyramid(deep))]
        for side, level in zip(reversed(self.sides), reversed(levels), strict=True):
            found.append(side(level) + _to(found[-1], level.shape[-2:]))
        size = found[-1].shape[-2:]
        fine = [smooth(one) for smooth, one in zip(self.smooth, found[:0:-1], strict=True)]
        every = torch.cat([*(_to(one, size) for one in fine), _to(found[0], size)], dim=1)
        coarse = self.out(self.fused(every))
        if self.training:
            return Trained(coarse, None, None)
        return _to(coarse, x.shape[-2:])[..., :height, :width]
