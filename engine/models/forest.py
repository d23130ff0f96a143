"""A random forest as a network: its trees are arrays, so it runs and is kept like the others."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["Forest", "patch_features"]

_INDICES = 4


def patch_features(
    x: Tensor, statistics: Literal["mean", "mean-std"], side: int, fill: float = 0.0
) -> Tensor:
    """Features of patches: statistics of bands and indices over the middle.

    Parameters
    ----------
    x : float32 (n, 10, y, x)
        Reflectance of the ten bands in the usual order; invalid pixels hold `fill` in all bands.
    statistics : means, or means and standard deviations.
    side : pixels of the middle that count: 10 for a cell of 100 m, 32 for a patch of 320 m.
    fill : see `x`.

    Returns
    -------
    float32 (n, 14) or (n, 28): ten bands, NDVI, NDWI, NDBI, BSI
    """
    rows, cols = ((size - side) // 2 for size in x.shape[-2:])
    x = x[..., rows : rows + side, cols : cols + side].float()
    valid = (x != fill).any(1, keepdim=True).float()
    blue, green, red, near, short = x[:, 0:1], x[:, 1:2], x[:, 2:3], x[:, 6:7], x[:, 8:9]

    def ratio(a: Tensor, b: Tensor) -> Tensor:
        return (a - b) / (a + b).clamp_min(1e-3)

    x = torch.cat(
        [
            x,
            ratio(near, red),
            ratio(green, near),
            ratio(short, near),
            ratio(short + red, near + blue),
        ],
        1,
    )
    count = valid.sum((2, 3)).clamp_min(1.0)
    mean = (x * valid).sum((2, 3)) / count
    if statistics == "mean":
        return mean
    spread = ((x - mean[:, :, None, None]) ** 2 * valid).sum((2, 3)) / count
    return torch.cat([mean, spread.sqrt()], 1)


class Forest(nn.Module):
    """Patch classifier (n, 10, y, x) -> probabilities (n, classes), by trees grown elsewhere.

    Parameters
    ----------
    bands, classes : int
    trees, nodes : int
        Of the forest, and of its largest tree.
    statistics : {"mean", "mean-std"}
    side : int
        Pixels of the middle that count.
    depth : int
        Of the deepest tree.

    Raises
    ------
    ValueError
        Where there are not ten bands: the indices need them.
    """

    def __init__(
        self,
        bands: int = 10,
        classes: int = 17,
        trees: int = 30,
        nodes: int = 1,
        statistics: Literal["mean", "mean-std"] = "mean-std",
        side: int = 10,
        depth: int = 1,
    ) -> None:
        super().__init__()
        if bands != 10:
            raise ValueError(f"a forest needs the ten bands, got {bands}")
        if statistics not in ("mean", "mean-std"):
            raise ValueError(f"statistics must be mean or mean-std, got {statistics}")
        self.statistics: Literal["mean", "mean-std"] = statistics
        self.side, self.depth = side, depth
        # of each node: feature asked, threshold, and where to go; a leaf goes to itself
        self.register_buffer("feature", torch.zeros(trees, nodes, dtype=torch.int32))
        self.register_buffer("threshold", torch.zeros(trees, nodes, dtype=torch.float64))
        self.register_buffer("left", torch.zeros(trees, nodes, dtype=torch.int32))
        self.register_buffer("right", torch.zeros(trees, nodes, dtype=torch.int32))
        self.register_buffer("value", torch.zeros(trees, nodes, classes))
        with torch.no_grad():
            self.value[..., 0] = 1.0

    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    value: Tensor

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean probabilities of the trees (n, classes), and the features (n, 14 or 28)."""
        features = patch_features(x, self.statistics, self.side)
        trees = torch.arange(len(self.feature), device=x.device)[:, None]
        node = torch.zeros(len(self.feature), len(x), dtype=torch.long, device=x.device)
        wide = features.double().T
        for _ in range(self.depth):
            asked = wide.gather(0, self.feature[trees, node].long())
            node = torch.where(
                asked <= self.threshold[trees, node],
                self.left[trees, node],
                self.right[trees, node],
            ).long()
        return self.value[trees, node].mean(0), features
