"""The point head: a coarse map is made fine where it is unsure (PointRend, Kirillov et al. 2020).

Coordinates are (x, y) in [0, 1] of the image, whatever the map's size; nothing is aligned to the
centres of corner pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["PointHead", "Uncertainty", "draw_points", "refine", "sample", "unsure"]

Uncertainty = Literal["sample_first", "repo"]


class PointHead(nn.Module):
    """Coarse logits and fine features of points -> logits, by one layer.

    Parameters
    ----------
    features : channels of the fine map.
    classes : int
    """

    def __init__(self, features: int = 512, classes: int = 2) -> None:
        super().__init__()
        self.layer = nn.Conv1d(features + classes, classes, 1)

    def forward(self, coarse: Tensor, fine: Tensor, points: Tensor) -> Tensor:
        """Logits (n, classes, p) at points (n, p, 2) of maps (n, classes | features, y, x)."""
        found: Tensor = self.layer(torch.cat([sample(coarse, points), sample(fine, points)], 1))
        return found


def sample(maps: Tensor, points: Tensor, mode: str = "bilinear") -> Tensor:
    """Values (n, channels, p) of maps (n, channels, y, x) at points (n, p, 2).

    Of maps of lower precision than the points the values are of the points': in bfloat16 512
    columns would have fewer than 400 places.
    """
    grid = (2 * points - 1)[:, :, None]
    dtype = torch.promote_types(maps.dtype, grid.dtype)
    found = functional.grid_sample(maps.to(dtype), grid.to(dtype), mode=mode, align_corners=False)
    return found[..., 0]


def unsure(logits: Tensor) -> Tensor:
    """The more the nearer the two largest logits, (n, classes, …) -> (n, …); never above 0."""
    top = logits.topk(2, dim=1).values
    return top[:, 1] - top[:, 0]


def draw_points(
    coarse: Tensor,
    count: int,
    *,
    oversample: int = 3,
    importance: float = 0.75,
    uncertainty: Uncertainty = "sample_first",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Points to train on: most of them where the coarse map is least sure.

    Parameters
    ----------
    coarse : logits (n, classes, y, x)
    count : points.
    oversample, importance : so many times as many are drawn evenly; of these the least sure are
        kept, as that share of `count`; the rest is drawn evenly.
    uncertainty : ``sample_first`` looks at logits at the points; ``repo`` at pixels of the map, and
        interpolates that: between two sure pixels of two classes it sees no doubt.
    generator : of the draws.

    Returns
    -------
    (n, count, 2)
    """
    n = coarse.shape[0]

    def evenly(points: int) -> Tensor:
        return torch.rand(n, points, 2, generator=generator, device=coarse.device)

    many = evenly(oversample * count)
    with torch.no_grad():
        if uncertainty == "sample_first":
            doubt = unsure(sample(coarse, many))
        else:
            doubt = sample(unsure(coarse)[:, None], many)[:, 0]
    kept = round(importance * count)
    best = doubt.topk(kept, dim=1).indices
    chosen = many.gather(1, best[..., None].expand(-1, -1, 2))
    return torch.cat([chosen, evenly(count - kept)], dim=1)


def refine(
    coarse: Tensor,
    head: Callable[[Tensor], Tensor],
    size: tuple[int, int],
    points: int = 8192,
) -> Tensor:
    """A coarse map at full size: doubled again and again, its least sure pixels asked anew.

    Parameters
    ----------
    coarse : logits (n, classes, y, x)
    head : points (n, p, 2) -> logits (n, classes, p).
    size : wanted; `coarse`'s times a power of two.
    points : pixels that are asked at each doubling, at most.

    Raises
    ------
    ValueError
        Where doubling never meets the size.
    """
    found = coarse
    while found.shape[-2] < size[0]:
        found = functional.interpolate(found, scale_factor=2, mode="bilinear", align_corners=False)
        height, width = found.shape[-2:]
        some = min(points, height * width)
        where = unsure(found).flatten(1).topk(some, dim=1).indices
        x = (where % width + 0.5) / width
        y = (where.div(width, rounding_mode="floor") + 0.5) / height
        logits = head(torch.stack([x, y], dim=2)).to(found.dtype)
        index = where[:, None].expand(-1, found.shape[1], -1)
        found = found.flatten(2).scatter(2, index, logits)
        found = found.reshape(*found.shape[:2], height, width)
    if tuple(found.shape[-2:]) != size:
        raise ValueError(f"{tuple(coarse.shape[-2:])} doubled never gives {size}")
    return found
