"""Names and colours of a raster's values, as GDAL finds them beside the raster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from odc.geo.geobox import GeoBox

from engine.legend import LCZ, REASON_COLOURS, REASON_TEXTS, UGS, Scale
from engine.products.registry import PRODUCTS
from engine.publishing.cog import write_cog
from engine.publishing.forms import Form, Layer, reason_layer
from engine.publishing.sheets import Sheet, write_mosaic
from engine.publishing.styles import style_files, write_styles

BOX = GeoBox.from_bbox((0, 0, 300, 300), "EPSG:5179", resolution=100, tight=True)
LAYERS = {layer.key: layer for layer in PRODUCTS["lcz"].form.layers}
GREEN = PRODUCTS["ugs"].form.layer("map")


def as_gdal_has_it(path: Path) -> ElementTree.Element:
    """The first band of a raster with all that GDAL knows of it: as its copy to a VRT tells."""
    copy = path.with_name("told.vrt")
    rasterio.shutil.copy(path, copy, driver="VRT")
    band = ElementTree.parse(copy).getroot().find("VRTRasterBand")
    copy.unlink()
    assert band is not None
    return band


def rasters(folder: Path, layer: Layer) -> Iterator[Path]:
    """A layer as a COG, and as a mosaic of sheets."""
    values = np.zeros((max(len(layer.bands), 1), 3, 3), layer.dtype)
    write_cog(folder / "a.tif", layer, BOX, lambda rows: values[:, rows], {})
    write_styles(folder, "a.tif", layer)
    yield folder / "a.tif"
    sheet = Sheet("a", slice(0, 3), slice(0, 3))
    name = write_mosaic(folder, "whole", layer, BOX, [sheet])
    write_styles(folder, name, layer)
    yield folder / name


NAMES = {
    "map": {0: "no data", **{c.code: f"{c.label} {c.title}" for c in LCZ}},
    "reason": {int(reason): text for reason, text in REASON_TEXTS.items()},
    "green": {c.code: f"{c.label} {c.title}" for c in UGS},
}
COLOURS = {
    "map": {0: ("FFFFFF", 0), **{c.code: (c.colour, 255) for c in LCZ}},
    "reason": {int(reason): (colour, 255) for reason, colour in REASON_COLOURS.items()},
    "green": {255: ("FFFFFF", 0), **{c.code: (c.colour, 255) for c in UGS}},
}


@pytest.mark.parametrize("key", ["map", "reason", "green"])
def test_gdal_shows_names_and_colours_and_nodata_as_transparent(tmp_path: Path, key: str) -> None:
    layer = GREEN if key == "green" else LAYERS[key]
    for path in rasters(tmp_path, layer):
        band = as_gdal_has_it(path)
        listed = [entry.text or "" for entry in band.findall("CategoryNames/Category")]
        assert {code: name for code, name in enumerate(listed) if name} == NAMES[key]
        with rasterio.open(path) as file:
            table = file.colormap(1)
        for code, (colour, alpha) in COLOURS[key].items():
            assert table[code] == (*bytes.fromhex(colour), alpha)
        # the attribute table says both
        (found,) = band.findall("GDALRasterAttributeTable")
        heads = [head.findtext("Name") for head in found.findall("FieldDefn")]
        rows = [
            dict(zip(heads, (f.text for f in row), strict=True)) for row in found.findall("Row")
        ]
        assert len(rows) == len(COLOURS[key])
        for row in rows:
            code = int(row["Value"] or "")
            assert row["Class"] == NAMES[key].get(code, "no data")
            colour = tuple(int(row[name] or "") for name in ("Red", "Green", "Blue", "Alpha"))
            assert colour == table[code]


@pytest.mark.parametrize("key", ["map", "reason", "green"])
def test_qgis_is_told_the_same(tmp_path: Path, key: str) -> None:
    layer = GREEN if key == "green" else LAYERS[key]
    for path in rasters(tmp_path, layer):
        style = ElementTree.parse(path.with_suffix(".qml")).getroot()
        entries = style.findall("pipe/rasterrenderer[@type='paletted']/colorPalette/paletteEntry")
        told = {
            int(e.attrib["value"]): (e.attrib["label"], e.attrib["color"].upper()) for e in entries
        }
        shown = {code: colour for code, (colour, alpha) in COLOURS[key].items() if alpha}
        assert told == {code: (NAMES[key][code], f"#{c}") for code, c in shown.items()}


def test_continuous_values_have_a_ramp_and_a_unit(tmp_path: Path) -> None:
    kinds = Layer("map", "", "Heat", "float32", -1.0), reason_layer("map/reason")
    heat = Form("Heat", "heat", (), kinds, scale=Scale(-5.0, 35.0, "°C", ("0000FF", "FF0000")))
    for layer, ends, unit in (
        (heat.layer("map"), ("-5", "35"), "°C"),
        (LAYERS["confidence"], ("0", "100"), "%"),
    ):
        path = next(rasters(tmp_path, layer))
        assert as_gdal_has_it(path).findtext("UnitType") == unit
        ramp = ElementTree.parse(path.with_suffix(".qml")).getroot().findall(".//item")
        assert (ramp[0].attrib["value"], ramp[-1].attrib["value"]) == ends
    assert style_files("a.tif", LAYERS["observations"]) == {}


def test_names_of_anybody_s_classes_are_text(tmp_path: Path) -> None:
    """A title is written so that it stays one."""
    odd = LCZ[0]._replace(title='<b> & "x" ü 市')
    layer = Layer("map", "", "Odd", "uint8", 0, classes=(odd,))
    path = next(rasters(tmp_path, layer))
    listed = [entry.text for entry in as_gdal_has_it(path).findall("CategoryNames/Category")]
    assert listed == ["no data", '1 <b> & "x" ü 市']
