"""Polygons as features: shares against areas by shapely, and ground that is not known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from shapely.geometry import mapping
from support.ground import ANCHOR, NORTH, UTM, WEST, cells, opened

RNG = np.random.default_rng(8)


def shapes() -> list[Any]:
    centres = RNG.uniform(0, 400, (30, 2))
    found = [
        shapely.Point(WEST + x, NORTH - y).buffer(RNG.uniform(4, 40), quad_segs=3)
        for x, y in centres
    ]
    found[0] = found[0].difference(found[0].centroid.buffer(3))
    # the rectangle about all is the window
    found += [shapely.box(WEST, NORTH - 5, WEST + 7, NORTH), shapely.box(
        WEST + 396, NORTH - 400, WEST + 400, NORTH - 393)]  # fmt: skip
    inside = shapely.box(WEST, NORTH - 400, WEST + 400, NORTH)
    return [shape.intersection(inside) for shape in found]


@pytest.mark.parametrize("crs", [UTM, "EPSG:4326", "EPSG:3857"])
def test_shares_are_areas(tmp_path: Path, crs: str) -> None:
    told = shapes()
    kinds = RNG.choice(["park", "garden", "pond", "road"], len(told))
    frame = geopandas.GeoDataFrame({"use": kinds}, geometry=told, crs=UTM).to_crs(crs)
    frame.to_file(tmp_path / "p.gpkg", engine="pyogrio")
    box = cells(43, 41)
    feature = {"name": "p", "kind": "polygons", "path": str(tmp_path / "p.gpkg"), "year": 2020}
    (every,) = opened(box, feature)
    (classes,) = opened(
        box, feature | {"field": "use", "classes": {"green": ["park", "garden"], "pond": "pond"}}
    )
    assert classes.reader.channels == ("green", "pond")
    found, parted = every.reader.read(box, ANCHOR), classes.reader.read(box, ANCHOR)
    groups = [
        (found.values[0], np.ones(len(told), bool)),
        (parted.values[0], np.isin(kinds, ["park", "garden"])),
        (parted.values[1], kinds == "pond"),
    ]
    for values, chosen in groups:
        union = shapely.union_all([s for s, of in zip(told, chosen, strict=True) if of])
        for row in range(0, 40, 5):
            for col in range(0, 40, 5):
                left, top = WEST + 10 * col, NORTH - 10 * row
                pixel = shapely.box(left, top - 10, left + 10, top)
                wanted = shapely.intersection(union, pixel).area / 100
                assert values[row, col] == pytest.approx(wanted, abs=2e-4)
    inner = found.known[:40, :40]
    assert inner.min() > 0.99
    assert (found.known[41:] == 0).all()
    assert np.isnan(found.values[0, 41:]).all()
    part = every.reader.read(box[5:20, 7:33], ANCHOR)
    assert part.values.tobytes() == found.values[:, 5:20, 7:33].tobytes()


def test_a_file_without_polygons_near_is_unknown_and_said(tmp_path: Path) -> None:
    far = shapely.Point(20.0, 10.0).buffer(0.1)
    (tmp_path / "far.geojson").write_text(json.dumps(mapping(far)))
    box = cells(5, 5)
    told = {"name": "p", "kind": "polygons", "path": str(tmp_path / "far.geojson"), "year": 2020}
    (source,) = opened(box, told)
    assert any("no polygon is near the area" in note for note in source.notes)
    found = source.reader.read(box, ANCHOR)
    assert (found.known == 0).all()
    assert np.isnan(found.values).all()


def test_fields_and_files_that_are_not_there(tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame({"use": ["park"]}, geometry=[shapes()[0]], crs=UTM)
    frame.to_file(tmp_path / "p.gpkg", engine="pyogrio")
    box = cells(5, 5)
    told = {"name": "p", "kind": "polygons", "path": str(tmp_path / "p.gpkg"), "year": 2020}
    with pytest.raises(Exception, match="no such field"):
        opened(box, told | {"field": "kind", "classes": {"park": "park"}})
    with pytest.raises(Exception, match="no such file"):
        opened(box, told | {"path": str(tmp_path / "q.gpkg")})
    (source,) = opened(box, told | {"field": "use", "classes": {"pond": "pond"}})
    assert any("is of class pond" in note for note in source.notes)
