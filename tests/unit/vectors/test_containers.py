"""Systems and containers within one file: each geometry in its own, and nothing left out in
silence."""

from __future__ import annotations

import json
import sqlite3
import zipfile
from pathlib import Path
from typing import Any

import geopandas
import pytest
import shapely

from engine.catalog.boundaries import read_boundaries, resolve_area
from engine.errors import AreaError, LabelError
from engine.grid.area import Area
from engine.labels.training_areas import read_training_areas
from engine.recipes.sections import AreaChoice

HERE = [shapely.box(15 + k, 47, 15.01 + k, 47.01) for k in (0.0, 0.02)]
GRID = "EPSG:32633"


def expected(crs: Any = 4326) -> list[Any]:
    return list(geopandas.GeoSeries(HERE, crs=4326).to_crs(crs))


def member(name: str) -> dict[str, Any]:
    return {"crs": {"type": "name", "properties": {"name": name}}}


def feature(shape: Any, **more: Any) -> dict[str, Any]:
    return {"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(shape)} | more


def square_metres(path: Path) -> float:
    area, _ = resolve_area(AreaChoice(file=str(path)), GRID)
    truth = shapely.union_all(expected(GRID))
    assert shapely.symmetric_difference(area.geometry, truth).area < 1e-4 * truth.area
    return float(area.geometry.area)


@pytest.mark.parametrize("form", ["lines", "features", "geometries"])
def test_every_geometry_is_in_the_crs_that_it_names(tmp_path: Path, form: str) -> None:
    """As PostGIS writes them: the member of the innermost object counts."""
    other = expected(31287)[1]
    path = tmp_path / "area.geojson"
    if form == "lines":
        documents = [feature(HERE[0]), feature(other, **member("EPSG:31287"))]
        path.write_text("\n".join(map(json.dumps, documents)))
    else:
        odd = feature(other, **member("urn:ogc:def:crs:EPSG::31287"))
        if form == "geometries":
            odd["geometry"] |= {"crs": odd.pop("crs")}
        some = {"type": "FeatureCollection", "features": [feature(HERE[0]), odd]}
        path.write_text(json.dumps(some | member("urn:ogc:def:crs:OGC:1.3:CRS84")))
    square_metres(path)


@pytest.mark.parametrize(
    "other", ["b.kmz", "in/b.zip", "b.gml", "B.TAB", "b.gdb/a00000001.gdbtable"]
)
def test_what_an_archive_holds_and_is_not_read_is_named(tmp_path: Path, other: str) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.geojson", json.dumps(feature(HERE[0])))
        archive.writestr(other, b"what would be half of the area")
        archive.writestr("readme.txt", b"small print")
    with pytest.raises(AreaError, match=other):
        square_metres(path)


def test_lines_of_geojson_in_an_archive_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.geojson", json.dumps(feature(HERE[0])))
        archive.writestr("b.geojsonl", json.dumps(feature(HERE[1])))
    square_metres(path)


@pytest.mark.parametrize("name", ["area", "area.shz", "old.zip.d/area.zip"])
def test_the_name_of_an_archive_decides_nothing(tmp_path: Path, name: str) -> None:
    geopandas.GeoDataFrame(geometry=HERE, crs=4326).to_file(tmp_path / "a.gpkg")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.write(tmp_path / "a.gpkg", "in/a.gpkg")
    square_metres(tmp_path / name)


def test_a_geopackage_that_says_no_crs_is_refused(tmp_path: Path) -> None:
    """0 and -1 are its ways to say so; they are no WGS 84."""
    for code in (0, -1):
        path = tmp_path / f"area{abs(code)}.gpkg"
        geopandas.GeoDataFrame(geometry=HERE, crs=4326).to_file(path)
        with sqlite3.connect(path) as base:
            base.execute("update gpkg_geometry_columns set srs_id = ?", (code,))
            base.execute("update gpkg_contents set srs_id = ?", (code,))
        base.close()
        with pytest.raises(AreaError, match="does not say which CRS"):
            square_metres(path)


def test_the_name_of_a_document_that_holds_folders_is_no_type(tmp_path: Path) -> None:
    def place(k: float) -> str:
        ring = " ".join(
            f"{x},{y}" for x, y in shapely.box(15 + k, 47, 15.01 + k, 47.01).exterior.coords
        )
        return (
            "<Placemark><Polygon><outerBoundaryIs><LinearRing><coordinates>"
            f"{ring}</coordinates></LinearRing></outerBoundaryIs></Polygon></Placemark>"
        )

    def write(inner: str) -> Path:
        (tmp_path / "a.kml").write_text(f"<kml>{inner}</kml>")
        return tmp_path / "a.kml"

    folders = [f"<Folder><name>{n}</name>{place(k)}</Folder>" for k, n in enumerate(("1", "2"))]
    both = "<Document><name>A</name>" + "".join(folders)
    counts = read_training_areas(write(f"{both}</Document>")).counts()
    assert counts == {1: 1, 2: 1}
    for stray in (f"<Folder><name>unsorted</name>{place(3)}</Folder>", place(3)):
        with pytest.raises(LabelError, match="no LCZ type"):
            read_training_areas(write(f"{both}{stray}</Document>"))
    apart = "".join(f"<Document><name>{n}</name>{place(n)}</Document>" for n in (3, 4))
    counts = read_training_areas(write(f"<Folder><name>all</name>{apart}</Folder>")).counts()
    assert counts == {3: 1, 4: 1}


@pytest.mark.parametrize("form", ["gpkg", "fgb", "shp"])
@pytest.mark.parametrize("west", [179.0, 165.0])
def test_polygons_that_jump_over_180_are_found_by_their_boxes(
    tmp_path: Path, form: str, west: float
) -> None:
    """To a file's index such a polygon goes round the Earth the other way."""
    ring = [(west, -18), (-west, -18), (-west, -16), (west, -16)]
    path = tmp_path / f"seas.{form}"
    shapes = [shapely.Polygon(ring), shapely.box(-1, -18, 1, -16)]  # one of the other side
    geopandas.GeoDataFrame(geometry=shapes, crs=4326).to_file(path)
    for bounds in ((179.9, -17.0, -179.9, -16.9), (179.4, -17.0, 179.5, -16.9)):
        area = Area.from_bbox(bounds, "EPSG:32760")
        found, _ = read_boundaries(str(path), area.crs, area.geometry)
        assert len(found) == 1
        assert found[0].buffer(1).covers(area.geometry)
