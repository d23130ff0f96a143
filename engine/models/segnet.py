"""SegNet (Badrinarayanan et al. 2017): an encoder of VGG-16, and a decoder that puts values back
where the encoder's largest were."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.models.backbone import conv, padded
from engine.models.ugsnet import Trained

__all__ = ["SegNet"]

_WIDTHS, _DEPTHS = (1, 2, 4, 8, 8), (2, 2, 3, 3, 3)


def _put_back(x: Tensor, where: Tensor) -> Tensor:
    """Values of 2 x 2 pixels to the place where the largest was, 0 beside it.

    As torch's own, which has no deterministic form.
    """
    height, width = 2 * x.shape[-2], 2 * x.shape[-1]
    at = torch.arange(height * width, device=x.device).reshape(height, width)

    def wide(values: Tensor) -> Tensor:
        shape = *values.shape[:-1], 1, values.shape[-1], 1
        pixels = values.reshape(shape).expand(*values.shape[:-1], 2, values.shape[-1], 2)
        return pixels.reshape(*values.shape[:-2], height, width)

    return torch.where(wide(where) == at, wide(x), 0.0)


class SegNet(nn.Module):
    """Images (n, bands, y, x) -> logits (n, classes, y, x); in training as UGSNet gives them.

    Parameters
    ----------
    bands, classes : int
    width : of the first level; 64 is the published one.
    """

    def __init__(self, bands: int = 3, classes: int = 2, width: int = 64) -> None:
        super().__init__()
        widths = [width * k for k in _WIDTHS]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for into, out, depth in zip([bands, *widths], widths, _DEPTHS, strict=False):
            self.down.append(
                nn.Sequential(conv(into, out), *(conv(out, out) for _ in range(depth - 1)))
            )
        for into, out, depth in zip(
            reversed(widths), [*reversed(widths[:-1]), width], reversed(_DEPTHS), strict=True
        ):
            layers = [*(conv(into, into) for _ in range(depth - 1)), conv(into, out)]
            self.up.append(nn.Sequential(*layers))
        # the last of them gives the classes themselves
        self.up[-1] = nn.Sequential(conv(width, width), nn.Conv2d(width, classes, 3, padding=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor | Trained:
        """Logits of each pixel; sides that are not multiples of 32 are padded and cropped."""
        height, width = x.shape[-2:]
        x = padded(x, 32)
        places = []
        for level in self.down:
            x, where = functional.max_pool2d(level(x), 2, return_indices=True)
            places.append(where)
        for level, where in zip(self.up, reversed(places), strict=True):
            x = level(_put_back(x, where))
        logits = x[..., :height, :width]
        return Trained(logits, None, None) if self.training else logits
