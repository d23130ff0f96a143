"""Labelled cells: from training areas, or from a reference raster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.features
import shapely
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from engine.errors import LabelError
from engine.grid.area import reproject
from engine.labels.training_areas import TrainingArea

__all__ = ["SAMPLE", "Samples", "cells_of_areas", "cells_of_raster", "thin"]

SAMPLE = np.dtype([("row", np.int64), ("col", np.int64), ("lcz", np.uint8), ("group", np.int64)])
"""A labelled cell: its place in the box of cells, its class, and what it must not be split from."""

Samples = npt.NDArray[np.void]

_SIDE, _INSIDE = 320.0, 0.6  # metres; share of a patch inside its polygon


def cells_of_areas(areas: Sequence[TrainingArea], cells: GeoBox) -> Samples:
    """Cells whose centre lies in the core of a training area, and whose patch lies mostly in it.

    Parameters
    ----------
    areas : their positions become the groups.
    cells : GeoBox
        Of the cells, 100 m.

    Returns
    -------
    SAMPLE array; a cell claimed by areas of two classes is left out.
    """
    resolution = cells.resolution.x
    left, top = cells.transform.c, cells.transform.f
    found: list[Samples] = []
    for number, area in enumerate(areas):
        core = reproject(area.core(), "EPSG:4326", str(cells.crs))
        whole = reproject(area.geometry, "EPSG:4326", str(cells.crs))
        if core.is_empty:
            continue
        x0, y0, x1, y1 = core.bounds
        cols = np.arange(
            max(int((x0 - left) // resolution), 0),
            min(int((x1 - left) // resolution) + 1, cells.shape[1]),
        )
        rows = np.arange(
            max(int((top - y1) // resolution), 0),
            min(int((top - y0) // resolution) + 1, cells.shape[0]),
        )
        if not len(cols) or not len(rows):
            continue
        c, r = (axis.ravel() for axis in np.meshgrid(cols, rows))
        x, y = left + (c + 0.5) * resolution, top - (r + 0.5) * resolution
        shapely.prepare(core)
        inside = shapely.contains_xy(core, x, y)
        half = _SIDE / 2
        patches = shapely.box(x - half, y - half, x + half, y + half)
        share = shapely.area(shapely.intersection(patches, whole)) / _SIDE**2
        keep = inside & (share >= _INSIDE)
        part = np.zeros(int(keep.sum()), SAMPLE)
        part["row"], part["col"] = r[keep], c[keep]
        part["lcz"], part["group"] = area.lcz, number
        found.append(part)
    samples = np.concatenate(found) if found else np.zeros(0, SAMPLE)
    place = samples["row"] * cells.shape[1] + samples["col"]
    _, first, inverse = np.unique(place, return_index=True, return_inverse=True)
    same = samples["lcz"] == samples["lcz"][first][inverse]
    argued = np.unique(inverse[~same])
    keep_first = np.setdiff1d(np.arange(len(first)), argued)
    kept: Samples = samples[np.sort(first[keep_first])]
    return kept


def cells_of_raster(
    path: str | Path,
    cells: GeoBox,
    *,
    within: str | Path | None = None,
    classes: bool = True,
) -> Samples:
    """Cells with a class in a reference raster: nearest pixel, 0 is none; each its own group.

    Parameters
    ----------
    path : raster of codes 1 to 17.
    cells : GeoBox
    within : raster of the same kind, optional
        Only cells where it is not 0.
    classes : False for a raster that only says where, with any numbers.

    Raises
    ------
    LabelError
        Where a raster cannot be read, does not meet the cells or holds other codes.
    """
    codes = _warped(path, cells)
    if not classes:
        codes = (codes != 0).astype(np.int64)
    strange = np.setdiff1d(np.unique(codes), np.arange(18))
    if len(strange):
        raise LabelError(
            f"{Path(path).name} holds what is not an LCZ",
            got=", ".join(map(str, strange[:5])),
            expected="codes 1 to 17, 0 for none",
        )
    if within is not None:
        codes = np.where(_warped(within, cells) != 0, codes, 0)
    if not codes.any():
        raise LabelError(
            f"{Path(path).name} labels no cell of the area",
            remedy="check its CRS and extent against the recipe's area",
        )
    rows, cols = np.nonzero(codes)
    samples = np.zeros(len(rows), SAMPLE)
    samples["row"], samples["col"], samples["lcz"] = rows, cols, codes[rows, cols]
    samples["group"] = np.arange(len(rows))
    return samples


def _warped(path: str | Path, cells: GeoBox) -> npt.NDArray[np.int64]:
    try:
        with (
            rasterio.open(path) as file,
            WarpedVRT(
                file,
                crs=str(cells.crs),
                transform=cells.transform,
                width=cells.shape[1],
                height=cells.shape[0],
                resampling=Resampling.nearest,
                nodata=0,
            ) as there,
        ):
            found: npt.NDArray[np.int64] = there.read(1).astype(np.int64)
    except rasterio.RasterioIOError as error:
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
