"""A sample drawn on a finished map, by which its accuracy and areas can be estimated.

Stratified by the map's own classes, as Olofsson et al. 2014 advise: the size follows from the
standard error that is wanted, rare classes get at least so many, the rest goes by area.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.errors import LabelError

__all__ = ["Allocation", "allocate", "draw"]


@dataclass(frozen=True)
class Allocation:
    """How many cells to look at.

    Attributes
    ----------
    classes : codes that the map has, ascending.
    cells : of each class on the map.
    sizes : of each class's sample.
    """

    classes: npt.NDArray[np.int64]
    cells: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]


def allocate(
    codes: npt.NDArray[np.uint8],
    standard_error: float = 0.01,
    *,
    users: float = 0.8,
    least: int = 50,
) -> Allocation:
    """Sample sizes by class (Olofsson et al. 2014, eq. 13, and their advice on rare classes).

    Parameters
    ----------
    codes : uint8 map, 0 for nodata.
    standard_error : of the overall accuracy.
    users : user's accuracy that is expected of each class.
    least : cells of each class; a class that has no more is taken whole, even one of a single cell.

    Raises
    ------
    LabelError
        Where the map is empty, or the figures make no sense.
    """
    for name, value in (("standard_error", standard_error), ("users", users)):
        if not 0 < value < 1:
            raise LabelError(f"{name} must lie between 0 and 1", got=value)
    if least < 2:
        raise LabelError("least must be 2 or more: one cell has no spread", got=least)
    counts = np.bincount(codes.ravel(), minlength=256)
    counts[0] = 0
    classes = np.flatnonzero(counts)
    if not len(classes):
        raise LabelError("the map has no cell with a class to sample")
    cells = counts[classes]
    # with one expected accuracy for all, the weights sum to 1 and drop out
    total = int(np.ceil(users * (1 - users) / standard_error**2))
    share = np.round(total * cells / cells.sum()).astype(np.int64)
    rare = share < least
    # what the rare ones take comes off the others, by area
    left = max(total - least * int(rare.sum()), 0)
    common = cells[~rare].sum()
    share[~rare] = np.round(left * cells[~rare] / max(int(common), 1))
    sizes = np.minimum(np.maximum(share, least), cells)
    return Allocation(classes.astype(np.int64), cells.astype(np.int64), sizes)


def draw(
    codes: npt.NDArray[np.uint8], allocation: Allocation, seed: int = 0
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Cells of a stratified random sample without replacement, in random order.

    Returns
    -------
    rows, cols : int64 (n,)
    """
    rng = np.random.default_rng(seed)
    flat = codes.ravel()
    found = [
        rng.choice(np.flatnonzero(flat == code), size, replace=False)
        for code, size in zip(allocation.classes, allocation.sizes, strict=True)
    ]
    # the order says nothing of the class, so that who looks does not know what the map says
    places = rng.permutation(np.concatenate(found))
    rows, cols = np.divmod(places, codes.shape[1])
    return rows, cols
