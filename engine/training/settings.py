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
    optimizer : NAdam, or Adam as the papers write it.
    rate : its learning rate.
    schedule : the rate stays, falls to 0 along a cosine over all epochs, to `factor` of itself
        `every` so many epochs, or is divided by 1 + `decay` times the epoch, counted from 0.
    balance : chances of a class to be drawn go as its count to the power 1, 1/2 or 0.
    class_weights : losses of a class count as N / (K n), N of all patches, n of it, K classes; 0.2
        to 5. For `balance` none: else rare classes count twice.
    augment : each patch in one of the eight symmetries of the square, by chance.
    angles : instead mirrored either way by chance, and every other one turned by any angle.
    l2 : so many times the squares of all kernels of convolutions are added to the loss.
    frozen : only the dense layers at the end are trained.
    precision : of the arithmetic.
    draws : patches of an epoch; by default as many as there are.
    seed : of weights, order, augmentation and dropout.
    """

    epochs: int = 100
    patience: int = 15
    batch: int = 96
    optimizer: Literal["nadam", "adam"] = "nadam"
    rate: float = 2e-3
    schedule: Literal["constant", "cosine", "step", "inverse"] = "constant"
    factor: float = 0.5
    every: int = 5
    decay: float = 4e-3
    balance: Literal["none", "sqrt", "full"] = "sqrt"
    class_weights: bool = False
    augment: bool = True
    angles: bool = False
    l2: float = 0.0
    frozen: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    draws: int | None = None
    seed: int = 0


def draw_epoch(
    y: npt.NDArray[np.uint8], settings: Settings, epoch: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Positions of an epoch's patches in their order, and how each is turned (n, 2).

    That is its symmetry (0 to 7: quarter turns to the left, and 4 for a mirror after them) and the
    degrees by which it is turned further, -90 to 90. A function of the seed and the epoch alone, so
    that a resumed run draws the same.
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
    turned = np.zeros((count, 2))
    if settings.augment:
        turned[:, 0] = rng.integers(0, 8, count)
    if settings.augment and settings.angles:
        turned[:, 0] = np.array([0, 2, 4, 6])[turned[:, 0].astype(int) % 4]  # either way mirrored
        turned[:, 1] = rng.uniform(-90, 90, count) * rng.integers(0, 2, count)
    return order.astype(np.intp), turned


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
