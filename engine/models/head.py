"""A head as a network: features of a patch, on a pool's scale, and a small classifier of these.

The features are what an embedding has of a cell: mean, deviation and maximum of each band over its
valid pixels, or what an encoder gives. So a head maps wherever its patches can be cut, and it
cannot be given features of something else.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from engine.models.forest import Trees

__all__ = ["KINDS", "NOTHING", "Head", "Layers", "Logistic", "Votes", "statistics"]

KINDS = ("logistic", "knn", "mlp", "forest")

NOTHING = -(2.0**30)
"""Fill of patches whose statistics are taken: a value that no pixel has."""

_SPARE = 15  # labels beyond k that are ranked by their own distances
_NEAREST = 1e-6  # that the nearest label's class is given, to decide between equal votes


class Logistic(nn.Module):
    """Multinomial logistic regression of cells (n, columns) -> probabilities (n, known)."""

    def __init__(self, columns: int, known: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(known, columns, dtype=torch.float64))
        self.register_buffer("offset", torch.zeros(known, dtype=torch.float64))

    weight: Tensor
    offset: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Softmax of the logits."""
        return (x.double() @ self.weight.T + self.offset).softmax(1)


class Layers(nn.Module):
    """A multilayer perceptron with dropout, (n, columns) -> probabilities (n, known)."""

    def __init__(
        self, columns: int, known: int, hidden: tuple[int, ...] = (256, 128), dropout: float = 0.3
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = (columns, *hidden)
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], known))

    def logits(self, x: Tensor) -> Tensor:
        """Of the known classes."""
        found: Tensor = self.layers(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Softmax of the logits."""
        return self.logits(x).double().softmax(1)


class Votes(nn.Module):
    """The k nearest labels vote, (n, columns) -> shares of the votes (n, known).

    Between equal shares the nearest label decides: its class has a millionth more, since a map
    takes the largest.
    """

    def __init__(
        self,
        columns: int,
        known: int,
        labels: int = 1,
        k: int = 5,
        metric: Literal["euclidean", "cosine"] = "euclidean",
        weighing: Literal["uniform", "distance"] = "uniform",
    ) -> None:
        super().__init__()
        if metric not in ("euclidean", "cosine") or weighing not in ("uniform", "distance"):
            raise ValueError(f"no such metric or weighing: {metric}, {weighing}")
        if not 1 <= k <= labels:
            raise ValueError(f"k must be 1 to {labels}, got {k}")
        self.k, self.metric, self.weighing, self.known = k, metric, weighing, known
        self.register_buffer("labels", torch.zeros(labels, columns))
        self.register_buffer("own", torch.zeros(labels, dtype=torch.int64))
        self.register_buffer("weights", torch.ones(labels, dtype=torch.float64))

    labels: Tensor
    own: Tensor
    weights: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Shares of the votes."""
        x, labels = x.double(), self.labels.double()
        if self.metric == "cosine":
            x, labels = (v / v.norm(dim=1, keepdim=True).clamp_min(1e-300) for v in (x, labels))
        middle = labels.mean(0)
        x, labels = x - middle, labels - middle
        rough = (labels**2).sum(1) - 2 * x @ labels.T
        some = min(self.k + _SPARE, len(labels))
        # by row, then by distance: of equal distances the lower row first
        near = rough.topk(some, dim=1, largest=False).indices.sort(dim=1).values
        squares = ((x[:, None] - labels[near]) ** 2).sum(2)
        squares, order = squares.sort(dim=1, stable=True)
        near = near.gather(1, order)[:, : self.k]
        squares = squares[:, : self.k]
        each = self.weights[near]
        if self.weighing == "distance":
            far = squares / 2 if self.metric == "cosine" else squares.sqrt()
            same = far == 0
            # a label in the same place has all of the votes
            each = each * torch.where(
                same.any(1, keepdim=True), same.double(), 1 / torch.where(same, 1.0, far)
            )
        class_of = nn.functional.one_hot(self.own[near], self.known).double()
        shares = (class_of * each[..., None]).sum(1)
        shares = shares / shares.sum(1, keepdim=True)
        # the nearest of those whose class has the most votes
        of_each = (class_of * shares[:, None]).sum(2)
        best = (of_each >= of_each.max(1, keepdim=True).values * (1 - 1e-12)).double()
        first = nn.functional.one_hot(best.argmax(1), self.k).double()
        return (shares + _NEAREST * (class_of * first[..., None]).sum(1)) / (1 + _NEAREST)


def statistics(x: Tensor, fill: float = NOTHING) -> Tensor:
    """Mean, standard deviation and maximum of each band over the valid pixels of patches.

    Parameters
    ----------
    x : float32 (n, bands, y, x), invalid pixels hold `fill` in all bands.
    fill : see `x`.

    Returns
    -------
    float32 (n, 3 bands): all means, all deviations, all maxima, as
    `engine.infer.aggregate.aggregate_cells` has them; 0 where no pixel is valid.
    """
    valid = (x != fill).any(1, keepdim=True).flatten(2)
    values = x.flatten(2).double()
    count = valid.sum(2).clamp_min(1)
    mean = values.where(valid, 0.0).sum(2) / count
    spread = (((values - mean[..., None]) ** 2).where(valid, 0.0).sum(2) / count).sqrt()
    largest = values.where(valid, -torch.inf).amax(2)
    largest = largest.where(valid.any(2), 0.0)
    return torch.cat([mean, spread, largest], 1).float()


class Head(nn.Module):
    """Patch classifier (n, bands, y, x) -> probabilities (n, classes), and features.

    Parameters
    ----------
    bands, classes : int
    encoder : network that gives the features; None: they are statistics of the bands.
    kind : {"logistic", "knn", "mlp", "forest"}
    features : of a cell.
    columns : of them that tell cells apart, and are used.
    known : classes that the labels had.
    more : of the kind: `Layers`, `Votes`, `engine.models.forest.Trees`.

    Raises
    ------
    ValueError
        Where the numbers do not go together.
    """

    def __init__(
        self,
        bands: int,
        classes: int,
        encoder: nn.Module | None = None,
        kind: Literal["logistic", "knn", "mlp", "forest"] = "logistic",
        features: int = 1,
        columns: int = 1,
        known: int = 2,
        **more: Any,
    ) -> None:
        super().__init__()
        if encoder is None and features != 3 * bands:
            raise ValueError(f"{bands} bands have {3 * bands} statistics, got {features}")
        if not (1 <= columns <= features and 1 <= known <= classes):
            raise ValueError(f"columns and known are 1 to {features} and 1 to {classes}")
        builder: Any = {"logistic": Logistic, "knn": Votes, "mlp": Layers, "forest": Trees}[kind]
        self.encoder = encoder
        self.context = int(getattr(encoder, "context", 0))
        self.classes, self.features = classes, features
        self.register_buffer("kept", torch.arange(columns))
        self.register_buffer("middle", torch.zeros(columns, dtype=torch.float64))
        self.register_buffer("spread", torch.ones(columns, dtype=torch.float64))
        self.register_buffer("place", torch.arange(known))
        self.head: nn.Module = builder(columns, known, **more)

    kept: Tensor
    middle: Tensor
    spread: Tensor
    place: Tensor

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (n, classes) and features (n, features) of patches."""
        features = statistics(x) if self.encoder is None else self.encoder(x)[1]
        return self.classify(features), features

    def dense(
        self, x: Tensor, rows: int, cols: int, step: int, patch: int
    ) -> tuple[Tensor, Tensor]:
        """What `forward` gives for each of rows x cols patches, from one image of them all."""
        encoder: Any = self.encoder
        features: Tensor = encoder.dense(x, rows, cols, step, patch)[1]
        return self.classify(features), features

    def classify(self, features: Tensor) -> Tensor:
        """Probabilities (n, classes) of cells; 0 for classes that the labels lacked."""
        # bit by bit what the pool's scale makes of cells in training: float64, then float32
        scaled = (features.float().double()[:, self.kept] - self.middle) / self.spread
        found: Tensor = self.head(scaled.float()).float()
        whole = found.new_zeros(len(found), self.classes)
        return whole.index_copy(1, self.place, found)
