"""Objects of an extract as shapes of classes; each that is none is counted, with the reason."""

from __future__ import annotations

import bz2
import gzip
import sys
from pathlib import Path

import numpy as np
import osmium
import pytest
import shapely
from pyproj import Geod
from support.osm_files import DAY, Osm, degrees

from engine.errors import NatmapError, ReadError, RecipeError
from engine.features import osm_classes, osm_reading
from engine.features.osm_classes import CLASSES, classes_of, width_of
from engine.features.osm_extent import extent_of_file
from engine.features.osm_reading import Extract, read_extract

GEOD = Geod(ellps="WGS84")
WATER = ("water",)


def metres(shapes: list[shapely.Geometry]) -> float:
    """Area on the ellipsoid; the projection's scale is .9996 on each side."""
    return sum(abs(GEOD.geometry_area_perimeter(s)[0]) for s in shapes) * 0.9996**2


def read(made: Osm, folder: Path, classes: tuple[str, ...] = WATER) -> Extract:
    return read_extract(made.write(folder), classes)


def reasons(found: Extract) -> dict[str, list[str]]:
    """By the first words of each reason."""
    return {reason.split(" (")[0]: names for reason, names in found.dropped.items()}


def test_a_lake_with_an_island_and_a_pond_on_it(tmp_path: Path) -> None:
    made = Osm()
    lake, island = made.square(100, 100, 1000), made.square(300, 300, 400)
    made.area([lake], [island], natural="water")
    made.square(400, 400, 100, natural="water", water="pond")
    found = read(made, tmp_path)
    assert len(found.areas["water"]) == 2
    assert metres(found.areas["water"]) == pytest.approx(1000**2 - 400**2 + 100**2, rel=1e-4)
    assert not found.dropped
    assert found.timestamp is not None
    assert found.timestamp.isoformat() == DAY.replace("Z", "+00:00")
    assert found.box == pytest.approx((*degrees(0, 0), *degrees(3200, 3200)), abs=1e-7)


def test_a_ring_of_several_ways_and_several_outer_rings(tmp_path: Path) -> None:
    made = Osm()
    a, b, c, d = (made.node(*p) for p in [(0, 0), (1000, 0), (1000, 500), (0, 500)])
    first, second = made.way([a, b, c]), made.way([a, d, c])  # one of them the other way round
    made.area([first, second, made.square(1500, 0, 100)], natural="wood")
    found = read(made, tmp_path, ("wood",))
    assert metres(found.areas["wood"]) == pytest.approx(1000 * 500 + 100**2, rel=1e-4)
    assert not found.dropped


@pytest.mark.parametrize("redundant", [False, True])
def test_tags_of_outer_ways_keep_their_islands(tmp_path: Path, redundant: bool) -> None:
    """Until 2017 the outer way had the tags; some have them twice."""
    made = Osm()
    lake = made.square(0, 0, 1000, natural="water")
    island = made.square(300, 300, 400)
    made.area([lake], [island], **({"natural": "water"} if redundant else {"name": "Lake"}))
    found = read(made, tmp_path)
    assert len(found.areas["water"]) == 1
    assert metres(found.areas["water"]) == pytest.approx(1000**2 - 400**2, rel=1e-4)
    assert not found.dropped


def test_what_cannot_be_an_area_is_counted_with_its_reason(tmp_path: Path) -> None:
    made = Osm()
    made.square(0, 0, 100, natural="water")  # w1
    bow = [(200, 0), (300, 100), (300, 0), (200, 100)]
    made.ring(bow, natural="water")  # w2 crosses itself
    corner = made.node(400, 100)
    made.left_out.add(corner)
    made.way([made.node(400, 0), made.node(500, 0), corner, 9], natural="water")
    made.ways[3][0][-1] = made.ways[3][0][0]  # w3 closes, and lacks a node
    made.line([(0, 500), (100, 500), (100, 600)], natural="water")  # w4 is open
    made.line([(0, 700), (100, 700)], natural="water")  # w5, two nodes
    made.ways[5][0].append(made.ways[5][0][0])
    part = made.line([(0, 900), (100, 900), (100, 800)])  # w6, of relations
    made.area([part], natural="water")  # r1 does not close
    made.area([part, 77], natural="water")  # r2 lacks a member
    made.relation([("relation", 3, ""), ("relation", 4, "")], type="multipolygon", natural="water")
    made.relation([("relation", 3, "")], type="multipolygon", natural="water")  # r3, r4: a circle
    found = read(made, tmp_path)
    assert len(found.areas["water"]) == 1
    assert reasons(found) == {
        "its ring does not close, or crosses itself": ["r1", "w2"],
        "a node is missing": ["w3"],
        "a way with tags of an area is no ring": ["w4", "w5"],
        "a member is missing": ["r2"],
        "its members are no ways": ["r3", "r4"],
    }
    assert len(found.unknown) == 6  # a circle of relations has no place


def test_coordinates_out_of_range_are_missing_nodes(tmp_path: Path) -> None:
    made = Osm()
    made.square(0, 0, 100, natural="water")
    made.square(500, 0, 100, natural="water")
    made.nodes[6] = (200.0, 95.0)
    found = read(made, tmp_path)
    assert len(found.areas["water"]) == 1
    assert reasons(found) == {"a node is missing": ["w2"]}


def test_huge_relations_are_left_out_and_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Osm()
    rings = [made.square(200 * k, 0, 100) for k in range(4)]
    made.area(rings, natural="water")
    made.area(rings[:2], natural="water")
    monkeypatch.setattr(osm_reading, "_MOST_MEMBERS", 3)
    found = read(made, tmp_path)
    assert found.dropped == {osm_reading.HUGE: ["r1"]}
    assert metres(found.areas["water"]) == pytest.approx(2 * 100**2, rel=1e-3)
    monkeypatch.setattr(osm_reading, "_MOST_POINTS", 9)
    with pytest.raises(RecipeError, match="too much to be kept"):
        read(made, tmp_path)


def test_nodes_on_disk_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Osm()
    made.square(0, 0, 100, natural="water")
    made.area([made.square(300, 0, 500)], [made.square(400, 100, 50)], landuse="reservoir")
    one = read(made, tmp_path)
    monkeypatch.setattr(osm_reading, "_IN_MEMORY", 0)
    two = read(made, tmp_path)
    assert [s.wkt for s in one.areas["water"]] == [s.wkt for s in two.areas["water"]]


def test_only_what_lies_near_is_kept(tmp_path: Path) -> None:
    made = Osm()
    made.square(0, 0, 100, natural="water")
    made.square(2000, 2000, 100, natural="water")
    made.line([(2000, 0), (2100, 0), (2100, 50)], natural="water")
    west, south = degrees(-50, -50)
    east, north = degrees(500, 500)
    found = read_extract(made.write(tmp_path), WATER, (west, south, east, north))
    assert len(found.areas["water"]) == 1
    assert not found.dropped


def test_all_forms_hold_the_same(tmp_path: Path) -> None:
    made = Osm()
    made.area([made.square(0, 0, 900)], [made.square(100, 100, 300)], natural="water")
    made.line([(0, 0), (10, 500), (20, 900)], natural="coastline")
    plain = made.write(tmp_path)
    text = plain.read_bytes()
    (tmp_path / "made.osm.gz").write_bytes(gzip.compress(text))
    (tmp_path / "made.osm.bz2").write_bytes(bz2.compress(text))
    (tmp_path / "named-otherwise.bin").write_bytes(gzip.compress(text))
    header = osmium.io.Reader(str(plain)).header()
    with osmium.SimpleWriter(str(tmp_path / "made.osm.pbf"), header=header) as writer:
        for thing in osmium.FileProcessor(str(plain)):
            writer.add(thing)
    expected = read_extract(plain, WATER)
    assert len(expected.coasts) == 1
    others = [*tmp_path.glob("made.osm.*"), tmp_path / "named-otherwise.bin"]
    assert len(others) == 4
    for other in others:
        found = read_extract(other, WATER)
        assert found.areas["water"][0].equals(expected.areas["water"][0]), other.name
        np.testing.assert_array_equal(found.coasts[0].xy, expected.coasts[0].xy)
        assert found.box == expected.box
        assert found.timestamp == expected.timestamp


def test_a_coastline_is_runs_of_known_nodes(tmp_path: Path) -> None:
    made = Osm()
    way = made.line([(0, 100 * k) for k in range(7)], natural="coastline")
    made.left_out |= {1, 4}
    first, second = read(made, tmp_path).coasts
    assert (first.way, first.nodes, first.cut) == (way, (2, 3), (True, True))
    assert (second.nodes, second.cut) == ((5, 7), (True, False))
    np.testing.assert_allclose(second.xy[-1], degrees(0, 600), atol=1e-7)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"natural": "water"}, "water"),
        ({"waterway": "riverbank"}, "water"),  # deprecated
        ({"landuse": "reservoir"}, "water"),
        ({"landuse": "pond", "natural": "water"}, "water"),
        ({"natural": "water", "tunnel": "culvert"}, ""),
        ({"natural": "water", "intermittent": "yes"}, ""),
        ({"abandoned:natural": "water", "was:landuse": "forest"}, ""),
        ({"natural": "wetland", "wetland": "marsh"}, "wetland"),
        ({"natural": "marsh"}, "wetland"),  # deprecated
        ({"landuse": "wood"}, "wood"),  # deprecated
        ({"landuse": "farm"}, "farmland"),  # deprecated
        ({"landuse": "grass; meadow"}, "grass"),
        ({"leisure": "park", "landuse": "grass"}, "grass park"),
        ({"natural": "beach"}, "bare"),
        ({"building": "no"}, ""),
        ({"building": "yes", "layer": "-1"}, ""),
        ({"amenity": "parking", "parking": "underground"}, ""),
        ({"aeroway": "runway"}, ""),  # a line, even where it ends at its beginning
        ({"aeroway": "runway", "area": "yes"}, "paved"),
        ({"aeroway": "apron"}, "paved"),
        ({"highway": "service"}, ""),
        ({"highway": "pedestrian", "area": "yes"}, "road"),
    ],
)
def test_tags_and_their_classes(tags: dict[str, str], expected: str) -> None:
    assert " ".join(classes_of(tags, line=True)) == expected


@pytest.mark.parametrize(
    ("tags", "width"),
    [
        ({"highway": "residential"}, 5.5),
        ({"highway": "primary_link", "lanes": "4"}, 13.0),
        ({"highway": "residential", "width": "7.5 m"}, 7.5),
        ({"highway": "residential", "width": "nan"}, 5.5),
        ({"highway": "residential", "width": "1e9", "lanes": "inf"}, 5.5),
        ({"highway": "footway"}, None),
        ({"highway": "primary", "tunnel": "yes"}, None),
        ({"highway": "pedestrian", "area": "yes"}, None),
    ],
)
def test_roads_have_a_width(tags: dict[str, str], width: float | None) -> None:
    assert width_of(tags) == width


def test_natural_classes_of_recipes_are_those_with_a_zone() -> None:
    from typing import get_args

    from engine.recipes.osm import NaturalGround

    assert {*get_args(NaturalGround)} == {*osm_classes.LCZ_OF}
    assert {*osm_classes.LCZ_OF} | {"park", "building", "road"} == {*CLASSES}


def damaged(folder: Path) -> dict[str, bytes]:
    made = Osm()
    for k in range(40):
        made.square(60 * k, 0, 50, natural="water")
    text = made.text().encode()
    nodeless = Osm(ways={1: ([1, 2, 3, 1], {"natural": "water"})})
    empty = Osm().text().encode()
    wayless = Osm()
    wayless.node(0, 0)
    return {
        "nothing.osm": b"",
        "page.osm": b"<html><body>404</body></html>",
        "words.osm.pbf": b"not found",
        "cut.osm": text[:3000],
        "cut.osm.gz": gzip.compress(text)[:-30],
        "cut.osm.bz2": bz2.compress(text)[:-30],
        "empty.osm": empty,
        "nodeless.osm": nodeless.text().encode(),
        "wayless.osm": wayless.text().encode(),
        "entity.osm": b'<!DOCTYPE x [<!ENTITY a "b">]>' + text[39:],
        "number.osm": text.replace(b'lon="', b'lon="x', 1),
        "id.osm": text.replace(b'id="1"', b'id="99999999999999999999"', 1),
    }


@pytest.mark.parametrize("name", damaged(Path()))
def test_a_damaged_or_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(damaged(tmp_path)[name])
    with pytest.raises((RecipeError, ReadError)) as caught:
        read_extract(tmp_path / name, WATER)
    assert name in str(caught.value)


def test_a_file_that_ends_within_a_block_is_refused(tmp_path: Path, data: Path) -> None:
    whole = (data / "osm" / "Helsinki.osm.pbf").read_bytes()
    path = tmp_path / "cut.osm.pbf"
    for size in (10, 60, 100, 5_000, 200_000, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(NatmapError):
            read_extract(path, WATER)


@pytest.mark.parametrize("kind", ["way", "relation"])
def test_a_history_is_refused_whatever_its_name(tmp_path: Path, kind: str) -> None:
    made = Osm()
    made.area([made.square(0, 0, 100)], natural="water")
    text = made.text()
    end = f"</{kind}>"
    start = text.index(f"<{kind}")
    older = text[start : text.index(end, start) + len(end)]
    newer = older.replace('version="1"', 'version="2"')
    path = tmp_path / "made.osm"
    path.write_text(text.replace(older, older + newer))
    with pytest.raises(RecipeError, match="history"):
        read_extract(path, WATER)
    path = tmp_path / "made.osh"
    path.write_text(text)
    with pytest.raises(RecipeError, match="osmium time-filter"):
        read_extract(path, WATER)


def test_the_package_is_asked_for_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Osm()
    made.square(0, 0, 100, natural="water")
    path = made.write(tmp_path)
    monkeypatch.setitem(sys.modules, "osmium", None)
    with pytest.raises(RecipeError, match=r"natmap\[osm\]"):
        read_extract(path, WATER)


def test_a_polygon_file_with_a_hole(tmp_path: Path) -> None:
    path = tmp_path / "made.poly"
    path.write_text(
        "made\n1\n  0 0\n  4.0E+00 0\n  4 4\n  0 4\nEND\n"
        "!2\n  1 1\n  2 1\n  2 2\n  1 2\n  1 1\nEND\nEND\n"
    )
    assert extent_of_file(path).area == 15
    path.write_text("made\n1\n  0 zero\nEND\nEND\n")
    with pytest.raises(RecipeError, match="polygon of an extract cannot be read"):
        extent_of_file(path)
    path.write_text("made\n1\n  170 0\n  190 0\n  190 4\nEND\nEND\n")
    with pytest.raises(RecipeError, match="180th meridian"):
        extent_of_file(path)
    path.write_text("")
    with pytest.raises(RecipeError, match="no ground"):
        extent_of_file(path)
