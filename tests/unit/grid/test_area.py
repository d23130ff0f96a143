"""Area and support, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import maximum_filter

from engine.errors import AreaError, GridError
from engine.grid import Area, Grid, Support, Tile

CRS = "EPSG:5179"


def test_bbox_keeps_its_curved_edges() -> None:
    area = Area.from_bbox((126.0, 34.0, 130.0, 38.0), CRS)
    # A parallel bends in this CRS: a box of its four corners alone would miss kilometres.
    corners = shapely.convex_hull(
        shapely.MultiPoint(
            [
                Area.from_bbox((x, y, x + 1e-4, y + 1e-4), CRS).geometry.centroid
                for x in (126.0, 130.0)
                for y in (34.0, 38.0)
            ]
        )
    )
    assert area.geometry.difference(corners).area > 1e8
    assert area.geographic.bounds == pytest.approx((126.0, 34.0, 130.0, 38.0), abs=1e-6)


def test_an_area_across_the_antimeridian_is_one_area() -> None:
    area = Area.from_bbox((179.0, -18.0, -179.0, -16.0), "EPSG:3832")
    west, _, east, _ = area.geometry.bounds
    assert (east - west) < 250_000
    parts = area.geographic
    assert parts.geom_type == "MultiPolygon"
    assert parts.area == pytest.approx(4.0, rel=1e-6)


@pytest.mark.parametrize("bbox", [(10, 50, 10, 51), (0, 91, 1, 92), (0, 10, 1, 5), (-190, 0, 0, 1)])
def test_wrong_boxes_are_refused(bbox: tuple[float, float, float, float]) -> None:
    with pytest.raises(AreaError):
        Area.from_bbox(bbox, CRS)


def test_an_area_outside_the_crs_is_refused() -> None:
    with pytest.raises(AreaError, match="leaves the domain"):
        Area.from_bbox((38.0, -1.0, 40.0, 1.0), "EPSG:32652")


@settings(max_examples=30, deadline=None)
@given(
    st.floats(2000, 7000),
    st.floats(2000, 7000),
    st.floats(300, 2500),
    st.sampled_from([0.0, 30.0, 100.0, 610.0]),
)
def test_support_is_the_dilated_area_and_does_not_depend_on_the_tile(
    x: float, y: float, radius: float, reach: float
) -> None:
    area = Area(shapely.Point(x, y).buffer(radius), CRS)
    masks = []
    for tile in (800.0, 1600.0, 3200.0):
        grid = Grid.fit((-1600, -1600, 9600, 9600), crs=CRS, tile_size=tile)
        support = Support(area, grid, 100.0)
        whole = np.zeros(grid.array_shape(100.0), bool)
        for t in grid.tiles():
            window = grid.window(t, 100.0)
            whole[window.rows, window.cols] = support.mask(t, 100.0, reach)
        west, _, _, north = grid.bounds
        top, left = round((north - 9600) / 100), round((-1600 - west) / 100)
        masks.append(whole[top : top + 112, left : left + 112])
    centres = -1550 + 100 * np.arange(112)
    inside = np.hypot(centres[None, :] - x, (9550 - 100 * np.arange(112))[:, None] - y)
    exact = shapely.intersects_xy(area.geometry, *np.meshgrid(centres, 9550 - 100 * np.arange(112)))
    assert (inside[exact] <= radius).all()
    steps = int(np.ceil(reach / 100))
    rows, cols = np.nonzero(exact)
    brute = np.zeros_like(exact)
    for r, c in zip(rows, cols, strict=True):
        brute[max(r - steps, 0) : r + steps + 1, max(c - steps, 0) : c + steps + 1] = True
    for mask in masks:
        assert (mask == brute).all()


def test_tiles_that_meet_the_area() -> None:
    area = Area(shapely.box(100, -2900, 1500, -100), CRS)
    grid = Grid.fit((-3200, -4800, 4800, 1600), crs=CRS, tile_size=1600)
    assert [tuple(rc) for rc in np.argwhere(area.meets(grid))] == [(1, 2), (2, 2)]
    assert area.meets(grid, 150.0).sum() == 9


def test_fine_masks_are_the_cells_repeated() -> None:
    area = Area(shapely.Point(800, -800).buffer(500), CRS)
    grid = Grid.fit((0, -1600, 1600, 0), crs=CRS, tile_size=1600)
    support = Support(area, grid, 100.0)
    coarse, fine = (support.mask(Tile(0, 0), r) for r in (100.0, 10.0))
    assert (fine == np.repeat(np.repeat(coarse, 10, 0), 10, 1)).all()
    assert 0 < coarse.sum() < 256


@settings(max_examples=20, deadline=None)
@given(
    st.floats(2000, 7000),
    st.floats(2000, 7000),
    st.floats(300, 2500),
    st.sampled_from([0.0, 160.0, 330.0]),
)
def test_coarser_pixels_are_measured_by_their_own_centres(
    x: float, y: float, radius: float, reach: float
) -> None:
    """Pixels of 320 m beside cells of 100 m: neither is a whole number of the other."""
    area = Area(shapely.Point(x, y).buffer(radius), CRS)
    first, n = -1600 + 160, 35
    centres, down = first + 320 * np.arange(n), 9600 - 160 - 320 * np.arange(n)
    brute = shapely.intersects_xy(area.geometry, *np.meshgrid(centres, down))
    steps = int(np.ceil(reach / 320))
    brute = maximum_filter(brute, 2 * steps + 1, mode="constant")
    for tile in (1600.0, 3200.0):
        grid = Grid.fit((-1600, -1600, 9600, 9600), crs=CRS, tile_size=tile)
        support = Support(area, grid, 100.0)
        whole = np.zeros(grid.array_shape(320.0), bool)
        needed = support.in_cells(320.0).meets(reach)
        for t in grid.tiles():
            window = grid.window(t, 320.0)
            whole[window.rows, window.cols] = found = support.mask(t, 320.0, reach)
            assert found.shape == (round(tile / 320),) * 2
            assert needed[t] or not found.any()
        west, _, _, north = grid.bounds
        top, left = round((north - 9600) / 320), round((-1600 - west) / 320)
        assert (whole[top : top + n, left : left + n] == brute).all()


def test_pixels_that_do_not_fit_the_tile_are_refused() -> None:
    grid = Grid.fit((0, -1600, 1600, 0), crs=CRS, tile_size=1600)
    area = Area(shapely.box(0, -1600, 1600, 0).buffer(100), CRS)
    support = Support(area, grid, 100.0)
    assert support.mask(Tile(0, 0), 320.0).shape == (5, 5)  # a whole tile in the area too
    for ask in (lambda: support.mask(Tile(0, 0), 300.0), lambda: support.in_cells(300.0)):
        with pytest.raises(GridError, match="whole number of pixels"):
            ask()
