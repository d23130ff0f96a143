"""Tables: the small arrays of a block of ground, and how those of many are merged to one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engine.errors import RunError

__all__ = ["Block", "Column", "Ground", "Table", "add", "as_it_is", "formed", "merge_tree"]

Array = npt.NDArray[Any]
Table = Mapping[str, Array]
"""Arrays by the name of their column; what merges and finishes must not be changed in place."""


@dataclass(frozen=True)
class Column:
    """One array of a table: its dtype and shape are the same for every block.

    Parameters
    ----------
    name : str
    dtype : str
        Integers, floats or bool, as numpy writes them; wide enough for the sum of all blocks.
    dims : tuple of (dim, labels)
        With the labels of their coordinate, as in ``(("class", (1, 2, 3)),)``; () for a number.
    attrs : mapping
        Attributes of its array in a store (units, say).
    """

    name: str
    dtype: str
    dims: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the dims."""
        return tuple(len(labels) for _, labels in self.dims)


class Ground(Protocol):
    """A square of ground with blocks side by side: a tile of a run, or a part of rasters."""

    def read(self, path: str, halo: int) -> Array:
        """All of an array, with `halo` pixels each side: (..., y, x)."""

    def inside(self, path: str) -> npt.NDArray[np.bool_]:
        """Which of its pixels count, without halo: bool (y, x)."""

    def result(self, path: str) -> Array:
        """An array of a result of all of the area."""


@dataclass(frozen=True)
class Block:
    """What a part is made of: a square of ground.

    Parameters
    ----------
    ground : Ground
    row, col : int
        The block's place among those of the ground.
    across : int
        How many blocks lie along a side of the ground.
    """

    ground: Ground
    row: int
    col: int
    across: int = 1

    def read(self, path: str, halo: int = 0) -> Array:
        """Read an array.

        Parameters
        ----------
        path : str
            As the fold's inputs write it (``group/name``), or as the layer was named.
        halo : int
            Pixels each side. Beyond the grid or raster it reads as fill.

        Returns
        -------
        ndarray (..., y, x) of height and width n + 2 halo; not to be written to.
        """
        found = self.ground.read(path, halo)
        n = (found.shape[-1] - 2 * halo) // self.across
        top, left = self.row * n, self.col * n
        return found[..., top : top + n + 2 * halo, left : left + n + 2 * halo]

    def inside(self, path: str) -> npt.NDArray[np.bool_]:
        """Which pixels of an array count: bool (y, x), without halo.

        In a run those of the area, by the cell of the fold; else those that the raster has.
        """
        found = self.ground.inside(path)
        n = found.shape[-1] // self.across
        top, left = self.row * n, self.col * n
        return found[top : top + n, left : left + n]

    def result(self, path: str) -> Array:
        """Read a result of all of the area, which a fold may take as an input too."""
        return self.ground.result(path)


def add(one: Table, other: Table) -> Table:
    """The sum of two tables, column by column."""
    return {name: values + other[name] for name, values in one.items()}


def as_it_is(table: Table) -> Table:
    """A merged table as its own result."""
    return table


def formed(table: Table, columns: tuple[Column, ...], what: str) -> Table:
    """A table, made sure to have its form."""
    found = {name: np.asarray(values) for name, values in table.items()}
    got = {name: (str(values.dtype), values.shape) for name, values in found.items()}
    expected = {c.name: (str(np.dtype(c.dtype)), c.shape) for c in columns}
    if got != expected:
        raise RunError(f"the {what} has another form", got=got, expected=expected)
    return found


def merge_tree(
    leaves: Iterable[tuple[int, Table]], merge: Callable[[Table, Table], Table]
) -> Table | None:
    """Merge tables along the one binary tree of their places, holding a few at a time.

    Two neighbours are merged before the square about them is: a node of the tree is all leaves
    whose places have the same leading bits. What lacks is passed over.

    Parameters
    ----------
    leaves : (place, table), in ascending order of their places.
    merge : callable of two tables, the one of lower place first.

    Returns
    -------
    The merged table, None where there are no leaves.
    """
    stack: list[tuple[int, Table]] = []  # (bits that tell it from the one before, table)
    last = 0
    for place, table in leaves:
        level = (place ^ last).bit_length() if stack else 64
        while len(stack) > 1 and stack[-1][0] < level:
            _join(stack, merge)
        stack.append((level, table))
        last = place
    while len(stack) > 1:
        _join(stack, merge)
    return stack[0][1] if stack else None


def _join(stack: list[tuple[int, Table]], merge: Callable[[Table, Table], Table]) -> None:
    _, right = stack.pop()
    level, left = stack.pop()
    stack.append((level, merge(left, right)))
