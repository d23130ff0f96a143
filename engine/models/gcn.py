"""A graph network over the instances of a patch: three convolutions with skip, their mean.

DF4LCZ's stream of 1 m images. Graphs of a batch are padded to one size and masked: there are at
most 50 instances, so dense matrices cost less than sparse ones.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from engine.models.graphs import FEATURES
from engine.models.superpixels import KINDS, MOST, SEGMENTATIONS

__all__ = ["GCN", "InstanceGraphs", "adjacency", "normalise"]

Mode = Literal["complete", "gaussian", "knn"]


def adjacency(
    centres: Tensor, mask: Tensor, mode: Mode = "complete", *, scale: float = 80.0, k: int = 8
) -> Tensor:
    """Weights between instances, by the distance of their centres; none to itself.

    Parameters
    ----------
    centres : (n, nodes, 2) in metres.
    mask : bool (n, nodes), False for padding.
    mode : ``complete``: 1 between any two, as the published code makes it; ``gaussian``:
        exp(-d^2 / (2 scale^2)); ``knn``: 1 to the k nearest, both ways.
    scale : metres.
    k : neighbours.

    Returns
    -------
    (n, nodes, nodes), symmetric.
    """
    both = mask[:, :, None] & mask[:, None, :]
    both = both & ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    if mode == "complete":
        return both.to(centres.dtype)
    distance = torch.cdist(centres, centres)
    if mode == "gaussian":
        return torch.exp(-(distance**2) / (2 * scale**2)) * both
    if mode != "knn":
        raise ValueError(f"mode must be complete, gaussian or knn, got {mode}")
    near = distance.masked_fill(~both, torch.inf).argsort(dim=2, stable=True)[:, :, :k]
    found = torch.zeros_like(distance).scatter_(2, near, 1.0) * both
    return torch.maximum(found, found.transpose(1, 2))


def normalise(weights: Tensor) -> Tensor:
    """D^-1/2 A D^-1/2; a node without neighbours keeps none."""
    degree = weights.sum(dim=2)
    root = torch.where(degree > 0, degree.clamp(min=1e-12).rsqrt(), torch.zeros_like(degree))
    return root[:, :, None] * weights * root[:, None, :]


class _Convolution(nn.Module):
    """ReLU(A H W1 + H W2 + b)."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.around = nn.Linear(into, out, bias=False)
        self.own = nn.Linear(into, out)
        nn.init.xavier_uniform_(self.around.weight)
        nn.init.xavier_uniform_(self.own.weight)
        nn.init.zeros_(self.own.bias)

    def forward(self, nodes: Tensor, weights: Tensor) -> Tensor:
        return torch.relu(weights @ self.around(nodes) + self.own(nodes))


class GCN(nn.Module):
    """Graphs -> logits (n, classes) and features (n, width).

    Parameters
    ----------
    features : of a node: mean red, green, blue, and its centre, all in [0, 1].
    classes, width : int
    """

    def __init__(self, features: int = 5, classes: int = 17, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Convolution(into, width) for into in (features, width, width))
        self.head = nn.Linear(width, classes)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, nodes: Tensor, weights: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """From nodes (n, nodes, features), normalised weights and mask; an empty graph gives 0.

        Returns
        -------
        logits (n, classes), features (n, width)
        """
        for layer in self.layers:
            nodes = layer(nodes, weights)
        share = mask.to(nodes.dtype)[:, :, None]
        features = (nodes * share).sum(dim=1) / share.sum(dim=1).clamp(min=1.0)
        return self.head(features), features


class InstanceGraphs(nn.Module):
    """Packed graphs (n, 50, 5) -> logits (n, classes) and features (n, width).

    Parameters
    ----------
    bands : 3: red, green, blue.
    classes, width : int
    adjacency : {"complete", "gaussian", "knn"}
    segmenter, segmentation : how the instances it was trained on were made; maps must do the same.
    side : of a window, in metres.

    Raises
    ------
    ValueError
        Where one of them is none of these.
    """

    def __init__(
        self,
        bands: int = 3,
        classes: int = 17,
        width: int = 32,
        adjacency: Mode = "complete",
        segmenter: str = "felzenszwalb",
        segmentation: str = "shared",
        side: float = 320.0,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("bands", bands, (3,)),
            ("adjacency", adjacency, get_args(Mode)),
            ("segmenter", segmenter, KINDS),
            ("segmentation", segmentation, SEGMENTATIONS),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, got {value}")
        self.mode: Mode = adjacency
        self.side = side
        self.gcn = GCN(len(FEATURES), classes, width)

    def example(self) -> Tensor:
        """A graph of one node, to look at what comes out."""
        found = torch.zeros(1, MOST, len(FEATURES))
        found[0, 0] = 0.5
        return found

    def forward(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """From packed graphs; an empty one gives the head's bias."""
        mask = nodes[:, :, 3] > 0
        weights = normalise(adjacency(nodes[:, :, 3:] * self.side, mask, self.mode))
        logits, features = self.gcn(nodes, weights, mask)
        return logits, features
