"""A random forest as a network: its trees are arrays, so it runs and is kept like the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["Forest", "Trees", "patch_features"]

_BANDS = 10


def patch_features(
    x: Tensor,
    statistics: Literal["mean", "mean-std"],
    side: int,
    fill: float = 0.0,
    masks: Sequence[int] = (),
    indices: bool = True,
) -> Tensor:
    """Features of patches: statistics of bands and indices over the middle.

    Parameters
    ----------
    x : float32 (n, bands, y, x)
        Reflectance of the ten bands in the usual order; invalid pixels hold `fill` in all bands.
        Then bands of features of the ground, of which `fill` is what is unknown. Or published
        vectors, of which invalid pixels hold `fill` too.
    statistics : means, or means and standard deviations.
    side : pixels of the middle that count: 10 for a cell of 100 m, 32 for a patch of 320 m.
    fill : see `x`.
    masks : for each band of a feature the position of its mask among these: pixels count by the
        share of them that is known; a mask, which is its own, counts as it is.
    indices : whether those of the ten bands go along; without them no band is of a feature.

    Returns
    -------
    float32 (n, 14) or (n, 28): ten bands, NDVI, NDWI, NDBI, BSI; then the same of the features.
    Without indices that of all bands alone.
    """
    rows, cols = ((size - side) // 2 for size in x.shape[-2:])
    x = x[..., rows : rows + side, cols : cols + side].float()
    if indices:
        x, ground = x[:, :_BANDS], x[:, _BANDS:]
    valid = (x != fill).any(1, keepdim=True).float()
    if indices:
        x = torch.cat([x, *_indices(x)], 1)
    found = [_moments(x, valid, statistics)]
    if masks:
        own = torch.tensor([k == mask for k, mask in enumerate(masks)], device=x.device)
        known = torch.where(own[None, :, None, None], 1.0, ground[:, list(masks)]) * valid
        found.append(_moments(ground, known, statistics))
    return torch.cat(found, 1)


def _moments(x: Tensor, weights: Tensor, statistics: Literal["mean", "mean-std"]) -> Tensor:
    """Weighted means, and deviations where they are asked for; 0 where nothing has a weight."""
    count = weights.sum((2, 3))
    count = torch.where(count > 0, count, 1.0)
    mean = (x * weights).sum((2, 3)) / count
    if statistics == "mean":
        return mean
    spread = ((x - mean[:, :, None, None]) ** 2 * weights).sum((2, 3)) / count
    return torch.cat([mean, spread.sqrt()], 1)


def _indices(x: Tensor) -> list[Tensor]:
    """NDVI, NDWI, NDBI and BSI of each pixel."""
    blue, green, red, near, short = x[:, 0:1], x[:, 1:2], x[:, 2:3], x[:, 6:7], x[:, 8:9]

    def ratio(a: Tensor, b: Tensor) -> Tensor:
        return (a - b) / (a + b).clamp_min(1e-3)

    return [
        ratio(near, red),
        ratio(green, near),
        ratio(short, near),
        ratio(short + red, near + blue),
    ]


class Trees(nn.Module):
    """Trees grown elsewhere, (n, columns) -> probabilities (n, known).

    Parameters
    ----------
    columns, known : features asked, and classes.
    trees, nodes : of the forest, and of its largest tree.
    depth : of the deepest tree.
    """

    def __init__(
        self, columns: int, known: int, trees: int = 30, nodes: int = 1, depth: int = 1
    ) -> None:
        super().__init__()
        self.depth = depth
        # of each node: feature asked, threshold, and where to go; a leaf goes to itself
        self.register_buffer("feature", torch.zeros(trees, nodes, dtype=torch.int32))
        self.register_buffer("threshold", torch.zeros(trees, nodes, dtype=torch.float64))
        self.register_buffer("left", torch.zeros(trees, nodes, dtype=torch.int32))
        self.register_buffer("right", torch.zeros(trees, nodes, dtype=torch.int32))
        self.register_buffer("value", torch.zeros(trees, nodes, known))
        with torch.no_grad():
            self.value[..., 0] = 1.0

    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    value: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Mean probabilities of the trees."""
        trees = torch.arange(len(self.feature), device=x.device)[:, None]
        node = torch.zeros(len(self.feature), len(x), dtype=torch.long, device=x.device)
        wide = x.double().T
        for _ in range(self.depth):
            asked = wide.gather(0, self.feature[trees, node].long())
            node = torch.where(
                asked <= self.threshold[trees, node],
                self.left[trees, node],
                self.right[trees, node],
            ).long()
        return self.value[trees, node].mean(0)


class Forest(Trees):
    """Patch classifier (n, bands, y, x) -> probabilities (n, classes), by trees grown elsewhere.

    Parameters
    ----------
    bands, classes : int
    trees, nodes, depth : see `Trees`.
    statistics : {"mean", "mean-std"}
    side : int
        Pixels of the middle that count.
    indices : bool
        Whether those of the ten bands are features.
    fill : of invalid pixels.
    masks : of int
        Of bands beyond ten, those of features: see `patch_features`.

    Raises
    ------
    ValueError
        Where there are not ten bands, and a mask for each further one: the indices need them.
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
        masks: Sequence[int] = (),
        indices: bool = True,
        fill: float = 0.0,
    ) -> None:
        super().__init__(bands, classes, trees, nodes, depth)
        if indices and bands != _BANDS + len(masks):
            raise ValueError(
                f"a forest needs the ten bands, and a mask for each further one, got {bands} and "
                f"{len(masks)}"
            )
        if masks and not indices:
            raise ValueError("masks go with the ten bands and their indices")
        if any(not 0 <= mask < len(masks) for mask in masks):
            raise ValueError(f"masks must be positions of features' bands, got {list(masks)}")
        if statistics not in ("mean", "mean-std"):
            raise ValueError(f"statistics must be mean or mean-std, got {statistics}")
        self.statistics: Literal["mean", "mean-std"] = statistics
        self.side, self.masks, self.indices, self.fill = side, tuple(masks), indices, fill

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Mean probabilities of the trees (n, classes), and the features."""
        features = patch_features(
            x, self.statistics, self.side, self.fill, self.masks, self.indices
        )
        return super().forward(features), features
