"""GeoJSON, read value by value: what GDAL would turn into another type or repair in silence."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import shapely
from pyproj import CRS
from pyproj.exceptions import CRSError
from shapely.geometry.base import BaseGeometry

from engine.vectors.layers import Layer, polygon_of

__all__ = ["parse_geojson"]

_DEPTH = 32  # collections within collections
_GEOMETRIES = (
    "Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon",
    "GeometryCollection",
)  # fmt: skip


def parse_geojson(
    text: bytes, name: str, wanted: Callable[[str], bool]
) -> tuple[list[Layer], list[str]]:
    """The features of a GeoJSON document, or of one document a line, and notes.

    They are one layer; where geometries, features or lines name other CRSs, one for each.

    Parameters
    ----------
    text : of the file.
    name : of the layer.
    wanted : which fields are kept.

    Raises
    ------
    ValueError
        Where it is no GeoJSON; the text names the feature.
    """
    parts: dict[str | None, tuple[list[BaseGeometry | None], list[dict[str, Any]]]] = {}
    number = closed = 0
    for document in _documents(text.decode("utf-8-sig")):
        for feature in _features(document):
            number += 1
            properties = feature.get("properties") or {}
            if not isinstance(properties, dict):
                raise ValueError(f"feature {number} has properties that are not an object")
            try:
                shape, n = _geometry(feature.get("geometry"))
            except ValueError as error:
                raise ValueError(f"geometry of feature {number}: {error}") from error
            told = _told_crs(feature.get("geometry"), feature, document)
            shapes, rows = parts.setdefault(told, ([], []))
            shapes.append(shape)
            rows.append(properties)
            closed += n
    layers = []
    for told, (shapes, rows) in (parts or {None: ([], [])}).items():
        names = tuple(dict.fromkeys(str(key) for row in rows for key in row))
        fields = {key: [row.get(key) for row in rows] for key in names if wanted(key)}
        own = name if len(parts) < 2 else f"{name} in {told or 'WGS 84'}"
        layers.append(Layer(own, shapes, fields, names, _crs(told)))
    return layers, [f"{closed} rings of {name} closed"] if closed else []


def _documents(text: str) -> Iterator[dict[str, Any]]:
    try:
        try:
            found = [json.loads(text)]
        except json.JSONDecodeError:
            lines = [line.strip("\x1e \t\r") for line in text.split("\n")]
            if sum(bool(line) for line in lines[:3]) < 2:
                raise
            found = [json.loads(line) for line in lines if line]
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    for document in found:
        if not isinstance(document, dict):
            raise ValueError("it is JSON, but no GeoJSON")
        yield document


def _features(document: dict[str, Any]) -> list[dict[str, Any]]:
    kind = document.get("type")
    if kind == "FeatureCollection":
        features = document.get("features")
        if not isinstance(features, list) or not all(isinstance(f, dict) for f in features):
            raise ValueError("its features are not a list of objects")
        return features
    if kind == "Feature":
        return [document]
    if kind in _GEOMETRIES:
        return [{"geometry": document}]
    raise ValueError(f"it is JSON, but no GeoJSON: type {str(kind)[:40]}")


def _geometry(value: Any, depth: int = 0) -> tuple[BaseGeometry | None, int]:
    """A geometry, and how many of its rings had to be closed."""
    if value is None:
        return None, 0
    if not isinstance(value, dict) or value.get("type") not in _GEOMETRIES:
        kind = value.get("type") if isinstance(value, dict) else value
        raise ValueError(f"no type of geometry: {str(kind)[:40]}")
    kind = value["type"]
    if kind == "GeometryCollection":
        if depth == _DEPTH:
            raise ValueError("collections are nested too deeply")
        inner = [_geometry(part, depth + 1) for part in _list(value.get("geometries"))]
        shapes = [shape for shape, _ in inner if shape is not None]
        return shapely.GeometryCollection(shapes), sum(n for _, n in inner)
    coordinates = _list(value.get("coordinates"))
    if kind == "Polygon":
        return polygon_of(map(_list, coordinates))
    if kind == "MultiPolygon":
        parts = [polygon_of(map(_list, _list(part))) for part in coordinates]
        polygons = [shape for shape, _ in parts if shape is not None]
        return shapely.multipolygons(polygons) if polygons else None, sum(n for _, n in parts)
    # What is no polygon is only counted, so where it lies does not matter.
    return (shapely.Point(0, 0) if "Point" in kind else shapely.LineString([(0, 0), (1, 1)])), 0


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("coordinates are not a list")
    return value


def _told_crs(*objects: Any) -> str | None:
    """The name in the member `crs` of the standard before, of the innermost object that has one."""
    for each in objects:
        told = each.get("crs") if isinstance(each, dict) else None
        if told is not None:
            try:
                return str(told["properties"]["name"])
            except (KeyError, TypeError) as error:
                raise ValueError(f"its member crs names no CRS: {str(told)[:80]}") from error
    return None


def _crs(told: str | None) -> CRS:
    """WGS 84 by the standard, where nothing else is told."""
    try:
        return CRS.from_epsg(4326) if told is None else CRS.from_user_input(told)
    except CRSError as error:
        raise ValueError(f"its member crs names no CRS: {told}"[:120]) from error
