"""A small network as a head on features of cells; see `engine.propagation.heads`.

It lives here because it needs torch, which propagation does without.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from engine.models.head import Layers
from engine.propagation.heads import CODES, best_of, learnt_from
from engine.propagation.inputs import require_features

__all__ = ["MlpHead", "Network"]

_AT_ONCE = 2**16  # cells that are scored


@dataclass(frozen=True)
class Network:
    """A network that was fitted."""

    classes: tuple[int, ...]
    places: npt.NDArray[np.int64]
    columns: int
    network: Layers = field(repr=False)

    def scores(self, features: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Softmax over the classes that it knows (n, classes)."""
        x = require_features(features, "features of cells", self.columns).astype(np.float32)
        found = np.zeros((len(x), len(self.classes)))
        with torch.inference_mode():
            for first in range(0, len(x), _AT_ONCE):
                part = slice(first, first + _AT_ONCE)
                found[part, self.places] = self.network(torch.from_numpy(x[part])).numpy()
        return found

    def predict(self, features: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The code of each cell's best class (n,), of equal ones the first."""
        return best_of(self.scores(features), self.classes)


@dataclass(frozen=True)
class MlpHead:
    """A multilayer perceptron, features -> 256 -> 128 -> classes, with dropout.

    Parameters
    ----------
    hidden : widths of its layers.
    dropout : share of each hidden layer that is left out at a step.
    epochs, batch : int
    least : steps, as many epochs more as that takes: few labels have few batches.
    rate : of Adam, falling to zero along a half cosine.
    decay : of the weights, apart from the gradient (AdamW).
    classes : codes of the columns of scores, ascending.
    """

    hidden: tuple[int, ...] = (256, 128)
    dropout: float = 0.3
    epochs: int = 30
    batch: int = 64
    least: int = 1000
    rate: float = 1e-3
    decay: float = 1e-2
    classes: tuple[int, ...] = CODES

    def fit(
        self,
        features: npt.ArrayLike,
        codes: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
        seed: int = 0,
    ) -> Network:
        """As of `engine.propagation.heads.Head`; on one thread the same for the same seed."""
        x, y, w = learnt_from(features, codes, weights, self.classes)
        known, place = np.unique(y, return_inverse=True)
        inputs = torch.from_numpy(np.ascontiguousarray(x, np.float32))
        wanted = torch.from_numpy(place)
        share = torch.ones(len(y)) if w is None else torch.from_numpy(w).float()
        with torch.random.fork_rng(devices=[]):  # whoever else draws is not disturbed
            torch.manual_seed(seed)
            network = Layers(x.shape[1], len(known), self.hidden, self.dropout)
            optimizer = torch.optim.AdamW(network.parameters(), self.rate, weight_decay=self.decay)
            batches = -(-len(y) // self.batch)
            epochs = max(self.epochs, -(-self.least // batches))
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
            for _ in range(epochs):
                order = torch.randperm(len(y))
                for first in range(0, len(y), self.batch):
                    picked = order[first : first + self.batch]
                    losses = nn.functional.cross_entropy(
                        network.logits(inputs[picked]), wanted[picked], reduction="none"
                    )
                    optimizer.zero_grad()
                    # not over the weights' sum: a batch of unsure labels moves less
                    torch.autograd.backward((losses * share[picked]).mean())
                    optimizer.step()
                    schedule.step()
        return Network(
            self.classes, np.searchsorted(self.classes, known), x.shape[1], network.eval()
        )
