"""One opened asset: its georeference, settled, and the part of it that a window needs."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterBlockError
from rasterio.io import DatasetReader
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from engine.cube.room import require_blocks
from engine.cube.validity import Validity, validity_of
from engine.cube.warp import Frame, blocks_of, crs_text, extent
from engine.errors import ReadError
from engine.items import SCL, Asset, Item

__all__ = ["Raster", "Source", "drivers_of", "open_source"]

# Files without a georeference are settled below, from the item; the filter is the process's own,
# because `catch_warnings` is not safe in the reader's threads.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

_ALIGNED = 1e-6  # of a pixel
_PLAIN = ("GTiff", "JP2OpenJPEG", "JPEG", "PNG")
"""Formats, told by a file's first bytes, that hold their pixels themselves."""
_MEDIA = {"tiff": "GTiff", "jp2|jpx|jpeg2000": "JP2OpenJPEG", "jpe?g": "JPEG", "png": "PNG"}
"""What of a media type names which of them; it is written in many ways."""


@dataclass(frozen=True)
class Source:
    """An open file with a settled georeference.

    Attributes
    ----------
    crs, transform
        The file's own, or the item's where the file has none.
    validity : Validity
        What says that a pixel has no data.
    notes : tuple of str
        Where file and item contradict each other, and who was believed.
    """

    file: DatasetReader
    index: int
    crs: Any
    transform: Affine
    validity: Validity
    notes: tuple[str, ...] = ()

    @cached_property
    def frame(self) -> Frame:
        """The file's pixels, as the warp wants them."""
        at = self.transform
        return Frame(
            crs_text(self.crs), (at.a, at.e), (at.c, at.f), self.file.shape,
            self.crs.is_projected, self._unit, (at.b, at.d),
        )  # fmt: skip

    @property
    def _unit(self) -> float:
        """Metres of the CRS's unit, where that is a length."""
        return float(self.crs.linear_units_factor[1]) if self.crs.is_projected else 1.0

    def load(self, geobox: GeoBox, anchor: tuple[float, float], *, nearest: bool) -> Raster | None:
        """The part of the file that a window of the grid needs, or None where it needs none."""
        window = self.needed(geobox, anchor)
        if window is None:
            return None
        values, nodata = self.validity.read(self.file, self.index, window)
        fetched = self.fetched(window, values.nbytes)
        corner = int(window.row_off), int(window.col_off)
        return Raster(values, corner, self.frame, nodata, nearest, fetched)

    def needed(self, geobox: GeoBox, anchor: tuple[float, float]) -> Window | None:
        """Pixels of the file that a window of the grid needs, or None where it needs none."""
        frame = self.frame
        aligned = _aligned(geobox, frame)
        if aligned is not None:
            top, left = aligned
            bottom, right = top + geobox.shape[0], left + geobox.shape[1]
        else:
            found = [
                box
                for block in blocks_of(geobox, anchor)
                if (box := extent(block, frame)) is not None
            ]
            if not found:
                return None
            boxes = np.array(found)
            margin = np.ceil(np.array(frame.radius(geobox.resolution.x))) + 1
            left, top = np.floor(boxes[:, [0, 2]].min(axis=0) - margin).astype(int)
            right, bottom = np.ceil(boxes[:, [1, 3]].max(axis=0) + margin).astype(int)
        height, width = self.file.shape
        top, left = max(top, 0), max(left, 0)
        bottom, right = min(bottom, height), min(right, width)
        if bottom <= top or right <= left:
            return None
        return Window(left, top, right - left, bottom - top)

    def fetched(self, window: Window, decoded: int) -> int:
        """Bytes of the blocks that a window needs, as they lie in the file; else decoded ones."""
        (top, bottom), (left, right) = window.toranges()
        height, width = self.file.block_shapes[self.index - 1]
        try:
            return sum(
                self.file.block_size(self.index, row, col)
                for row in range(top // height, -(-bottom // height))
                for col in range(left // width, -(-right // width))
            )
        except RasterBlockError:  # a format other than TIFF, or a block that is not there
            return decoded

    def _bounds(self) -> tuple[float, float, float, float]:
        height, width = self.file.shape
        x = (self.transform.c, self.transform.c + width * self.transform.a)
        y = (self.transform.f, self.transform.f + height * self.transform.e)
        return min(x), min(y), max(x), max(y)

    def decimated_shape(self, spacing: float) -> tuple[int, int]:
        """Height and width at `spacing` metres between samples."""
        height, width = self.file.shape
        step = abs(self.transform.a) * self._unit, abs(self.transform.e) * self._unit
        if not self.crs.is_projected:
            step = step[0] * 111_320.0, step[1] * 111_320.0
        return (
            max(round(height * step[1] / spacing), 1),
            max(round(width * step[0] / spacing), 1),
        )

    def decimate(self, size: tuple[int, int]) -> np.ma.MaskedArray[Any, Any]:
        """The whole band at a smaller size, nearest; what says nothing is masked."""
        return self.validity.sample(self.file, self.index, size)


@dataclass(frozen=True)
class Raster:
    """Pixels of one asset in memory, as they lie in the file.

    Attributes
    ----------
    values : array (row, column)
    corner : (row, column) of the first pixel in the file.
    frame : Frame of the file.
    nodata : float or None
    nearest : bool
        Classes, not to be mixed.
    fetched : int
        Bytes that were read for it.
    """

    values: npt.NDArray[Any]
    corner: tuple[int, int]
    frame: Frame
    nodata: float | None
    nearest: bool
    fetched: int = 0

    def window(self, geobox: GeoBox) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]] | None:
        """Values and validity on a window of the same lattice; None where it is another one."""
        aligned = _aligned(geobox, self.frame)
        if aligned is None:
            return None
        values = np.zeros(geobox.shape, self.values.dtype)
        valid = np.zeros(geobox.shape, bool)
        top, left = self.corner[0] - aligned[0], self.corner[1] - aligned[1]
        here = np.s_[top : top + self.values.shape[0], left : left + self.values.shape[1]]
        values[here] = self.values
        valid[here] = True
        if self.nodata is not None:
            valid[here] &= self.values != self.nodata
        if self.values.dtype.kind == "f":
            valid[here] &= ~np.isnan(self.values)
        return values, valid


def _aligned(geobox: GeoBox, frame: Frame) -> tuple[int, int] | None:
    """The window's first (row, column) in a file of the same CRS, pixels and lattice."""
    step = geobox.resolution.x
    if (
        abs(frame.step[0] - step) > 1e-9
        or abs(frame.step[1] + step) > 1e-9
        or frame.crs != crs_text(geobox.crs)
    ):
        return None
    col = (geobox.transform.c - frame.corner[0]) / step
    row = (frame.corner[1] - geobox.transform.f) / step
    if abs(col - round(col)) > _ALIGNED or abs(row - round(row)) > _ALIGNED:
        return None
    return round(row), round(col)


@contextmanager
def open_source(href: str, name: str, item: Item) -> Iterator[Source]:
    """Open an asset and settle what it is: where it lies, and which of its pixels say something.

    Parameters
    ----------
    href : to open.
    name : of the asset, B-name or SCL.
    item : Item

    Raises
    ------
    ReadError
        Where neither file nor item has a georeference, the file is rotated, not rectified or has
        not the band, its numbers are complex, positions in a palette or have a scale that nothing
        states, it lies elsewhere than the item says, or its blocks are too large to be decoded.
    """
    asset = item.assets[name]
    with DatasetReader(href, driver=drivers_of(href)) as file:
        if not 1 <= asset.index <= file.count:
            raise ReadError(
                f"{item.id} has no such band", got=asset.index, expected=f"1 to {file.count}"
            )
        require_blocks(file, asset.index)
        kind = file.dtypes[asset.index - 1]
        if kind.startswith("complex"):
            raise ReadError(
                f"{name} of {item.id} holds complex numbers", got=kind, expected="real numbers"
            )
        if name != SCL and file.colorinterp[asset.index - 1] == ColorInterp.palette:
            raise ReadError(
                f"{name} of {item.id} is not what its numbers are",
                got="positions in a palette",
                expected="reflectance, or colours of 8 bits",
                remedy="write it as red, green and blue (gdal_translate -expand rgb)",
            )
        crs, transform, notes = _georeference(file, asset, item)
        if transform.b or transform.d:
            raise ReadError(
                f"{item.id} is rotated", got=tuple(transform)[:6], expected="a north-up raster"
            )
        _require_scale(file, name, asset, item)
        validity, more = validity_of(file, asset, item, name)
        told = (*_misnamed(file, asset, item, name), *notes, *more)
        source = Source(file, asset.index, crs, transform, validity, told)
        _require_place(source, item)
        yield source


def drivers_of(href: str) -> list[str]:
    """GDAL's formats that may be opened: none that names other files, but for a user's own .vrt."""
    own = "://" not in href and not href.startswith("/vsi") and href.lower().endswith(".vrt")
    return [*_PLAIN, "VRT"] if own else [*_PLAIN]


def _misnamed(file: DatasetReader, asset: Asset, item: Item, name: str) -> tuple[str, ...]:
    """Where the item declares another type than the file is of."""
    kind = (asset.media or "").partition(";")[0].strip().lower()
    if not kind or file.driver == "VRT" or kind.endswith("octet-stream"):
        return ()
    found = next((driver for pattern, driver in _MEDIA.items() if re.search(pattern, kind)), None)
    if found == file.driver:
        return ()
    said = "".join(c if c.isprintable() else " " for c in kind[:60])
    return (f"{name} of {item.id} is a file of format {file.driver}, the item says {said}",)


def _georeference(
    file: DatasetReader, asset: Asset, item: Item
) -> tuple[Any, Affine, tuple[str, ...]]:
    """CRS and transform: the file's own, or the item's for a file without any."""
    if file.crs is not None and not file.transform.is_identity:
        wrong = _contradictions(file, asset)
        note = f"the file of {item.id} is believed, the item says other {' and '.join(wrong)}"
        return file.crs, file.transform, (note,) if wrong else ()
    if file.gcps[0] or file.rpcs:
        raise ReadError(
            f"{item.id} is not rectified: its pixels lie on no regular grid",
            got="ground control points" if file.gcps[0] else "rational polynomial coefficients",
            expected="a file with a transform",
            remedy="rectify it (gdalwarp), and describe the result",
        )
    if asset.crs is None or asset.transform is None or asset.shape is None:
        raise ReadError(
            f"{item.id} has no georeference, in the file nor in the item",
            got=asset.href.split("?")[0],
            expected="a CRS and transform, or proj:code, proj:transform and proj:shape that agree "
            "with the footprint",
        )
    # The file may be a smaller copy of what the item describes: same extent, own shape.
    a, b, c, d, e, f = asset.transform
    down = asset.shape[0] / file.height
    across = asset.shape[1] / file.width
    transform = Affine(a * across, b * across, c, d * down, e * down, f)
    return rasterio.crs.CRS.from_user_input(asset.crs), transform, ()


def _contradictions(file: DatasetReader, asset: Asset) -> list[str]:
    """What an item claims of a file that it is not."""
    found = []
    if asset.crs is not None and crs_text(asset.crs) != crs_text(file.crs):
        found.append("CRS")
    elif asset.transform is not None and asset.shape is not None:
        a, _, c, _, e, f = asset.transform
        claimed = c, f, c + a * asset.shape[1], f + e * asset.shape[0]
        at, (height, width) = file.transform, file.shape
        true = at.c, at.f, at.c + at.a * width, at.f + at.e * height
        if np.abs(np.subtract(claimed, true)).max() > abs(at.a):
            found.append("extent")
    return found


def _require_scale(file: DatasetReader, name: str, asset: Asset, item: Item) -> None:
    """Refuse numbers of which only the file says how they become reflectance, in another way."""
    scale, offset = file.scales[asset.index - 1], file.offsets[asset.index - 1]
    if asset.stated or name == SCL or (scale, offset) == (1.0, 0.0):
        return
    # 1e-6: files may keep them in 32 bits
    alike = partial(math.isclose, rel_tol=1e-6, abs_tol=1e-9)
    if not alike(scale, asset.scale) or not alike(offset, asset.offset):
        raise ReadError(
            f"{name} of {item.id}: only the file says what its numbers are",
            got=f"scale {scale:g} and offset {offset:g} in the file, none in the item",
            expected="raster:scale and raster:offset of the asset's band",
            remedy="state them in the item; natmap ingest takes them from the file",
        )


def _require_place(source: Source, item: Item) -> None:
    """A file that lies wholly outside its item's footprint has a wrong georeference."""
    west, south, east, north = item.bbox
    if west > east:
        return  # crosses 180: the file's bounds in degrees cannot be compared by size
    left, bottom, right, top = _in_degrees(source.crs.to_wkt(), source._bounds())
    if left <= right and not (left <= east and right >= west and bottom <= north and top >= south):
        raise ReadError(
            f"the file lies elsewhere than {item.id} says",
            got=[round(v, 4) for v in (left, bottom, right, top)],
            expected=[round(v, 4) for v in item.bbox],
            remedy="the file's georeference is wrong; report it to the catalogue",
        )


@lru_cache(maxsize=4096)
def _in_degrees(crs: str, bounds: tuple[float, ...]) -> tuple[float, float, float, float]:
    """Bounds in EPSG:4326; a scene's bands share theirs, and are opened once for each tile."""
    found: tuple[float, float, float, float] = transform_bounds(crs, "EPSG:4326", *bounds)
    return found
