"""MSCNN: one multi-scale layer, five blocks, two dense layers (Kim et al., LCZ of Korea).

Widths, block kernels and the dense width are not published; the defaults are this project's.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.models.dense import Trail, convolve, crop, gather, pool

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
    leading : int
        The multi-scale layer and so many blocks see real neighbours instead of zeros; patches
        then come with `context` px more each side, and many are evaluated as one (`dense`).

    Attributes
    ----------
    context : px

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
        leading: int = 0,
    ) -> None:
        super().__init__()
        if ms_act not in ("none", "relu"):
            raise ValueError(f"ms_act must be none or relu, got {ms_act}")
        if not 0 <= leading < len(blocks):
            raise ValueError(f"leading must be 0 to {len(blocks) - 1}, got {leading}")
        self.leading = leading
        self.context = 2 + 2**leading if leading else 0  # 3, and 1, 2, 4, … of the blocks
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
        self._kept: tuple[Any, Tensor, Tensor] | None = None
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
        if min(x.shape[-2:]) - 2 * self.context < self.smallest:
            raise ValueError(
                f"MSCNN needs patches of at least {self.smallest} px, got {tuple(x.shape[-2:])}"
            )
        if self.leading:
            x = self._lead(x, Trail())
        else:
            x = self.act(torch.cat([scale(x) for scale in self.scales], dim=1))
        return self._classify(x)

    def dense(
        self, x: Tensor, rows: int, cols: int, step: int, patch: int
    ) -> tuple[Tensor, Tensor]:
        """What `forward` gives for each of rows x cols patches, from one image of them all.

        Parameters
        ----------
        x : (1, bands, height, width)
            From the first patch's context to the last one's.
        rows, cols : patches down and across.
        step, patch : px from one to the next, and of its side.
        """
        trail = Trail(step)
        x = self._lead(x, trail)
        return self._classify(gather(x, trail, rows, cols, patch >> self.leading))

    def _lead(self, x: Tensor, trail: Trail) -> Tensor:
        """The layers that see real neighbours."""
        blocks: Any = self.blocks
        for number, first in enumerate(range(0, 4 * self.leading, 4)):
            x = convolve(blocks[first], x, trail.dilation) if number else self._begin(x)
            x = pool(blocks[first + 2](blocks[first + 1](x)), trail)
        return x

    def _begin(self, x: Tensor) -> Tensor:
        """The multi-scale layer and the first block's convolution, without padding.

        In evaluation as one convolution of 9 x 9, where nothing but sums lies between them: two
        thirds of the operations, and no image of all scales' channels on the way.
        """
        layers: Any = self.scales
        first: Any = self.blocks[0]
        if not self.training and isinstance(self.act, nn.Identity):
            weight, bias = self._joined()
            return functional.conv2d(x, weight, bias)
        scales = [crop(convolve(s, x, 1), 3 - s.kernel_size[0] // 2) for s in layers]
        return convolve(first, self.act(torch.cat(scales, dim=1)), 1)

    def _joined(self) -> tuple[Tensor, Tensor]:
        """Weight (width, bands, 9, 9) and bias of both as one; kept until a weight changes."""
        layers: Any = self.scales
        first: Any = self.blocks[0]
        parts = [first.weight, first.bias, *(p for s in layers for p in (s.weight, s.bias))]
        # how often each was written in place, and where it lies: another card's are elsewhere
        key = tuple((part.data_ptr(), part._version) for part in parts)
        if self._kept is None or self._kept[0] != key:
            with torch.no_grad(), torch.autocast(first.weight.device.type, enabled=False):
                scales = torch.cat(
                    [functional.pad(s.weight, [3 - s.kernel_size[0] // 2] * 4) for s in layers]
                )
                # a correlation of a correlation is a correlation with their convolution
                weight = functional.conv_transpose2d(
                    scales.transpose(0, 1), first.weight.transpose(0, 1)
                )
                inner = torch.cat([s.bias for s in layers])
                bias = first.bias + (first.weight.sum(dim=(2, 3)) @ inner)
                weight = weight.transpose(0, 1).contiguous(memory_format=torch.channels_last)
            self._kept = key, weight, bias
        return self._kept[1], self._kept[2]

    def _classify(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The other blocks, each patch alone, and the dense layers."""
        features = self.fc1(self.blocks[4 * self.leading :](x).mean(dim=(2, 3)))
        return self.fc2(features) + self.barred, features
