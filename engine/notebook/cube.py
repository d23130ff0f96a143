"""A notebook's way in: search, and a lazy cube."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import xarray as xr
from odc.geo.geobox import GeoBox

from engine.catalog.boundaries import resolve_area
from engine.catalog.search import find_source, open_hosts, search
from engine.catalog.signing import make_signer
from engine.cube.lazy import lazy_cube
from engine.errors import GridError, RecipeError
from engine.grid.area import Area, reproject
from engine.grid.grid import Grid, projected_crs
from engine.items import band_name
from engine.recipes.base import read_recipe
from engine.recipes.sections import AreaChoice, Imagery, Period

__all__ = ["open_cube"]

Bounds = tuple[float, float, float, float]

_SKEW = 1e-9  # of a pixel: what a transform's floats may be off
_ON_LATTICE = 1e-6  # of a pixel


def open_cube(
    catalog: str | Path,
    bbox: Bounds | None = None,
    period: str | Period | tuple[date | str, date | str] | None = None,
    bands: Sequence[str] | None = None,
    *,
    area: str | Path | Bounds | Area | None = None,
    like: GeoBox | xr.DataArray | xr.Dataset | None = None,
    crs: str | None = None,
    resolution: float | None = None,
    max_cloud_cover: float = 100.0,
    origin: tuple[float, float] | None = None,
    chunk: int = 1024,
) -> xr.Dataset:
    """Search a catalogue and view its scenes as a lazy cube.

    Where the cube lies is said by one of `bbox`, `area` and `like`.

    Parameters
    ----------
    catalog : a source card's name, or the path or address of a catalogue.
    bbox : west, south, east, north in degrees; west > east crosses the antimeridian.
    period : first and last solar day, as a recipe's "2023-05-01/2023-05-31" or as a pair.
    bands : B02 or blue.
    area : a polygon file, a bounding box as `bbox`, or an `Area`. The cube covers its bounds.
    like : a GeoBox, or an array with the CRS and the place that rioxarray finds. The cube has its
        very pixels, which must be square, in metres, and north up.
    crs : of the grid, projected, in metres; by default that of `area` or `like`.
    resolution : metres, 10 by default.
    max_cloud_cover : percent.
    origin : a point of the lattice in metres, as a recipe's ``grid.origin``; by default (0, 0), or
        the corner of a `like` that is not on that lattice. A run of the same origin stores the
        same values.
    chunk : pixels of a Dask chunk along y and x; along time and band it is 1.

    Returns
    -------
    Dataset of ``bands`` (time, band, y, x) and ``scl``, as `engine.cube.lazy.lazy_cube` says.

    Raises
    ------
    RecipeError
        Where an argument is missing, is none of what it may be, or contradicts another.
    AreaError, GridError
        Where area or grid cannot be used.
    CatalogError
        Where the catalogue cannot be searched, or has no such scenes.
    """
    if chunk < 1:
        raise RecipeError("a chunk holds no pixel", got=f"chunk={chunk}", expected="1 or more")
    imagery = _imagery(catalog, period, bands, max_cloud_cover)
    place = _place(bbox, area, like, crs, resolution, origin)
    names = [band_name(band) for band in imagery.bands or ()]
    card, where = find_source(imagery)
    found = search(card, where, place.area, imagery, names)
    return lazy_cube(
        found.items,
        names,
        crs=place.area.crs,
        resolution=place.resolution,
        bounds=place.bounds,
        anchor=place.origin,
        sign=make_signer(card),
        hosts=open_hosts(where, imagery),
        chunk=chunk,
    )


def _imagery(catalog: str | Path, period: Any, bands: Any, max_cloud_cover: float) -> Imagery:
    """What is searched for, checked as a recipe's."""
    if period is None or bands is None:
        raise RecipeError(
            f"the cube lacks {'a period' if period is None else 'bands'}",
            expected='as in period="2023-05-01/2023-05-31", bands=["B02", "B03"]',
        )
    if isinstance(bands, str):
        raise RecipeError("bands is one word", got=bands, expected=f'a list, as in ["{bands}"]')
    if isinstance(period, Sequence) and not isinstance(period, str):
        if len(period) != 2:
            raise RecipeError("a period has two days", got=period, expected="first and last")
        period = dict(zip(("first", "last"), period, strict=True))
    values = {
        "catalog": str(catalog),
        "period": period,
        "bands": list(bands),
        "max_cloud_cover": max_cloud_cover,
    }
    return read_recipe(Imagery, values, template="lcz", called="what the cube asks for")


class _Place(NamedTuple):
    """Where a cube lies: what is searched, and the lattice."""

    area: Area
    bounds: Bounds
    resolution: float
    origin: tuple[float, float]


def _place(
    bbox: Bounds | None,
    area: str | Path | Bounds | Area | None,
    like: GeoBox | xr.DataArray | xr.Dataset | None,
    crs: str | None,
    resolution: float | None,
    origin: tuple[float, float] | None,
) -> _Place:
    given = [n for n, v in (("bbox", bbox), ("area", area), ("like", like)) if v is not None]
    if len(given) != 1:
        raise RecipeError(
            "one argument says where the cube lies",
            got=" and ".join(given) or "none",
            expected="bbox, area or like",
        )
    if like is not None:
        if crs is not None or resolution is not None:
            raise RecipeError(
                "like brings CRS and resolution with it", remedy="leave crs and resolution out"
            )
        return _like(_geobox(like), origin)
    resolution = 10.0 if resolution is None else resolution
    if not resolution > 0:
        raise GridError("the resolution is not positive", got=resolution)
    wanted = _area(bbox if area is None else area, crs)
    origin = origin or (0.0, 0.0)
    grid = Grid.fit(wanted.bounds(), crs=wanted.crs, tile_size=resolution, anchor=origin)
    return _Place(wanted, grid.bounds, resolution, origin)


def _area(area: str | Path | Bounds | Area | None, crs: str | None) -> Area:
    if isinstance(area, Area):
        if crs is None:
            return area
        projected_crs(crs)
        return Area(reproject(area.geometry, area.crs, crs), crs)
    if crs is None:
        raise RecipeError(
            "the cube lacks a CRS",
            expected='a projected one in metres, as in crs="EPSG:3035"',
        )
    projected_crs(crs)
    values: dict[str, Any] = {"file": str(area)} if isinstance(area, str | Path) else {"bbox": area}
    choice = read_recipe(AreaChoice, values, template="lcz", called="the cube's area")
    return resolve_area(choice, crs)[0]


def _geobox(like: GeoBox | xr.DataArray | xr.Dataset) -> GeoBox:
    if isinstance(like, GeoBox):
        return like
    if not isinstance(like, xr.DataArray | xr.Dataset):
        raise RecipeError(
            "like is not a grid",
            got=type(like).__name__,
            expected="a GeoBox of odc.geo, or an array of xarray with a CRS",
        )
    import rioxarray  # noqa: F401  # the accessor

    if like.rio.crs is None:
        raise RecipeError(
            "the array that the cube is to be like has no CRS",
            remedy='array.rio.write_crs("EPSG:…") says which one it is in',
        )
    return GeoBox(like.rio.shape, like.rio.transform(), like.rio.crs.to_wkt())


def _like(box: GeoBox, origin: tuple[float, float] | None) -> _Place:
    if box.crs is None:
        raise RecipeError("the grid that the cube is to be like has no CRS", got=box)
    crs = f"EPSG:{box.crs.epsg}" if box.crs.epsg else str(box.crs)
    projected_crs(crs)
    step = float(box.transform.a)
    skewed = max(abs(box.transform.b), abs(box.transform.d), abs(box.transform.e + step))
    if not step > 0 or skewed > _SKEW * step:
        raise GridError(
            "the cube is to be like pixels that are not square and north up",
            got=f"{tuple(round(v, 9) for v in box.transform[:6])}",
            expected="(resolution, 0, west, 0, -resolution, north)",
        )
    west, north = float(box.transform.c), float(box.transform.f)
    height, width = box.shape
    bounds = (west, north - height * step, west + width * step, north)
    if not _on_lattice(west, north, step, origin or (0.0, 0.0)):
        if origin is not None:
            raise GridError(
                "the corner of like is not on the lattice of origin",
                got=f"({west:.12g}, {north:.12g}), origin {origin}",
                expected=f"a multiple of {step:g} m from it",
                remedy="leave origin out: the corner is one",
            )
        origin = (west, north)
    area = Area(box.extent.geom, crs)
    return _Place(area, bounds, step, origin or (0.0, 0.0))


def _on_lattice(x: float, y: float, step: float, origin: tuple[float, float]) -> bool:
    off = ((x - origin[0]) / step, (y - origin[1]) / step)
    return all(abs(value - round(value)) < _ON_LATTICE for value in off)
