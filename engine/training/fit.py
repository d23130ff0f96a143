"""Training of patch classifiers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from torch import nn

from engine.errors import LabelError
from engine.metrics import assess, confusion
from engine.models.card import ModelCard
from engine.models.graphs import turn
from engine.models.inputs import is_valid, prepare_batch
from engine.recipes.sections import Device
from engine.training.loop import Epoch, Fitted, Learned, Lesson, learn
from engine.training.settings import Settings, class_weights, draw_epoch

__all__ = ["Batches", "Settings", "fit", "statistics"]

_EVALUATED = 512  # patches at once


@dataclass(frozen=True)
class Batches:
    """Labelled examples in memory: y codes 1 to 17.

    x are stored patches, uint16 (n, band, y, x), of published vectors float32; or packed graphs,
    float16 (n, 50, 5). weights float32 (n,) are what the loss of each counts; None: all alike.
    """

    x: npt.NDArray[Any]
    y: npt.NDArray[np.uint8]
    weights: npt.NDArray[np.float32] | None = None


def statistics(
    x: npt.NDArray[Any], clip: tuple[float, float] = (0.0, 1.0)
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each band over valid pixels, in clipped reflectance; of vectors as
    they are.

    Parameters
    ----------
    x : uint16 (n, band, y, x), stored convention; or float32, published vectors.
    """
    means, deviations = [], []
    for band in range(x.shape[1]):
        values = x[:, band]
        seen = values[is_valid(values)]
        if not len(seen):
            raise LabelError("no patch has a valid pixel", got=f"band {band} is all nodata")
        if seen.dtype.kind == "f":
            # as many digits as float32 has: vectors have a scale of their own
            means.append(float(np.float32(seen.mean(dtype=np.float64))))
            deviations.append(float(np.float32(max(seen.std(dtype=np.float64), 1e-6))))
            continue
        # sums over the values that occur, of which there are few
        counts = np.bincount(seen, minlength=1)
        level = np.clip((np.arange(len(counts)) - 1000.0) / 10_000.0, *clip)
        mean = float((counts * level).sum() / counts.sum())
        variance = float((counts * (level - mean) ** 2).sum() / counts.sum())
        means.append(round(mean, 6))
        deviations.append(round(max(variance, 1e-8) ** 0.5, 6))
    return tuple(means), tuple(deviations)


def ground_statistics(
    x: npt.NDArray[np.uint16], span: tuple[float, float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of a feature's band (n, y, x) where it is known.

    One that is the same everywhere, or unknown, is not spread: it teaches nothing.
    """
    counts = np.bincount(x.ravel(), minlength=65_536)
    counts[0] = 0
    if not counts.any():
        return (0.0,), (1.0,)
    level = span[0] + (np.arange(len(counts)) - 1.0) / 65_534 * (span[1] - span[0])
    mean = float((counts * level).sum() / counts.sum())
    deviation = float((counts * (level - mean) ** 2).sum() / counts.sum()) ** 0.5
    return (round(mean, 6),), (round(deviation, 6) if deviation > 1e-6 else 1.0,)


def fit(
    card: ModelCard,
    train: Batches,
    validation: Batches,
    settings: Settings,
    folder: Path,
    *,
    device: Device = "auto",
    devices: int = 1,
    start: Mapping[str, torch.Tensor] | None = None,
    tell: Callable[[Epoch], None] = lambda epoch: None,
    step: Callable[[int, int, int], None] = lambda epoch, batch, batches: None,
) -> Fitted:
    """Train a card's network.

    The weights are those of the epoch with the best accuracy on validation; a killed training
    resumes where it was, see `engine.training.loop.learn`.

    Parameters
    ----------
    card : architecture, input and classes; its checksum is not looked at.
    train, validation : Batches
    settings : Settings
    folder : Path
    device : "auto", "cpu" or "cuda"; devices : how many, each with a process of its own and its
        share of every batch, normalised by that share's statistics.
    start : weights to begin with wherever name and shape fit; by default random ones.
    tell : hears of each finished epoch, those of an earlier run included.
    step : hears of each batch: epoch, batch, batches.

    Raises
    ------
    LabelError
        Where a class of the patches is none of the card's, or there are no patches.
    RunError
        Where training diverges.
    """
    _require_labels(card, train, validation)
    lesson = _Classify(card, settings, folder, start, train, validation)
    return learn(lesson, device, devices, tell, step)


@dataclass(frozen=True)
class _Classify(Lesson):
    """Patches, or graphs, and their classes."""

    train: Batches
    validation: Batches

    examples: ClassVar[str] = "patches"

    @cached_property
    def position(self) -> npt.NDArray[np.int64]:
        """Of codes among the network's outputs."""
        found = np.zeros(256, np.int64)
        found[list(self.card.classes)] = np.arange(len(self.card.classes))
        return found

    @cached_property
    def shares(self) -> torch.Tensor | None:
        """What a patch of each class counts."""
        if not self.settings.class_weights:
            return None
        return class_weights(self.card.classes, self.train.y)

    @property
    def frozen(self) -> bool:
        return bool(self.settings.frozen)

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        moved = [p for p in network.parameters() if p.requires_grad]
        if self.settings.optimizer == "adam":
            return torch.optim.Adam(moved, lr=self.settings.rate, betas=(0.9, 0.999))
        return torch.optim.NAdam(
            moved, lr=self.settings.rate, betas=(0.9, 0.999), momentum_decay=4e-3
        )

    def begin(self, number: int) -> tuple[float, npt.NDArray[np.int64], Any]:
        return _rate(self.settings, number), *draw_epoch(self.train.y, self.settings, number)

    def batch(
        self, model: nn.Module, fabric: Fabric, picked: npt.NDArray[np.int64], drawn: Any
    ) -> Learned:
        x = fabric.to_device(_prepared(self.train.x[picked], self.card, drawn))
        y = fabric.to_device(torch.from_numpy(self.position[self.train.y[picked]]))
        shares = None if self.shares is None else fabric.to_device(self.shares)
        logits = model(x)[0]
        if self.train.weights is None:
            loss = nn.functional.nll_loss(_log(logits, self.card), y, shares)
        else:
            counts = fabric.to_device(torch.from_numpy(self.train.weights[picked]))
            counts = counts if shares is None else counts * shares[y]
            losses = nn.functional.nll_loss(_log(logits, self.card), y, reduction="none")
            loss = (counts * losses).sum() / counts.sum()
        if self.settings.l2:
            loss = loss + self.settings.l2 * squares(model)
        return Learned(loss, float((logits.argmax(1) == y).sum()), len(y))

    def judge(self, network: nn.Module, fabric: Fabric) -> tuple[float, float, float]:
        scores = _evaluate(network, fabric, self.card, self.validation)
        truth = self.position[self.validation.y]
        picked = scores[np.arange(len(truth)), truth]
        found = np.array(self.card.classes)[scores.argmax(1)]
        figures = assess(confusion(self.validation.y, found))
        return float(-picked.mean()), figures.oa, figures.f1_macro

    def score(self, entry: Epoch) -> float:
        return entry.validation_accuracy

    def data(self) -> Sequence[npt.NDArray[Any]]:
        weights = () if self.train.weights is None else (self.train.weights,)
        return self.train.x, self.train.y, self.validation.x, self.validation.y, *weights

    def exhausted(self, history: Sequence[Epoch]) -> bool:
        if not history:
            return False
        best = int(np.argmin([entry.validation_loss for entry in history]))
        return bool(len(history) - 1 - best >= self.settings.patience)


def _rate(settings: Settings, epoch: int) -> float:
    """The learning rate of an epoch, counted from 0."""
    if settings.schedule == "cosine":
        return float(settings.rate * 0.5 * (1 + np.cos(np.pi * epoch / settings.epochs)))
    if settings.schedule == "step":
        return float(settings.rate * settings.factor ** (epoch // settings.every))
    if settings.schedule == "inverse":
        return settings.rate / (1 + settings.decay * epoch)
    return settings.rate


def _prepared(
    x: npt.NDArray[Any], card: ModelCard, turned: npt.NDArray[np.float64] | None = None
) -> torch.Tensor:
    """Examples as the network is fed them, each turned as asked."""
    turns = None if turned is None else turned[:, 0].astype(np.uint8)
    if x.ndim == 3:
        return torch.from_numpy(prepare_batch(x if turns is None else turn(x, turns), card))
    if turns is not None and turned is not None:
        x = rotate(x, turned[:, 1])
        for k in range(1, 8):
            here = turns == k
            if here.any():
                quarter = np.rot90(x[here], k % 4, axes=(2, 3))
                x[here] = quarter[..., ::-1] if k >= 4 else quarter
    ready = prepare_batch(x, card)
    return torch.from_numpy(ready).contiguous(memory_format=torch.channels_last)


def rotate(x: npt.NDArray[Any], degrees: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Patches (n, band, side, side) turned to the left by any angle; a copy.

    Values are interpolated linearly, those beyond the edge are mirrored about its pixels. What is
    nodata, or would be interpolated with nodata, is nodata.
    """
    found = x.copy()
    here = np.flatnonzero(degrees)
    if not len(here):
        return found
    known = is_valid(x[here])
    values = torch.from_numpy(np.where(known, x[here], 0).astype(np.float32))
    angle = torch.from_numpy(np.deg2rad(degrees[here])).float()
    theta = torch.zeros(len(here), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = angle.cos()
    theta[:, 0, 1], theta[:, 1, 0] = -angle.sin(), angle.sin()
    grid = nn.functional.affine_grid(theta, list(values.shape), align_corners=True)
    both = torch.cat([values, torch.from_numpy(known).float()], dim=1)
    both = nn.functional.grid_sample(both, grid, padding_mode="reflection", align_corners=True)
    moved, seen = both.chunk(2, dim=1)
    whole = (seen > 1 - 1e-4).numpy()
    if x.dtype.kind == "f":
        found[here] = np.where(whole, moved.numpy(), np.nan)
    else:
        found[here] = np.where(whole, moved.round().clamp(1, 65_535).numpy(), 0)
    return found


def squares(network: nn.Module) -> torch.Tensor:
    """Sum of the squares of all kernels of convolutions that are trained, as Keras' l2 takes it."""
    kernels = [
        m.weight
        for m in network.modules()
        if isinstance(m, nn.Conv2d | nn.Conv3d) and m.weight.requires_grad
    ]
    return torch.stack([k.square().sum() for k in kernels]).sum() if kernels else torch.zeros(())


def _evaluate(
    model: Any, fabric: Fabric, card: ModelCard, patches: Batches
) -> npt.NDArray[np.float32]:
    """Log-probabilities (n, class)."""
    model.eval()
    found = []
    with torch.no_grad():
        for first in range(0, len(patches.y), _EVALUATED):
            x = fabric.to_device(_prepared(patches.x[first : first + _EVALUATED], card))
            found.append(_log(model(x)[0], card).cpu().numpy())
    return np.concatenate(found)


def _log(scores: torch.Tensor, card: ModelCard) -> torch.Tensor:
    """Log-probabilities of what a network gives."""
    if card.output == "probability":
        return torch.log(scores.float().clamp(min=1e-12))
    return torch.log_softmax(scores.float(), 1)


def _require_labels(card: ModelCard, train: Batches, validation: Batches) -> None:
    for name, part in (("training", train), ("validation", validation)):
        if not len(part.y):
            raise LabelError(f"there are no {name} patches", remedy="look at the split's shares")
        strange = sorted(set(np.unique(part.y).tolist()) - set(card.classes))
        if strange:
            raise LabelError(
                f"{name} patches of classes that the model does not give",
                got=", ".join(map(str, strange)),
                expected=", ".join(map(str, card.classes)),
            )
