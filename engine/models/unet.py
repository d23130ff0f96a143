"""U-Net (Ronneberger et al. 2015), the baseline of segmentation: padded, with normalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.models.ugsnet import Trained

__all__ = ["UNet"]


def _twice(into: int, out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (into, out):
        layers += [
            nn.Conv2d(channels, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Images (n, bands, y, x) -> logits (n, classes, y, x); in training as UGSNet gives them.

    Parameters
    ----------
    bands, classes : int
    width : of the first level; each of the four below has twice as many channels.
    """

    def __init__(self, bands: int = 3, classes: int = 2, width: int = 64) -> None:
        super().__init__()
        widths = [width * 2**k for k in range(5)]
        self.down = nn.ModuleList(
            _twice(into, out) for into, out in zip([bands, *widths], widths, strict=False)
        )
        self.rise = nn.ModuleList(
            nn.ConvTranspose2d(2 * out, out, 2, stride=2) for out in reversed(widths[:-1])
        )
        self.up = nn.ModuleList(_twice(2 * out, out) for out in reversed(widths[:-1]))
        self.out = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor | Trained:
        """Logits of each pixel; sides that are no multiples of 16 are padded and cropped."""
        height, width = x.shape[-2:]
        if height % 16 or width % 16:
            x = functional.pad(x, (0, -width % 16, 0, -height % 16), mode="reflect")
        levels = []
        for number, level in enumerate(self.down):
            x = level(functional.max_pool2d(x, 2) if number else x)
            levels.append(x)
        for rise, up, beside in zip(self.rise, self.up, reversed(levels[:-1]), strict=True):
            x = up(torch.cat([beside, rise(x)], dim=1))
        logits: Tensor = self.out(x)[..., :height, :width]
        return Trained(logits, None, None) if self.training else logits
