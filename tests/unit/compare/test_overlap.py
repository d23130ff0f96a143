"""Cells that trained the model: numpy's count of them, and what is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from engine.compare.overlap import TRAINED, say_overlap, trained_stratum
from engine.compare.sample import judge, sample
from engine.models.footprint import (
    FOOTPRINT,
    Footprint,
    Ground,
    read_footprint,
    write_footprint,
)

WEST, NORTH, SHAPE = 400_000, 5_000_000, (40, 50)


def blank(path: Path, crs: str, transform: Affine) -> Path:
    form = {"driver": "GTiff", "height": SHAPE[0], "width": SHAPE[1], "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", **form, crs=crs, transform=transform) as file:
        file.write(np.ones(SHAPE, np.uint8), 1)
    return path


def trained(path: Path, footprint: Footprint) -> np.ndarray:
    with trained_stratum(path, footprint) as strata:
        each = strata[TRAINED]
        with rasterio.open(each.path) as file:
            return each.of(file)(file.read(1))


@settings(max_examples=25, deadline=None)
@given(
    reach=st.sampled_from([100.0, 320.0, 480.0, 640.0]),
    feet=st.booleans(),
    tall=st.sampled_from([100.0, 50.0]),
    places=st.lists(st.tuples(st.integers(-8, 57), st.integers(-8, 47)), max_size=6),
)
def test_cells_within_reach_are_those_that_numpy_finds(
    tmp_path_factory: pytest.TempPathFactory,
    reach: float,
    feet: bool,
    tall: float,
    places: list[tuple[int, int]],
) -> None:
    """Of maps in metres, and in feet of Tennessee; trained cells may lie beyond the map's edge."""
    crs, unit = ("EPSG:6576", 1200 / 3937) if feet else ("EPSG:32633", 1.0)
    at = Affine(100 / unit, 0, WEST, 0, -tall / unit, NORTH)
    path = blank(tmp_path_factory.mktemp("map") / "map.tif", crs, at)
    xy = np.array([at * (col + 0.5, row + 0.5) for col, row in places], float).reshape(-1, 2)
    found = trained(path, Footprint(reach, (Ground(crs, xy),)))
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    expected = np.zeros(SHAPE, bool)
    for col, row in places:  # patches of that side share ground
        expected |= (np.abs(cols - col) * 100 < reach) & (np.abs(rows - row) * tall < reach)
    np.testing.assert_array_equal(found == 1, expected)


def test_other_systems_meet(tmp_path: Path) -> None:
    """The model was trained on another grid, and the map is in degrees."""
    path = blank(tmp_path / "map.tif", "EPSG:4326", Affine(1e-3, 0, 15, 0, -1e-3, 46))
    move = Transformer.from_crs("EPSG:4326", "EPSG:32633", always_xy=True)
    ground = Ground("EPSG:32633", np.array([move.transform(15.0255, 45.9815)]))
    found = trained(path, Footprint(320.0, (ground,)))
    rows, cols = np.nonzero(found)
    assert (rows.min(), rows.max()) == (16, 20)  # 111 m a cell: two on either side
    assert (cols.min(), cols.max()) == (21, 29)  # 77 m: four


def test_a_footprint_says_where_and_nothing_else(tmp_path: Path) -> None:
    assert read_footprint(tmp_path) is None
    there = Footprint(320.0, (Ground("EPSG:3035", np.array([[1.0, 2.0], [3.5, 4.0]])),), False)
    write_footprint(tmp_path, there)
    found = read_footprint(tmp_path)
    assert found is not None
    assert (found.reach, found.whole, found.places[0].crs) == (320.0, False, "EPSG:3035")
    np.testing.assert_array_equal(found.places[0].xy, there.places[0].xy)
    (tmp_path / FOOTPRINT).write_text('{"places": 3}')
    assert read_footprint(tmp_path) is None


def test_what_is_told_of_an_overlap() -> None:
    known = Footprint(320.0, ())
    told = say_overlap(known, True, np.array([[40, 30], [160, 156]]))
    assert told == [
        "80% of the judged cells lie within 320 m of ground that trained the model, which flatters "
        "it: accuracy 0.975 there, 0.750 of the 40 others"
    ]
    assert "no cell is left" in say_overlap(known, True, np.array([[0, 0], [10, 9]]))[0]
    assert say_overlap(known, True, np.array([[10, 9], [0, 0]])) == []
    assert "unknown" in say_overlap(None, True, None)[0]
    assert say_overlap(None, False, None) == []
    later = Footprint(320.0, (), whole=False)
    assert "started from" in say_overlap(later, True, np.array([[10, 9], [0, 0]]))[0]


def test_a_sample_tells_its_overlap_too(tmp_path: Path) -> None:
    """Half of the map trained the model, and is right; of the other half half is wrong."""
    codes = np.tile(np.array([[2], [6]], np.uint8), (20, 50))
    truth = codes.copy()
    truth[::4, 25:] = 9
    form = {"driver": "GTiff", "height": SHAPE[0], "width": SHAPE[1], "count": 1, "dtype": "uint8"}
    at = Affine(100, 0, WEST, 0, -100, NORTH)
    with rasterio.open(
        tmp_path / "town.tif", "w", **form, crs="EPSG:32633", transform=at, nodata=0
    ) as file:
        file.write(codes, 1)
    (tmp_path / "report.json").write_text('{"name": "town", "recipe": {"product": "lcz"}}')
    rows, cols = np.mgrid[: SHAPE[0], :25]
    xy = np.stack([WEST + (cols.ravel() + 0.5) * 100, NORTH - (rows.ravel() + 0.5) * 100], axis=1)
    write_footprint(tmp_path, Footprint(100.0, (Ground("EPSG:32633", xy),)))
    sample(tmp_path, tmp_path / "look", standard_error=0.05, least=20)
    design = json.loads((tmp_path / "look" / "design.json").read_text())
    cells = json.loads((tmp_path / "look" / "sample.geojson").read_text())
    for feature, (row, col) in zip(cells["features"], design["at"], strict=True):
        feature["properties"]["lcz"] = int(truth[row, col])
    (tmp_path / "look" / "sample.geojson").write_text(json.dumps(cells))
    within = [c < 25 for _, c in design["at"]]
    apart = [truth[r, c] == codes[r, c] for r, c in design["at"] if c >= 25]
    [note] = judge(tmp_path, tmp_path / "look").notes
    assert note.startswith(f"{np.mean(within):.0%} of the judged cells lie within 100 m")
    assert f"accuracy 1.000 there, {np.mean(apart):.3f} of the {len(apart)} others" in note
    del design["at"]  # a sample of before
    (tmp_path / "look" / "design.json").write_text(json.dumps(design))
    assert "unknown" in judge(tmp_path, tmp_path / "look").notes[0]
