"""One class score vector per cell, from the patch around it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from engine.accounting import spent
from engine.models.card import ModelCard
from engine.models.inputs import prepare_input

__all__ = ["MOST_INVALID", "Predict", "Scored", "score_cells"]

MOST_INVALID = 0.2
"""Share of a patch, or of a cell whose pixels are pooled, that may lack data."""

Found = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


class Predict(Protocol):
    """A network, ready; see `engine.infer.predict.Predictor`."""

    def __call__(self, batch: npt.NDArray[np.float32], wanted: npt.NDArray[np.bool_]) -> Found:
        """Probabilities (n, classes) and features (n, features) of patches that are wanted."""

    def dense(self, blocks: Iterable[npt.NDArray[np.float32]]) -> Iterable[Found]:
        """The same of all cells of blocks, each one image."""


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
    stored: npt.NDArray[Any],
    valid: npt.NDArray[np.bool_],
    card: ModelCard,
    predict: Predict,
    wanted: npt.NDArray[np.bool_] | None = None,
) -> Scored:
    """Score the cells of a tile.

    A cell whose patch has over 20 % invalid pixels gets none.

    Parameters
    ----------
    stored : (band, y + 2 halo, x + 2 halo)
        Composite (uint16) or published vectors (float32), bands in the card's order, with
        `card.halo` pixels each side.
    valid : bool (y + 2 halo, x + 2 halo)
    card : ModelCard
    predict : a `Predictor`.
    wanted : bool (y, x) in cells, optional
        Skip the others.

    Returns
    -------
    Scored
    """
    step = card.step
    rows = (stored.shape[1] - 2 * card.halo) // step
    cols = (stored.shape[2] - 2 * card.halo) // step
    x = prepare_input(stored, valid, card)
    first = card.halo - card.before + card.context
    good = sliding_window_view(valid, (card.patch, card.patch))[first::step, first::step]
    invalid = 1.0 - good[:rows, :cols].mean(axis=(2, 3))
    scored = invalid <= MOST_INVALID
    if wanted is not None:
        scored &= wanted
    scores = np.full((len(card.classes), rows, cols), np.nan, np.float32)
    features = np.full((card.features, rows, cols), np.nan, np.float32)
    side = card.block
    blocks = [
        np.s_[top : top + side, left : left + side]
        for top in range(0, rows, side)
        for left in range(0, cols, side)
        if scored[top : top + side, left : left + side].any()
    ]
    evaluate = _images if card.context else _batches
    for here, (found, hidden) in zip(
        blocks, evaluate(x, scored, blocks, card, predict), strict=True
    ):
        mask = scored[here]
        for out, values in ((scores, found), (features, hidden)):
            block = values.reshape(side, side, len(out))[: mask.shape[0], : mask.shape[1]]
            out[:, *here] = np.where(mask, block.transpose(2, 0, 1), np.nan)
    return Scored(scores, features, scored)


def _batches(
    x: npt.NDArray[np.float32],
    scored: npt.NDArray[np.bool_],
    blocks: Iterable[tuple[slice, slice]],
    card: ModelCard,
    predict: Predict,
) -> Iterator[Found]:
    """Each block as a batch of patches.

    Of a fixed, padded shape: slots of cells beyond the tile or without data are zero.
    """
    step, side, first = card.step, card.patch, card.halo - card.before
    windows = sliding_window_view(x, (side, side), axis=(1, 2))[:, first::step, first::step]
    n = card.block
    for here in blocks:
        mask = scored[here]
        with spent("prepare"):
            batch = np.zeros((n, n, len(x), side, side), np.float32)
            batch[: mask.shape[0], : mask.shape[1]] = windows[:, *here].transpose(1, 2, 0, 3, 4)
            batch[: mask.shape[0], : mask.shape[1]][~mask] = 0.0
        wanted = np.zeros((n, n), bool)
        wanted[: mask.shape[0], : mask.shape[1]] = mask
        yield predict(batch.reshape(n * n, len(x), side, side), wanted.ravel())


def _images(
    x: npt.NDArray[np.float32],
    scored: npt.NDArray[np.bool_],
    blocks: Iterable[tuple[slice, slice]],
    card: ModelCard,
    predict: Predict,
) -> Iterable[Found]:
    """Each block as one image, of a fixed shape: what lies beyond the tile is fill."""
    first = card.halo - card.before
    side = (card.block - 1) * card.step + card.patch + 2 * card.context

    def image(here: tuple[slice, slice]) -> npt.NDArray[np.float32]:
        top, left = (first + card.step * part.start for part in here)
        found = np.full((len(x), side, side), np.float32(card.fill))
        part = x[:, top : top + side, left : left + side]
        found[:, : part.shape[1], : part.shape[2]] = part
        return found

    return predict.dense(map(image, blocks))
