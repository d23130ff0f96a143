"""A footprint is the same place however it is written about 180 degrees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

from engine.grid.antimeridian import fold
from engine.grid.area import Area


def turned(geometry: BaseGeometry, move: Callable[[np.ndarray], np.ndarray]) -> BaseGeometry:
    return shapely.transform(geometry, lambda xy: np.column_stack([move(xy[:, 0]), xy[:, 1]]))


def cut(geometry: BaseGeometry) -> BaseGeometry:
    """By hand: what lies in each turn of the Earth, moved into the first."""

    def part(turn: int) -> BaseGeometry:
        inside = geometry.intersection(shapely.box(turn - 180, -90, turn + 180, 90))
        return turned(inside, lambda x: x - turn)

    return shapely.union_all([part(turn) for turn in (-360, 0, 360)])


@settings(deadline=None)
@given(
    west=st.floats(-179.9, 179.9),
    width=st.floats(0.1, 20),
    south=st.floats(-80, 79),
    written=st.sampled_from(["on", "back", "jump", "cut"]),
)
def test_every_way_to_write_it_is_one_place(
    west: float, width: float, south: float, written: str
) -> None:
    plain = shapely.box(west, south, west + width, south + 1)
    ways = {
        "on": plain,
        "back": turned(plain, lambda x: x - 360),
        "jump": turned(plain, lambda x: (x + 180) % 360 - 180),
        "cut": cut(plain),
    }
    found, wanted = fold(ways[written]), cut(plain)
    assert found.geometry.symmetric_difference(wanted).area < 1e-6
    left, _, right, _ = found.geometry.bounds
    assert -180 <= left <= right <= 180
    # one more turn, or one less, is the same longitude
    for value, true in ((found.bounds[0], west), (found.bounds[2], west + width)):
        assert -180 <= value <= 180
        assert abs((value - true + 180) % 360 - 180) < 1e-9
    centre = west + width / 2
    assert abs((found.centre - centre + 180) % 360 - 180) < 1e-6
    assert found.crosses == (west + width > 180)


@pytest.mark.parametrize("bounds", [(-180, -90, 180, 90), (-179, -60, 179, 60), (0, -80, 360, 80)])
def test_what_goes_round_the_earth_stays_so(bounds: tuple[float, ...]) -> None:
    whole = shapely.segmentize(shapely.box(*bounds), 5.0)
    found = fold(whole)
    assert found.geometry.area == pytest.approx(whole.area)
    assert not found.crosses


@pytest.mark.parametrize(("crs", "pole"), [("EPSG:3031", -90.0), ("EPSG:3995", 90.0)])
@pytest.mark.parametrize(
    "shape",
    [
        shapely.Point(0, 0).buffer(500e3),
        shapely.Point(2e5, 1e5).buffer(500e3),
        shapely.box(-4e5, -3e5, 5e5, 6e5),
        shapely.box(-3e5, 0, 5e5, 6e5),  # the pole lies on its edge
        shapely.Point(0, 0).buffer(9e5).difference(shapely.Point(0, 0).buffer(3e5)),
        shapely.union_all([shapely.Point(0, 0).buffer(2e5), shapely.Point(1e6, 1e6).buffer(1e5)]),
    ],
)
def test_an_area_about_a_pole_is_what_lies_in_it(shape: Any, crs: str, pole: float) -> None:
    """Point by point, as PROJ moves them."""
    found = Area(shape, crs).geographic
    xy = np.random.default_rng(1).uniform(-1.2e6, 1.2e6, (3000, 2))
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(*xy.T)
    near = shapely.distance(shapely.points(xy), shape.boundary) < 2e3
    np.testing.assert_array_equal(
        shapely.contains_xy(found, lon, lat)[~near], shapely.contains_xy(shape, xy)[~near]
    )
    if shape.buffer(-1).contains(shapely.Point(0, 0)):
        assert np.abs(np.array(found.bounds) - pole).min() < 1e-6
