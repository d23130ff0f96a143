"""Scores of labelled examples, for reports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.infer.pooling import pool_middle
from engine.infer.predict import Predictor
from engine.models.card import ModelCard
from engine.models.device import choose_device
from engine.models.inputs import prepare_batch, prepare_pixels, seen_in
from engine.recipes.sections import Device

__all__ = ["score_chips", "score_examples", "score_parts"]

_BATCH = 256
_CHIPS = 32

Chips = tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]
"""Images (n, band, side, side), and where they have data (n, side, side); None: everywhere."""


def score_examples(
    card: ModelCard, x: npt.NDArray[Any], device: Device = "cpu"
) -> npt.NDArray[np.float32]:
    """Probabilities (n, class) of stored patches with the card's context, or of packed graphs.

    Of a segmenter of zones they are patches of any side, and what is scored is the cell in their
    middle, as in a map.

    Raises
    ------
    DeviceError
        Where a GPU is asked for and there is none.
    """
    parts = (x[first : first + _BATCH] for first in range(0, len(x), _BATCH))
    none = np.zeros((0, len(card.classes)), np.float32)
    return np.concatenate([none, *score_parts(card, parts, device)])


def score_parts(
    card: ModelCard, parts: Iterable[npt.NDArray[Any]], device: Device = "cpu"
) -> Iterator[npt.NDArray[np.float32]]:
    """The same of some examples after the other, with the network loaded once."""
    predictor = Predictor(card, choose_device(device))
    for part in parts:
        if card.zones:
            logits = predictor.segment(prepare_batch(part, card))
            yield pool_middle(logits, seen_in(part, card), card.step).astype(np.float32)
        else:
            yield predictor(prepare_batch(part, card))[0]


def score_chips(
    card: ModelCard, parts: Iterable[Chips], device: Device = "cpu"
) -> Iterator[npt.NDArray[np.float32]]:
    """Probabilities (n, class) of chips of images (uint8) or composites (uint16).

    NaN where nothing is seen of a chip.

    Parameters
    ----------
    card : of a classifier of patches; of a multi-label model each class has its own probability.
    parts : some chips after the other, bands in the card's order.
    device : to run on.
    """
    predictor = Predictor(card, choose_device(device))
    for x, seen in parts:
        for first in range(0, len(x), _CHIPS):
            some = x[first : first + _CHIPS]
            there = np.ones((len(some), *x.shape[2:]), bool)
            if seen is not None:
                there = seen[first : first + _CHIPS]
            found = predictor(prepare_pixels(some, there, card))[0]
            found[~there.any(axis=(1, 2))] = np.nan
            yield found
