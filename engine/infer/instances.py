"""Graphs of the cells of a block of ground, from one image of it. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from engine.infer.cells import Found
from engine.models.graphs import nodes_of, pack
from engine.models.superpixels import Image, Instance, clip, segment

__all__ = ["BLOCK", "CELL", "RIM", "WINDOW", "find_graphs", "score_graphs"]

BLOCK = 2000
"""Side of a block of ground that is segmented as one, in pixels of 1 m, from the grid's origin."""
CELL, WINDOW = 100, 320
RIM = (WINDOW - CELL) // 2
"""Pixels of a cell's window beyond the cell, each side."""

_MOST_INVALID = 0.2  # share of a window
_SIDE = 16  # cells of a batch


def find_graphs(
    rgb: Image,
    valid: npt.NDArray[np.bool_],
    wanted: npt.NDArray[np.bool_],
    cut: Callable[..., tuple[Instance, ...]] = segment,
    *,
    shared: bool = True,
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.uint8]]:
    """Find the graph of each cell of a block.

    A cell whose window has over 20 % invalid pixels gets an empty one.

    Parameters
    ----------
    rgb : uint8 (y, x, 3)
        The block at 1 m with 110 px more on each side.
    valid : bool (y, x)
    wanted : bool (rows, cols) in cells of 100 px; others get empty graphs.
    cut : of an image and where it is valid its instances: `engine.models.superpixels.segment`.
    shared : segment the block once and clip windows from it, or each window alone.

    Returns
    -------
    nodes : float16 (50, 5, rows, cols), packed as in `engine.models.graphs`.
    count : uint8 (rows, cols), of nodes.
    """
    rows, cols = wanted.shape
    seen = sliding_window_view(valid, (WINDOW, WINDOW))[::CELL, ::CELL][:rows, :cols]
    good = wanted & (seen.mean(axis=(2, 3)) >= 1 - _MOST_INVALID)
    places = np.argwhere(good)
    whole = _Boxes(cut(rgb, valid=valid) if shared and len(places) else ())
    graphs = []
    for row, col in places.tolist():
        top, left = row * CELL, col * CELL
        window = np.s_[top : top + WINDOW, left : left + WINDOW]
        if shared:
            instances = clip(whole.near(top, left, WINDOW), top, left, WINDOW)
        else:
            instances = clip(cut(rgb[window], valid=valid[window]), 0, 0, WINDOW)
        graphs.append(nodes_of(rgb[window], instances))
    packed = pack(graphs)
    nodes = np.zeros((*packed.shape[1:], rows, cols), np.float16)
    count = np.zeros((rows, cols), np.uint8)
    nodes[:, :, good] = packed.transpose(1, 2, 0)
    count[good] = [len(graph) for graph in graphs]
    return nodes, count


class _Boxes:
    """Instances, and where they lie."""

    def __init__(self, instances: tuple[Instance, ...]) -> None:
        self._all = instances
        boxes = [
            (i.top, i.left, i.top + i.mask.shape[0], i.left + i.mask.shape[1]) for i in instances
        ]
        self._boxes = np.array(boxes, np.int64).reshape(-1, 4)

    def near(self, top: int, left: int, side: int) -> tuple[Instance, ...]:
        """Those whose bounding boxes meet a window."""
        first_row, first_col, last_row, last_col = self._boxes.T
        meets = (
            (first_row < top + side)
            & (last_row > top)
            & (first_col < left + side)
            & (last_col > left)
        )
        return tuple(self._all[k] for k in np.flatnonzero(meets))


def score_graphs(
    nodes: npt.NDArray[np.float16],
    count: npt.NDArray[np.uint8],
    predict: Callable[[npt.NDArray[np.float32]], Found],
    classes: int,
) -> npt.NDArray[np.float32]:
    """Scores of cells from their graphs, float32 (class, y, x); NaN where a cell has no instance.

    Parameters
    ----------
    nodes : float16 (50, 5, y, x)
    count : uint8 (y, x)
    predict : a `Predictor`; it gets batches of one fixed, padded shape, a tile is whole ones.
    classes : how many.
    """
    rows, cols = count.shape
    scores = np.full((classes, rows, cols), np.nan, np.float32)
    for top in range(0, rows, _SIDE):
        for left in range(0, cols, _SIDE):
            here = np.s_[top : top + _SIDE, left : left + _SIDE]
            there = count[here] > 0
            if not there.any():
                continue
            # a cell has the same place in a batch whatever the tile: so it gets the same bits
            batch = np.zeros((_SIDE, _SIDE, *nodes.shape[:2]), np.float32)
            batch[: there.shape[0], : there.shape[1]] = nodes[:, :, *here].transpose(2, 3, 0, 1)
            found = predict(batch.reshape(_SIDE**2, *nodes.shape[:2]))[0]
            block = found.reshape(_SIDE, _SIDE, -1)[: there.shape[0], : there.shape[1]]
            scores[:, *here] = np.where(there, block.transpose(2, 0, 1), np.nan)
    return scores
