"""Labelled cells: from training areas, or from a reference raster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from engine.errors import AreaError, LabelError
from engine.grid.area import reproject
from engine.labels.rasters import onto, require_plain
from engine.labels.training_areas import TrainingArea
from engine.legend import LCZ, codes_of

__all__ = [
    "SAMPLE",
    "Samples",
    "areas_without_cells",
    "cells_of_areas",
    "cells_of_raster",
    "small_areas",
    "thin",
]

SAMPLE = np.dtype([("row", np.int64), ("col", np.int64), ("lcz", np.uint8), ("group", np.int64)])
"""A labelled cell: its place in the box of cells, its class, and what it must not be split from."""

Samples = npt.NDArray[np.void]

_INSIDE = 0.6  # share of a training patch inside its area, where the area can give that
_BEST = 0.9  # of the largest share of an area that cannot
_BLOCK = 20  # cells along a block of a raster's labels
_TOLD = 8  # areas that one note names


def cells_of_areas(
    areas: Sequence[TrainingArea], cells: GeoBox, *, patch: float | None = None
) -> Samples:
    """Cells whose centre lies in a training area, or in the core of a large one.

    Parameters
    ----------
    areas : their positions become the groups.
    cells : GeoBox
        In any CRS, degrees as well.
    patch : side of a training patch, in units of the CRS
        Only cells that teach: those whose patch lies in the area by 0.6 or more. Of an area that
        has no such cell they are those with nearly its largest share.

    Returns
    -------
    SAMPLE array; a cell claimed by areas of two classes is left out.
    """
    found = [_cells_of_area(area, number, cells, patch) for number, area in enumerate(areas)]
    samples = np.concatenate(found) if found else np.zeros(0, SAMPLE)
    place = samples["row"] * cells.shape[1] + samples["col"]
    _, first, inverse = np.unique(place, return_index=True, return_inverse=True)
    same = samples["lcz"] == samples["lcz"][first][inverse]
    argued = np.unique(inverse[~same])
    keep_first = np.setdiff1d(np.arange(len(first)), argued)
    kept: Samples = samples[np.sort(first[keep_first])]
    return kept


def _cells_of_area(area: TrainingArea, number: int, cells: GeoBox, patch: float | None) -> Samples:
    """Cells of one area, those that others claim as well among them."""
    core = _onto(area.core(), cells)
    if core is None:
        return np.zeros(0, SAMPLE)
    corners = shapely.get_coordinates(shapely.box(*core.bounds))
    col, row = _moved(~cells.transform, corners[:, 0], corners[:, 1])
    cols = np.arange(max(int(col.min()), 0), min(int(col.max()) + 1, cells.shape[1]))
    rows = np.arange(max(int(row.min()), 0), min(int(row.max()) + 1, cells.shape[0]))
    c, r = (axis.ravel() for axis in np.meshgrid(cols, rows))
    x, y = _moved(cells.transform, c + 0.5, r + 0.5)
    shapely.prepare(core)
    inside = shapely.contains_xy(core, x, y)
    c, r, x, y = c[inside], r[inside], x[inside], y[inside]
    if patch is not None and len(c):
        whole, half = _onto(area.geometry, cells), patch / 2
        patches = shapely.box(x - half, y - half, x + half, y + half)
        share = shapely.area(shapely.intersection(patches, whole)) / patch**2
        best = share.max()
        keep = share >= (_INSIDE if best >= _INSIDE else _BEST * best)
        c, r = c[keep], r[keep]
    part = np.zeros(len(c), SAMPLE)
    part["row"], part["col"] = r, c
    part["lcz"], part["group"] = area.lcz, number
    return part


def _moved(
    by: Affine, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    return by.a * x + by.b * y + by.c, by.d * x + by.e * y + by.f


def _onto(geometry: BaseGeometry, cells: GeoBox) -> BaseGeometry | None:
    """A geometry in the cells' CRS, None where it lies beyond its domain."""
    try:
        return reproject(geometry, "EPSG:4326", str(cells.crs))
    except AreaError:
        return None


def areas_without_cells(
    areas: Sequence[TrainingArea], samples: Samples, cells: GeoBox, why: str = ""
) -> list[str]:
    """Notes of areas that gave no cell, by the cause.

    Parameters
    ----------
    areas, cells : as for `cells_of_areas`.
    samples : that are left of what it gave.
    why : the cause where an area has cells of its own, and no other claims them.
    """
    given = set(samples["group"].tolist())
    if len(given) == len(areas):
        return []
    causes: dict[str, list[str]] = {}
    ground = shapely.box(*cells.boundingbox.bbox)
    left = cells_of_areas(areas, cells)
    unargued = set(left["group"].tolist())
    for number, area in enumerate(areas):
        if number in given:
            continue
        shape = _onto(area.core(), cells)
        if shape is None or not shape.intersects(ground):
            cause = "outside of the map"
        elif not len(_cells_of_area(area, number, cells, None)):
            cause = "too small or too narrow: the centre of no cell lies in it"
        elif number not in unargued:
            cause = "areas of other types claim the same cells"
        else:
            cause = why
        causes.setdefault(cause, []).append(f"LCZ {LCZ[area.lcz - 1].label} {area.id}")
    notes = []
    for cause, names in causes.items():
        more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
        words = "area gives no cell" if len(names) == 1 else "areas give no cell"
        notes.append(f"{len(names)} {words} ({cause}): {', '.join(names[:_TOLD])}{more}")
    return notes


def small_areas(areas: Sequence[TrainingArea], cells: GeoBox, patch: float) -> str | None:
    """A note of how many areas cannot hold 0.6 of a training patch, None where all can."""
    half, few = patch / 2, 0
    for number, area in enumerate(areas):
        found = _cells_of_area(area, number, cells, patch)
        whole = _onto(area.geometry, cells)
        if len(found) and whole is not None:
            x, y = _moved(cells.transform, found["col"][:1] + 0.5, found["row"][:1] + 0.5)
            box = shapely.box(x - half, y - half, x + half, y + half)
            few += bool(shapely.area(shapely.intersection(box, whole))[0] < _INSIDE * patch**2)
    if not few:
        return None
    return (
        f"{few} of {len(areas)} areas are smaller than {_INSIDE:.0%} of a patch of {patch:g} m: "
        "their patches are those that lie in them most"
    )


def cells_of_raster(
    path: str | Path,
    cells: GeoBox,
    *,
    within: str | Path | None = None,
    classes: bool = True,
) -> Samples:
    """Cells with a class in a reference raster: nearest pixel, 0 is none.

    What is NaN, the raster's nodata, or masked says nothing. Cells of one class in a block of 2 km
    are a group: neighbours are no independent witnesses.

    Parameters
    ----------
    path : raster of codes 1 to 17, or 101 to 107 for 11 to 17.
    cells : GeoBox
    within : raster, optional
        Only cells where it is not 0; it may hold any numbers.
    classes : False for a raster that only says where, with any numbers.

    Raises
    ------
    LabelError
        Where a raster cannot be read, does not meet the cells or holds other codes.
    """
    values = _warped(path, cells)
    there = np.isfinite(values) & (values != 0)
    if not classes:
        codes = there.astype(np.int64)
    else:
        codes = codes_of(values)
        if (codes < 0).any():
            raise LabelError(
                f"{Path(path).name} holds what is not an LCZ",
                got=", ".join(f"{v:g}" for v in np.unique(values[codes < 0])[:5]),
                expected="codes 1 to 17 or 101 to 107, 0, NaN or its nodata for none",
            )
    if within is not None:
        places = _warped(within, cells)
        codes = np.where(np.isfinite(places) & (places != 0), codes, 0)
    if not codes.any():
        raise LabelError(
            f"{Path(path).name} labels no cell of the area",
            got=f"{int(there.sum())} cells with a code, none of them within"
            if there.any()
            else "no code on any cell",
            remedy="check its CRS and extent against the recipe's area",
        )
    rows, cols = np.nonzero(codes)
    samples = np.zeros(len(rows), SAMPLE)
    samples["row"], samples["col"], samples["lcz"] = rows, cols, codes[rows, cols]
    across = cells.shape[1] // _BLOCK + 1
    block = rows // _BLOCK * across + cols // _BLOCK
    samples["group"] = block * (len(LCZ) + 1) + samples["lcz"]
    return samples


def _warped(path: str | Path, cells: GeoBox) -> npt.NDArray[np.float64]:
    """Values at cells; NaN outside of the raster, at its nodata and where it is masked."""
    try:
        with rasterio.open(path) as file:
            if file.crs is None:
                raise LabelError("the raster does not say which CRS it is in", got=path)
            require_plain(file, LabelError)
            with onto(
                file, str(cells.crs), cells.transform, (cells.shape[0], cells.shape[1])
            ) as there:
                found: npt.NDArray[np.float64] = there.read(1)
    except rasterio.errors.RasterioError as error:
        raise LabelError("the reference raster cannot be read", got=error) from error
    return found


def thin(samples: Samples, most: int, seed: int = 0, power: float = 0.5) -> Samples:
    """At most so many samples, drawn with chances that favour rare classes.

    Parameters
    ----------
    samples : SAMPLE array
    most : int
    seed : int
    power : classes get shares as their counts to this power: 1 leaves them, 0 makes them equal.
    """
    if len(samples) <= most:
        return samples
    codes, counts = np.unique(samples["lcz"], return_counts=True)
    order = np.argsort(counts, kind="stable")  # rarest first: what they cannot fill, others take
    weights = counts[order].astype(float) ** power
    rng = np.random.default_rng(seed)
    left, kept = most, []
    for k, class_ in enumerate(order):
        take = min(int(counts[class_]), round(left * weights[k] / weights[k:].sum()))
        where = np.flatnonzero(samples["lcz"] == codes[class_])
        kept.append(rng.choice(where, take, replace=False))
        left -= take
    chosen: Samples = samples[np.sort(np.concatenate(kept))]
    return chosen
