"""Cells that labels name: by training areas of any size, by fields and rasters of any kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from engine.compare.estimates import stratified
from engine.errors import LabelError, RecipeError
from engine.labels.design import allocate
from engine.labels.sampling import (
    areas_without_cells,
    cells_of_areas,
    cells_of_raster,
    small_areas,
)
from engine.labels.training_areas import TrainingArea, read_training_areas
from engine.legend import codes_of, parse_class

WEST, NORTH = 400_000.0, 5_400_000.0
CELLS = GeoBox((60, 60), Affine(100, 0, WEST, 0, -100, NORTH), "EPSG:32633")


def area(lcz: int, x: float, y: float, wide: float, tall: float) -> TrainingArea:
    """A rectangle by metres from the corner of the cells."""
    shape = shapely.box(WEST + x, NORTH - y - tall, WEST + x + wide, NORTH - y)
    there = geopandas.GeoSeries([shape], crs=32633).to_crs(4326)[0]
    return TrainingArea(f"{lcz}-{x:.0f}", lcz, there, wide * tall, 2 * (wide + tall))


@settings(max_examples=40, deadline=None)
@given(
    x=st.floats(500, 2000), y=st.floats(500, 2000), wide=st.floats(20, 540), tall=st.floats(20, 540)
)
def test_a_judged_cell_is_one_whose_centre_lies_in_the_area(
    x: float, y: float, wide: float, tall: float
) -> None:
    found = cells_of_areas([area(2, x, y, wide, tall)], CELLS)
    rows, cols = np.mgrid[:60, :60]
    across, down = cols * 100 + 50, rows * 100 + 50
    # a hair of rounding in degrees may move a centre that lies on the edge
    sure = (
        (across > x + 0.1) & (across < x + wide - 0.1) & (down > y + 0.1) & (down < y + tall - 0.1)
    )
    maybe = (
        (across > x - 0.1) & (across < x + wide + 0.1) & (down > y - 0.1) & (down < y + tall + 0.1)
    )
    got = np.zeros((60, 60), bool)
    got[found["row"], found["col"]] = True
    assert (got >= sure).all()
    assert (got <= maybe).all()
    teaching = cells_of_areas([area(2, x, y, wide, tall)], CELLS, patch=320.0)
    assert bool(len(teaching)) == got.any()  # whatever its size it teaches
    taught = np.zeros((60, 60), bool)
    taught[teaching["row"], teaching["col"]] = True
    assert (taught <= got).all()
    share = np.minimum(across + 160, x + wide) - np.maximum(across - 160, x)
    share = share * (np.minimum(down + 160, y + tall) - np.maximum(down - 160, y)) / 320**2
    if got.any() and share[got].max() > 0.61:
        assert share[taught].min() > 0.59


def test_areas_that_give_nothing_are_named_with_the_cause() -> None:
    areas = [
        area(2, 1000, 1000, 500, 500),
        area(3, 1160, 3060, 80, 80),  # between the centres of cells
        area(5, 90_000, 90_000, 500, 500),
        area(6, 3000, 3000, 200, 200),
        area(8, 3000, 3000, 200, 200),
    ]
    found = cells_of_areas(areas, CELLS)
    notes = areas_without_cells(areas, found, CELLS)
    assert [note.split(":")[0] for note in notes] == [
        "1 area gives no cell (too small or too narrow",
        "1 area gives no cell (outside of the map)",
        "2 areas give no cell (areas of other types claim the same cells)",
    ]
    assert "LCZ 3 3-1160" in notes[0]
    none = areas_without_cells(areas[:1], found[:0], CELLS, "no valid pixels")
    assert none == ["1 area gives no cell (no valid pixels): LCZ 2 2-1000"]
    assert areas_without_cells(areas[:1], found[:1], CELLS) == []
    told = small_areas([areas[0], areas[3]], CELLS, 320.0)
    assert told is not None
    assert told.startswith("1 of 2 areas")
    assert small_areas(areas[:1], CELLS, 320.0) is None


@pytest.mark.parametrize("crs", [4326, 6576])
def test_maps_in_degrees_and_feet_have_cells_too(crs: int) -> None:
    middle = (-87.0, 35.8)
    at = geopandas.GeoSeries([shapely.Point(middle)], crs=4326).to_crs(crs)[0]
    size = 1e-3 if crs == 4326 else 328.0
    cells = GeoBox((50, 50), Affine(size, 0, at.x, 0, -size, at.y), f"EPSG:{crs}")
    box = shapely.box(at.x + 10 * size, at.y - 14 * size, at.x + 14 * size, at.y - 10 * size)
    there = geopandas.GeoSeries([box], crs=crs).to_crs(4326)[0]
    found = cells_of_areas([TrainingArea("a", 6, there, 160_000, 1600)], cells)
    assert set(found["row"].tolist()) == set(found["col"].tolist()) == {10, 11, 12, 13}
    assert len(found) == 16


# -- fields -----------------------------------------------------------------------------------


@given(code=st.integers(1, 17), form=st.sampled_from(["int", "float", "text", "dot", "lcz"]))
def test_types_of_columns_do_not_matter(code: int, form: str) -> None:
    value: Any = {
        "int": code, "float": float(code), "text": str(code), "dot": f"{code}.0",
        "lcz": f"LCZ_{code}",
    }[form]  # fmt: skip
    assert parse_class(value) == code
    for wrong in (True, False, code + 0.5, f"{code}.5", None, "", 18, 0, -code):
        with pytest.raises(RecipeError):
            parse_class(wrong)  # type: ignore[arg-type]


def fields(path: Path, **columns: list[Any]) -> Path:
    shapes = [shapely.box(11 + k, 48, 11.004 + k, 48.004) for k in range(3)]
    features = [
        {"type": "Feature", "geometry": json.loads(shapely.to_geojson(shape)),
         "properties": {name: values[k] for name, values in columns.items()}}
        for k, shape in enumerate(shapes)
    ]  # fmt: skip
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def test_the_field_is_the_one_whose_values_are_all_types(tmp_path: Path) -> None:
    def counts(field: str | None = None, **columns: list[Any]) -> dict[int, int]:
        return read_training_areas(fields(tmp_path / "a.geojson", **columns), field=field).counts()

    assert counts(Name=["a", "b", "c"], LCZ=[2, 2, 6]) == {2: 2, 6: 1}
    assert counts(name=["2", "LCZ 2", "G"], other=[1, 2, 3]) == {2: 2, 17: 1}
    assert counts(CLASS=[2.0, "2", 101], name=[5, 6, 7]) == {2: 2, 11: 1}
    assert counts(Class=["home", 2, 6], name=[5, 6, 6]) == {5: 1, 6: 2}
    assert counts("kind", lcz=[1, 2, 3], kind=[6, 6, 8]) == {6: 2, 8: 1}
    with pytest.raises(LabelError, match=r"field Class(.|\n)*'home'(.|\n)*--field"):
        counts(Class=["home", 2, 6])
    with pytest.raises(LabelError, match=r"no field sort(.|\n)*kind"):
        counts("sort", kind=[1, 2, 3])
    with pytest.raises(LabelError, match="no LCZ type"):
        counts(lcz=[True, 2, 2])
    notes = read_training_areas(fields(tmp_path / "n.geojson", Name=[2, 2, 6])).notes
    assert any("read from its field Name" in note for note in notes)


# -- rasters ----------------------------------------------------------------------------------


def raster(path: Path, values: np.ndarray, nodata: float | None = None) -> Path:
    form = {"driver": "GTiff", "height": 60, "width": 60, "count": 1, "dtype": values.dtype}
    with rasterio.open(
        path, "w", **form, nodata=nodata, crs=CELLS.crs, transform=CELLS.transform
    ) as f:
        f.write(values, 1)
    return path


@settings(max_examples=30, deadline=None)
@given(
    dtype=st.sampled_from(["uint8", "int16", "float32", "float64"]),
    nodata=st.sampled_from([None, 255, 200, "nan"]),
    alias=st.booleans(),
)
def test_labels_of_a_raster_mean_what_they_say(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, nodata: Any, alias: bool
) -> None:
    folder = tmp_path_factory.mktemp("raster")
    truth = np.random.default_rng(1).integers(0, 18, (60, 60))
    values = np.where(alias & (truth > 10), truth + 90, truth).astype(dtype)
    empty = float("nan") if nodata == "nan" else nodata
    if empty is not None and (empty == empty or dtype.startswith("float")):
        values[:20], truth[:20] = empty, 0
    else:
        empty = None
    declared = empty if nodata != "nan" else None  # NaN is none, declared or not
    found = cells_of_raster(raster(folder / "r.tif", values, declared), CELLS)
    got = np.zeros((60, 60), int)
    got[found["row"], found["col"]] = found["lcz"]
    np.testing.assert_array_equal(got, truth)
    for row, col, lcz, group in found[:50].tolist():  # of one class and one block
        same = found[found["group"] == group]
        assert set(same["lcz"].tolist()) == {lcz}
        assert np.ptp(same["row"]) < 20 > np.ptp(same["col"])
        assert (row, col) in zip(same["row"].tolist(), same["col"].tolist(), strict=True)


@pytest.mark.parametrize("strange", [0.5, 18, 100, 108, -1, 255])
def test_other_codes_are_refused(tmp_path: Path, strange: float) -> None:
    values = np.full((60, 60), 6, np.float32)
    values[5, 5] = strange
    with pytest.raises(LabelError, match=rf"not an LCZ(.|\n)*{strange:g}"):
        cells_of_raster(raster(tmp_path / "r.tif", values), CELLS)
    assert codes_of(np.array([strange]))[0] == -1


def test_within_is_where_a_raster_says_something_but_0(tmp_path: Path) -> None:
    labels = raster(tmp_path / "r.tif", np.full((60, 60), 6, np.uint8))
    places = np.repeat(np.array([0, 0.2, -3, np.nan, 7, 99], np.float32), 10)[:, None]
    where = raster(tmp_path / "w.tif", np.repeat(places, 60, 1), 99)
    found = cells_of_raster(labels, CELLS, within=where)
    assert set((found["row"] // 10).tolist()) == {1, 2, 4}
    bare = cells_of_raster(where, CELLS, classes=False)
    assert len(bare) == len(found)


# -- strata -----------------------------------------------------------------------------------


def test_a_class_of_one_cell_is_taken_whole_and_known() -> None:
    codes = np.full((30, 30), 6, np.uint8)
    codes[0, 0] = 17
    codes[1, :3] = 2
    found = allocate(codes, 0.2, least=4)
    assert dict(zip(found.classes.tolist(), found.sizes.tolist(), strict=True)) == {
        2: 3, 6: 4, 17: 1
    }  # fmt: skip
    counts = np.array([[2, 1, 0], [0, 4, 0], [0, 1, 0]])
    told = stratified(counts, [3, 896, 1], [True, False, True])
    # by hand: three of the cells looked at are known for certain, four stand for 896
    assert told.oa == pytest.approx((2 + 896 + 0) / 900)
    assert told.oa_ci == 0  # no spread where all is known, and none among the four
    mixed = stratified([[2, 1, 0], [1, 3, 0], [0, 1, 0]], [3, 896, 1], [True, False, True])
    spread = 0.75 * 0.25 / 3
    assert mixed.oa_ci == pytest.approx(1.96 * 896 / 900 * np.sqrt(spread))
