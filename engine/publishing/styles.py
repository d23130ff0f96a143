"""Names and colours of a raster's values where GDAL and QGIS look for them: files beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from engine.legend import REASON_TEXTS, Scale
from engine.publishing.forms import Layer

__all__ = ["add_categories", "entries_of", "style_files", "write_styles"]

_HEAD = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
_NUMBER, _TEXT = "0", "2"  # GDAL's types of columns
_COLUMNS = (
    ("Value", _NUMBER, "5"),
    ("Class", _TEXT, "2"),
    ("Red", _NUMBER, "6"),
    ("Green", _NUMBER, "7"),
    ("Blue", _NUMBER, "8"),
    ("Alpha", _NUMBER, "9"),
)
"""Of an attribute table: name, type, and what GDAL takes it for."""


class Entry(NamedTuple):
    """What a code means, and how it is drawn: (red, green, blue, alpha)."""

    code: int
    name: str
    colour: tuple[int, int, int, int]


def entries_of(layer: Layer) -> list[Entry]:
    """The codes of a layer by number; none of a layer whose values are no codes."""
    if not layer.palette:
        return []
    names = {c.code: f"{c.label} {c.title}".strip() for c in layer.classes}
    if layer.key == "reason":
        names = {int(reason): text for reason, text in REASON_TEXTS.items()}
    if layer.nodata is not None:
        names.setdefault(int(layer.nodata), "no data")
    return [
        Entry(code, names.get(code, str(code)), layer.rgba(code)) for code in sorted(layer.palette)
    ]


def style_files(raster: str, layer: Layer) -> dict[str, str]:
    """Names of the files beside a raster, by what they are in STAC."""
    if not layer.palette and layer.scale is None:
        return {}
    return {"metadata": f"{raster}.aux.xml", "style": f"{raster.rpartition('.')[0]}.qml"}


def write_styles(folder: Path, raster: str, layer: Layer) -> None:
    """Write them.

    Parameters
    ----------
    folder : the product's.
    raster : name of the file that they are beside.
    layer : what it shows.
    """
    names = style_files(raster, layer)
    if not names:
        return
    side = ElementTree.Element("PAMDataset")
    for number in range(1, max(len(layer.bands), 1) + 1):
        band = ElementTree.SubElement(side, "PAMRasterBand", band=str(number))
        add_categories(band, layer)
    _write(side, folder / names["metadata"])
    _write(_style(layer), folder / names["style"], _HEAD)


def add_categories(band: ElementTree.Element, layer: Layer) -> None:
    """Say of a band what its values are, in the elements of GDAL's side files and VRTs."""
    entries = entries_of(layer)
    if layer.scale is not None:
        ElementTree.SubElement(band, "UnitType").text = layer.scale.unit
    if not entries:
        return
    last = max((c.code for c in layer.classes), default=entries[-1].code)
    names = {entry.code: entry.name for entry in entries if entry.code <= last}
    listed = ElementTree.SubElement(band, "CategoryNames")
    for code in range(max(names) + 1):
        ElementTree.SubElement(listed, "Category").text = names.get(code, "")
    table = ElementTree.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (name, kind, use) in enumerate(_COLUMNS):
        column = ElementTree.SubElement(table, "FieldDefn", index=str(index))
        for tag, text in (("Name", name), ("Type", kind), ("Usage", use)):
            ElementTree.SubElement(column, tag).text = text
    for index, entry in enumerate(entries):
        row = ElementTree.SubElement(table, "Row", index=str(index))
        for value in (entry.code, entry.name, *entry.colour):
            ElementTree.SubElement(row, "F").text = str(value)


def _style(layer: Layer) -> ElementTree.Element:
    root = ElementTree.Element("qgis", version="3.22", styleCategories="Symbology")
    pipe = ElementTree.SubElement(root, "pipe")
    if layer.scale is not None:
        _ramp(pipe, layer.scale)
    else:
        _palette(pipe, entries_of(layer))
    ElementTree.SubElement(root, "blendMode").text = "0"
    return root


def _renderer(pipe: ElementTree.Element, **more: str) -> ElementTree.Element:
    form = {"opacity": "1", "alphaBand": "-1", "band": "1", "nodataColor": ""}
    return ElementTree.SubElement(pipe, "rasterrenderer", form | more)


def _palette(pipe: ElementTree.Element, entries: Sequence[Entry]) -> None:
    renderer = _renderer(pipe, type="paletted")
    palette = ElementTree.SubElement(renderer, "colorPalette")
    for code, name, (red, green, blue, alpha) in entries:
        form = {
            "value": str(code),
            "label": name,
            "color": f"#{red:02x}{green:02x}{blue:02x}",
            "alpha": str(alpha),
        }
        if alpha:  # what is transparent needs no place in a legend
            ElementTree.SubElement(palette, "paletteEntry", form)


def _ramp(pipe: ElementTree.Element, scale: Scale) -> None:
    low, high = f"{scale.low:g}", f"{scale.high:g}"
    renderer = _renderer(
        pipe,
        type="singlebandpseudocolor",
        classificationMin=low,
        classificationMax=high,
    )
    shader = ElementTree.SubElement(renderer, "rastershader")
    form: Mapping[str, str] = {
        "colorRampType": "INTERPOLATED",
        "classificationMode": "1",
        "clip": "0",
        "minimumValue": low,
        "maximumValue": high,
    }
    ramp = ElementTree.SubElement(shader, "colorrampshader", dict(form))
    steps = len(scale.colours) - 1
    for number, colour in enumerate(scale.colours):
        value = scale.low + (scale.high - scale.low) * number / max(steps, 1)
        ElementTree.SubElement(
            ramp,
            "item",
            value=f"{value:g}",
            label=f"{value:g} {scale.unit}".strip(),
            color=f"#{colour.lower()}",
            alpha="255",
        )


def _write(root: ElementTree.Element, path: Path, head: str = "") -> None:
    ElementTree.indent(root)
    path.write_text(head + ElementTree.tostring(root, encoding="unicode") + "\n", encoding="utf-8")
