"""Sheets: a product that one file cannot bear, in squares of 100 km, and a mosaic of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from engine.publishing.forms import Layer
from engine.publishing.styles import add_categories

__all__ = ["Sheet", "coarser", "cut_sheets", "write_mosaic"]

SIDE = 100_000.0
_KINDS = {"uint8": "Byte", "uint16": "UInt16", "int16": "Int16", "float32": "Float32"}
MOST = 10**10
"""Pixels of one file."""


@dataclass(frozen=True)
class Sheet:
    """A part of a product: its name, and its rows and columns of the whole."""

    name: str
    rows: slice
    cols: slice

    def within(self, layer: Layer) -> tuple[slice, slice]:
        """Rows and columns in a layer's own pixels."""
        rows, cols = (
            slice(part.start // layer.factor, part.stop // layer.factor)
            for part in (self.rows, self.cols)
        )
        return rows, cols


def coarser(box: GeoBox, factor: int) -> GeoBox:
    """A box in pixels `factor` times as large; its sides are whole numbers of them."""
    if factor == 1:
        return box
    height, width = box.shape
    return GeoBox(
        (height // factor, width // factor), box.transform * Affine.scale(factor), str(box.crs)
    )


def cut_sheets(
    name: str, box: GeoBox, unit: int = 1, side: float = SIDE, most: int = MOST
) -> list[Sheet]:
    """The sheets of a product, from the north-west; one of its own name where that will do.

    Their edges lie on multiples of `side` in the CRS (to the next `unit` pixels from the box's
    corner), so that a sheet is the same one in the next release.

    Parameters
    ----------
    name : of the run.
    box : of the product; whole numbers of `unit` pixels.
    unit : pixels that stay together.
    side : metres; most : pixels of a sheet from which a product is cut.
    """
    height, width = box.shape
    if height * width <= most:
        return [Sheet(name, slice(0, height), slice(0, width))]
    west, _, _, north = box.boundingbox.bbox
    metres = float(box.resolution.x)

    def parts(first: float, count: int) -> list[tuple[int, slice]]:
        """Multiples of the side and the pixels between them; `first` grows with the pixels."""
        found = []
        number, start = math.floor(first / side), 0
        while start < count:
            stop = round(((number + 1) * side - first) / metres / unit) * unit
            stop = min(stop, count)
            if stop > start:
                found.append((number, slice(start, stop)))
                start = stop
            number += 1
        return found

    km = round(side / 1000)
    return [
        # by the south-western corner; rows are counted southward, so from -north
        Sheet(f"{name}_x{col * km}y{-(row + 1) * km}", rows, cols)
        for row, rows in parts(-north, height)
        for col, cols in parts(west, width)
    ]


def write_mosaic(
    folder: Path, name: str, layer: Layer, box: GeoBox, sheets: Sequence[Sheet]
) -> str:
    """One VRT that shows a layer's sheets as one raster; gives the name of its file.

    Parameters
    ----------
    folder : with the sheets' rasters.
    name : of the run.
    layer : whose.
    box : of the whole product.
    sheets : Sequence of Sheet
    """
    whole = coarser(box, layer.factor)
    height, width = whole.shape
    root = ElementTree.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    ElementTree.SubElement(root, "SRS").text = rasterio.CRS.from_user_input(str(box.crs)).to_wkt()
    corner = whole.transform.to_gdal()
    ElementTree.SubElement(root, "GeoTransform").text = ", ".join(repr(float(v)) for v in corner)
    for number in range(1, max(len(layer.bands), 1) + 1):
        _add_band(root, number, layer, sheets)
    ElementTree.indent(root)
    file = f"{name}{layer.suffix}.vrt"
    ElementTree.ElementTree(root).write(folder / file, encoding="utf-8")
    return file


def _add_band(
    root: ElementTree.Element, number: int, layer: Layer, sheets: Sequence[Sheet]
) -> None:
    kind = _KINDS[layer.dtype]
    band = ElementTree.SubElement(root, "VRTRasterBand", dataType=kind, band=str(number))
    if layer.bands:
        ElementTree.SubElement(band, "Description").text = layer.bands[number - 1]
    if layer.nodata is not None:
        ElementTree.SubElement(band, "NoDataValue").text = f"{layer.nodata:g}"
    if layer.palette:
        ElementTree.SubElement(band, "ColorInterp").text = "Palette"
        table = ElementTree.SubElement(band, "ColorTable")
        for code in range(256):
            colour = layer.rgba(code) if code in layer.palette else (0, 0, 0, 255)
            channels = {f"c{k}": str(value) for k, value in enumerate(colour, 1)}
            ElementTree.SubElement(table, "Entry", channels)
    add_categories(band, layer)
    for sheet in sheets:
        rows, cols = sheet.within(layer)
        size = {"xSize": str(cols.stop - cols.start), "ySize": str(rows.stop - rows.start)}
        source = ElementTree.SubElement(band, "SimpleSource")
        path = ElementTree.SubElement(source, "SourceFilename", relativeToVRT="1")
        path.text = f"{sheet.name}{layer.suffix}.tif"
        ElementTree.SubElement(source, "SourceBand").text = str(number)
        ElementTree.SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0"} | size)
        at = {"xOff": str(cols.start), "yOff": str(rows.start)}
        ElementTree.SubElement(source, "DstRect", at | size)
