"""ResNet-v2-11, the trunk of So2Sat LCZ42's benchmark, and its transfer to another country.

Pre-activation bottlenecks, one in each of three stages (Qiu et al.). For transfer the trunk is
frozen, its batch statistics with it, and two dense layers are trained (Kim et al.).
"""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor, nn

from engine.models.resnet import EPS

__all__ = ["ResNetV2"]


def _norm(channels: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(channels, eps=EPS), nn.ReLU())


class _Stage(nn.Module):
    """BN, ReLU before each of 1x1 (stride), 3x3, 1x1; a projected shortcut without BN."""

    def __init__(self, into: int, width: int, out: int, stride: int, first: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Identity() if first else _norm(into),  # the stem has just done it
            nn.Conv2d(into, width, 1, stride=stride),
            _norm(width),
            nn.Conv2d(width, width, 3, padding=1),
            _norm(width),
            nn.Conv2d(width, out, 1),
        )
        self.shortcut = nn.Conv2d(into, out, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x) + self.shortcut(x)
        return found


class ResNetV2(nn.Module):
    """Patch classifier (n, bands, 32, 32) -> logits (n, classes) and features.

    Parameters
    ----------
    bands, classes, width : int
        Width of the stem; the trunk ends with 16 times as many channels.
    dense : int
        0: the benchmark's one layer. Else the transfer's two, with so many units between.
    dropout : float
        Between the two.
    frozen : bool
        Train the dense layers only; the trunk stays in evaluation mode, its statistics as they are.
    """

    fed_by = MappingProxyType({"head": "hidden"})
    """The last layer takes what the hidden one gives; without one, what the trunk gives."""

    def __init__(
        self,
        bands: int = 10,
        classes: int = 17,
        width: int = 16,
        dense: int = 0,
        dropout: float = 0.25,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        out = 16 * width
        self.trunk = nn.Sequential(
            nn.Conv2d(bands, width, 3, padding=1),
            _norm(width),
            _Stage(width, width, 4 * width, 1, True),
            _Stage(4 * width, 4 * width, 8 * width, 2, False),
            _Stage(8 * width, 8 * width, out, 2, False),
            _norm(out),
        )
        self.hidden: nn.Module = nn.Identity()
        if dense:
            self.hidden = nn.Sequential(nn.Linear(out, dense), nn.ReLU(), nn.Dropout(dropout))
        self.head = nn.Linear(dense or out, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.frozen = frozen
        self.trunk.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> ResNetV2:
        """As any module; a frozen trunk never leaves evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.trunk.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, classes) and the last layer's input (n, 16 width or dense)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            pooled = self.trunk(x).mean(dim=(2, 3))
        features = self.hidden(pooled)
        return self.head(features), features
