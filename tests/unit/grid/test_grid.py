"""Grid, tiles, windows, against rasterio and plain arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio.transform
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import GridError
from engine.grid import Grid, Tile, curve_order

GRID = Grid.fit((300_000, 4_000_000, 345_000, 4_031_999), crs="EPSG:5179", tile_size=16_000)


def test_extent_is_snapped_outward_to_whole_tiles() -> None:
    west, south, east, north = GRID.bounds
    assert (west, south, east, north) == (288_000, 4_000_000, 352_000, 4_032_000)
    assert all(b % 16_000 == 0 for b in GRID.bounds)
    assert GRID.shape == (2, 4)


@given(st.integers(0, 1), st.integers(0, 3), st.sampled_from([10.0, 100.0, 320.0, 1.0]))
def test_tile_window_is_where_rasterio_says(row: int, col: int, resolution: float) -> None:
    tile = Tile(row, col)
    window = GRID.window(tile, resolution)
    transform = GRID.geobox(resolution).transform
    bounds = rasterio.transform.array_bounds(
        window.rows.stop - window.rows.start,
        window.cols.stop - window.cols.start,
        transform * transform.translation(window.cols.start, window.rows.start),
    )
    assert bounds == pytest.approx(GRID.tile_bounds(tile), abs=1e-6)
    assert GRID.tile_geobox(tile, resolution).boundingbox.bbox == pytest.approx(bounds)


def test_halo_window_is_cut_at_the_edge_and_says_by_how_much() -> None:
    window = GRID.window(Tile(0, 3), 100.0, halo=7)
    assert window.pad == (7, 0, 0, 7)
    assert window.shape == (160 + 14, 160 + 14)
    assert (window.rows, window.cols) == (slice(0, 167), slice(473, 640))


def test_all_resolutions_share_their_corners() -> None:
    for resolution in (1.0, 10.0, 100.0, 320.0):
        transform = GRID.geobox(resolution).transform
        assert (transform.c / resolution) % 1 == 0
        assert (transform.f / resolution) % 1 == 0


def test_anchor_moves_the_lattice() -> None:
    grid = Grid.fit(
        (499_980, 5_090_220, 609_780, 5_200_020),
        crs="EPSG:32633",
        tile_size=109_800,
        anchor=(499_980, 5_200_020),
    )
    assert grid.shape == (1, 1)
    assert grid.bounds == (499_980, 5_090_220, 609_780, 5_200_020)


def test_neighbours_stop_at_the_edge() -> None:
    assert set(GRID.neighbours(Tile(0, 0))) == {Tile(0, 1), Tile(1, 0), Tile(1, 1)}
    assert len(Grid.fit((0, 0, 3, 3), crs="EPSG:5179", tile_size=1).neighbours(Tile(1, 1))) == 8


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"crs": "EPSG:4326"}, "projected CRS in metres"),
        ({"crs": "EPSG:2263"}, "projected CRS in metres"),  # feet
        ({"crs": "nonsense"}, "unknown CRS"),
        ({"bounds": (10, 0, 5, 5)}, "do not span"),
        ({"bounds": (0, 0, float("inf"), 5)}, "do not span"),
    ],
)
def test_wrong_grids_are_refused(kwargs: dict, words: str) -> None:
    with pytest.raises(GridError, match=words):
        Grid.fit(
            kwargs.get("bounds", (0, 0, 5, 5)), crs=kwargs.get("crs", "EPSG:5179"), tile_size=1600
        )


def test_a_tile_that_is_no_whole_number_of_pixels_is_refused() -> None:
    with pytest.raises(GridError, match="whole number"):
        Grid.fit((0, 0, 5, 5), crs="EPSG:5179", tile_size=1000).pixels(320.0)


@given(st.integers(0, 9999), st.integers(0, 9999))
def test_tile_names_go_round(row: int, col: int) -> None:
    assert Tile.parse(str(Tile(row, col))) == Tile(row, col)


@pytest.mark.parametrize("text", ["", "12", "r1", "rXcY", "c1r2"])
def test_wrong_tile_names_are_refused(text: str) -> None:
    with pytest.raises(GridError, match="tile's name"):
        Tile.parse(text)


def test_curve_steps_to_neighbours_only() -> None:
    rows, cols = np.indices((32, 32))
    order = curve_order(rows, cols).ravel()
    assert len(set(order.tolist())) == 1024
    along = np.argsort(order)
    steps = np.abs(np.diff(rows.ravel()[along])) + np.abs(np.diff(cols.ravel()[along]))
    assert (steps == 1).all()
