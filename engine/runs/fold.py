"""Fold: a reduction over tiles. A table of every block of ground, merged to one, finished.

The same `part` and `merge` run in two ways: in a run (`Fold.stages`: tables by tile and the result
of all of the area, in store and ledger), and in this process over rasters or a release
(`engine.runs.layers`).

Tables of integers may be merged in any order. Those of floats are merged along one binary tree of
blocks of a size of their own, counted from the grid's anchor; so neither tiles nor workers nor
what was made first can change a bit of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import RunError
from engine.grid.grid import Grid, quad_order
from engine.runs.stage import Input, Output, Stage
from engine.runs.tables import Block, Column, Table, add, as_it_is, formed, merge_tree
from engine.runs.task import TileTask
from engine.store.arrays import ArraySpec

__all__ = ["Fold", "first_block"]

_MOST = 2**20  # bytes of a table
_AT_ONCE, _ACROSS = 2**23, 64  # bytes of tables, and tiles each way, that are read together
_MADE = "made"


@dataclass(frozen=True)
class Fold:
    """A reduction over tiles.

    Parameters
    ----------
    name : str
        Of the result: its group in a store, its row in the ledger, and what an
        ``Input(name, scope="area")`` reads. Tables by tile lie in ``name-tiles``.
    inputs : tuple of Input
        What parts read, halos included; stages that keep no days apart.
    table : tuple of Column
        The form of every table; a megabyte at most.
    part : callable of Block giving a table
        Pure and picklable. A block has pixels beyond the area: `Block.inside` tells them.
    merge : callable of two tables giving one
        Associative. Of integers it must be exact and may not care for the order; floats are always
        merged in one order. By default a sum.
    finish : callable of the merged table giving the result
        By default the table itself.
    result : tuple of Column
        The result's form; by default the table's.
    leaf : float, optional
        Side of a block in metres, whole numbers of which make a tile. Floats need one, and another
        one rounds another way; without it a block is a tile.
    cell : float, optional
        In which the area is measured, in metres; by default as for the first input.
    version : int
        Raised whenever the parts change.
    result_version : int
        Raised whenever merge or finish change.
    parameters : mapping
        JSON values that decide parts or result.
    gigabytes : float
        Memory that the parts of a tile need at most; what they read is held whole.
    guess : float
        Seconds that two cores take for the parts of a square kilometre, roughly.

    Raises
    ------
    RunError
        Where a table has another form than tables may have.
    """

    name: str
    inputs: tuple[Input, ...]
    table: tuple[Column, ...]
    part: Callable[[Block], Table]
    merge: Callable[[Table, Table], Table] = add
    finish: Callable[[Table], Table] = as_it_is
    result: tuple[Column, ...] = ()
    leaf: float | None = None
    cell: float | None = None
    version: int = 1
    result_version: int = 1
    parameters: Mapping[str, Any] = field(default_factory=dict)
    gigabytes: float = 1.0
    guess: float = 0.02

    def __post_init__(self) -> None:
        kinds = {column.name: np.dtype(column.dtype).kind for column in self.columns + self.table}
        strange = [name for name, kind in kinds.items() if kind not in "biuf"]
        if strange or not self.table or _MADE in kinds:
            raise RunError(
                f"the tables of fold {self.name} have columns that a table cannot have",
                got=strange or list(kinds),
                expected=f"columns of bool, integers or floats, none of them called {_MADE}",
            )
        if self.bytes > _MOST:
            raise RunError(
                f"a table of fold {self.name} is too large",
                got=f"{self.bytes:,} bytes for each block of ground",
                expected=f"{_MOST:,} bytes at most",
                remedy="count less, or make a stage of it",
            )
        if self.leaf is None and any(np.dtype(c.dtype).kind == "f" for c in self.table):
            raise RunError(
                f"fold {self.name} merges floats and does not say of which blocks",
                got="leaf=None",
                expected="the side of a block in metres, whole numbers of which make a tile",
                remedy="give it a leaf, or count in integers",
            )

    @property
    def columns(self) -> tuple[Column, ...]:
        """The result's columns."""
        return self.result or self.table

    @property
    def bytes(self) -> int:
        """Of a table."""
        return sum(math.prod(c.shape) * np.dtype(c.dtype).itemsize for c in self.table)

    def part_of(self, block: Block) -> Table:
        """A block's table.

        Raises
        ------
        RunError
            Where it has not the fold's form.
        """
        return formed(self.part(block), self.table, f"part of fold {self.name}")

    def finished(self, leaves: Iterable[tuple[int, Table]]) -> Table:
        """Merge tables and finish them.

        Parameters
        ----------
        leaves : (place along the curve of `quad_order`, table), in ascending order.

        Raises
        ------
        RunError
            Where there is none, or merge or finish give another form.
        """
        merged = merge_tree(leaves, self.merge)
        if merged is None:
            raise RunError(
                f"there is nothing to merge in fold {self.name}",
                got="no block of ground with a cell of the area",
            )
        merged = formed(merged, self.table, f"merge of fold {self.name}")
        return formed(self.finish(merged), self.columns, f"finish of fold {self.name}")

    def stages(self, tile_size: float) -> tuple[Stage, Stage]:
        """The fold in a run: tables by tile, and the result of all of the area.

        Parameters
        ----------
        tile_size : float
            Of the grid, in metres.
        """
        side = tile_size if self.leaf is None else self.leaf
        group, chunk = f"{self.name}-tiles", max(round(tile_size / side), 1)
        made = Column(_MADE, "uint8", attrs={"long_name": "1 where there is a table"})
        parts = Stage(
            group,
            _Parts(self),
            tuple(
                ArraySpec(
                    f"{group}/{column.name}",
                    column.dtype,
                    side,
                    chunk,
                    0,
                    leading=column.dims,
                    attrs=column.attrs,
                    extent="blocks",
                )
                for column in (*self.table, made)
            ),
            self.inputs,
            version=self.version,
            parameters={"leaf": self.leaf, **self.parameters},
            gigabytes=self.gigabytes,
            guess=self.guess,
            cell=self.cell,
        )
        result = Stage(
            self.name,
            _Merge(self),
            tuple(
                ArraySpec(
                    f"{self.name}/{column.name}",
                    column.dtype,
                    0.0,
                    0,
                    0,
                    leading=column.dims,
                    attrs=column.attrs,
                    extent="area",
                )
                for column in self.columns
            ),
            (Input(group, scope="area"),),
            version=self.result_version,
            parameters={"leaf": self.leaf, **self.parameters},
            upstream="changed tables",
            guess=0.0,
            scope="area",
        )
        return parts, result


class _Tile:
    """A tile of a run as ground; what was read once is kept."""

    def __init__(self, task: TileTask) -> None:
        self._task = task
        self._read: dict[tuple[str, int], npt.NDArray[Any]] = {}
        self._inside: dict[float, npt.NDArray[np.bool_]] = {}

    def read(self, path: str, halo: int) -> npt.NDArray[Any]:
        if (path, halo) not in self._read:
            self._read[path, halo] = self._task.read(path, halo)
        return self._read[path, halo]

    def inside(self, path: str) -> npt.NDArray[np.bool_]:
        side = self._task.forms[path].resolution
        if side not in self._inside:
            n, found = self._task.grid.pixels(side), self._task.defined(side)
            self._inside[side] = np.ones((n, n), bool) if found is None else found
        return self._inside[side]

    def result(self, path: str) -> npt.NDArray[Any]:
        return self._task.read(path)


@dataclass(frozen=True)
class _Parts:
    """What a tile's blocks give: the kernel of the first stage."""

    fold: Fold

    def __call__(self, task: TileTask) -> Iterator[Output]:
        n = task.grid.pixels(task.outputs[0].resolution)
        arrays = {
            column.name: np.zeros((*column.shape, n, n), column.dtype) for column in self.fold.table
        }
        # a block without a cell of the area is none: a larger tile has such where a smaller one
        # is not looked at
        made, tile = self._blocks(task, n), _Tile(task)
        for row, col in np.argwhere(made).tolist():
            table = self.fold.part_of(Block(tile, row, col, n))
            for name, values in arrays.items():
                values[..., row, col] = table[name]
        arrays[_MADE] = made.astype(np.uint8)
        yield Output({f"{task.stage}/{name}": values for name, values in arrays.items()})

    @staticmethod
    def _blocks(task: TileTask, n: int) -> npt.NDArray[np.bool_]:
        cells = task.mask_cells
        if cells is None:
            return np.ones((n, n), bool)
        side = len(cells) // n
        return np.asarray(cells.reshape(n, side, n, side).any(axis=(1, 3)), bool)


@dataclass(frozen=True)
class _Merge:
    """The tables of all tiles that are there -> the result: the kernel of the second stage."""

    fold: Fold

    def __call__(self, task: TileTask) -> Iterator[Output]:
        [(source, tiles)] = task.tiles.items()
        found = self.fold.finished(self._leaves(task, source))
        yield Output(
            {f"{task.stage}/{name}": values for name, values in found.items()},
            note=None if tiles.count == tiles.of else f"{tiles.count} of {tiles.of} tiles",
        )

    def _leaves(self, task: TileTask, source: str) -> Iterator[tuple[int, Table]]:
        """Tables along the curve, read by squares of it so that memory does not grow."""
        paths = {column.name: f"{source}/{column.name}" for column in self.fold.table}
        grid, n = task.grid, task.forms[f"{source}/{_MADE}"].chunk
        first_row, first_col = first_block(grid, n)
        most = min(math.sqrt(_AT_ONCE / self.fold.bytes), _ACROSS * n)
        side = 2 ** int(math.log2(max(most, 1)))
        for top, left in _squares(task.tiles[source].made, n, first_row, first_col, side):
            rows = slice(max(top - first_row, 0), min(top + side - first_row, grid.n_rows * n))
            cols = slice(max(left - first_col, 0), min(left + side - first_col, grid.n_cols * n))
            row, col = np.arange(rows.start, rows.stop), np.arange(cols.start, cols.stop)
            there = task.read_any(f"{source}/{_MADE}", rows, cols) > 0
            there &= task.tiles[source].made[np.ix_(row // n, col // n)]
            read = {name: task.read_any(path, rows, cols) for name, path in paths.items()}
            down, across = np.nonzero(there)
            places = quad_order(first_row + row[down], first_col + col[across])
            for i in np.argsort(places).tolist():
                at = (..., down[i], across[i])
                yield int(places[i]), {name: values[at] for name, values in read.items()}


def first_block(grid: Grid, n: int) -> tuple[int, int]:
    """Row and column of a grid's first block, of n along a tile's side, from where trees begin.

    That is the anchor, moved by whole tiles next to the origin of the CRS: what a store keeps.
    """
    across, down = (round((a - a % grid.tile_size) / grid.tile_size) for a in grid.anchor)
    return (grid.first_row - down) * n, (grid.first_col + across) * n


def _squares(
    made: npt.NDArray[np.bool_], n: int, first_row: int, first_col: int, side: int
) -> list[tuple[int, int]]:
    """First rows and columns of the squares of `side` blocks, aligned to the anchor, that meet a
    tile of n x n blocks which is there; along the curve."""
    row, col = np.nonzero(made)
    found: set[tuple[int, int]] = set()
    for r, c in zip((first_row + row * n).tolist(), (first_col + col * n).tolist(), strict=True):
        found |= {
            (top, left)
            for top in range(r // side * side, r + n, side)
            for left in range(c // side * side, c + n, side)
        }
    squares = np.array(sorted(found), np.int64).reshape(-1, 2)
    order = np.argsort(quad_order(squares[:, 0], squares[:, 1]))
    return [(int(top), int(left)) for top, left in squares[order]]
