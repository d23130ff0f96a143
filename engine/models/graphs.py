"""Graphs of instances: colours and places of a window's nodes, packed. Imports no torch.

A packed graph is an array (50, 5) of nodes, zero where there is none: of a node the centre is
never 0. So graphs lie in a store and in patch sets as any other array does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engine.models.superpixels import MOST, Image, Instance

__all__ = ["FEATURES", "nodes_of", "pack", "turn"]

FEATURES = ("red", "green", "blue", "x", "y")
"""Of a node, all in [0, 1]: mean colour of its pixels, centre of its bounding box."""


def nodes_of(rgb: Image, instances: Sequence[Instance]) -> npt.NDArray[np.float32]:
    """Features of a window's instances, float32 (nodes, 5).

    Parameters
    ----------
    rgb : uint8 (side, side, 3)
        The window.
    instances : of the window, as `engine.models.superpixels.clip` gives them.
    """
    side = rgb.shape[0]
    found = np.zeros((len(instances), len(FEATURES)), np.float32)
    for number, one in enumerate(instances):
        height, width = one.mask.shape
        part = rgb[one.top : one.top + height, one.left : one.left + width]
        found[number, :3] = part[one.mask].mean(axis=0) / 255.0
        found[number, 3:] = (one.left + width / 2) / side, (one.top + height / 2) / side
    return found


def pack(graphs: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float16]:
    """Graphs as one array, float16 (n, 50, 5).

    Two bytes hold a colour to a quarter of a grey level and a place to 16 cm.

    Parameters
    ----------
    graphs : of each its nodes, (nodes, 5); none at all is an empty graph.

    Raises
    ------
    ValueError
        Where one has more than 50 nodes.
    """
    found = np.zeros((len(graphs), MOST, len(FEATURES)), np.float16)
    for number, one in enumerate(graphs):
        if len(one) > MOST:
            raise ValueError(f"a graph has at most {MOST} nodes, got {len(one)}")
        found[number, : len(one)] = one
    return found


def turn(packed: npt.NDArray[np.float16], turns: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
    """Graphs of windows turned as `engine.training.fit` turns patches.

    Parameters
    ----------
    packed : float16 (n, 50, 5)
    turns : uint8 (n,), 0 to 7
        Quarter turns to the left, and 4 for a mirror from left to right after them.
    """
    found = packed.copy()
    there = packed[..., 3] > 0
    x, y = packed[..., 3].astype(np.float32), packed[..., 4].astype(np.float32)
    for k in range(4):
        here = (turns % 4 == k)[:, None] & there
        found[..., 3][here], found[..., 4][here] = x[here], y[here]
        x, y = y, 1 - x  # a quarter turn to the left: what was right is on top
    mirrored = (turns >= 4)[:, None] & there
    found[..., 3][mirrored] = 1 - found[..., 3][mirrored].astype(np.float32)
    return found
