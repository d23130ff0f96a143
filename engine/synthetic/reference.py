"""What a made-up country knows of itself: truth, urban boundary, training areas, land cover."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.features
import shapely
from affine import Affine
from rasterio.windows import Window
from scipy import ndimage
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from engine.grid.area import polygons_of
from engine.legend import LCZ
from engine.synthetic.country import Country, to_degrees
from engine.synthetic.scene import CRS
from engine.synthetic.truth import FEATURES, MISFIT, survey

__all__ = ["urban_boundary", "write_reference"]

_BLOCK = 80  # cells that are surveyed at once
_URBAN, _SMOOTH = 0.22, 1.5  # share of hard ground; cells of the smoothing
_LEAST_TOWN = 500_000.0  # square metres; also of a hole that stays
_AREAS, _LEAST_AREA = 12, 16  # training areas of a class, and their cells


def write_reference(country: Country, folder: Path) -> dict[str, Path]:
    """Write all that is true of a country.

    Files: ``truth-lcz.tif`` (codes), ``truth-defined.tif`` (1 where a zone fits well),
    ``truth-features.tif`` (float32, `FEATURES`), ``area.geojson``, ``urban.geojson``,
    ``training-areas.geojson`` and ``.kml``, ``zones.geojson`` (what is where, as polygons).

    Returns
    -------
    dict of name to path
    """
    folder.mkdir(parents=True, exist_ok=True)
    left, bottom, right, top = country.bounds
    rows, cols = (top - bottom) // 100, (right - left) // 100
    names = {
        name: folder / f"{name}.tif" for name in ("truth-lcz", "truth-defined", "truth-features")
    }
    form: dict[str, Any] = {
        "driver": "GTiff",
        "height": rows,
        "width": cols,
        "crs": CRS,
        "transform": Affine(100, 0, left, 0, -100, top),
        "compress": "deflate",
        "tiled": True,
        "blockxsize": 128,
        "blockysize": 128,
    }
    corners = [(r, c) for r in range(0, rows, _BLOCK) for c in range(0, cols, _BLOCK)]

    def look(corner: tuple[int, int]) -> tuple[Window, Any]:
        r, c = corner
        size = min(_BLOCK, rows - r), min(_BLOCK, cols - c)
        found = survey(country.world, left + c * 100, top - r * 100, *size)
        return Window(c, r, size[1], size[0]), found

    lcz = np.zeros((rows, cols), np.uint8)
    hard = np.zeros((rows, cols), np.float32)
    well = np.zeros((rows, cols), bool)
    with (
        rasterio.open(names["truth-lcz"], "w", count=1, dtype="uint8", nodata=0, **form) as codes,
        rasterio.open(names["truth-defined"], "w", count=1, dtype="uint8", **form) as defined,
        rasterio.open(
            names["truth-features"], "w", count=len(FEATURES), dtype="float32", **form
        ) as features,
        ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool,
    ):
        codes.write_colormap(1, {c.code: _rgb(c.colour) for c in LCZ})
        for number, name in enumerate(FEATURES, 1):
            features.set_band_description(number, name)
        for window, found in pool.map(look, corners):
            here = window.toslices()
            lcz[here], hard[here] = found.lcz, found.features[0] + found.features[1]
            well[here] = found.misfit <= MISFIT
            codes.write(found.lcz, 1, window=window)
            defined.write(well[here].astype(np.uint8), 1, window=window)
            features.write(found.features, window=window)
    transform = form["transform"]
    zones = _zones(lcz, transform)
    areas = _training_areas(lcz, well, transform)
    shapes: dict[str, list[tuple[BaseGeometry, dict[str, Any]]]] = {
        "area": [(country.outline, {"name": "made-up country"})],
        "urban": [(to_degrees(p), {}) for p in urban_boundary(hard, transform)],
        "training-areas": [(to_degrees(p), {"lcz": code}) for p, code in areas],
        "zones": [(to_degrees(p), {"lcz": code}) for p, code in zones],
    }
    for name, features_ in shapes.items():
        names[name] = folder / f"{name}.geojson"
        _write_geojson(names[name], features_)
    names["training-areas-kml"] = folder / "training-areas.kml"
    names["training-areas-kml"].write_text(_kml(shapes["training-areas"]))
    return names


def urban_boundary(hard: npt.NDArray[np.float32], transform: Affine) -> list[BaseGeometry]:
    """Towns: where roofs and paving are dense, generalised as real boundaries are.

    Parameters
    ----------
    hard : float32 (y, x)
        Share of roofs and paving about each cell.
    transform : Affine, of the cells

    Returns
    -------
    polygons in the CRS of the cells; small ones and small holes are gone, corners are cut.
    """
    dense = ndimage.gaussian_filter(hard, _SMOOTH, mode="nearest") > _URBAN
    dense = ndimage.binary_opening(dense, iterations=2)
    towns = []
    for outline, _ in rasterio.features.shapes(
        dense.astype(np.uint8), mask=dense, transform=transform
    ):
        town = shape(outline).buffer(150).buffer(-150).simplify(60)
        for part in polygons_of(town):
            holes = [ring for ring in part.interiors if shapely.Polygon(ring).area >= _LEAST_TOWN]
            kept = shapely.Polygon(part.exterior, holes)
            if kept.area >= _LEAST_TOWN:
                towns.append(kept)
    return towns


def _zones(lcz: npt.NDArray[np.uint8], transform: Affine) -> list[tuple[BaseGeometry, int]]:
    return [
        (shape(outline), int(code))
        for outline, code in rasterio.features.shapes(lcz, transform=transform)
    ]


def _training_areas(
    lcz: npt.NDArray[np.uint8], well: npt.NDArray[np.bool_], transform: Affine
) -> list[tuple[BaseGeometry, int]]:
    """Polygons as an expert draws them: inside uniform ground, with few corners."""
    found = []
    for code in range(1, 18):
        # an expert keeps off the borders
        inner = ndimage.binary_erosion((lcz == code) & well)
        labels, count = ndimage.label(inner)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        order = [k + 1 for k in np.argsort(-sizes, kind="stable") if sizes[k] >= _LEAST_AREA]
        for number in order[:_AREAS]:
            piece = labels == number
            for outline, _ in rasterio.features.shapes(
                piece.astype(np.uint8), mask=piece, transform=transform
            ):
                polygon = shape(outline).simplify(120)
                if polygon.is_valid and polygon.area >= _LEAST_AREA * 5_000:
                    found.append((shapely.Polygon(polygon.exterior), code))
    return found


def _write_geojson(path: Path, features: list[tuple[BaseGeometry, dict[str, Any]]]) -> None:
    collection = {
        "type": "FeatureCollection",
        "features": [
            {"type": "Feature", "properties": properties, "geometry": mapping(geometry)}
            for geometry, properties in features
        ],
    }
    path.write_text(json.dumps(collection) + "\n")


def _kml(areas: list[tuple[BaseGeometry, dict[str, Any]]]) -> str:
    """Training areas in the WUDAPT way: the folder's name is the class."""
    folders = []
    for zone in LCZ:
        marks = [
            "<Placemark><Polygon><outerBoundaryIs><LinearRing><coordinates>"
            + " ".join(f"{x:.6f},{y:.6f},0" for x, y in geometry.exterior.coords)
            + "</coordinates></LinearRing></outerBoundaryIs></Polygon></Placemark>"
            for geometry, properties in areas
            if properties["lcz"] == zone.code
        ]
        if marks:
            folders.append(f"<Folder><name>{zone.label}</name>{''.join(marks)}</Folder>")
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<kml xmlns="http://www.opengis.net/kml/2.2">'
        f"<Document>{''.join(folders)}</Document></kml>\n"
    )


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[:2], 16), int(colour[2:4], 16), int(colour[4:], 16)
