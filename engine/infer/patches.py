"""One class score vector per cell, from the patch around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from engine.models.card import ModelCard
from engine.models.inputs import prepare_input

__all__ = ["BLOCK", "Scored", "score_cells"]

BLOCK = 16
"""Side of an inference block in cells, anchored to the grid's origin; a tile is a whole number of
them (160 px), so a cell has the same place in the same batch whatever the tile."""

_MOST_INVALID = 0.2  # share of a patch

Predict = Callable[
    [npt.NDArray[np.float32]], tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
]


@dataclass(frozen=True)
class Scored:
    """Scores of a tile.

    Attributes
    ----------
    scores : float32 (class, y, x), NaN where a cell has none.
    features : float32 (feature, y, x), likewise.
    scored : bool (y, x)
    """

    scores: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32]
    scored: npt.NDArray[np.bool_]


def score_cells(
    stored: npt.NDArray[np.uint16],
    valid: npt.NDArray[np.bool_],
    card: ModelCard,
    predict: Predict,
    wanted: npt.NDArray[np.bool_] | None = None,
) -> Scored:
    """Score the cells of a tile.

    A cell whose patch has over 20 % invalid pixels gets none.

    Parameters
    ----------
    stored : uint16 (band, y + 2 halo, x + 2 halo)
        Composite, bands in the card's order, with `card.halo` pixels each side.
    valid : bool (y + 2 halo, x + 2 halo)
    card : ModelCard
    predict : a `Predictor`.
    wanted : bool (y, x) in cells, optional
        Skip the others.

    Returns
    -------
    Scored
    """
    step, side = card.step, card.patch + 2 * card.context
    rows = (stored.shape[1] - 2 * card.halo) // step
    cols = (stored.shape[2] - 2 * card.halo) // step
    first = card.halo - card.before
    x = prepare_input(stored, valid, card)
    windows = sliding_window_view(x, (side, side), axis=(1, 2))[:, first::step, first::step]
    windows = windows[:, :rows, :cols]
    inner = first + card.context
    good = sliding_window_view(valid, (card.patch, card.patch))[inner::step, inner::step]
    invalid = 1.0 - good[:rows, :cols].mean(axis=(2, 3))
    scored = invalid <= _MOST_INVALID
    if wanted is not None:
        scored &= wanted
    scores = np.full((len(card.classes), rows, cols), np.nan, np.float32)
    features = np.full((card.features, rows, cols), np.nan, np.float32)
    for top in range(0, rows, BLOCK):
        for left in range(0, cols, BLOCK):
            here = np.s_[top : top + BLOCK, left : left + BLOCK]
            mask = scored[here]
            if not mask.any():
                continue
            # A fixed, padded shape: slots of cells beyond the tile or without data are zero.
            batch = np.zeros((BLOCK, BLOCK, len(x), side, side), np.float32)
            batch[: mask.shape[0], : mask.shape[1]] = windows[:, *here].transpose(1, 2, 0, 3, 4)
            batch[: mask.shape[0], : mask.shape[1]][~mask] = 0.0
            found, hidden = predict(batch.reshape(BLOCK * BLOCK, len(x), side, side))
            for out, values in ((scores, found), (features, hidden)):
                block = values.reshape(BLOCK, BLOCK, -1)[: mask.shape[0], : mask.shape[1]]
                out[:, *here] = np.where(mask, block.transpose(2, 0, 1), np.nan)
    return Scored(scores, features, scored)
