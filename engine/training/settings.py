"""How a network is trained, and what follows for one epoch: which patches, how turned, how dear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["Settings", "class_weights", "draw_epoch"]


@dataclass(frozen=True)
class Settings:
    """How a network is trained; the defaults are those of the published MSCNN as specified.

    Attributes
    ----------
    epochs : at most.
    patience : epochs without a better validation loss after which training stops.
    batch : patches of a step.
    rate : learning rate of NAdam.
    schedule : the rate stays, falls to 0 along a cosine over all epochs, or to `factor` of itself
        `every` so many epochs.
    balance : chances of a class to be drawn go as its count to the power 1, 1/2 or 0.
    class_weights : losses of a class count as N / (K n), N of all patches, n of it, K classes; 0.2
        to 5. For `balance` none: else rare classes count twice.
    augment : each patch in one of the eight symmetries of the square, by chance.
    precision : of the arithmetic.
    draws : patches of an epoch; by default as many as there are.
    seed : of weights, order, augmentation and dropout.
    """

    epochs: int = 100
    patience: int = 15
    batch: int = 96
    rate: float = 2e-3
    schedule: Literal["constant", "cosine", "step"] = "constant"
    factor: float = 0.5
    every: int = 5
    balance: Literal["none", "sqrt", "full"] = "sqrt"
    class_weights: bool = False
    augment: bool = True
    precision: Literal["float32", "bfloat16"] = "float32"
    draws: int | None = None
    seed: int = 0


def draw_epoch(
    y: npt.NDArray[np.uint8], settings: Settings, epoch: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint8]]:
    """Positions of an epoch's patches in their order, and the symmetry (0 to 7) of each.

    A function of the seed and the epoch alone, so that a resumed run draws the same.
    """
    rng = np.random.default_rng([settings.seed, epoch])
    count = settings.draws or len(y)
    power = {"none": 1.0, "sqrt": 0.5, "full": 0.0}[settings.balance]
    if settings.balance == "none" and count == len(y):
        order = rng.permutation(len(y))
    else:
        counts = np.bincount(y, minlength=18).astype(float)
        chance = counts[y] ** (power - 1)
        order = rng.choice(len(y), count, p=chance / chance.sum())
    turns = rng.integers(0, 8, count) if settings.augment else np.zeros(count, np.int64)
    return order.astype(np.intp), turns.astype(np.uint8)


def class_weights(classes: Sequence[int], y: npt.NDArray[np.uint8]) -> torch.Tensor:
    """What the loss of each class counts, float32 (classes,); 1 for those that no patch has.

    Parameters
    ----------
    classes : codes, in the network's order.
    y : codes of the patches.
    """
    counts = np.bincount(y, minlength=256)[list(classes)]
    present = counts > 0
    weights = np.ones(len(counts), np.float32)
    weights[present] = len(y) / (present.sum() * counts[present])
    return torch.from_numpy(weights.clip(0.2, 5.0))
