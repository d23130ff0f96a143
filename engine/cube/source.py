"""One opened asset: its georeference, settled, and a warp that does not depend on the window."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from engine.errors import ReadError
from engine.items import Asset, Item

__all__ = ["Source", "open_source"]

# Files without a georeference are settled below, from the item; the filter is the process's own,
# because `catch_warnings` is not safe in the reader's threads.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

_ALIGNED = 1e-6  # of a pixel


@dataclass(frozen=True)
class Source:
    """An open file with a settled georeference.

    Attributes
    ----------
    crs, transform
        The file's own, or the item's where the file has none (`borrowed`).
    nodata : float or None
        Declared by the item, else the file.
    """

    file: rasterio.DatasetReader
    index: int
    crs: Any
    transform: Affine
    nodata: float | None
    borrowed: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the digital numbers."""
        kind: np.dtype[Any] = np.dtype(self.file.dtypes[self.index - 1])
        return kind

    def read(
        self, block: GeoBox, *, nearest: bool
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]] | None:
        """Values and validity on a block, or None where the file does not reach it."""
        window = self._aligned(block)
        if window is not None:
            return self._window(block, window)
        if not self._reaches(block):
            return None
        # A projected file's pixel is as large on the ground as in its CRS; in degrees GDAL's
        # kernel stays at its own size.
        own = (abs(self.transform.a), abs(self.transform.e)) if self.crs.is_projected else None
        scale = (own[0] / block.resolution.x, own[1] / -block.resolution.y) if own else (1.0, 1.0)
        options: dict[str, Any] = {
            "crs": str(block.crs),
            "transform": block.transform,
            "width": block.shape[1],
            "height": block.shape[0],
            "src_crs": self.crs,
            "src_transform": self.transform,
            "resampling": Resampling.nearest if nearest else Resampling.bilinear,
            # of a pixel; at 0.001 steep edges are up to 4.4 DN off exact bilinear, here 0.7
            "tolerance": 0.0001,
            # destination pixels for each source pixel: pins the kernel, whatever the window
            "XSCALE": f"{scale[0]:.12g}",
            "YSCALE": f"{scale[1]:.12g}",
        }
        if self.nodata is None:
            options["add_alpha"] = True
        else:
            options |= {"src_nodata": self.nodata, "nodata": self.nodata}
        with WarpedVRT(self.file, **options) as warped:
            values = warped.read(self.index)
            if self.nodata is None:
                return values, warped.read(warped.count) > 127
            return values, _differs(values, self.nodata)

    def _aligned(self, block: GeoBox) -> Window | None:
        """The block as a window of the file where they share CRS, pixels and lattice."""
        ours = self.transform
        same = (
            abs(ours.a - block.resolution.x) < 1e-9
            and abs(ours.e - block.resolution.y) < 1e-9
            and ours.b == ours.d == 0
            and rasterio.crs.CRS.from_user_input(str(block.crs)) == self.crs
        )
        if not same:
            return None
        col = (block.transform.c - ours.c) / ours.a
        row = (block.transform.f - ours.f) / ours.e
        if abs(col - round(col)) > _ALIGNED or abs(row - round(row)) > _ALIGNED:
            return None
        return Window(round(col), round(row), block.shape[1], block.shape[0])

    def _window(
        self, block: GeoBox, window: Window
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]] | None:
        height, width = self.file.shape
        top, left = max(window.row_off, 0), max(window.col_off, 0)
        bottom = min(window.row_off + window.height, height)
        right = min(window.col_off + window.width, width)
        if bottom <= top or right <= left:
            return None
        read = self.file.read(self.index, window=Window(left, top, right - left, bottom - top))
        values = np.zeros(block.shape, self.dtype)
        valid = np.zeros(block.shape, bool)
        here = np.s_[
            top - window.row_off : bottom - window.row_off,
            left - window.col_off : right - window.col_off,
        ]
        values[here] = read
        valid[here] = True if self.nodata is None else _differs(read, self.nodata)
        return values, valid

    def _reaches(self, block: GeoBox) -> bool:
        west, south, east, north = self._bounds()
        box = block.pad(2).boundingbox
        try:
            left, bottom, right, top = transform_bounds(
                str(block.crs), self.crs, *box.bbox, densify_pts=21
            )
        except rasterio.errors.CRSError:  # beyond the file's projection
            return False
        return bool(left < east and right > west and bottom < north and top > south)

    def _bounds(self) -> tuple[float, float, float, float]:
        height, width = self.file.shape
        x = (self.transform.c, self.transform.c + width * self.transform.a)
        y = (self.transform.f, self.transform.f + height * self.transform.e)
        return min(x), min(y), max(x), max(y)

    def decimated_shape(self, spacing: float) -> tuple[int, int]:
        """Height and width at `spacing` metres between samples."""
        height, width = self.file.shape
        step = abs(self.transform.a), abs(self.transform.e)
        if not self.crs.is_projected:
            step = step[0] * 111_320.0, step[1] * 111_320.0
        return (
            max(round(height * step[1] / spacing), 1),
            max(round(width * step[0] / spacing), 1),
        )

    def decimate(self, size: tuple[int, int]) -> npt.NDArray[Any]:
        """The whole band at a smaller size, nearest."""
        found: npt.NDArray[Any] = self.file.read(
            self.index, out_shape=size, resampling=Resampling.nearest
        )
        return found


def _differs(values: npt.NDArray[Any], nodata: float) -> npt.NDArray[np.bool_]:
    differs: npt.NDArray[np.bool_] = ~np.isnan(values) if np.isnan(nodata) else values != nodata
    return differs


@contextmanager
def open_source(href: str, asset: Asset, item: Item) -> Iterator[Source]:
    """Open an asset and settle where it lies.

    Raises
    ------
    ReadError
        Where neither file nor item has a georeference, the file is rotated, or it lies elsewhere
        than the item says.
    """
    with rasterio.open(href) as file:
        crs, transform, borrowed = file.crs, file.transform, False
        if crs is None:
            if asset.crs is None or asset.transform is None or asset.shape is None:
                raise ReadError(
                    f"{item.id} has no georeference, in the file nor in the item",
                    got=href.split("?")[0],
                    expected="a CRS and transform, or proj:code, proj:transform and proj:shape",
                )
            # The file may be a smaller copy of what the item describes: same extent, own shape.
            a, b, c, d, e, f = asset.transform
            down = asset.shape[0] / file.height
            across = asset.shape[1] / file.width
            transform = Affine(a * across, b * across, c, d * down, e * down, f)
            crs, borrowed = rasterio.crs.CRS.from_user_input(asset.crs), True
        if transform.b or transform.d:
            raise ReadError(
                f"{item.id} is rotated", got=tuple(transform)[:6], expected="a north-up raster"
            )
        if not 1 <= asset.index <= file.count:
            raise ReadError(
                f"{item.id} has no such band", got=asset.index, expected=f"1 to {file.count}"
            )
        nodata = asset.nodata if asset.nodata is not None else file.nodata
        source = Source(file, asset.index, crs, transform, nodata, borrowed)
        _require_place(source, item)
        yield source


def _require_place(source: Source, item: Item) -> None:
    """A file that lies wholly outside its item's footprint has a wrong georeference."""
    west, south, east, north = item.bbox
    if west > east:
        return  # crosses 180: the file's bounds in degrees cannot be compared by size
    left, bottom, right, top = transform_bounds(source.crs, "EPSG:4326", *source._bounds())
    if left <= right and not (left <= east and right >= west and bottom <= north and top >= south):
        raise ReadError(
            f"the file lies elsewhere than {item.id} says",
            got=[round(v, 4) for v in (left, bottom, right, top)],
            expected=[round(v, 4) for v in item.bbox],
            remedy="the file's georeference is wrong; report it to the catalogue",
        )
