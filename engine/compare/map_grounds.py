"""A comparison of finished maps: on a raster of codes, on training areas, on a filled sample."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from engine.compare.cells import meaning_of, values_at
from engine.compare.ground import Ground, Tell, of_examples, require_some
from engine.compare.overlap import TRAINED, footprint_of, trained_stratum
from engine.compare.paired import count_rows, join_rows
from engine.compare.sample_files import read_sample, weights_of
from engine.compare.scoring import at_points
from engine.compare.squares import onto
from engine.compare.systems import System
from engine.errors import LabelError, MetricError
from engine.labels.rasters import read_shown, require_plain, require_upright
from engine.labels.sampling import cells_of_areas
from engine.labels.training_areas import read_training_areas

__all__ = ["of_areas", "of_raster", "of_sample"]

_SIDE = 20  # cells of a block of ground that is drawn as a whole
_AT_ONCE = 25  # of these blocks, down and across, that are read at once

Ints = npt.NDArray[np.int64]


def _require_maps(systems: Sequence[System]) -> list[Path]:
    rasters = []
    for system in systems:
        if system.raster is None:
            raise MetricError(
                "a model is compared on patches; on ground it is its map",
                got=system.name,
                expected="product folders or rasters",
                remedy="natmap run and natmap publish make its map",
            )
        rasters.append(system.raster)
    return rasters


def of_raster(
    systems: Sequence[System],
    reference: Path,
    within: Path | None,
    unknown: Sequence[int],
    tell: Tell,
) -> Ground:
    """Cells of the first map's grid of which a raster knows the class.

    Raises
    ------
    MetricError
        Where a raster cannot be read or has other codes, or there is no common cell.
    """
    rasters = _require_maps(systems)
    with ExitStack() as stack:
        try:
            views, notes = _opened(stack, systems, rasters)
            mine = views[0]
            theirs = stack.enter_context(rasterio.open(reference))
            more = [] if within is None else [stack.enter_context(rasterio.open(within))]
            for file in (theirs, *more):
                _require_place(file)
            truth_view, *places = (stack.enter_context(onto(mine, f)) for f in (theirs, *more))
            meant = meaning_of((0, *unknown), "the reference")
            maps = [_of(s, r) for s, r in zip(systems, rasters, strict=True)]
            trained = _trained(stack, systems, rasters[0])
            tell(f"{mine.height} x {mine.width} cells of {systems[0].name}'s grid")
            parts: list[tuple[Ints, Ints]] = []
            left, known, spoilt = np.zeros(len(systems), np.int64), 0, 0
            for window, group in _windows(mine.height, mine.width):
                truth = meant(truth_view.read(1, window=window))
                for view in places:
                    inside = view.read(1, window=window)
                    truth[~(np.isfinite(inside) & (inside != 0))] = -1
                for layer in trained:
                    hit = (truth >= 0) & (layer.read(1, window=window) == 1)
                    spoilt += int(hit.sum())
                    truth[hit] = -1
                here = truth >= 0
                if not here.any():
                    continue
                said = np.stack(
                    [of(read_shown(v, window))[here] for of, v in zip(maps, views, strict=True)]
                )
                known += int(here.sum())
                left += (said < 0).sum(axis=1)
                both = (said >= 0).all(axis=0)
                rows = np.vstack([group[here][None], truth[here][None] + 1, said + 1])[:, both]
                if rows.shape[1]:
                    parts.append(count_rows(rows))
        except rasterio.errors.RasterioError as error:
            raise MetricError("a raster cannot be read", got=error) from error
    gone = {s.name: int(n) for s, n in zip(systems, left, strict=True)}
    require_some(len(parts), known, gone)
    pairs = join_rows(parts, len(systems))
    notes += _say_trained(spoilt)
    return Ground(pairs, f"{pairs.groups} blocks of {_SIDE} x {_SIDE} cells", gone, tuple(notes))


def _of(system: System, raster: Path) -> Any:
    """What values of a map on another's grid mean: its own nodata is NaN there."""
    with rasterio.open(raster) as file:
        silent = (0,) if file.nodata is None else (0, file.nodata)
    return meaning_of(silent, f"map {system.name}")


def _opened(
    stack: ExitStack, systems: Sequence[System], rasters: Sequence[Path]
) -> tuple[list[Any], list[str]]:
    """The first map, and the others on its grid."""
    files = [stack.enter_context(rasterio.open(path)) for path in rasters]
    for file in files:
        _require_place(file)
    require_upright(files[0], MetricError)
    views, notes = [files[0]], []
    for system, file in zip(systems[1:], files[1:], strict=True):
        if (file.crs, file.transform, file.shape) != (
            files[0].crs,
            files[0].transform,
            files[0].shape,
        ):
            notes.append(
                f"{system.name} is on another grid than {systems[0].name}: the nearest of its "
                "cells counts"
            )
        views.append(stack.enter_context(onto(files[0], file)))
    return views, notes


def _require_place(file: Any) -> None:
    require_plain(file, MetricError)
    if file.crs is None:
        raise MetricError("a raster does not say which CRS it is in", got=file.name)


def _windows(height: int, width: int) -> Any:
    """Windows of whole blocks, and the number of each cell's block."""
    step, across = _SIDE * _AT_ONCE, -(-width // _SIDE)
    for top in range(0, height, step):
        for left in range(0, width, step):
            rows, cols = min(step, height - top), min(step, width - left)
            down, along = np.arange(top, top + rows), np.arange(left, left + cols)
            group = (down // _SIDE)[:, None] * across + (along // _SIDE)[None]
            yield Window(left, top, cols, rows), group.astype(np.int64)


def _trained(stack: ExitStack, systems: Sequence[System], grid: Path) -> list[Any]:
    """Rasters on the first map's grid, 1 within the reach of a model's training."""
    found = []
    for system in systems:
        assert system.path is not None, "a map has a path"
        footprint, _ = footprint_of(system.path)
        strata = stack.enter_context(trained_stratum(grid, footprint))
        if strata:
            found.append(stack.enter_context(rasterio.open(strata[TRAINED].path)))
    return found


def _say_trained(count: int) -> list[str]:
    if not count:
        return []
    return [f"{count} cells on ground that trained a system are left out, for all of them"]


def of_areas(
    systems: Sequence[System], reference: Path, within: Path | None, field: str | None, tell: Tell
) -> Ground:
    """Cells of the first map's grid in training areas; an area is drawn as a whole.

    Raises
    ------
    MetricError, LabelError
    """
    rasters = _require_maps(systems)
    read = read_training_areas(reference, field=field)
    with ExitStack() as stack:
        try:
            views, notes = _opened(stack, systems, rasters)
            mine = views[0]
            cells = GeoBox((mine.height, mine.width), mine.transform, str(mine.crs.to_wkt()))
            samples = cells_of_areas(read.areas, cells)
            if within is not None:
                places = stack.enter_context(rasterio.open(within))
                _require_place(places)
                values = values_at(stack.enter_context(onto(mine, places)), samples)
                samples = samples[np.isfinite(values) & (values != 0)]
            hit = np.zeros(len(samples), bool)
            for layer in _trained(stack, systems, rasters[0]):
                hit |= values_at(layer, samples) == 1
            samples = samples[~hit]
            tell(f"{len(samples)} cells of {systems[0].name}'s grid in training areas")
            maps = [_of(s, r) for s, r in zip(systems, rasters, strict=True)]
            said = np.stack(
                [of(values_at(v, samples)) + 1 for of, v in zip(maps, views, strict=True)]
            )
        except rasterio.errors.RasterioError as error:
            raise MetricError("a raster cannot be read", got=error) from error
    truth, group = samples["lcz"].astype(np.int64), samples["group"].astype(np.int64)
    notes = [*read.notes, *notes, *_say_trained(int(hit.sum()))]
    return of_examples(systems, truth, said, group, "training areas", notes)


def of_sample(systems: Sequence[System], folder: Path, tell: Tell) -> Ground:
    """Cells of a sample; each stands for as many as its stratum has for one drawn.

    Raises
    ------
    MetricError, LabelError
    """
    rasters = _require_maps(systems)
    filled = read_sample(folder)
    design = filled.design
    tell(f"{len(filled.reference)} cells of a sample")
    xy = _centres(filled.features, len(filled.reference))
    said = np.stack([at_points(raster, xy, "EPSG:4326") for raster in rasters])
    try:
        stratum, weight = weights_of(design)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, IndexError) as error:
        raise LabelError("the sample's design cannot be read", got=f"{folder}: {error}") from error
    notes = [
        "a cell of the sample stands for those of its stratum: the map that it was drawn on has "
        "the narrower intervals"
    ]
    for system, raster in zip(systems, rasters, strict=True):
        assert system.path is not None, "a map has a path"
        footprint, known = footprint_of(system.path)
        if footprint is None and known:
            notes.append(f"whether cells of the sample trained {system.name} is unknown")
        with trained_stratum(raster, footprint) as strata:
            hits = sum(int(at_points(s.path, xy, "EPSG:4326").sum()) for s in strata.values())
        if hits:
            notes.append(
                f"{hits} cells of the sample lie on ground that trained {system.name}, which "
                "flatters it; they stay, since each stands for others"
            )
    order = np.arange(len(xy))
    return of_examples(
        systems, filled.reference, said, order, "cells, within their strata", notes, weight, stratum
    )


def _centres(features: Sequence[Any], count: int) -> npt.NDArray[np.float64]:
    """Of the cells in degrees, in the design's order."""
    found = np.full((count, 2), np.nan)
    try:
        for feature in features:
            number = int(float(feature["properties"].get("id", feature.get("id"))))
            if 1 <= number <= count:
                shape = shapely.geometry.shape(feature["geometry"])
                found[number - 1] = shape.centroid.coords[0]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise LabelError("a cell of the sample has no place", got=error) from error
    if not np.isfinite(found).all():
        raise LabelError("a cell of the sample has no place", expected="a square in degrees")
    return found
