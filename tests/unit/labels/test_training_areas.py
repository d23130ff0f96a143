"""Training areas in each form in which people keep them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from pyproj import Geod, Transformer

from engine.errors import LabelError
from engine.labels.training_areas import read_training_areas
from engine.vectors import read as module

LON, LAT = 127.0, 37.5


def box(east: float, north: float, width: float, height: float) -> Any:
    """A rectangle by metres from a place in Seoul, in degrees."""
    move = Transformer.from_crs("EPSG:32652", "EPSG:4326", always_xy=True)
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:32652", always_xy=True).transform(LON, LAT)
    shape = shapely.box(x + east, y + north, x + east + width, y + north + height)
    return shapely.transform(shape, lambda xy: np.column_stack(move.transform(*xy.T)))


def kml(folders: dict[str, list[Any]], extra: str = "") -> str:
    def ring(shape: Any) -> str:
        text = " ".join(f"{x},{y},0" for x, y in shape.exterior.coords)
        return (
            "<Polygon><outerBoundaryIs><LinearRing><coordinates>"
            f"{text}</coordinates></LinearRing></outerBoundaryIs></Polygon>"
        )

    def mark(shape: Any) -> str:
        parts = getattr(shape, "geoms", [shape])
        rings = "".join(ring(part) for part in parts)
        body = f"<MultiGeometry>{rings}</MultiGeometry>" if len(parts) > 1 else rings
        secret = "<name>my house</name><description>John</description>"
        return f"<Placemark>{secret}{body}</Placemark>"

    inner = "".join(
        f"<Folder><name>{name}</name>{''.join(map(mark, shapes))}</Folder>"
        for name, shapes in folders.items()
    )
    head = '<?xml version="1.0" encoding="UTF-8"?><kml xmlns="http://www.opengis.net/kml/2.2">'
    return f"{head}<Document>{inner}{extra}</Document></kml>"


SHAPES: dict[str, list[Any]] = {
    "6": [box(0, 0, 400, 300), box(1000, 0, 900, 500)],
    "LCZ A": [box(0, 2000, 400, 400)],
    "107": [box(3000, 0, 300, 300)],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same polygons in every form."""
    tmp_path = tmp_path_factory.mktemp("areas")
    (tmp_path / "ta.kml").write_text(kml(SHAPES))
    with zipfile.ZipFile(tmp_path / "ta.kmz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("doc.kml", kml(SHAPES))
    rows = [(name, shape) for name, shapes in SHAPES.items() for shape in shapes]
    frame = geopandas.GeoDataFrame(
        {"Class": [name for name, _ in rows]}, geometry=[s for _, s in rows], crs="EPSG:4326"
    )
    frame.to_file(tmp_path / "ta.geojson")
    frame.rename(columns={"Class": "LCZ"}).to_crs("EPSG:5179").to_file(tmp_path / "ta.gpkg")
    return {path.suffix: path for path in tmp_path.iterdir()}


@pytest.mark.parametrize("kind", [".kml", ".kmz", ".geojson", ".gpkg"])
def test_every_form_gives_the_same_areas(files: dict[str, Path], kind: str) -> None:
    found = read_training_areas(files[kind])
    assert found.counts() == {6: 2, 11: 1, 17: 1}
    small = min(found.areas, key=lambda area: abs(area.square_metres - 120_000))
    geod = Geod(ellps="WGS84")
    square, length = geod.geometry_area_perimeter(small.geometry)
    assert small.square_metres == pytest.approx(abs(square), rel=1e-4)
    assert small.perimeter == pytest.approx(length, rel=1e-4)
    assert small.circularity == pytest.approx(1400**2 / (4 * np.pi * 120_000), rel=1e-2)
    assert small.doubts == ()
    names = [area.id for area in read_training_areas(files[".kml"]).areas]
    assert [area.id for area in found.areas] == names


def test_what_people_wrote_about_places_is_dropped(files: dict[str, Path]) -> None:
    for path in (files[".kml"], files[".kmz"]):
        found = repr(read_training_areas(path))
        assert "John" not in found
        assert "my house" not in found


def test_large_areas_are_cut_to_a_disc_and_never_reach_beyond_themselves(
    files: dict[str, Path],
) -> None:
    areas = read_training_areas(files[".kml"]).areas
    large = max(areas, key=lambda area: area.square_metres)
    core = large.core()
    square, _ = Geod(ellps="WGS84").geometry_area_perimeter(core)
    within = shapely.Point(0, 0).buffer(300, 64).intersection(shapely.box(-450, -250, 450, 250))
    assert abs(square) == pytest.approx(within.area, rel=5e-3)
    assert core.difference(large.geometry).area == pytest.approx(0, abs=1e-12)
    assert core.centroid.distance(large.geometry.centroid) < 1e-5
    small = min(areas, key=lambda area: area.square_metres)
    assert small.core() is small.geometry


def test_what_is_wrong_with_polygons_is_noted(tmp_path: Path) -> None:
    bow = shapely.Polygon([(127, 37.5), (127.01, 37.51), (127.01, 37.5), (127, 37.51)])
    circle = shapely.Point(127.1, 37.5).buffer(0.004, quad_segs=16)
    shapes = {
        "2": [bow, box(5000, 0, 100, 3000)],
        "3": [circle, shapely.MultiPolygon([box(0, 5000, 300, 300), box(900, 5000, 300, 300)])],
        "5": [box(5000, 1000, 400, 400), box(5000, 1000, 400, 400)],
        "empty": [],
    }
    (tmp_path / "ta.kml").write_text(kml(shapes))
    found = read_training_areas(tmp_path / "ta.kml")
    text = "\n".join(found.notes)
    for words in (
        "1 invalid ones repaired",
        "1 found twice",
        "folder empty is empty",
        "long or jagged",
        "many vertices: 64",
        "overlap by",
    ):
        assert words in text, words
    assert found.counts() == {2: 3, 3: 3, 5: 1}  # a bow tie is two triangles


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    def refuse(name: str, text: str | bytes, words: str) -> None:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        with pytest.raises(LabelError, match=words):
            read_training_areas(path)

    with pytest.raises(LabelError, match="no such file"):
        read_training_areas(tmp_path / "nowhere.kml")
    one = {"6": [box(0, 0, 400, 300)]}
    refuse("one.kml", kml(one), "tell types apart")
    refuse("odd.kml", kml({**one, "108": [box(900, 0, 400, 300)]}), "no LCZ type")
    refuse("text.kml", "hello", "cannot be read")
    refuse("text.kmz", "hello", "cannot be read")
    frame = geopandas.GeoDataFrame({"kind": ["6"]}, geometry=one["6"], crs="EPSG:4326")
    refuse("field.geojson", frame.to_json(), "no field for the type")
    wrong = json.loads(frame.rename(columns={"kind": "lcz"}).to_json())
    wrong["features"][0]["properties"]["lcz"] = 2.5
    refuse("half.geojson", json.dumps(wrong), "no LCZ type")
    wrong["features"][0]["properties"]["lcz"] = None
    refuse("without.geojson", json.dumps(wrong), "no LCZ type")


def test_archives_are_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ta.kmz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../evil.kml", kml(SHAPES))
    assert read_training_areas(path).counts()  # read in memory, written nowhere
    assert [p.name for p in tmp_path.iterdir()] == ["ta.kmz"]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(LabelError, match="holds no KML"):
        read_training_areas(path)
    monkeypatch.setattr(module, "_MOST_BYTES", 1000)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("doc.kml", kml(SHAPES) + " " * 10_000)
    with pytest.raises(LabelError, match="too large"):
        read_training_areas(path)
    entity = '<!DOCTYPE kml [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    text = kml({**SHAPES, "&x;": [box(9000, 0, 300, 300)]}).replace("<kml", entity + "<kml", 1)
    (tmp_path / "xxe.kml").write_text(text)
    with pytest.raises(LabelError) as refused:
        read_training_areas(tmp_path / "xxe.kml")
    assert "root:" not in str(refused.value)


def test_what_folder_and_field_say_differently_is_told(tmp_path: Path) -> None:
    def place(west: float, lcz: int) -> str:
        ring = " ".join(
            f"{west + x},{47 + y}" for x, y in ((0, 0), (0.01, 0), (0.01, 0.01), (0, 0.01), (0, 0))
        )
        return (
            f"<Placemark><ExtendedData><Data name='LCZ'><value>{lcz:02}</value></Data>"
            "</ExtendedData><Polygon><outerBoundaryIs><LinearRing><coordinates>"
            f"{ring}</coordinates></LinearRing></outerBoundaryIs></Polygon></Placemark>"
        )

    path = tmp_path / "ta.kml"
    folders = "".join(
        f"<Folder><name>{name}</name>{body}</Folder>"
        for name, body in (("2", place(15, 5) + place(15.1, 2)), ("6", place(15.2, 6)))
    )
    path.write_text(f"<kml xmlns='http://www.opengis.net/kml/2.2'>{folders}</kml>")
    found = read_training_areas(path)
    assert found.counts() == {2: 2, 6: 1}
    told = [note for note in found.notes if "another type" in note]
    assert told == [
        "1 areas of 2 have another type in the field LCZ: the folder 2 is believed; "
        "--field LCZ believes the other"
    ]
    assert read_training_areas(path, field="LCZ").counts() == {2: 1, 5: 1, 6: 1}
    # also where the other field is empty in places
    path.write_text(path.read_text().replace("<value>02</value>", "<value></value>"))
    assert any("1 areas of 2 have another type" in n for n in read_training_areas(path).notes)
