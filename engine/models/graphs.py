"""From a window's instances to a graph: colours and places of its nodes, batched with a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.models.gcn import Mode, adjacency, normalise
from engine.models.segments import MOST, Image, Instance

__all__ = ["FEATURES", "Graphs", "collate", "nodes_of"]

FEATURES = ("red", "green", "blue", "x", "y")
"""Of a node, all in [0, 1]: mean colour of its pixels, centre of its bounding box."""


def nodes_of(rgb: Image, instances: Sequence[Instance]) -> npt.NDArray[np.float32]:
    """Features of a window's instances, float32 (nodes, 5).

    Parameters
    ----------
    rgb : uint8 (side, side, 3)
        The window.
    instances : of the window, as `engine.models.segments.clip` gives them.
    """
    side = rgb.shape[0]
    found = np.zeros((len(instances), len(FEATURES)), np.float32)
    for number, one in enumerate(instances):
        height, width = one.mask.shape
        part = rgb[one.top : one.top + height, one.left : one.left + width]
        found[number, :3] = part[one.mask].mean(axis=0) / 255.0
        found[number, 3:] = (one.left + width / 2) / side, (one.top + height / 2) / side
    return found


@dataclass(frozen=True)
class Graphs:
    """Graphs of a batch, padded.

    Attributes
    ----------
    nodes : float32 (n, 50, 5)
    weights : float32 (n, 50, 50), normalised
    mask : bool (n, 50)
    """

    nodes: Tensor
    weights: Tensor
    mask: Tensor


def collate(
    graphs: Sequence[npt.NDArray[np.float32]], mode: Mode = "complete", side: float = 320.0
) -> Graphs:
    """Graphs as one batch.

    Parameters
    ----------
    graphs : of each its nodes, (nodes, 5); none at all is an empty graph.
    mode : of adjacency.
    side : of a window, in metres.
    """
    nodes = torch.zeros(len(graphs), MOST, len(FEATURES))
    mask = torch.zeros(len(graphs), MOST, dtype=torch.bool)
    for number, one in enumerate(graphs):
        if len(one) > MOST:
            raise ValueError(f"a graph has at most {MOST} nodes, got {len(one)}")
        nodes[number, : len(one)] = torch.from_numpy(np.ascontiguousarray(one))
        mask[number, : len(one)] = True
    weights = normalise(adjacency(nodes[:, :, 3:] * side, mask, mode))
    return Graphs(nodes, weights, mask)
