"""A fold in this process: over rasters or a store's arrays, block by block, without a ledger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import zarr

from engine.errors import RunError, StoreError
from engine.grid.area import parts_of
from engine.grid.grid import Grid, quad_order
from engine.runs.fold import Fold, first_block
from engine.runs.tables import Block, Table
from engine.store.repository import Store

__all__ = ["ArrayLayer", "Layer", "RasterLayer", "fold_layers", "fold_release", "leaves_of"]

_SIDE = 2048  # pixels of the finest layer that are read at once, each way


class Layer(Protocol):
    """A raster, wherever it lies.

    Attributes
    ----------
    shape : height and width in pixels.
    resolution : of a pixel, in metres.
    fill : what pixels beyond it read as.
    """

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def resolution(self) -> float: ...

    @property
    def fill(self) -> float: ...

    def read(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """A window that lies in it: (..., y, x)."""


@dataclass(frozen=True)
class RasterLayer:
    """A band of an open rasterio dataset.

    Parameters
    ----------
    file : rasterio.DatasetReader or WarpedVRT
    band : int
    """

    file: Any
    band: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.file.height), int(self.file.width)

    @property
    def resolution(self) -> float:
        """Of a pixel, in units of the raster's CRS."""
        return float(self.file.transform.a)

    @property
    def fill(self) -> float:
        """The file's nodata, 0 where it has none."""
        return 0 if self.file.nodata is None else self.file.nodata

    def read(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """A window of the band: (y, x)."""
        window = (rows.start, rows.stop), (cols.start, cols.stop)
        return np.asarray(self.file.read(self.band, window=window))


@dataclass(frozen=True)
class ArrayLayer:
    """An array whose last two dims are y and x: of Zarr, or of numpy.

    Parameters
    ----------
    array : zarr.Array or ndarray
    resolution : float
    fill : number
    """

    array: Any
    resolution: float
    fill: float = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.array.shape[-2:]
        return int(height), int(width)

    def read(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """A window: (..., y, x)."""
        return np.asarray(self.array[..., rows, cols])


def fold_layers(
    fold: Fold,
    layers: Mapping[str, Layer],
    *,
    at: tuple[int, int] = (0, 0),
    results: Mapping[str, npt.NDArray[Any]] | None = None,
) -> Table:
    """Fold over layers of one ground, on their own grid.

    Parameters
    ----------
    fold : Fold
        Its stages, cell and memory do not matter here.
    layers : mapping of path to Layer
        By the names under which the fold's parts read them. They begin at one corner and cover
        one ground; pixels of a coarser one are whole numbers of those of a finer one.
    at : (int, int)
        Row and column of their first pixel (of the coarsest), counted from where the fold's leaves
        lie: the grid's anchor. It matters to folds of floats, and to no others.
    results : mapping of path to ndarray, optional
        What parts read as results of other folds.

    Returns
    -------
    The fold's result.

    Raises
    ------
    RunError
        Where layers do not cover one ground, or a leaf is no whole number of their pixels.
    """
    return fold.finished(leaves_of(fold, layers, at=at, results=results))


def leaves_of(
    fold: Fold,
    layers: Mapping[str, Layer],
    *,
    at: tuple[int, int] = (0, 0),
    results: Mapping[str, npt.NDArray[Any]] | None = None,
) -> Iterator[tuple[int, Table]]:
    """The tables that `fold_layers` merges, each with its place along the curve of `quad_order`.

    Parameters and errors as of `fold_layers`.
    """
    coarse = max(layers.values(), key=lambda layer: layer.resolution)
    factors = {path: _factor(path, layer, coarse) for path, layer in layers.items()}
    most = max(_SIDE // max(factors.values()), 1)
    side, across = most, 1
    if fold.leaf is not None:
        whole = parts_of(fold.leaf, coarse.resolution)
        if whole is None:
            raise RunError(
                f"a leaf of fold {fold.name} is not a whole number of pixels",
                got=f"{fold.leaf:g} m, pixels of {coarse.resolution:g} m",
            )
        side = whole
        while side * across * 2 <= most:
            across *= 2
    return _leaves(fold, layers, factors, coarse.shape, at, side, across, results)


def fold_release(
    fold: Fold,
    store: Store,
    tag: str | None = None,
    *,
    paths: Iterable[str],
    results: Mapping[str, npt.NDArray[Any]] | None = None,
) -> Table:
    """Fold over arrays of a store: of a release, or of what was committed last.

    The arrays are read as they are. A tile that failed later still holds what it held before; the
    ledger would know, and a fold in a run asks it.

    Parameters
    ----------
    fold, results : as in `fold_layers`.
    store : Store
    tag : str, optional
    paths : of the arrays that the parts read; without days.

    Raises
    ------
    StoreError
        Where there is no such release or array.
    RunError
        As in `fold_layers`.
    """
    root: Any = zarr.open_group(store.reader(tag).store, mode="r")
    known = store.identity
    layers: dict[str, Layer] = {}
    for path in paths:
        form = known["arrays"].get(path)
        if form is None or path not in root or form["dims"][-1:] != ["x"] or "time" in form["dims"]:
            raise StoreError(
                "the store has no such array that could be folded",
                got=path,
                expected="an array with y and x, and without days",
            )
        layers[path] = ArrayLayer(root[path], float(form["resolution"]), root[path].fill_value)
    grid = Grid.fit(
        tuple(known["bounds"]),
        crs=known["crs"],
        tile_size=known["tile_size"],
        anchor=tuple(known["anchor"]),
    )
    n = grid.pixels(max(layer.resolution for layer in layers.values()))
    return fold_layers(fold, layers, at=first_block(grid, n), results=results)


def _factor(path: str, layer: Layer, coarse: Layer) -> int:
    """Pixels of a layer along one of the coarsest."""
    factor = parts_of(coarse.resolution, layer.resolution)
    expected = tuple(length * (factor or 0) for length in coarse.shape)
    if factor is None or tuple(layer.shape) != expected:
        raise RunError(
            f"{path} does not cover the ground of the other layers",
            got=f"{layer.shape} pixels of {layer.resolution:g} m",
            expected=f"{coarse.shape} pixels of {coarse.resolution:g} m, or whole parts of them",
        )
    return factor


def _leaves(
    fold: Fold,
    layers: Mapping[str, Layer],
    factors: Mapping[str, int],
    shape: tuple[int, int],
    at: tuple[int, int],
    side: int,
    across: int,
    results: Mapping[str, npt.NDArray[Any]] | None,
) -> Iterator[tuple[int, Table]]:
    """Tables along the curve: of grounds of `across` x `across` leaves of `side` coarse pixels."""
    unit = side * across
    rows, cols = (
        np.arange(first // unit, -(-(first + length) // unit))
        for first, length in zip(at, shape, strict=True)
    )
    grounds = np.stack(np.meshgrid(rows, cols, indexing="ij"), axis=-1).reshape(-1, 2)
    inner = np.argwhere(np.ones((across, across), bool))
    for row, col in grounds[np.argsort(quad_order(*grounds.T))].tolist():
        top, left = row * unit - at[0], col * unit - at[1]
        ground = _Window(layers, factors, (top, left), unit, results or {})
        places = quad_order(row * across + inner[:, 0], col * across + inner[:, 1])
        for i in np.argsort(places).tolist():
            down, over = inner[i].tolist()
            y, x = top + down * side, left + over * side
            if -side < y < shape[0] and -side < x < shape[1]:
                yield int(places[i]), fold.part_of(Block(ground, down, over, across))


class _Window:
    """A square of layers as ground; beyond them it reads as fill. What was read is kept."""

    def __init__(
        self,
        layers: Mapping[str, Layer],
        factors: Mapping[str, int],
        corner: tuple[int, int],
        side: int,
        results: Mapping[str, npt.NDArray[Any]],
    ) -> None:
        self._layers, self._factors, self._results = layers, factors, results
        self._corner, self._side = corner, side
        self._read: dict[tuple[str, int], npt.NDArray[Any]] = {}

    def _cut(self, path: str, halo: int) -> tuple[list[slice], list[slice]]:
        """What of a layer lies in the window: where in the layer, and where in the window."""
        factor, there, here = self._factors[path], [], []
        for first, length in zip(self._corner, self._layers[path].shape, strict=True):
            start, stop = first * factor - halo, (first + self._side) * factor + halo
            low, high = max(start, 0), max(min(stop, length), 0)
            there.append(slice(low, max(high, low)))
            here.append(slice(low - start, max(high, low) - start))
        return there, here

    def read(self, path: str, halo: int) -> npt.NDArray[Any]:
        if (path, halo) not in self._read:
            layer, n = self._layers[path], self._side * self._factors[path] + 2 * halo
            there, here = self._cut(path, halo)
            found = layer.read(*there)
            whole = np.full((*found.shape[:-2], n, n), layer.fill, found.dtype)
            whole[..., here[0], here[1]] = found
            self._read[path, halo] = whole
        return self._read[path, halo]

    def inside(self, path: str) -> npt.NDArray[np.bool_]:
        n = self._side * self._factors[path]
        found = np.zeros((n, n), bool)
        _, here = self._cut(path, 0)
        found[here[0], here[1]] = True
        return found

    def result(self, path: str) -> npt.NDArray[Any]:
        return self._results[path]
