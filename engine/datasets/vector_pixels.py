"""Published vectors as pixels that patches are cut from, on the grid of a map recipe."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from engine.catalog.boundaries import resolve_area
from engine.cube.published.rules import VALID
from engine.grid.grid import Grid
from engine.products.lcz import LczRecipe
from engine.products.published import STRIP, PublishedSource, opened
from engine.recipes.embeddings import Embeddings

__all__ = ["VectorPixels"]

_STEP = 10  # pixels of a cell


class VectorPixels:
    """The pixels of an area, read when they are asked for.

    Parameters
    ----------
    recipe : of a map of them.
    wanted : its section of published embeddings.
    base : folder of the recipe's relative paths.

    Attributes
    ----------
    channels : of the vectors.
    model : that made them, "" where the source does not say.
    bounds : of the grid that holds the area, metres.
    stamp : what decides the pixels.
    block : cells along a block whose pixels fit in memory.
    """

    def __init__(self, recipe: LczRecipe, wanted: Embeddings, base: Path) -> None:
        source = PublishedSource(wanted, base)
        self._source, self._grid = source, recipe.grid
        area, _ = resolve_area(recipe.area, recipe.grid.crs, base)
        source.require_ground(area)
        self.bounds = Grid.fit(
            area.bounds(),
            crs=recipe.grid.crs,
            tile_size=recipe.grid.tile_metres,
            anchor=recipe.grid.origin,
        ).bounds
        self.channels, self.model = source.channels, source.model
        told = f"{wanted.year} {wanted.method} {recipe.grid.resolution} {self.bounds}".encode()
        ground = shapely.to_wkb(area.geometry)
        self.stamp = hashlib.sha256(source.stamp + told + ground).hexdigest()
        side = int((STRIP / (4 * len(self.channels))) ** 0.5)
        self.block = max(side // _STEP, 1)

    def read(
        self, rows: slice, cols: slice, wanted: list[int]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """A window, in pixels from the bounds' corner, of some channels, and where it is valid."""
        side, (west, _, _, north) = self._grid.resolution, self.bounds
        corner = Affine(side, 0, west + cols.start * side, 0, -side, north - rows.start * side)
        box = GeoBox((rows.stop - rows.start, cols.stop - cols.start), corner, self._grid.crs)
        source = self._source
        found = opened(source.place, source.wanted.form, source.stamp)
        values, states = found.read(box, source.wanted.year, source.wanted.method)
        return values[wanted], states == VALID
