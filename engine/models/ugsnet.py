"""UGSNet: green space in 1 m images, by a residual encoder with coordinate attention.

As in UGS-1m (Shi et al.): ResNet-50 whose stem keeps its resolution and whose last stage is
dilated, an attention after each stage, four levels fused at a quarter of the size, and a point
head that makes the map fine where it is unsure.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.models.points import PointHead, Uncertainty, draw_points, refine

__all__ = ["Bottleneck", "CoordinateAttention", "Encoder", "Trained", "UGSNet"]

DEPTHS = (3, 4, 6, 3)
MULTIPLE = 16
"""Sides that the network takes are multiples of it; others are padded and cropped."""


class Bottleneck(nn.Module):
    """1x1, 3x3 (stride, dilation), 1x1 to four times the width; names are torchvision's."""

    def __init__(self, into: int, width: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        out = 4 * width
        self.conv1 = nn.Conv2d(into, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(
            width, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample: nn.Module | None = None
        if stride > 1 or into != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(into, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class CoordinateAttention(nn.Module):
    """Enhanced coordinate attention: x times a gate of each channel, column and row.

    Parameters
    ----------
    channels : int
    reduction : of the channels between; at least 8 are left.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        middle = max(8, channels // reduction)
        self.along = nn.Sequential(nn.Conv2d(channels, middle, 1), nn.BatchNorm2d(middle))
        self.whole = nn.Sequential(nn.Conv2d(channels, middle, 1), nn.BatchNorm2d(middle))
        self.rows = nn.Conv2d(middle, channels, 3, padding=1)
        self.cols = nn.Conv2d(middle, channels, 3, padding=1)
        self.channels = nn.Conv2d(middle, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, y, x), as it came.

        Raises
        ------
        ValueError
            In training with a batch of one: the means of whole images have no spread.
        """
        if self.training and self.whole[1].training and x.shape[0] < 2:
            raise ValueError(
                "coordinate attention cannot train on a batch of one: take two or more"
            )
        height = x.shape[-2]
        rows, cols = x.mean(dim=3, keepdim=True), x.mean(dim=2, keepdim=True).transpose(2, 3)
        both = functional.hardswish(self.along(torch.cat([rows, cols], dim=2)))
        rows, cols = both[:, :, :height], both[:, :, height:].transpose(2, 3)
        whole = functional.hardswish(self.whole(x.mean(dim=(2, 3), keepdim=True)))
        gates = self.channels(whole).sigmoid() * self.cols(cols).sigmoid()
        found: Tensor = x * gates * self.rows(rows).sigmoid()
        return found


class Encoder(nn.Module):
    """ResNet-50 with a stem of stride 1 and a dilated last stage -> four levels.

    Parameters
    ----------
    bands : of the image.
    width : of the stem; 64 is the published one.
    attention : coordinate attention after each stage.
    """

    def __init__(self, bands: int = 3, width: int = 64, attention: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(bands, width, 7, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        into = width
        for number, depth in enumerate(DEPTHS, 1):
            inner = width * 2 ** (number - 1)
            blocks = []
            for k in range(depth):
                stride = 2 if k == 0 and number > 1 else 1
                blocks.append(Bottleneck(into, inner, stride, 2**k if number == 4 else 1))
                into = 4 * inner
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            gate = CoordinateAttention(into) if attention else nn.Identity()
            self.add_module(f"attention{number}", gate)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        """(n, bands, y, x) -> levels at 1/2, 1/4, 1/8 and 1/16 of the size."""
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        levels = []
        for number in range(1, len(DEPTHS) + 1):
            x = self.get_submodule(f"layer{number}")(x)
            x = self.get_submodule(f"attention{number}")(x)
            levels.append(x)
        return levels


class Trained(NamedTuple):
    """What UGSNet gives in training.

    Attributes
    ----------
    coarse : logits (n, classes, y / 4, x / 4)
    rend : logits (n, classes, p) of points, None without a point head.
    points : (n, p, 2), x and y in [0, 1].
    """

    coarse: Tensor
    rend: Tensor | None
    points: Tensor | None


class UGSNet(nn.Module):
    """Images (n, bands, y, x) -> logits (n, classes, y, x); in training `Trained`.

    Parameters
    ----------
    bands, classes : int
    width : of the stem; 64 is the published one, 16 a small one.
    attention, point_head : switches of the ablation.
    points : that are asked at each doubling of the map; 1024 in the published code.
    uncertainty : see `engine.models.points.draw_points`.
    """

    def __init__(
        self,
        bands: int = 3,
        classes: int = 2,
        width: int = 64,
        attention: bool = True,
        point_head: bool = True,
        points: int = 8192,
        uncertainty: Uncertainty = "sample_first",
    ) -> None:
        super().__init__()
        self.encoder = Encoder(bands, width, attention)
        self.points, self.uncertainty = points, uncertainty
        level, wide = 3 * width // 2, 4 * width
        self.reduce = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(4 * width * 2**k, level, 1, bias=False), nn.BatchNorm2d(level), nn.ReLU()
            )
            for k in range(4)
        )
        self.out = nn.Sequential(
            nn.Conv2d(4 * level, wide, 3, padding=1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv2d(wide, classes, 1, bias=False),
        )
        for part in (self.reduce, self.out):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        self.head = PointHead(8 * width, classes) if point_head else None

    def forward(self, x: Tensor) -> Tensor | Trained:
        """Logits of each pixel; in training coarse ones and those of drawn points."""
        if not self.training:
            return self._fine(x)
        coarse, fine = self.coarse(x)
        if self.head is None:
            return Trained(coarse, None, None)
        points = draw_points(coarse, 4 * x.shape[-1], uncertainty=self.uncertainty)
        return Trained(coarse, self.head(coarse, fine, points), points)

    def coarse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Coarse logits (n, classes, y / 4, x / 4), and the level that points look at."""
        levels = self.encoder(x)
        size = levels[1].shape[-2:]
        parts = [
            functional.interpolate(reduce(level), size, mode="bilinear", align_corners=False)
            for reduce, level in zip(self.reduce, levels, strict=True)
        ]
        coarse: Tensor = self.out(torch.cat([parts[3], *parts[:3]], dim=1))
        return coarse, levels[1]

    def _fine(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        below, right = -height % MULTIPLE, -width % MULTIPLE
        if below or right:
            x = functional.pad(x, (0, right, 0, below), mode="reflect")
        size = x.shape[-2], x.shape[-1]
        coarse, fine = self.coarse(x)
        head = self.head
        if head is None:
            found = functional.interpolate(coarse, size, mode="bilinear", align_corners=False)
        else:
            found = refine(coarse, lambda points: head(coarse, fine, points), size, self.points)
        return found[..., :height, :width]
