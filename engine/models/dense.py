"""Leading layers computed once for many patches that overlap, exactly as for each alone.

Patches of 320 m at a step of 100 m share nine tenths of their pixels. A layer that pads with zeros
sees each patch's own border and must run for each; one that sees real neighbours (the card's
`context`) gives the same values wherever the patch lies, so it can run once over all of them.
Where a pool or stride would break the patches' lattice, because the step is odd by then, nothing
is dropped and what follows is dilated instead (a trous). The same functions run single patches:
there the lattice is the patch's own and every stride is real.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Trail", "convolve", "crop", "gather", "kept", "pool", "window_mean"]

_Norm = nn.BatchNorm2d | nn.BatchNorm3d


@dataclass
class Trail:
    """Where the samples of a map lie; layers move it on.

    Attributes
    ----------
    step : samples from one patch to the next; None: the map is one patch.
    dilation : samples from one of a patch's own to its next.
    """

    step: int | None = None
    dilation: int = 1

    def halves(self) -> bool:
        """Move on by a stride of 2; whether it may be real, else it must be dilated."""
        if self.step is None or (self.step % 2 == 0 and self.dilation == 1):
            self.step = None if self.step is None else self.step // 2
            return True
        self.dilation *= 2
        return False


def crop(x: Tensor, rim: int) -> Tensor:
    """Without `rim` samples each side, in the last two axes."""
    return x[..., rim : x.shape[-2] - rim, rim : x.shape[-1] - rim] if rim else x


def convolve(
    layer: nn.Conv2d | nn.Conv3d, x: Tensor, dilation: int, norm: _Norm | None = None
) -> Tensor:
    """A convolution of stride 1, not padded in the last two axes; a spectrum keeps its zeros.

    In evaluation a batch normalisation that follows is put into its weights: one image less.
    """
    weight, bias = layer.weight, layer.bias
    if norm is not None and not norm.training:
        assert norm.running_var is not None
        assert norm.running_mean is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
        shift = norm.bias - norm.running_mean * scale
        bias = shift if bias is None else bias * scale + shift
    if isinstance(layer, nn.Conv3d):
        padding = (layer.kernel_size[0] // 2, 0, 0)
        x = functional.conv3d(x, weight, bias, padding=padding, dilation=(1, dilation, dilation))
    else:
        x = functional.conv2d(x, weight, bias, dilation=dilation)
    return norm(x) if norm is not None and norm.training else x


def kept(stride: int, trail: Trail, dims: int) -> tuple[Any, ...]:
    """Index of the samples that a stride keeps; the trail moves on.

    Layers of one sample (1x1) may so run on those alone that the next one's stride keeps. A
    spectrum's stride, the first of three axes, is always real.
    """
    if stride == 1:
        return (...,)
    real = slice(None, None, stride) if trail.halves() else slice(None)
    spectrum = (slice(None, None, stride),) if dims == 3 else ()
    return (..., *spectrum, real, real)


def pool(x: Tensor, trail: Trail) -> Tensor:
    """The maximum of 2 x 2 of a patch's own samples; the trail moves on."""
    dilation = trail.dilation
    if trail.halves():
        return functional.max_pool2d(x, 2)
    return functional.max_pool2d(x, 2, stride=1, dilation=dilation)


def _places(trail: Trail, count: int, side: int, device: torch.device) -> Tensor:
    """Positions along an axis of the samples of `count` patches, (count, side)."""
    assert trail.step is not None
    first = torch.arange(count, device=device) * trail.step
    return first[:, None] + torch.arange(side, device=device) * trail.dilation


def gather(x: Tensor, trail: Trail, rows: int, cols: int, side: int) -> Tensor:
    """Each patch's own samples: (1, ..., H, W) -> (rows cols, ..., side, side)."""
    down = _places(trail, rows, side, x.device)
    across = _places(trail, cols, side, x.device)
    found = x[0][..., down[:, :, None, None], across[None, None]]  # (..., rows, side, cols, side)
    n = found.dim() - 4
    order = (n, n + 2, *range(n), n + 1, n + 3)
    return found.permute(order).reshape(rows * cols, *x.shape[1:-2], side, side)


def window_mean(x: Tensor, trail: Trail, rows: int, cols: int, side: int) -> Tensor:
    """The mean of each patch's own samples: (1, C, H, W) -> (rows cols, C)."""
    down = _places(trail, rows, side, x.device)
    across = _places(trail, cols, side, x.device)
    tall = sum(x[0][:, down[:, k]] for k in range(side))
    assert isinstance(tall, Tensor)
    both = sum(tall[:, :, across[:, k]] for k in range(side))
    assert isinstance(both, Tensor)
    return both.flatten(1).T / side**2
