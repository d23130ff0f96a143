"""The reader of vector files: whatever the form, all polygons, or an error that says why not."""

from __future__ import annotations

import json
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry.base import BaseGeometry

from engine.catalog.boundaries import read_boundaries, resolve_area
from engine.errors import AreaError, LabelError
from engine.grid.antimeridian import fold, unroll
from engine.grid.moving import far_outside, move_of, reproject
from engine.recipes.sections import AreaChoice
from engine.vectors.layers import Vectors
from engine.vectors.read import file_of, files_of, read_vectors

SQUARES = [shapely.box(11 + k, 48, 11.5 + k, 48.5) for k in range(4)]


def frame(shapes: list[Any], crs: int = 4326, **fields: Any) -> geopandas.GeoDataFrame:
    return geopandas.GeoDataFrame(fields, geometry=shapes, crs=crs)


def polygons(path: Path | str, **more: Any) -> tuple[list[BaseGeometry], Vectors]:
    found = read_vectors(path, **more)
    return [p for _, parts in found.polygons(LabelError) for p in parts.polygons], found


def kml(*folders: tuple[str, str]) -> str:
    inner = "".join(f"<Folder><name>{name}</name>{body}</Folder>" for name, body in folders)
    return f'<kml xmlns="http://www.opengis.net/kml/2.2"><Document>{inner}</Document></kml>'


def mark(shape: BaseGeometry, extra: str = "") -> str:
    ring = " ".join(f"{x},{y},0" for x, y in shapely.get_coordinates(shape))
    return (
        "<Placemark><Polygon><outerBoundaryIs><LinearRing><coordinates>"
        f"{ring}</coordinates></LinearRing></outerBoundaryIs></Polygon>{extra}</Placemark>"
    )


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


@settings(max_examples=15, deadline=None)
@given(layout=st.lists(st.integers(0, 3), min_size=1, max_size=4), form=st.sampled_from("gkz"))
def test_all_layers_folders_and_inner_files_are_read(
    tmp_path_factory: pytest.TempPathFactory, layout: list[int], form: str
) -> None:
    """Each number is a layer, folder or file with so many polygons beside a point."""
    folder = tmp_path_factory.mktemp("layers")
    parts = [[shapely.Point(11, 48), *SQUARES[:n]] for n in layout]
    if form == "g":
        path = folder / "some.gpkg"
        for number, shapes in enumerate(parts):
            frame(shapes).to_file(path, layer=f"layer {number}")
    else:
        point = "<Placemark><Point><coordinates>11,48</coordinates></Point></Placemark>"
        texts = [(str(n), point + "".join(map(mark, shapes[1:]))) for n, shapes in enumerate(parts)]
        path = folder / ("some.kml" if form == "k" else "some.kmz")
        if form == "k":
            path.write_text(kml(*texts))
        else:
            with zipfile.ZipFile(path, "w") as archive:
                for name, text in texts:
                    archive.writestr(f"in/{name}.kml", kml((name, text)))
    found, told = polygons(path)
    assert sorted(p.bounds for p in found) == sorted(
        p.bounds for shapes in parts for p in shapes[1:]
    )
    if any(layout) or form != "g":  # a layer of points alone is left out as a whole
        assert "points left out" in " ".join(told.notes)


def test_one_layer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "both.gpkg"
    frame(SQUARES[:1]).to_file(path, layer="west")
    frame(SQUARES[1:3]).to_file(path, layer="east")
    assert len(polygons(path)[0]) == 3
    assert "2 layers, all are read: west, east" in " ".join(polygons(path)[1].notes)
    assert [p.bounds for p in polygons(f"{path}#west")[0]] == [SQUARES[0].bounds]
    assert file_of(f"{path}#west") == path
    with pytest.raises(LabelError, match=r"north(.|\n)*west, east"):
        polygons(f"{path}#north")
    odd = tmp_path / "area #2.geojson"
    odd.write_text(shapely.to_geojson(SQUARES[0]))
    assert len(polygons(odd)[0]) == 1


@pytest.mark.parametrize("ending", [".gpkg", ".shp", ".geojson", ".txt", ".fgb"])
def test_a_name_decides_nothing(tmp_path: Path, ending: str) -> None:
    frame(SQUARES).to_file(tmp_path / "good.gpkg")
    path = tmp_path / f"copy{ending}"
    path.write_bytes((tmp_path / "good.gpkg").read_bytes())
    assert len(polygons(path)[0]) == 4
    (tmp_path / "other.geojson").write_text(frame(SQUARES).to_json())
    for text in (
        '<OGRVRTDataSource><OGRVRTLayer name="other"><SrcDataSource>other.geojson'
        "</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>",
        "lcz,lon,lat\n1,11,48\n",
        '{"type": "Topology", "arcs": []}',
        "",
    ):
        path.write_text(text)
        with pytest.raises(LabelError, match=f"copy{ending}(.|\n)*GeoJSON, KML"):
            polygons(path)


def test_shapefiles_need_no_readable_attributes_for_their_outlines(tmp_path: Path) -> None:
    path = tmp_path / "towns.shp"
    frame(SQUARES[:2], name=["Köln", "Ångström"], lcz=[2, 6]).to_file(path, encoding="latin1")
    (tmp_path / "towns.cpg").write_text("UTF-8")
    assert len(polygons(path)[0]) == 2
    layer = read_vectors(path, wanted=lambda name: name == "lcz").layers[0]
    assert layer.fields == {"lcz": [2, 6]}
    assert {p.suffix for p in files_of(path)} == {".shp", ".dbf", ".shx", ".prj", ".cpg"}
    with zipfile.ZipFile(tmp_path / "towns.zip", "w") as archive:
        for each in files_of(path):
            archive.write(each, f"deep/{each.name}")
    zipped, _ = polygons(tmp_path / "towns.zip")
    assert [p.bounds for p in zipped] == [p.bounds for p in SQUARES[:2]]


def test_values_keep_their_types(tmp_path: Path) -> None:
    values = [True, 6, 6.0, "6", None]
    features = [
        {"type": "Feature", "properties": {"lcz": v}, "geometry": json.loads(
            shapely.to_geojson(SQUARES[0]))}
        for v in values
    ]  # fmt: skip
    path = write(tmp_path / "v.geojson", {"type": "FeatureCollection", "features": features})
    told = read_vectors(path, wanted=lambda name: True).layers[0].fields["lcz"]
    assert [(type(v), v) for v in told] == [(type(v), v) for v in values]


SQUARE = [[11, 48], [12, 48], [12, 49], [11, 49], [11, 48]]


@pytest.mark.parametrize(
    ("geometry", "count", "note"),
    [
        ({"type": "Polygon", "coordinates": [SQUARE[:-1]]}, 1, "1 rings of g.geojson closed"),
        ({"type": "Polygon", "coordinates": [SQUARE[:2]]}, 0, "empty polygons dropped"),
        ({"type": "Polygon", "coordinates": []}, 0, "empty polygons dropped"),
        (None, 0, "empty polygons dropped"),
        ({"type": "MultiPolygon", "coordinates": [[SQUARE], [SQUARE[:2]]]}, 1, ""),
        ({"type": "GeometryCollection", "geometries": [
            {"type": "GeometryCollection", "geometries": [
                {"type": "Polygon", "coordinates": [SQUARE]},
                {"type": "LineString", "coordinates": SQUARE}]}]}, 1, "1 lines left out"),
        ({"type": "Polygon", "coordinates": [[[*p, 7.0] for p in SQUARE]]}, 1, ""),
        ({"type": "Polygon", "coordinates": [[SQUARE[0], SQUARE[2], SQUARE[1], SQUARE[3]]]}, 2,
         "1 invalid ones repaired"),
    ],
)  # fmt: skip
def test_geometries_of_all_kinds(tmp_path: Path, geometry: Any, count: int, note: str) -> None:
    path = write(tmp_path / "g.geojson", {"type": "Feature", "geometry": geometry})
    found, told = polygons(path)
    assert len(found) == count
    assert note in " ".join(told.notes)
    assert not any(text.startswith("0 ") for text in told.notes)
    assert all(p.is_valid and p.area > 0 for p in found)


@pytest.mark.parametrize(
    "geometry",
    [
        {"type": "Polygon", "coordinates": [[[float("nan"), 1], [2, 2], [3, 1]]]},
        {"type": "Polygon", "coordinates": [[[float("inf"), 1], [2, 2], [3, 1]]]},
        {"type": "Polygon", "coordinates": [[["a", 1], [2, 2], [3, 1]]]},
        {"type": "Polygon", "coordinates": [[[1], [2], [3]]]},
        {"type": "Polygon", "coordinates": 5},
        {"type": "Circle", "coordinates": [1, 2]},
        "POLYGON",
        [1],
        {"type": "GeometryCollection", "geometries": None},
    ],
)
def test_broken_geometries_are_named(tmp_path: Path, geometry: Any) -> None:
    good = {"type": "Feature", "properties": None, "geometry": None}
    features = [good, {"type": "Feature", "geometry": geometry}]
    path = write(tmp_path / "g.geojson", {"type": "FeatureCollection", "features": features})
    with pytest.raises(LabelError, match=r"g.geojson: geometry of feature 2"):
        polygons(path)


def test_depth_sizes_and_secrets_have_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.vectors import read as module

    deep = tmp_path / "deep.geojson"
    for text in ('{"type": "Feature", "geometry": ' * 20_000, "[" * 100_000):
        deep.write_text(text)
        with pytest.raises(LabelError, match="cannot be read"):
            polygons(deep)
    (tmp_path / "deep.kml").write_text("<kml>" + "<Folder>" * 5000)
    with pytest.raises(LabelError, match="nested too deeply"):
        polygons(tmp_path / "deep.kml")
    (tmp_path / "laughs.kml").write_text('<!DOCTYPE k [<!ENTITY a "b">]>' + kml(("&a;", "")))
    with pytest.raises(LabelError, match="document type"):
        polygons(tmp_path / "laughs.kml")
    archive = tmp_path / "a.kmz"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("doc.kml", kml(("1", mark(SQUARES[0]))))
        file.writestr("picture.png", b"0" * 5000)
    assert len(polygons(archive)[0]) == 1
    secret = bytearray(archive.read_bytes())
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        secret[secret.find(magic) + at] |= 1
    (tmp_path / "secret.kmz").write_bytes(secret)
    with pytest.raises(LabelError, match=r"encrypted(.|\n)*secret.kmz"):
        polygons(tmp_path / "secret.kmz")
    monkeypatch.setattr(module, "_MOST_UNPACKED", 4000)
    with pytest.raises(LabelError, match="archive is too large"):
        polygons(archive)


def test_folders_by_the_thousand_take_no_time(tmp_path: Path) -> None:
    path = tmp_path / "many.kml"
    empty = [(str(n % 17 + 1), "") for n in range(20_000)]
    path.write_text(kml(*empty, ("2", mark(SQUARES[0])), ("2", mark(SQUARES[1]))))
    began = time.perf_counter()
    found, told = polygons(path)
    assert time.perf_counter() - began < 5
    assert len(found) == 2
    assert [layer.path[-1] for layer in told.layers] == ["2", "2"]
    assert len(told.notes) < 10
    assert "19995 more folders are empty" in told.notes


def test_degrees_and_metres_are_not_taken_for_each_other(tmp_path: Path) -> None:
    metres = frame([shapely.box(500_000, 5_200_000, 501_000, 5_201_000)], 32633)
    path = tmp_path / "utm.geojson"
    path.write_text(shapely.to_geojson(metres.geometry[0]))
    with pytest.raises(LabelError, match="coordinates are not in degrees"):
        polygons(path)
    path.write_text(metres.to_json())  # with the member crs of before the standard
    assert polygons(path)[1].layers[0].crs.to_epsg() == 32633  # type: ignore[union-attr]
    frame(SQUARES).set_crs(32633, allow_override=True).to_file(tmp_path / "wrong.gpkg")
    with pytest.raises(LabelError, match="look like degrees"):
        polygons(tmp_path / "wrong.gpkg")


def chord(geometry: BaseGeometry, source: int, target: int) -> BaseGeometry:
    """The truth: an outline of vertices every 50 m or so, moved."""
    step = 5e-4 if source == 4326 else 50.0
    return geopandas.GeoSeries([shapely.segmentize(geometry, step)], crs=source).to_crs(target)[0]


@settings(max_examples=12, deadline=None)
@given(
    source=st.sampled_from([4326, 3857, 3035, 32633, 6576]),
    target=st.sampled_from([3035, 32633, 3857, 6576]),
    wide=st.floats(20_000, 150_000),
    tall=st.floats(500, 80_000),
    turn=st.booleans(),
)
def test_long_edges_bend_in_every_projection(
    source: int, target: int, wide: float, tall: float, turn: bool
) -> None:
    """EPSG:6576 is in feet."""
    centre = (-87.0, 35.8) if 6576 in (source, target) else (14.0, 50.0)
    x, y = geopandas.GeoSeries([shapely.Point(centre)], crs=4326).to_crs(source)[0].coords[0]
    unit = {4326: 1e-5, 6576: 3.28}.get(source, 1.0)
    w, h = (tall, wide) if turn else (wide, tall)
    shape = shapely.box(x, y, x + w * unit, y + h * unit)
    if {source, target} in ({3035, 6576}, {32633, 6576}):
        return  # Europe's systems do not reach Tennessee
    found = reproject(shape, f"EPSG:{source}", f"EPSG:{target}")
    off = shapely.hausdorff_distance(found, chord(shape, source, target), densify=0.5)
    exact = chord(shape, source, target)
    assert found.symmetric_difference(exact).area < 2e-5 * exact.area + found.length * 1.0
    assert off < 3000


@settings(max_examples=40, deadline=None)
@given(
    west=st.floats(150, 179.9),
    wide=st.floats(0.2, 40),
    form=st.sampled_from(["on", "across", "cut", "below"]),
)
def test_areas_fold_at_180_however_they_are_written(
    tmp_path_factory: pytest.TempPathFactory, west: float, wide: float, form: str
) -> None:
    """Beyond 180, straight across, cut in two, or west of -180: the same ground."""
    east, crs = west + wide, "EPSG:3832"  # the Pacific
    whole = shapely.box(west, -20, east, -18)
    if form == "on":
        shape: BaseGeometry = whole
    elif form == "below":
        shape = shapely.box(west - 360, -20, east - 360, -18)
    elif form == "across" and east > 180:
        shape = shapely.Polygon([(west, -20), (east - 360, -20), (east - 360, -18), (west, -18)])
    else:
        shape = fold(whole).geometry
    path = tmp_path_factory.mktemp("fold") / "area.geojson"
    path.write_text(shapely.to_geojson(shape))
    expected = reproject(whole, "EPSG:4326", crs)
    area, _ = resolve_area(AreaChoice(file=str(path)), crs)
    assert area.geometry.symmetric_difference(expected).area < 1e-4 * expected.area
    part = shapely.box(*expected.bounds)
    masks, _ = read_boundaries(str(path), crs, part)
    found = shapely.union_all(masks)
    assert found.symmetric_difference(expected).area < 1e-4 * expected.area


def test_the_whole_earth_does_not_fold() -> None:
    earth = shapely.box(-180, -90, 180, 90)
    assert unroll(earth) is earth


def test_boundaries_are_read_by_their_boxes(tmp_path: Path) -> None:
    """What lies elsewhere is not even decoded: there it could not be moved."""
    shapes = [
        shapely.box(x, y, x + 0.5, y + 0.5)
        for x in range(-170, 170, 10)
        for y in range(-80, 80, 10)
    ]
    path = tmp_path / "world.gpkg"
    frame(shapes).to_file(path)
    near = read_vectors(path, near=lambda crs: [(9, 39, 31, 51), (19, 39, 21, 41)])
    assert 0 < len(near.layers[0].geometry) < 12  # in two boxes, and taken once
    assert near.partial
    here = reproject(shapely.box(10.1, 50.1, 20.4, 50.4), "EPSG:4326", "EPSG:3035")
    found, _ = read_boundaries(str(path), "EPSG:3035", here)
    assert len(found) == 2
    huge = frame([shapely.segmentize(shapely.box(-170, -85, 170, 85), 30)])
    huge.to_file(tmp_path / "huge.gpkg")
    found, _ = read_boundaries(str(tmp_path / "huge.gpkg"), "EPSG:32633", shapely.box(
        500_000, 5_000_000, 510_000, 5_010_000))  # fmt: skip
    assert shapely.union_all(found).contains(shapely.box(500_000, 5_000_000, 510_000, 5_010_000))


def test_a_place_far_outside_of_a_crs_is_told(tmp_path: Path) -> None:
    brazil = shapely.box(-50, -16, -49, -15)
    told = far_outside(brazil, "EPSG:5179")
    assert told is not None
    assert "178 degrees outside the area of use of KGD2002" in told
    assert far_outside(shapely.box(127, 36, 128, 37), "EPSG:5179") is None
    path = tmp_path / "a.geojson"
    path.write_text(shapely.to_geojson(shapely.box(140, 36, 140.1, 36.1)))
    _, notes = resolve_area(AreaChoice(file=str(path)), "EPSG:5179")
    assert any("area of use" in note for note in notes)


def test_moves_are_made_once_for_a_pair_and_thread() -> None:
    first = move_of("EPSG:4326", "EPSG:3035")
    assert move_of("EPSG:4326", "EPSG:3035") is first
    assert move_of("EPSG:3035", "EPSG:3035") is None
    others: list[Any] = []
    thread = threading.Thread(target=lambda: others.append(move_of("EPSG:4326", "EPSG:3035")))
    thread.start()
    thread.join()
    assert others[0] is not first
    squares = [shapely.box(k * 1e-3, 50, k * 1e-3 + 1e-3, 50.001) for k in range(2000)]
    began = time.perf_counter()
    for square in squares:
        reproject(square, "EPSG:4326", "EPSG:3035")
    assert time.perf_counter() - began < 4


def test_columns_that_no_file_has_are_refused(tmp_path: Path) -> None:
    frame(SQUARES, key=["a", "b", "c", "d"]).to_file(tmp_path / "k.gpkg")
    layer = read_vectors(tmp_path / "k.gpkg", wanted=lambda name: name == "key").layers[0]
    assert layer.fields == {"key": ["a", "b", "c", "d"]}
    assert layer.names == ("key",)
    frame([shapely.Point(1, 1)]).to_file(tmp_path / "points.gpkg")
    with pytest.raises(AreaError, match=r"no polygons(.|\n)*layer points of points.gpkg"):
        resolve_area(AreaChoice(file=str(tmp_path / "points.gpkg")), "EPSG:3035")


def test_coordinates_of_a_kml_may_have_blanks(tmp_path: Path) -> None:
    text = kml(("1", mark(SQUARES[0]))).replace(",", " , ")
    (tmp_path / "blanks.kml").write_text(text)
    np.testing.assert_allclose(polygons(tmp_path / "blanks.kml")[0][0].bounds, SQUARES[0].bounds)


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        # an outline that passes over its own ground, and one that is drawn twice
        (shapely.Polygon([(0, 0), (4, 0), (4, 2), (1, 2), (1, -1), (2, -1), (2, 3), (0, 3)]), 11),
        (shapely.Polygon([(0, 0), (1, 0), (1, 1), (0, 1)] * 2), 1),
        (shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)]), 2),
        # holes that reach beyond, or overlap
        (shapely.Polygon(shapely.box(0, 0, 2, 2).exterior, [shapely.box(1, 0, 3, 2).exterior]), 2),
        (
            shapely.Polygon(
                shapely.box(0, 0, 9, 9).exterior,
                [shapely.box(1, 1, 4, 4).exterior, shapely.box(2, 2, 5, 5).exterior],
            ),
            81 - 14,
        ),
        (shapely.multipolygons([shapely.box(0, 0, 2, 2), shapely.box(1, 0, 3, 2)]), 6),
    ],
)
def test_outlines_that_overlap_themselves_keep_their_ground(
    tmp_path: Path, shape: BaseGeometry, area: float
) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(shapely.to_geojson(shape))
    assert sum(p.area for p in polygons(path)[0]) == pytest.approx(area)


def test_what_macos_packs_beside_each_file_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("in/a.geojson", shapely.to_geojson(SQUARES[0]))
        for name in ("__MACOSX/in/._a.geojson", "in/._a.geojson"):
            archive.writestr(name, b"\x00\x05\x16\x07\x00\x02")
    assert len(polygons(path)[0]) == 1


def test_coordinates_of_a_site_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    frame(SQUARES[:1], crs='LOCAL_CS["hall 3",UNIT["metre",1]]').to_file(path)  # type: ignore[arg-type]
    with pytest.raises(LabelError, match="hall 3, which is no place on Earth"):
        polygons(path)


def test_files_beside_a_raster_decide_what_it_holds(tmp_path: Path) -> None:
    names = ["a.tif", "a.tif.aux.xml", "a.tif.msk", "a.tif.ovr"]
    for name in names:
        (tmp_path / name).touch()
    assert [p.name for p in files_of(tmp_path / "a.tif")] == names[:3]
