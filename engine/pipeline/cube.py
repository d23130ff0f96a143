"""A notebook's way in: search, and a lazy cube."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import xarray as xr

from engine.catalog.search import find_source, search
from engine.catalog.signing import make_signer
from engine.cube.lazy import lazy_cube
from engine.grid.area import Area
from engine.grid.grid import Grid
from engine.items import band_name
from engine.recipe import Imagery, Period

__all__ = ["open_cube"]


def open_cube(
    catalog: str | Path,
    bbox: tuple[float, float, float, float],
    period: tuple[date | str, date | str],
    bands: tuple[str, ...],
    *,
    crs: str,
    resolution: float = 10.0,
    max_cloud_cover: float = 100.0,
    origin: tuple[float, float] = (0.0, 0.0),
    chunk: int = 1024,
) -> xr.Dataset:
    """Search a catalogue and view its scenes as a lazy cube.

    Parameters
    ----------
    catalog : a source card's name, or the path or address of a catalogue.
    bbox : west, south, east, north in degrees.
    period : first and last solar day.
    bands : B02 or blue.
    crs, resolution, origin : the grid, as in a recipe.
    max_cloud_cover : percent.
    chunk : pixels.

    Returns
    -------
    Dataset of ``bands`` (time, band, y, x) and ``scl``, as `engine.cube.lazy.lazy_cube` says.
    """
    first, last = (date.fromisoformat(str(day)) for day in period)
    imagery = Imagery(
        catalog=str(catalog),
        period=Period(first=first, last=last),
        max_cloud_cover=max_cloud_cover,
        bands=tuple(bands),
    )
    area = Area.from_bbox(bbox, crs)
    names = [band_name(band) for band in bands]
    card, where = find_source(imagery)
    found = search(card, where, area, imagery, names)
    grid = Grid.fit(area.bounds(), crs=crs, tile_size=resolution, anchor=origin)
    return lazy_cube(
        found.items,
        names,
        crs=crs,
        resolution=resolution,
        bounds=grid.bounds,
        anchor=origin,
        sign=make_signer(card),
        chunk=chunk,
    )
