"""Scores of pixels to scores of cells: the mean probability of a cell's valid pixels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from engine.infer.cells import MOST_INVALID

__all__ = ["pool_cells", "pool_middle", "probabilities"]

Strip = tuple[slice, npt.NDArray[np.float32], npt.NDArray[np.bool_]]


def probabilities(logits: npt.NDArray[np.float32], axis: int = 0) -> npt.NDArray[np.float64]:
    """Softmax over the classes, each pixel's bits its own: classes are added one by one."""
    x = np.ascontiguousarray(np.moveaxis(logits, axis, 0), np.float64)
    x = np.exp(x - x.max(axis=0))
    total = np.zeros(x.shape[1:])
    for plane in x:
        total += plane
    return np.moveaxis(x / total, 0, axis)


def pool_cells(
    strips: Iterable[Strip], cells: int, step: int, classes: int
) -> npt.NDArray[np.float64]:
    """Mean probability of each cell's scored pixels.

    A cell's pixels are added row by row and column by column, so that neither tiles nor strips
    leave a trace. A cell of which over 20 % is not scored has none.

    Parameters
    ----------
    strips : rows of a piece, their logits (class, y, x) and which pixels are scored, as
        `engine.infer.windows.segment_image` yields them.
    cells : along a side of the piece.
    step : pixels along a cell.
    classes : how many.

    Returns
    -------
    float64 (class, cell, cell), NaN where there is none.
    """
    total = np.zeros((classes, cells, cells))
    count = np.zeros((cells, cells), np.int64)
    for rows, logits, scored in strips:
        p = np.where(scored, probabilities(logits), 0.0)
        for k, row in enumerate(range(rows.start, rows.stop)):
            for first in range(step):
                total[:, row // step] += p[:, k, first::step]
            count[row // step] += scored[k].reshape(cells, step).sum(axis=1)
    enough = count >= (1 - MOST_INVALID) * step * step
    found: npt.NDArray[np.float64] = np.where(enough, total / np.maximum(count, 1), np.nan)
    return found


def pool_middle(
    logits: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_], step: int
) -> npt.NDArray[np.float64]:
    """Mean probability of the cell in the middle of patches: what a map gives that cell.

    Parameters
    ----------
    logits : (n, class, y, x)
    valid : bool (n, y, x); of a cell without any valid pixel all count.
    step : pixels along a cell.

    Returns
    -------
    float64 (n, class)
    """
    before = (logits.shape[-1] - step) // 2
    here = np.s_[..., before : before + step, before : before + step]
    p, inside = probabilities(logits[here], axis=1), valid[here]
    inside = inside | ~inside.any(axis=(1, 2), keepdims=True)
    total = np.where(inside[:, None], p, 0.0).sum(axis=(2, 3))
    found: npt.NDArray[np.float64] = total / inside.sum(axis=(1, 2))[:, None]
    return found
