"""Training of segmenters: images and masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from engine.datasets.chips import UNKNOWN
from engine.errors import LabelError
from engine.metrics import binary, several
from engine.models.card import ModelCard
from engine.models.device import be_exact
from engine.models.inputs import prepare_pixels
from engine.recipes.sections import Device
from engine.training.loop import Epoch, Fitted, Learned, Lesson, learn
from engine.training.losses import cover_loss, green_loss

__all__ = [
    "ChipLesson",
    "Chips",
    "SegmenterSettings",
    "augment",
    "count_pixels",
    "fit_segmenter",
    "prepare_chips",
    "require_some",
]

_EVALUATED = 8  # chips at once


@dataclass(frozen=True)
class Chips:
    """Labelled images.

    Attributes
    ----------
    x : uint8 (n, band, side, side), or uint16 of composites
    y : uint8 (n, side, side): codes of classes, 255 unknown.
    seen : bool (n, side, side), where x has data; None: everywhere.
    weights : float32 (n, side, side), what the loss of each pixel counts; None: all alike. Of
        several classes alone.
    often : float64 (n,), how often each is drawn in an epoch, above 0; None: once.
    """

    x: npt.NDArray[Any]
    y: npt.NDArray[np.uint8]
    seen: npt.NDArray[np.bool_] | None = None
    weights: npt.NDArray[np.float32] | None = None
    often: npt.NDArray[np.float64] | None = None

    def prepare(
        self, where: slice | npt.NDArray[np.int64], card: ModelCard
    ) -> tuple[Tensor, Tensor]:
        """Some of them, image and mask, as a network and `green_loss` take them."""
        seen = None if self.seen is None else self.seen[where]
        codes = card.classes if card.several else ()
        return prepare_chips(self.x[where], card, seen), as_mask(self.y[where], codes)


@dataclass(frozen=True)
class SegmenterSettings:
    """How a segmenter is trained; the defaults are those of UGS-1m.

    Attributes
    ----------
    epochs : all of them run; the best on validation counts.
    batch : chips of a step, two at least.
    rate : learning rate of Adam: constant for the first half, then falling to 0 in a line.
    augment : each chip scaled by 0.75 to 1.25, turned and mirrored, by chance.
    precision : of the arithmetic.
    seed : of weights, order, augmentation, points.
    """

    epochs: int = 200
    batch: int = 8
    rate: float = 1e-4
    augment: bool = True
    precision: str = "float32"
    seed: int = 0


def prepare_chips(
    x: npt.NDArray[Any], card: ModelCard, seen: npt.NDArray[np.bool_] | None = None
) -> Tensor:
    """Images as the network is fed them; `seen` is where they have data, by default everywhere."""
    if seen is None:
        seen = np.ones((len(x), *x.shape[2:]), bool)
    return torch.from_numpy(prepare_pixels(x, seen, card))


def as_mask(y: npt.NDArray[np.uint8], codes: Sequence[int] = ()) -> Tensor:
    """Masks as losses take them: float, NaN unknown; of codes their positions."""
    if not codes:
        return torch.from_numpy(np.where(y == UNKNOWN, np.nan, y).astype(np.float32))
    place = np.full(256, np.nan, np.float32)
    place[list(codes)] = np.arange(len(codes))
    return torch.from_numpy(place[y])


def augment(x: Tensor, mask: Tensor, draws: npt.NDArray[np.float64]) -> tuple[Tensor, Tensor]:
    """Scale, shift, turn and mirror each chip.

    Parameters
    ----------
    x : (n, band, side, side); `mask` (n, side, side), NaN unknown, or several (n, k, side, side).
    draws : (n, 4) in [0, 1): scale 0.75 to 1.25, shift in y and x where it was enlarged, symmetry.

    Returns
    -------
    Of the same shapes; beyond its edge a chip is mirrored.
    """
    scale = torch.from_numpy(1 / (0.75 + 0.5 * draws[:, 0])).to(x)
    room = (1 - scale).clamp(min=0)
    theta = torch.zeros(len(x), 2, 3).to(x)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, 0, 2] = room * torch.from_numpy(2 * draws[:, 2] - 1).to(x)
    theta[:, 1, 2] = room * torch.from_numpy(2 * draws[:, 1] - 1).to(x)
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)

    def take(values: Tensor, mode: str) -> Tensor:
        return functional.grid_sample(
            values, grid, mode=mode, padding_mode="reflection", align_corners=False
        )

    several = mask if mask.ndim == 4 else mask[:, None]
    moved, label = take(x, "bilinear"), take(several, "nearest")
    symmetry = (8 * draws[:, 3]).astype(int)
    for k in range(len(x)):
        for values in (moved, label):
            turned = torch.rot90(values[k], int(symmetry[k]) % 4, (1, 2))
            values[k] = turned.flip(2) if symmetry[k] >= 4 else turned
    return moved, label.reshape(mask.shape)


def require_some(train: Chips, validation: Chips) -> None:
    """Refuse too few chips to learn from.

    Raises
    ------
    LabelError
    """
    if len(train.x) < 2 or not len(validation.x):
        raise LabelError(
            "there are too few chips",
            got=f"{len(train.x)} to train on, {len(validation.x)} to validate on",
            expected="two or more, and one or more: statistics of one chip are none",
            remedy="look at the split's shares, or label more",
        )


def fit_segmenter(
    card: ModelCard,
    train: Chips,
    validation: Chips,
    settings: SegmenterSettings,
    folder: Path,
    *,
    device: Device = "auto",
    devices: int = 1,
    start: Mapping[str, Tensor] | None = None,
    tell: Callable[[Epoch], None] = lambda epoch: None,
    step: Callable[[int, int, int], None] = lambda epoch, batch, batches: None,
) -> Fitted:
    """Train a segmenter's network; as `engine.training.fit.fit` does that of a classifier.

    The weights are those of the epoch with the best F1 on validation, pooled over pixels.

    Raises
    ------
    LabelError
        Where there are fewer than two chips to train on, or none to validate on.
    RunError
        Where training diverges.
    """
    require_some(train, validation)
    lesson = _Segment(card, settings, folder, start, train, validation)
    return learn(lesson, device, devices, tell, step)


@dataclass(frozen=True)
class ChipLesson(Lesson):
    """Chips with a mask each, in the order and at the rates of UGS-1m."""

    train: Chips
    validation: Chips

    examples: ClassVar[str] = "chips"

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(network.parameters(), lr=self.settings.rate)

    def begin(self, number: int) -> tuple[float, npt.NDArray[np.int64], Any]:
        settings, count = self.settings, len(self.train.x)
        rng = np.random.default_rng([settings.seed, number])
        rate = settings.rate * min(1.0, 2 * (1 - number / settings.epochs))
        often = self.train.often
        if often is None:
            order = rng.permutation(count)
        else:  # as many as there are, rare scenes' more than once
            order = rng.choice(count, count, p=often / often.sum())
        return rate, order, rng.random((count, 4))

    def score(self, entry: Epoch) -> float:
        return entry.validation_f1

    def data(self) -> Sequence[npt.NDArray[Any]]:
        both = self.train, self.validation
        seen = [part.seen for part in both if part.seen is not None]
        weights = [w for w in (self.train.weights, self.train.often) if w is not None]
        return [*(values for part in both for values in (part.x, part.y)), *seen, *weights]


@dataclass(frozen=True)
class _Segment(ChipLesson):
    """A class for each pixel."""

    deterministic: ClassVar[bool] = False  # of sampling at points there is no such gradient

    def batch(
        self, model: nn.Module, fabric: Fabric, picked: npt.NDArray[np.int64], drawn: Any
    ) -> Learned:
        x, mask = self.train.prepare(picked, self.card)
        weight = None
        if self.train.weights is not None:
            mask = torch.stack([mask, torch.from_numpy(self.train.weights[picked])], dim=1)
        if self.settings.augment:
            x, mask = augment(x, mask, drawn)
        x = fabric.to_device(x.contiguous(memory_format=torch.channels_last))
        mask = fabric.to_device(mask)
        if self.train.weights is not None:
            mask, weight = mask[:, 0], mask[:, 1]
        found = model(x)
        size = found.coarse.shape[-2:]
        small = functional.interpolate(mask[:, None], size, mode="nearest")[:, 0]
        known = ~small.isnan()
        right = float((found.coarse.argmax(1) == small)[known].sum())
        several = self.card.several
        loss = cover_loss(found, mask, weight) if several else green_loss(found, mask)
        return Learned(loss, right, float(known.sum()))

    def judge(self, network: nn.Module, fabric: Fabric) -> tuple[float, float, float]:
        counts, loss = count_pixels(network, self.card, self.validation)
        figures = several(counts) if self.card.several else binary(counts)
        return loss, figures["oa"], float(np.nan_to_num(figures["f1"]))


def count_pixels(
    network: nn.Module, card: ModelCard, chips: Chips
) -> tuple[npt.NDArray[np.int64], float]:
    """Pixels by reference (rows) and class found (columns), and their mean cross-entropy.

    The network is asked where it is, and left ready to evaluate.
    """
    be_exact(strict=False)  # the entropy of images has no deterministic form on a GPU
    network.eval()
    device = next(network.parameters()).device
    n = len(card.classes)
    counts = np.zeros((n, n), np.int64)
    loss = looked = 0.0
    with torch.no_grad():
        for first in range(0, len(chips.x), _EVALUATED):
            part = slice(first, first + _EVALUATED)
            x, mask = chips.prepare(part, card)
            x, mask = x.to(device), mask.to(device)
            logits = network(x).float()
            known = ~mask.isnan()
            truth, found = mask[known].long(), logits.argmax(1)[known]
            pairs = torch.bincount(n * truth + found, minlength=n * n)
            counts += pairs.cpu().numpy().reshape(n, n)
            label = torch.where(known, mask, -100).long()
            if known.any():
                loss += float(functional.cross_entropy(logits, label, reduction="sum"))
                looked += float(known.sum())
    return counts, loss / max(looked, 1)
