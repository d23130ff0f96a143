"""Samples that judge a map, in strata of regions, of the map, of another raster, or none.

The sizes follow area (``proportional``), lie half way to equal ones (``mixed``), or follow the
landscape's indices (``lsi``), with a least number in each stratum; ``random`` has one stratum, and
is judged by the map's classes all the same, as strata after the fact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from pyproj import CRS

from engine.compare.sample_files import ZoneMap, read_zones, require_no_sample, write_cells
from engine.errors import LabelError, first_line
from engine.labels.rasters import onto, require_plain
from engine.sites.allocation import apportion
from engine.sites.counts import count
from engine.sites.edges import NOWHERE
from engine.sites.indices import indices
from engine.sites.landscape import regions_for
from engine.sites.regions import RegionMap
from engine.sites.source import MOST_CODE, NOTHING

__all__ = ["ALLOCATIONS", "By", "Design", "sample_strata", "sizes_of"]

By = Literal["proportional", "mixed", "lsi", "random"]
ALLOCATIONS: tuple[By, ...] = ("proportional", "mixed", "lsi", "random")

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Design:
    """How many cells to look at, by stratum.

    Attributes
    ----------
    strata : of each its region and code (None where strata have none), cells and size.
    cells, sizes : int64 (stratum,)
    outside : cells with a class that lie in no stratum.
    notes : what was decided or is in doubt, one line each.
    """

    strata: tuple[Mapping[str, Any], ...]
    cells: Ints
    sizes: Ints
    outside: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Held:
    """Codes in memory as a map of classes."""

    shape: tuple[int, int]
    transform: Affine
    crs: CRS
    codes: npt.NDArray[np.uint8]
    name: str
    stamp: str = ""
    titles: Mapping[int, str] = field(default_factory=dict)

    def read(self, rows: slice, cols: slice) -> npt.NDArray[np.int32]:
        codes = self.codes[rows, cols].astype(np.int32)
        return np.where(codes == 0, NOTHING, codes)


def sample_strata(
    product: str | Path,
    out: str | Path,
    *,
    regions: str | Path | None = None,
    field: str | None = None,
    grid: float | None = None,
    merge: float = 0.25,
    strata: str | Path | None = None,
    allocation: By = "proportional",
    n: int | None = None,
    standard_error: float = 0.01,
    users: float = 0.8,
    least: int = 2,
    layer: str = "map",
    seed: int = 0,
) -> Design:
    """Draw cells by which a map is to be judged, at random within strata (Stehman 2014).

    Writes the files that `engine.compare.sample.sample` writes, and is judged as they are.

    Parameters
    ----------
    product, layer, seed, out : as `engine.compare.sample.sample` takes them.
    regions, field, grid, merge : as `engine.sites.landscape.landscape` takes them: strata are the
        classes of each region.
    strata : raster of codes; strata are those that lie at the cells' centres, not classes.
    allocation : "proportional", "mixed", "lsi" (equations 2 and 3, of the map's classes), or
        "random", without strata.
    n : cells in all; by default what the standard error asks of a map of that accuracy.
    standard_error, users : of the overall accuracy, and the one that is expected.
    least : cells of each stratum; one that has no more is taken whole.

    Raises
    ------
    LabelError, AreaError, MetricError
        Where map, regions or strata cannot be used, numbers make no sense, or `n` cannot reach
        the least of each stratum.
    """
    _require_sense(allocation, strata, n, standard_error, users, least)
    if allocation == "random" and (regions is not None or grid is not None or strata is not None):
        raise LabelError("a random sample has no strata", got="allocation random, and strata")
    require_no_sample(Path(out))
    map_ = read_zones(product, layer)
    source = _Held(
        map_.codes.shape,
        map_.box.transform,
        CRS.from_user_input(str(map_.box.crs)),
        map_.codes,
        map_.path.name,
    )
    if source.transform.b or source.transform.d:
        raise LabelError(
            "the map is rotated",
            got=f"{source.name}: {tuple(source.transform)[:6]}",
            expected="rows and columns along the axes of its CRS",
            remedy="write it on a grid that is not (gdalwarp -r near)",
        )
    known, notes = regions_for(source, regions, field, grid, merge)
    where = RegionMap(known, source.transform, source.shape)
    height, width = source.shape
    region = where.read(slice(0, height), slice(0, width)).astype(np.int64)
    code = map_.codes.astype(np.int64) if strata is None else _codes_of(Path(strata), map_)
    if allocation == "random":
        code = np.where(map_.codes > 0, 1, 0).astype(np.int64)
    mapped = map_.codes > 0
    inside = mapped & (region != NOWHERE) & (code >= (1 if strata is None else 0))
    if not inside.any():
        raise LabelError("no cell of the map lies in a stratum", got=map_.path.name)
    keys, number = np.unique(region[inside] * (MOST_CODE + 1) + code[inside], return_inverse=True)
    cells = np.bincount(number).astype(np.int64)
    if n is None:
        n = int(np.ceil(users * (1 - users) / standard_error**2))
    weights = None
    if allocation == "lsi":
        weights = _lsi(source, where, keys)
    sizes = sizes_of(cells, n, allocation, least, weights)
    outside = int(mapped.sum() - inside.sum())
    if outside:
        notes = [
            *notes,
            f"{outside} of {int(mapped.sum())} cells lie in no stratum: what is estimated is of "
            "the others",
        ]
    told = tuple(
        {
            "region": None
            if regions is None and grid is None
            else known[key // (MOST_CODE + 1)].name,
            "code": None if allocation == "random" else key % (MOST_CODE + 1),
            "cells": int(all_),
            "size": int(size),
        }
        for key, all_, size in zip(keys.tolist(), cells, sizes, strict=True)
    )
    rng = np.random.default_rng(seed)
    flat = np.flatnonzero(inside.ravel())
    order = np.argsort(number, kind="stable")
    ends = np.concatenate([[0], np.cumsum(cells)])
    drawn = np.concatenate(
        [
            order[ends[k] + rng.choice(cells[k], size, replace=False)]
            for k, size in enumerate(sizes.tolist())
        ]
    )
    drawn = rng.permutation(drawn)  # the order says nothing of the stratum
    rows, cols = np.divmod(flat[drawn], width)
    of_class = np.bincount(map_.codes[inside])
    design = {
        "schema": 2,
        "allocation": allocation,
        "strata": told,
        "stratum": number[drawn].tolist(),
        "cells": {str(c): int(of_class[c]) for c in np.flatnonzero(of_class)},
        "outside": outside,
        "seed": seed,
    }
    write_cells(Path(out), map_, rows, cols, design)
    return Design(told, cells, sizes, outside, tuple(notes))


def sizes_of(
    cells: Ints,
    n: int,
    allocation: By,
    least: int = 2,
    weights: npt.NDArray[np.float64] | None = None,
) -> Ints:
    """Sample sizes of strata.

    Parameters
    ----------
    cells : int64 (stratum,), 1 or more.
    n : cells in all.
    allocation : "proportional", "mixed" (the mean of proportional and equal shares), "random" (of
        a single stratum), or "lsi", which is by `weights`.
    least : of each stratum; one that has no more is taken whole.
    weights : float (stratum,)

    Raises
    ------
    LabelError
        Where `n` is more than all cells, or cannot reach the least of each stratum.
    """
    lower = np.minimum(least, cells)
    if n < lower.sum():
        raise LabelError(
            "too few cells for the strata",
            got=f"n {n}, {len(cells)} strata with {least} each",
            expected=f"{int(lower.sum())} or more",
            remedy="take more cells, fewer regions, or a smaller least",
        )
    if n > cells.sum():
        raise LabelError(
            "more cells than the map has", got=n, expected=f"{int(cells.sum())} or fewer"
        )
    share = cells / cells.sum()
    if allocation == "mixed":
        share = (share + 1 / len(cells)) / 2
    if weights is not None:
        share = weights
    return apportion(n, share, lower, cells)


def _lsi(source: _Held, where: RegionMap, keys: Ints) -> npt.NDArray[np.float64]:
    """What equations 2 and 3 give strata, of the map's classes in regions."""
    found = count(source, where, max(source.shape))
    by_region, by_class, _ = indices(found)
    mine = by_class.region * (MOST_CODE + 1) + by_class.code
    if not np.array_equal(mine, keys):
        raise RuntimeError("strata and counts of one map differ")  # a fault of natmap's own
    by = by_class.lsi * by_class.share
    of = np.searchsorted(by_region.region, by_class.region)
    total = np.bincount(of, by)
    each = by_region.lsi * by_region.area
    weights: npt.NDArray[np.float64] = (each / each.sum())[of] * by / total[of]
    return weights


def _codes_of(path: Path, map_: ZoneMap) -> Ints:
    """Codes of a raster at the cells' centres, -1 where it says nothing.

    Raises
    ------
    LabelError
        Where it cannot be read, or holds what is not a code.
    """
    try:
        with rasterio.open(path) as file:
            require_plain(file, LabelError)
            if file.crs is None:
                raise LabelError("the strata do not say which CRS they are in", got=path)
            shape = map_.codes.shape
            crs = rasterio.crs.CRS.from_user_input(str(map_.box.crs))
            with onto(file, crs, map_.box.transform, shape) as there:
                values = there.read(1)
    except rasterio.errors.RasterioError as error:
        raise LabelError("the strata cannot be read", got=first_line(error)) from error
    known = np.isfinite(values)
    odd = known & ((values != np.round(values)) | (values < 0) | (values > MOST_CODE))
    if odd.any():
        raise LabelError(
            "the raster of strata holds what is not a code",
            got=f"{path.name}: {', '.join(f'{v:g}' for v in np.unique(values[odd])[:5])}",
            expected=f"integers from 0 to {MOST_CODE}",
        )
    found: Ints = np.where(known, np.nan_to_num(values), -1).astype(np.int64)
    return found


def _require_sense(
    allocation: str,
    strata: str | Path | None,
    n: int | None,
    standard_error: float,
    users: float,
    least: int,
) -> None:
    if allocation not in ALLOCATIONS:
        raise LabelError("no such allocation", got=allocation, expected=", ".join(ALLOCATIONS))
    if allocation == "lsi" and strata is not None:
        raise LabelError(
            "indices of the landscape are of the map's own classes",
            got="allocation lsi, and strata",
            expected="proportional or mixed",
        )
    for name, value in (("standard_error", standard_error), ("users", users)):
        if not 0 < value < 1:
            raise LabelError(f"{name} must lie between 0 and 1", got=value)
    if n is not None and n < 2:
        raise LabelError("n must be 2 or more", got=n)
    if least < 2:
        raise LabelError("least must be 2 or more: one cell has no spread", got=least)
