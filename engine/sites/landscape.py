"""`natmap landscape`: how fragmented a map is, by region, class and unit, as files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import shapely

from engine.compare.report import write_json
from engine.errors import AreaError, LabelError
from engine.files import together
from engine.grid.moving import polygons_of, reproject
from engine.sites.counts import Counts, count
from engine.sites.indices import Classes, Form, Inner, Regions, Units, indices, uneven
from engine.sites.regions import Region, RegionMap, clipped_grid
from engine.sites.source import ClassMap, open_classes
from engine.vectors.read import read_vectors

__all__ = [
    "Landscape",
    "landscape",
    "regions_for",
    "regions_of_file",
    "regions_of_grid",
    "unit_pixels",
]

_UNIT = 10_000.0  # metres: the block that an image frame shows, by default
_DEGREE = 111_320.0  # metres along a meridian, roughly
_KEPT, _REPORT = ".counting", "landscape.json"


@dataclass(frozen=True)
class Landscape:
    """A map's indices.

    Attributes
    ----------
    source : the map.
    regions : all that were asked for; figures tell those that have a pixel by their place.
    by_region, by_class, by_unit : figures.
    unit : side of a unit, in pixels.
    notes : what was decided or is in doubt, one line each.
    """

    source: ClassMap
    regions: tuple[Region, ...]
    by_region: Regions
    by_class: Classes
    by_unit: Units
    unit: int
    notes: tuple[str, ...]

    def titles(self, codes: Sequence[int]) -> list[str]:
        """What classes are called; a code that nothing names by itself."""
        return [self.source.titles.get(code, str(code)) for code in codes]


def landscape(
    place: str | Path,
    out: str | Path | None = None,
    *,
    regions: str | Path | None = None,
    field: str | None = None,
    grid: float | None = None,
    merge: float = 0.25,
    unit: float | None = None,
    unknown: Sequence[int] = (),
    layer: str = "map",
    tag: str | None = None,
    form: Form = "patton",
    inner: Inner = "once",
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> Landscape:
    """Landscape shape indices of a map of classes (Patton 1975; Chen et al. 2016, eq. 1 and 4).

    Parameters
    ----------
    place : a raster of codes in any CRS, a product folder, or a store.
    out : folder for ``regions.parquet`` and ``units.parquet`` (GeoParquet in the map's CRS),
        ``classes.csv`` and ``landscape.json``; by default nowhere. A pass that was interrupted
        resumes from what lies there.
    regions : polygons; by default the map is one region.
    field : of the polygons, that names regions: those of one name are one. By default each
        feature is a region.
    grid : side of squares that the polygons are cut into, in units of the map's CRS; slivers are
        merged (`engine.sites.regions.clipped_grid`).
    merge : share of a square below which a piece is a sliver.
    unit : side of a unit, in units of the map's CRS; by default about 10 km.
    unknown : codes of a raster that say nothing, beside its nodata.
    layer, tag : of a product folder, and of a store.
    form, inner : as `engine.sites.indices.indices` takes them.
    tell : gets how many rows of blocks are counted, and of how many.

    Raises
    ------
    LabelError, AreaError, MetricError, StoreError, PublishError
        Where map or regions cannot be used, or a unit is larger than a region.
    """
    source = open_classes(place, layer=layer, tag=tag, unknown=unknown)
    side = unit_pixels(source, unit)
    notes: list[str] = []
    known, told = regions_for(source, regions, field, grid, merge)
    notes += told
    where = RegionMap(known, source.transform, source.shape)
    _require_larger(source, known, side)
    folder = None if out is None else Path(out)
    kept = None if folder is None else folder / _KEPT
    found = count(source, where, side, kept=kept, tell=tell)
    by_region, by_class, by_unit = indices(found, form=form, inner=inner)
    if note := uneven(by_region.area):
        notes.append(note)
    empty = sorted(set(range(len(known))) - set(by_region.region.tolist()))
    if empty:
        names = ", ".join(known[k].name for k in empty[:8])
        notes.append(f"{len(empty)} regions have no pixel with a class: {names}")
    result = Landscape(source, tuple(known), by_region, by_class, by_unit, side, tuple(notes))
    if folder is not None:
        settings = {"form": form, "inner": inner, "unknown": list(unknown), "grid": grid}
        with together(folder, mark=_REPORT) as part:
            _write(result, found, settings, part)
        if kept is not None and kept.is_dir():
            kept.rmdir()
    return result


def unit_pixels(source: ClassMap, unit: float | None) -> int:
    """Side of a unit in pixels.

    Raises
    ------
    LabelError
        Where it is not a whole number of pixels, or pixels are not square.
    """
    across, down = abs(source.transform.a), abs(source.transform.e)
    if abs(across - down) > 1e-6 * across:
        raise LabelError(
            "pixels of the map are not square",
            got=f"{source.name}: {across:g} by {down:g}",
            expected="units that are square in pixels and on the map",
            remedy="write it on a grid of square pixels (gdalwarp -r near -tr …)",
        )
    if unit is None:
        metres = across * (_DEGREE if source.crs.is_geographic else 1.0)
        return max(round(_UNIT / metres), 1)
    pixels = round(unit / across) if np.isfinite(unit) else 0
    if pixels < 1 or abs(pixels * across - unit) > 1e-6 * unit:
        raise LabelError(
            "the side of a unit is not a multiple of the pixel size",
            got=f"{unit:g}, pixels of {across:g}",
            expected=f"a multiple, such as {max(pixels, 1) * across:g}",
        )
    return pixels


def regions_of_file(
    path: str | Path, field: str | None, crs: Any
) -> tuple[list[Region], list[str]]:
    """Polygons of a file as regions.

    Parameters
    ----------
    path : in any form that `engine.vectors` reads.
    field : that names them: those of one name are one region. By default each is one.
    crs : of the map, into which they are moved.

    Returns
    -------
    (regions, notes of what was left out or repaired)

    Raises
    ------
    AreaError
    """
    found = read_vectors(path, wanted=lambda name: name == field, refuse=AreaError)
    shapes: dict[str, list[Any]] = {}
    for layer, parts in found.polygons(AreaError):
        if field is not None and field not in layer.names:
            raise AreaError(f"{found.name} has no field {field}", got=", ".join(layer.names))
        if layer.crs is None:
            raise AreaError("the regions' file does not say which CRS it is in", got=found.name)
        for shape, row in zip(parts.polygons, parts.row.tolist(), strict=True):
            value = row + 1 if field is None else layer.fields[field][row]
            if value is None:
                raise AreaError(f"a region has no {field}", got=f"feature {row + 1}")
            moved = reproject(shape, layer.crs, crs.to_wkt())
            shapes.setdefault(str(value), []).extend(polygons_of(moved))
    if not shapes:
        raise AreaError(f"{found.name} holds no polygons", got="; ".join(found.notes) or "nothing")
    return [Region(name, shapely.union_all(parts)) for name, parts in shapes.items()], found.notes


def regions_of_grid(
    source: ClassMap, wanted: Sequence[Region], side: float, merge: float
) -> tuple[list[Region], list[str]]:
    """Squares of a grid that lie in regions and on the map, slivers merged."""
    whole = shapely.union_all([region.geometry for region in wanted])
    return clipped_grid(shapely.intersection(whole, _extent(source)), side, least=merge)


def _extent(source: ClassMap) -> Any:
    corners = [
        source.transform * (x, y) for x in (0, source.shape[1]) for y in (0, source.shape[0])
    ]
    return shapely.box(*np.min(corners, axis=0), *np.max(corners, axis=0))


def regions_for(
    source: ClassMap, path: str | Path | None, field: str | None, grid: float | None, merge: float
) -> tuple[list[Region], list[str]]:
    """Regions as `landscape` takes them: of a file, the whole map, or squares of either.

    Returns
    -------
    (regions, notes)

    Raises
    ------
    AreaError
        Where there are none.
    """
    notes: list[str] = []
    if path is None:
        if field is not None:
            raise AreaError("field goes with regions", got=field)
        found = [Region("all", _extent(source))]
    else:
        found, notes = regions_of_file(path, field, source.crs)
    if grid is not None:
        found, more = regions_of_grid(source, found, grid, merge)
        notes = notes + more
    return found, notes


def _require_larger(source: ClassMap, regions: Sequence[Region], side: int) -> None:
    unit = side**2 * abs(source.transform.determinant)
    small = [region.name for region in regions if region.geometry.area < unit]
    if small and len(regions) > 1:
        raise AreaError(
            "units are larger than regions",
            got=f"units of {side} x {side} px; {', '.join(small[:8])}",
            expected="regions of several units",
            remedy="take smaller units, larger regions, or a grid that merges slivers",
        )


def _write(found: Landscape, counts: Counts, settings: dict[str, Any], folder: Path) -> None:
    crs, regions, units = found.source.crs, found.by_region, found.by_unit
    names = np.array([region.name for region in found.regions], object)
    here = [found.regions[k] for k in regions.region.tolist()]
    frame = geopandas.GeoDataFrame(
        {
            "region": names[regions.region],
            "area_m2": regions.area,
            "pixels": regions.pixels,
            "edges": regions.edges,
            "lsi": regions.lsi,
            "slivers": [region.merged for region in here],
        },
        geometry=[region.geometry for region in here],
        crs=crs,
    )
    frame.to_parquet(folder / "regions.parquet")
    by_class = found.by_class
    pandas.DataFrame(
        {
            "region": names[by_class.region],
            "code": by_class.code,
            "class": found.titles(by_class.code.tolist()),
            "area_m2": by_class.area,
            "share": by_class.share,
            "pixels": by_class.pixels,
            "edges": by_class.edges,
            "lsi": by_class.lsi,
        }
    ).to_csv(folder / "classes.csv", index=False)
    at, side = found.source.transform, found.unit
    west, north = at.a * units.col * side + at.c, at.e * units.row * side + at.f
    east, south = west + at.a * side, north + at.e * side
    geopandas.GeoDataFrame(
        {
            "row": units.row,
            "col": units.col,
            "region": names[units.region],
            "code": units.code,
            "area_m2": units.area,
            "pixels": units.pixels,
            "edges": units.edges,
            "lsi": units.lsi,
        },
        geometry=shapely.box(
            np.minimum(west, east),
            np.minimum(north, south),
            np.maximum(west, east),
            np.maximum(north, south),
        ),
        crs=crs,
    ).to_parquet(folder / "units.parquet")
    codes = np.unique(by_class.code)
    totals = [
        {
            "code": int(code),
            "class": found.titles([int(code)])[0],
            "km2": float(by_class.area[by_class.code == code].sum() / 1e6),
            "pixels": int(by_class.pixels[by_class.code == code].sum()),
        }
        for code in codes
    ]
    write_json(
        folder / _REPORT,
        {
            "map": found.source.name,
            "crs": crs.to_string(),
            "unit_pixels": side,
            "unit": side * abs(at.a),
            **settings,
            "area_step_m2": counts.quantum,
            "regions": len(here),
            "classes": totals,
            "notes": found.notes,
        },
    )
