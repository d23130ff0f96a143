"""MSCNN: one multi-scale layer, five blocks, two dense layers (Kim et al., LCZ of Korea).

Widths, block kernels and the dense width are not published; the defaults are this project's.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["MSCNN"]


class MSCNN(nn.Module):
    """Patch classifier (n, bands, 32, 32) -> logits (n, classes).

    Parameters
    ----------
    bands, classes : int
    branch : int
        Filters of each of the three parallel convolutions (kernels 3, 5, 7).
    blocks : widths of the five blocks Conv3x3-BN-ReLU-MaxPool2.
    dense : int
    dropout : float
        After the first dense layer.
    ms_act : {"none", "relu"}
        Activation of the multi-scale layer.
    allowed_classes : tuple of int, optional
        Positions of outputs that may be given; the others' logits are -inf.

    Raises
    ------
    ValueError
        Where `ms_act` is neither.
    """

    def __init__(
        self,
        bands: int = 10,
        classes: int = 17,
        branch: int = 32,
        blocks: tuple[int, ...] = (64, 128, 128, 256, 256),
        dense: int = 256,
        dropout: float = 0.25,
        ms_act: Literal["none", "relu"] = "none",
        allowed_classes: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        if ms_act not in ("none", "relu"):
            raise ValueError(f"ms_act must be none or relu, got {ms_act}")
        self.scales = nn.ModuleList(nn.Conv2d(bands, branch, k, padding=k // 2) for k in (3, 5, 7))
        self.act: nn.Module = nn.ReLU() if ms_act == "relu" else nn.Identity()
        layers: list[nn.Module] = []
        channels = 3 * branch
        for width in blocks:
            layers += [
                nn.Conv2d(channels, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            channels = width
        self.blocks = nn.Sequential(*layers)
        self.smallest = 2 ** len(blocks)
        self.fc1 = nn.Sequential(nn.Linear(channels, dense), nn.ReLU(), nn.Dropout(dropout))
        self.fc2 = nn.Linear(dense, classes)
        barred = torch.zeros(classes)
        if allowed_classes is not None:
            barred[:] = -torch.inf
            barred[list(allowed_classes)] = 0.0
        self.register_buffer("barred", barred, persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, classes) and the dense layer's output (n, dense).

        Raises
        ------
        ValueError
            Where a patch is smaller than the pools can take.
        """
        if min(x.shape[-2:]) < self.smallest:
            raise ValueError(
                f"MSCNN needs patches of at least {self.smallest} px, got {tuple(x.shape[-2:])}"
            )
        x = self.act(torch.cat([scale(x) for scale in self.scales], dim=1))
        features = self.fc1(self.blocks(x).mean(dim=(2, 3)))
        return self.fc2(features) + self.barred, features
