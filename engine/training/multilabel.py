"""Training of multi-label models: images, and which classes occur in each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from engine.datasets.occurrence import occurrence
from engine.metrics import best_threshold, of_labels
from engine.models.card import ModelCard
from engine.models.registry import build
from engine.recipes.sections import Device
from engine.training.loop import Fitted, Learned, learn
from engine.training.losses import occurrence_loss
from engine.training.segmenters import (
    ChipLesson,
    Chips,
    SegmenterSettings,
    augment,
    prepare_chips,
    require_some,
)

__all__ = ["MIDDLE", "choose_thresholds", "fit_multilabel", "labels_of", "positive_weights"]

MIDDLE = 0.5
"""The threshold of a label that validation cannot choose one for."""

_HEAVIEST = 20.0  # a label of one chip in a thousand would otherwise drown all others
_EVALUATED = 16  # chips at once

Labels = npt.NDArray[np.float32]


def labels_of(chips: Chips, card: ModelCard) -> Labels:
    """Whether each class occurs in each chip: float32 (n, label), NaN unknown."""
    assert card.multilabel is not None
    return occurrence(chips.y, chips.seen, card.classes, card.multilabel.share)


def positive_weights(truth: Labels, often: npt.NDArray[np.float64] | None = None) -> Labels:
    """Chips without each label over those with it, as they are drawn; 0.05 to 20.

    Parameters
    ----------
    truth : (n, label), 1 occurs, 0 does not, NaN unknown; each label with some of both.
    often : (n,), how often each chip is drawn; None: all alike.
    """
    drawn = np.ones(len(truth)) if often is None else often
    with_it, without = (drawn @ (truth == value) for value in (1, 0))
    found = np.clip(without / with_it, 1 / _HEAVIEST, _HEAVIEST)
    return np.asarray(found, np.float32)


def fit_multilabel(
    card: ModelCard,
    train: Chips,
    validation: Chips,
    settings: SegmenterSettings,
    folder: Path,
    *,
    device: Device = "auto",
    devices: int = 1,
    start: Mapping[str, Tensor] | None = None,
    tell: Callable[[Any], None] = lambda epoch: None,
    step: Callable[[int, int, int], None] = lambda epoch, batch, batches: None,
) -> Fitted:
    """Train a multi-label network; as `engine.training.segmenters.fit_segmenter` a segmenter's.

    The weights are those of the epoch with the best mean F1 of labels on validation, each label by
    its best threshold there.

    Parameters
    ----------
    train : each label with chips that show it, and chips that do not.

    Raises
    ------
    LabelError
        Where there are fewer than two chips to train on, or none to validate on.
    RunError
        Where training diverges.
    """
    require_some(train, validation)
    weights = positive_weights(labels_of(train, card), train.often)
    lesson = _Label(card, settings, folder, start, train, validation, weights)
    return learn(lesson, device, devices, tell, step)


def choose_thresholds(card: ModelCard, fitted: Fitted, validation: Chips) -> tuple[float, ...]:
    """For each label the threshold with the best F1 on validation; `MIDDLE` where it shows none."""
    network = build(card)
    network.load_state_dict(fitted.weights)
    scores = torch.sigmoid(_logits(network, None, card, validation)).numpy()
    return _thresholds(labels_of(validation, card), scores)


@dataclass(frozen=True)
class _Label(ChipLesson):
    """Chips and what occurs in them; after augmenting, which may move something out of sight.

    Attributes
    ----------
    weights : float32 (label,), how much more a chip with the label counts than one without.
    """

    weights: Labels

    def batch(
        self, model: nn.Module, fabric: Fabric, picked: npt.NDArray[np.int64], drawn: Any
    ) -> Learned:
        card, chips = self.card, self.train
        assert card.multilabel is not None
        y = chips.y[picked]
        seen = np.ones(y.shape, bool) if chips.seen is None else chips.seen[picked]
        x = prepare_chips(chips.x[picked], card, seen)
        if self.settings.augment:
            x, told = augment(x, torch.from_numpy(np.stack([y, seen], 1).astype(np.float32)), drawn)
            y, seen = told[:, 0].numpy().astype(np.uint8), told[:, 1].numpy() > 0
        found = occurrence(y, seen, card.classes, card.multilabel.share)
        x = fabric.to_device(x.contiguous(memory_format=torch.channels_last))
        truth = fabric.to_device(torch.from_numpy(found))
        logits = model(x)[0].float()
        known = ~truth.isnan()
        right = float(((logits > 0) == (truth > 0))[known].sum())
        loss = occurrence_loss(logits, truth, fabric.to_device(torch.from_numpy(self.weights)))
        return Learned(loss, right, float(known.sum()))

    def judge(self, network: nn.Module, fabric: Fabric) -> tuple[float, float, float]:
        truth = labels_of(self.validation, self.card)
        logits = _logits(network, fabric, self.card, self.validation)
        loss = occurrence_loss(logits, torch.from_numpy(truth), torch.from_numpy(self.weights))
        scores = torch.sigmoid(logits).numpy()
        figures = of_labels(truth, scores, _thresholds(truth, scores))
        return float(loss), 1 - figures["wrong"], float(np.nan_to_num(figures["f1_macro"]))


def _thresholds(truth: Labels, scores: npt.NDArray[np.float32]) -> tuple[float, ...]:
    known = np.isfinite(truth)
    found = (
        best_threshold(truth[known[:, k], k] == 1, scores[known[:, k], k])
        for k in range(truth.shape[1])
    )
    return tuple(MIDDLE if each is None else each for each in found)


def _logits(network: nn.Module, fabric: Fabric | None, card: ModelCard, chips: Chips) -> Tensor:
    """Logits (n, label) of chips as they are, on the CPU."""
    network.eval()
    found: Sequence[Tensor] = []
    with torch.no_grad():
        for first in range(0, len(chips.x), _EVALUATED):
            part = slice(first, first + _EVALUATED)
            seen = None if chips.seen is None else chips.seen[part]
            x = prepare_chips(chips.x[part], card, seen)
            logits = network(x if fabric is None else fabric.to_device(x))[0]
            found = [*found, logits.float().cpu()]
    return torch.cat(list(found))
