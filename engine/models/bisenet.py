"""BiSeNet (Yu et al. 2018): a shallow path that keeps detail beside a deep one that sees far.

The deep one is ResNet-18. The two losses that its authors train it with beside are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.models.backbone import Backbone, conv, padded
from engine.models.ugsnet import Trained

__all__ = ["BiSeNet"]


class _Refine(nn.Module):
    """Attention refinement: channels weighed by what the window has in the mean."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.conv = conv(into, out)
        self.gate = nn.Sequential(nn.Conv2d(out, out, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        weighed: Tensor = x * self.gate(x.mean(dim=(2, 3), keepdim=True)).sigmoid()
        return weighed


class BiSeNet(nn.Module):
    """Images (n, bands, y, x) -> logits (n, classes, y, x); in training as UGSNet gives them.

    Parameters
    ----------
    bands, classes : int
    width : of the stems; 64 is the published one.
    """

    def __init__(self, bands: int = 3, classes: int = 2, width: int = 64) -> None:
        super().__init__()
        out = 2 * width
        self.near = nn.Sequential(
            conv(bands, width, 7, 2), conv(width, width, 3, 2), conv(width, width, 3, 2),
            conv(width, out, 1),
        )  # fmt: skip
        self.encoder = Backbone(bands, width, depth=18)
        _, _, middle, deep = self.encoder.channels
        self.refine16, self.refine32 = _Refine(middle, out), _Refine(deep, out)
        self.whole = conv(deep, out, 1)
        self.up32, self.up16 = conv(out, out), conv(out, out)
        self.fuse = conv(2 * out, 2 * out, 1)
        self.gate = nn.Sequential(
            nn.Conv2d(2 * out, out // 2, 1, bias=False), nn.ReLU(),
            nn.Conv2d(out // 2, 2 * out, 1, bias=False), nn.Sigmoid(),
        )  # fmt: skip
        self.out = nn.Sequential(conv(2 * out, 2 * out), nn.Conv2d(2 * out, classes, 1))

    def forward(self, x: Tensor) -> Tensor | Trained:
        """Logits of each pixel; in training those at 1/8 of the size."""
        height, width = x.shape[-2:]
        x = padded(x, 32)
        *_, middle, deep = self.encoder(x)
        far = self.refine32(deep) + self.whole(deep.mean(dim=(2, 3), keepdim=True))
        far = self.up32(functional.interpolate(far, middle.shape[-2:]))
        near = self.near(x)
        far = self.refine16(middle) + far
        far = self.up16(functional.interpolate(far, near.shape[-2:]))
        both = self.fuse(torch.cat([near, far], dim=1))
        both = both + both * self.gate(both.mean(dim=(2, 3), keepdim=True))
        coarse: Tensor = self.out(both)
        if self.training:
            return Trained(coarse, None, None)
        wide = functional.interpolate(coarse, x.shape[-2:], mode="bilinear", align_corners=False)
        return wide[..., :height, :width]
