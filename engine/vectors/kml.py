"""KML, read in one pass: folders, names and polygons."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from xml.parsers import expat

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from engine.vectors.layers import Layer, polygon_of

__all__ = ["parse_kml"]

_FOLDERS = ("Folder", "Document")
_OTHERS = ("Point", "LineString", "Track", "Model")
_TEXTS = ("name", "coordinates", "value", "SimpleData")
_DEPTH = 200


def parse_kml(
    text: bytes, name: str, wanted: Callable[[str], bool]
) -> tuple[list[Layer], list[str]]:
    """The folders of a KML document that hold something, each as a layer, and notes.

    A document counts as a folder; the name of one that holds folders is the file's, and no part of
    their paths. Folders of one name are one layer each; the fields of a place are `Name` and its
    extended data.

    Raises
    ------
    ValueError
        Where it is no KML, or declares entities.
    """
    reader = _Reader(name)
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = reader.doctype
    parser.buffer_text = True
    try:
        parser.Parse(text.lstrip(), True)
    except expat.ExpatError as error:
        raise ValueError(f"no XML: {error}") from error
    if not reader.kml:
        raise ValueError("it is XML, but no KML")
    return reader.layers(wanted), reader.notes()


class _Folder:
    def __init__(self, parent: _Folder | None, document: bool = False) -> None:
        self.parent = parent
        self.document = document
        self.name = ""
        self.shapes: list[BaseGeometry | None] = []
        self.rows: list[dict[str, str]] = []
        self.inner = False  # whether other folders lie in it

    @property
    def path(self) -> tuple[str, ...]:
        above = self.parent.path if self.parent else ()
        return above if self.document and self.inner else (*above, self.name)


class _Reader:
    """What the parser tells, put together."""

    def __init__(self, file: str) -> None:
        self.kml = False
        self._folder = _Folder(None)
        self._folder.name = file
        self._folders = [self._folder]
        self._open: list[str] = []
        self._words: list[str] = []
        self._row: dict[str, str] | None = None
        self._key = ""
        self._shapes: list[BaseGeometry] = []
        self._rings: list[npt.NDArray[np.float64]] = []
        self._closed = self._small = self._links = 0

    def doctype(self, *_: Any) -> None:
        raise ValueError("it declares a document type, which no KML needs")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        tag = tag.rpartition(" ")[2]
        if self._open and self._open[-1] == "coordinates":
            raise ValueError(f"coordinates hold an element: {tag[:40]}")
        self._open.append(tag)
        self._words = []
        if len(self._open) > _DEPTH:
            raise ValueError("it is nested too deeply")
        if tag == "kml":
            self.kml = True
        elif tag in _FOLDERS:
            self._folder.inner = True
            self._folder = _Folder(self._folder, tag == "Document")
            self._folders.append(self._folder)
        elif tag == "Placemark":
            self._row, self._shapes = {}, []
        elif tag == "Polygon":
            self._rings = []
        elif tag in ("Data", "SimpleData"):
            self._key = attributes.get("name", "")
        elif tag == "NetworkLink":
            self._links += 1

    def text(self, words: str) -> None:
        if self._open and self._open[-1] in _TEXTS:
            self._words.append(words)

    def end(self, tag: str) -> None:
        tag = tag.rpartition(" ")[2]
        self._open.pop()
        parent = self._open[-1] if self._open else ""
        words = "".join(self._words).strip() if tag in _TEXTS else ""
        if tag == "name" and parent in _FOLDERS:
            self._folder.name = words
        elif tag == "name" and parent == "Placemark" and self._row is not None:
            self._row["Name"] = words
        elif tag in ("value", "SimpleData") and self._row is not None:
            self._row[self._key] = words
        elif tag == "coordinates" and parent == "LinearRing" and "Polygon" in self._open:
            ring = _coordinates(words)
            outer = "outerBoundaryIs" in self._open
            self._rings.insert(0, ring) if outer else self._rings.append(ring)
        elif tag == "Polygon" and self._row is not None:
            shape, closed = polygon_of(self._rings)
            self._closed += closed
            if shape is None:
                self._small += 1
            else:
                self._shapes.append(shape)
        elif tag in _OTHERS and self._row is not None:
            point = tag in ("Point", "Model")
            self._shapes.append(
                shapely.Point(0, 0) if point else shapely.LineString([(0, 0), (1, 1)])
            )
        elif tag == "Placemark" and self._row is not None:
            several = shapely.GeometryCollection(self._shapes)
            self._folder.shapes.append(several if self._shapes else None)
            self._folder.rows.append(self._row)
            self._row = None
        elif tag in _FOLDERS and self._folder.parent is not None:
            self._folder = self._folder.parent

    def layers(self, wanted: Callable[[str], bool]) -> list[Layer]:
        wgs84 = CRS.from_epsg(4326)
        found = []
        for folder in self._folders:
            if folder.shapes:
                names = tuple(dict.fromkeys(key for row in folder.rows for key in row))
                fields = {
                    key: [row.get(key) for row in folder.rows] for key in names if wanted(key)
                }
                layer = Layer(folder.name, folder.shapes, fields, names, wgs84, folder.path)
                found.append(layer)
        return found

    def notes(self) -> list[str]:
        empty = [f.name for f in self._folders[1:] if not f.shapes and not f.inner]
        notes = [f"folder {name} is empty" for name in empty[:5]]
        if len(empty) > 5:
            notes.append(f"{len(empty) - 5} more folders are empty")
        for number, what in (
            (self._closed, "rings closed"),
            (self._small, "rings of fewer than three corners dropped"),
            (self._links, "links to other files not followed"),
        ):
            if number:
                notes.append(f"{number} {what}")
        return notes


def _coordinates(words: str) -> npt.NDArray[np.float64]:
    """Pairs of a text such as ``1.5,2,0 3,4,0``."""
    found = []
    for place in re.sub(r"\s*,\s*", ",", words).split():
        numbers = place.split(",")
        if len(numbers) < 2:
            raise ValueError(f"coordinates are not a pair: {place[:40]}")
        found.append((float(numbers[0]), float(numbers[1])))
    return np.array(found, float).reshape(-1, 2)
