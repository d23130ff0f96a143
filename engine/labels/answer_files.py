"""Labels in files of others: KML, GeoPackage, GeoJSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import geopandas
import shapely
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from engine.errors import LabelError
from engine.files import together
from engine.labels.answers import Label
from engine.legend import LCZ

__all__ = ["require_form", "write_labels"]


def write_labels(labels: Sequence[Label], path: Path) -> None:
    """Write labels as a file of training areas (`engine.labels.training_areas`).

    Parameters
    ----------
    labels : one or more.
    path : its suffix says the form: .kml (a folder for each class), .gpkg, .geojson or .json
        (field ``lcz``, and ``site``, ``city``, ``page``).

    Raises
    ------
    LabelError
        Where there is no label, or the suffix is another one.
    """
    write = _WRITERS[require_form(path)]
    if not labels:
        raise LabelError("there is no label to write", remedy="settle the disputes: --arbiter NAME")
    with together(path.parent) as part:
        write(sorted(labels, key=lambda label: (label.lcz, label.site)), part / path.name)


def require_form(path: Path) -> str:
    """The suffix of a file of labels.

    Raises
    ------
    LabelError
    """
    suffix = path.suffix.lower()
    if suffix not in _WRITERS:
        raise LabelError("labels cannot be written in that form", got=path.name,
                         expected=", ".join(_WRITERS))  # fmt: skip
    return suffix


def _rows(labels: Sequence[Label]) -> list[dict[str, object]]:
    return [
        {"lcz": label.lcz, "site": label.site.id, "city": label.city, "page": label.site.page}
        for label in labels
    ]


def _geojson(labels: Sequence[Label], path: Path) -> None:
    features = [
        {
            "type": "Feature",
            "properties": row,
            "geometry": json.loads(shapely.to_geojson(label.geometry)),
        }
        for row, label in zip(_rows(labels), labels, strict=True)
    ]
    document = {"type": "FeatureCollection", "features": features}
    path.write_text(json.dumps(document, ensure_ascii=False) + "\n", encoding="utf-8")


def _gpkg(labels: Sequence[Label], path: Path) -> None:
    shapes = [shapely.multipolygons(shapely.get_parts(label.geometry)) for label in labels]
    frame = geopandas.GeoDataFrame(_rows(labels), geometry=shapes, crs="EPSG:4326")
    frame.to_file(path, layer="labels", driver="GPKG", engine="pyogrio")


def _kml(labels: Sequence[Label], path: Path) -> None:
    parts = [
        '<?xml version="1.0" encoding="UTF-8"?>\n<kml xmlns="http://www.opengis.net/kml/2.2">\n'
        "<Document><name>labels</name>\n"
    ]
    for zone in LCZ:
        mine = [label for label in labels if label.lcz == zone.code]
        if not mine:
            continue
        parts.append(f"<Folder><name>{zone.code}</name>\n")
        for label in mine:
            told = "".join(
                f'<Data name="{name}"><value>{escape(str(value))}</value></Data>'
                for name, value in _rows([label])[0].items()
            )
            outlines = "".join(map(_polygon, shapely.get_parts(label.geometry)))
            parts.append(
                f"<Placemark><name>{escape(label.site.id)}</name><ExtendedData>{told}"
                f"</ExtendedData><MultiGeometry>{outlines}</MultiGeometry></Placemark>\n"
            )
        parts.append("</Folder>\n")
    path.write_text("".join(parts) + "</Document></kml>\n", encoding="utf-8")


def _polygon(one: Polygon) -> str:
    inner = "".join(f"<innerBoundaryIs>{_ring(r)}</innerBoundaryIs>" for r in one.interiors)
    return f"<Polygon><outerBoundaryIs>{_ring(one.exterior)}</outerBoundaryIs>{inner}</Polygon>"


def _ring(ring: BaseGeometry) -> str:
    text = " ".join(f"{x!r},{y!r}" for x, y in ring.coords)
    return f"<LinearRing><coordinates>{text}</coordinates></LinearRing>"


_WRITERS: Mapping[str, Callable[[Sequence[Label], Path], None]] = {
    ".kml": _kml,
    ".gpkg": _gpkg,
    ".geojson": _geojson,
    ".json": _geojson,
}
