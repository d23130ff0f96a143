"""Pictures of the ground for reviewers, from a store's composite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
import zarr
from shapely.geometry.base import BaseGeometry

from engine.errors import LabelError
from engine.items import of_period
from engine.store.location import Location
from engine.store.repository import Store

__all__ = ["NO_DATA", "StoredImage"]

NO_DATA = 222
"""Grey of pictures where nothing is known: black looks like water, white like a roof."""

_BRIGHT = 0.25  # reflectance shown as white


class StoredImage:
    """The composite of a store.

    Parameters
    ----------
    place : of the store.
    remedy : what makes a composite, for the error where there is none.

    Attributes
    ----------
    crs : of the store.
    names : bands of its composite; of a cube with periods those of the first.
    pixel : side, in metres.
    root : the state of the store that is looked at.

    Raises
    ------
    LabelError
        Where there is no composite.
    """

    def __init__(self, place: Location, remedy: str) -> None:
        root: Any = None
        if Store.exists(place):
            store = Store.open(place)
            root = zarr.open_group(store.reader().store, mode="r")
        if root is None or "composite/bands" not in root:
            raise LabelError("there is no composite to look at", got=str(place), remedy=remedy)
        known = store.identity
        self.crs: str = known["crs"]
        self._bands: Any = root["composite/bands"]
        self.root: zarr.Group = root
        # of a cube with periods the first is shown
        names = [of_period(name)[0] for name in known["band_names"]]
        self.names = tuple(names)
        wanted = [n for n in ("B04", "B03", "B02") if n in names] or names[:1]
        self._shown = [names.index(name) for name in (wanted * 3)[:3]]
        west, _, _, north = known["bounds"]
        self._corner = west, north
        self.pixel = self._pixel = float(known["arrays"]["composite/bands"]["resolution"])

    def _window(self, west: float, north: float, side: float) -> npt.NDArray[np.float32] | None:
        """Reflectance (band, y, x), NaN where there is none; None outside of the composite."""
        top = int((self._corner[1] - north) // self._pixel)
        left = int((west - self._corner[0]) // self._pixel)
        n = max(int(np.ceil(side / self._pixel)), 1)
        height, width = self._bands.shape[-2:]
        if top + n <= 0 or left + n <= 0 or top >= height or left >= width:
            return None
        stored = np.zeros((self._bands.shape[0], n, n), np.uint16)
        here = np.s_[max(-top, 0) : height - top, max(-left, 0) : width - left]
        rows, cols = slice(max(top, 0), top + n), slice(max(left, 0), left + n)
        part = self._bands[:, rows, cols]
        stored[:, *here][:, : part.shape[1], : part.shape[2]] = part
        values = (stored.astype(np.float32) - 1000) / 10_000
        return np.where(stored > 0, values, np.float32(np.nan))

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east and north of its grid, in metres."""
        height, width = self._bands.shape[-2:]
        west, north = self._corner
        return west, north - height * self._pixel, west + width * self._pixel, north

    def reflectance(
        self, rows: slice, cols: slice, wanted: Sequence[str]
    ) -> npt.NDArray[np.float32]:
        """Reflectance (band, y, x) of a window of its grid, NaN where there is none.

        Parameters
        ----------
        rows, cols : within the grid.
        wanted : B-names among `names`.
        """
        # a chunk holds all bands
        stored = self._bands[:, rows, cols][[self.names.index(name) for name in wanted]]
        values = (stored.astype(np.float32) - 1000) / 10_000
        found: npt.NDArray[np.float32] = np.where(stored > 0, values, np.float32(np.nan))
        return found

    def window(
        self, box: tuple[float, float, float], wanted: Sequence[str]
    ) -> npt.NDArray[np.float32] | None:
        """Reflectance (band, y, x) of the square that `picture` shows, NaN where there is none."""
        values = self._window(*box)
        return None if values is None else values[[self.names.index(name) for name in wanted]]

    def picture(self, box: tuple[float, float, float]) -> npt.NDArray[np.uint8] | None:
        """True colour of a square, uint8 (y, x, 3), grey without data; None where all is without.

        Parameters
        ----------
        box : west, north and side, in metres of the store's CRS.
        """
        values = self._window(*box)
        if values is None or np.isnan(values).all():
            return None
        colours = values[self._shown]
        shown = 255 * np.clip(np.nan_to_num(colours, nan=0.0) / _BRIGHT, 0, 1) ** 0.7
        shown[:, np.isnan(colours).any(axis=0)] = NO_DATA
        found: npt.NDArray[np.uint8] = np.moveaxis(shown.astype(np.uint8), 0, -1)
        return found

    def spectrum(self, shape: BaseGeometry) -> npt.NDArray[np.float64] | None:
        """Median of each band inside a shape."""
        west, south, east, north = shape.bounds
        side = max(east - west, north - south)
        values = self._window(west, north, side)
        if values is None:
            return None
        n = values.shape[1]
        left = self._corner[0] + self._pixel * ((west - self._corner[0]) // self._pixel)
        top = self._corner[1] - self._pixel * ((self._corner[1] - north) // self._pixel)
        x, y = np.meshgrid(
            left + (np.arange(n) + 0.5) * self._pixel, top - (np.arange(n) + 0.5) * self._pixel
        )
        inside = shapely.contains_xy(shape, x, y) & ~np.isnan(values).any(axis=0)
        if not inside.any():
            return None
        return np.asarray(np.median(values[:, inside], axis=1), np.float64)
