"""What a notebook gives: arrays of xarray, checked, with their place and their digital numbers."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import numpy.typing as npt
import rioxarray  # noqa: F401  # the accessor
import xarray as xr
from affine import Affine
from dask.array.core import normalize_chunks
from dask.array.overlap import ensure_minimum_chunksize

from engine.cube.radiometry import ATTRS
from engine.errors import GridError, RecipeError
from engine.grid.grid import grid_mapping
from engine.items import cube_band

__all__ = [
    "Place",
    "as_dask",
    "blocks_of",
    "dataset_of",
    "days_of",
    "digital_numbers",
    "names_of",
    "place_of",
    "require_dims",
]

_BLOCK = 256e6  # bytes of all days of a block, where no chunks are given
_LEAST = 64  # rows of such a block
_ON_LATTICE = 1e-6  # of a pixel

Chunks = tuple[tuple[int, ...], tuple[int, ...]]


class Place(NamedTuple):
    """Where pixels lie: square, north up; west and north are those of the corner, in metres."""

    crs: str
    resolution: float
    west: float
    north: float

    def coords(self, height: int, width: int) -> dict[str, Any]:
        """Coordinates of so many pixels: centres along y and x, and CF's ``spatial_ref``."""
        step = self.resolution
        y, x = (
            {"standard_name": f"projection_{axis}_coordinate", "units": "m"} for axis in ("y", "x")
        )
        corner = Affine(step, 0, self.west, 0, -step, self.north)
        return {
            "y": ("y", self.north - (np.arange(height) + 0.5) * step, y),
            "x": ("x", self.west + (np.arange(width) + 0.5) * step, x),
            "spatial_ref": ((), np.int32(0), grid_mapping(self.crs, corner)),
        }

    def corner(self, origin: tuple[float, float]) -> tuple[int, int]:
        """Pixels from the lattice's origin down and across to the corner.

        Raises
        ------
        GridError
            Where the corner is not on that lattice.
        """
        pixels = np.array([origin[1] - self.north, self.west - origin[0]]) / self.resolution
        down, across = np.rint(pixels).astype(int)
        if np.abs(pixels - (down, across)).max() > _ON_LATTICE:
            raise GridError(
                "the cube's corner is not on the lattice of origin",
                got=f"({self.west:.12g}, {self.north:.12g}), origin {origin}",
                expected=f"a multiple of {self.resolution:g} m from it",
                remedy="give origin as the recipe's grid.origin",
            )
        return int(down), int(across)


def place_of(values: xr.DataArray) -> Place:
    """Where an array lies.

    Raises
    ------
    RecipeError
        Where it has no CRS.
    GridError
        Where its pixels are not square, regular and north up.
    """
    crs = values.rio.crs
    if crs is None:
        raise RecipeError(
            "the cube has no CRS", remedy='cube.rio.write_crs("EPSG:…") says which one it is in'
        )
    at = values.rio.transform()
    x, y = values["x"].values, values["y"].values
    off = max(
        abs(at.a + at.e),
        float(np.abs(x - (at.c + (np.arange(len(x)) + 0.5) * at.a)).max()),
        float(np.abs(y - (at.f + (np.arange(len(y)) + 0.5) * at.e)).max()),
    )
    if not at.a > 0 or off > _ON_LATTICE * at.a:
        raise GridError(
            "the cube's pixels are not square, regular and north up",
            got=f"{at.a:g} by {at.e:g} m, up to {off:g} m off",
            expected="x that rises and y that falls by one step",
        )
    epsg = crs.to_epsg()
    return Place(f"EPSG:{epsg}" if epsg else crs.to_wkt(), float(at.a), float(at.c), float(at.f))


def dataset_of(cube: Any, *wanted: str) -> xr.Dataset:
    """A Dataset, of a group of a store as well, that holds what is wanted.

    Raises
    ------
    RecipeError
    """
    data = cube.to_dataset() if isinstance(cube, xr.DataTree) else cube
    if not isinstance(data, xr.Dataset):
        raise RecipeError(
            "this is not a cube",
            got=type(cube).__name__,
            expected="what open_cube gives, or a group of open_store",
        )
    lacking = [name for name in wanted if name not in data.data_vars]
    if lacking:
        raise RecipeError(
            f"the cube lacks {' and '.join(lacking)}",
            got=", ".join(map(str, data.data_vars)) or "nothing",
            expected="what open_cube gives, or a group of open_store",
        )
    return data


def require_dims(values: xr.DataArray, *dims: str) -> None:
    """Refuse an array of other dims, or of these in another order.

    Raises
    ------
    RecipeError
    """
    if values.dims != dims:
        raise RecipeError(
            f"{values.name or 'the array'} has other dims",
            got=", ".join(map(str, values.dims)),
            expected=", ".join(dims),
        )


def names_of(bands: xr.DataArray) -> list[str]:
    """B-names of an array's bands.

    Raises
    ------
    RecipeError
    """
    if "band" not in bands.coords:
        raise RecipeError("the bands have no names", expected="a coordinate band: B02 or blue")
    return [cube_band(str(name)) for name in bands["band"].values]


def days_of(data: xr.Dataset) -> tuple[tuple[int, ...], ...]:
    """Positions of the scenes of each solar day, in the order in which they are merged: by id."""
    days, ids = data["solar_day"].values, data["id"].values.astype(str)
    order = np.argsort(ids, kind="stable").tolist()
    return tuple(tuple(k for k in order if days[k] == day) for day in np.unique(days))


def blocks_of(bands: xr.DataArray, halo: int = 0) -> Chunks:
    """Chunks down and across, none narrower than a halo.

    Those there are; else those stored, with as few rows as 256 MB hold of all that lies along
    other dims.
    """
    if bands.chunks is not None:
        down, across = bands.chunks[-2:]
    else:
        height, width = bands.shape[-2:]
        stored = bands.encoding.get("preferred_chunks", {})
        rows, cols = (min(stored.get(d, 400), n) for d, n in (("y", height), ("x", width)))
        per_row = 2 * cols * math.prod(bands.shape[:-2])
        while rows > max(_LEAST, halo) and rows * per_row > _BLOCK:
            rows = -(-rows // 2)
        down, across = normalize_chunks((rows, cols), (height, width))
    return ensure_minimum_chunksize(halo, down), ensure_minimum_chunksize(halo, across)


def as_dask(values: xr.DataArray, chunks: Chunks) -> da.Array:
    """An array in chunks along y and x, whole along others; what is read lazily is so still."""
    down, across = chunks
    whole = [dim for dim in values.dims if dim not in ("y", "x")]
    found: da.Array
    if values.chunks is None:  # chunks of this form at once: others would be read whole first
        found = values.chunk({**dict.fromkeys(whole, -1), "y": down, "x": across}).data
    else:
        found = values.data.rechunk((*(-1 for _ in whole), down, across))
    return found


def digital_numbers(bands: xr.DataArray, chunks: Chunks) -> da.Array:
    """Numbers of the stored convention; of decoded reflectance the very ones it is made of.

    Raises
    ------
    RecipeError
        Where it is neither.
    """
    if bands.dtype == np.uint16:
        return as_dask(bands, chunks)
    if bands.dtype.kind != "f":
        raise RecipeError(
            "the bands are of another type",
            got=bands.dtype,
            expected="uint16 as stored, or reflectance as float",
        )
    found: da.Array = da.map_blocks(_encode, as_dask(bands, chunks), dtype=np.uint16)
    return found


def _encode(values: npt.NDArray[np.floating]) -> npt.NDArray[np.uint16]:
    exact = (values.astype(np.float64) - ATTRS["add_offset"]) / ATTRS["scale_factor"]
    none = np.isnan(values)
    found: npt.NDArray[np.uint16] = np.where(none, ATTRS["_FillValue"], np.rint(exact)).astype(
        np.uint16
    )
    return found
