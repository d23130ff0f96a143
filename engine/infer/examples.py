"""Scores of labelled examples, for reports."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.infer.pooling import pool_middle
from engine.infer.predict import Predictor
from engine.models.card import ModelCard
from engine.models.inputs import prepare_batch

__all__ = ["score_examples"]

_BATCH = 256


def score_examples(card: ModelCard, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Probabilities (n, class) of stored patches with the card's context, or of packed graphs.

    Of a segmenter of zones they are patches of any side, and what is scored is the cell in their
    middle, as in a map.
    """
    predictor = Predictor(card, "cpu")
    if card.zones:
        return _pooled(card, predictor, x)
    parts = (x[first : first + _BATCH] for first in range(0, len(x), _BATCH))
    none = np.zeros((0, len(card.classes)), np.float32)
    return np.concatenate([none, *(predictor(prepare_batch(part, card))[0] for part in parts)])


def _pooled(
    card: ModelCard, predictor: Predictor, x: npt.NDArray[np.uint16]
) -> npt.NDArray[np.float32]:
    found = [np.zeros((0, len(card.classes)), np.float32)]
    for first in range(0, len(x), _BATCH):
        part = x[first : first + _BATCH]
        logits = predictor.segment(prepare_batch(part, card))
        pooled = pool_middle(logits, np.asarray((part > 0).all(axis=1)), card.step)
        found.append(pooled.astype(np.float32))
    return np.concatenate(found)
