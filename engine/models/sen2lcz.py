"""Sen2LCZ-Net: four stages of convolutions, a head after each pooling and one at the end.

Qiu et al. 2020, "Multilevel feature fusion-based CNN for local climate zone classification from
Sentinel-2 images"; depth 17, width 16, fusion 1, as trained on So2Sat LCZ42.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Sen2LCZ"]

_EPS = 1e-3  # Keras' default, with which the published weights were trained


class Sen2LCZ(nn.Module):
    """Patch classifier (n, bands, 32, 32) -> class probabilities (n, classes).

    Parameters
    ----------
    bands, classes, width : int
        Width of the first stage; it doubles with each.
    depth : int
        Convolutions per stage.
    dropout : float
    """

    def __init__(
        self,
        bands: int = 10,
        classes: int = 17,
        width: int = 16,
        depth: int = 4,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        stages, channels = [], bands
        for stage in range(4):
            out = width * 2**stage
            layers: list[nn.Module] = []
            for _ in range(depth):
                layers += [
                    nn.Conv2d(channels, out, 3, padding=1),
                    nn.BatchNorm2d(out, eps=_EPS),
                    nn.ReLU(),
                ]
                channels = out
            stages.append(nn.Sequential(*layers))
            channels = out * (2 if stage < 3 else 1)
        self.stages = nn.ModuleList(stages)
        # after each pooling, maximum and mean side by side; at the end the stage alone
        self.heads = nn.ModuleList(
            nn.Linear(n, classes) for n in (2 * width, 4 * width, 8 * width, 8 * width)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (n, classes), the mean of four softmax vectors, and features (n, 8 width).

        `x` is reflectance, not standardised and not clipped.
        """
        votes = []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number < 3:
                x = torch.cat([functional.max_pool2d(x, 2), functional.avg_pool2d(x, 2)], dim=1)
                if number:
                    x = self.drop(x)
            pooled = x.mean(dim=(2, 3))
            votes.append(torch.softmax(self.heads[number](pooled), dim=1))
        return torch.stack(votes).mean(dim=0), pooled
