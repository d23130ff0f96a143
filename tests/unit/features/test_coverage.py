"""Shares of pixels: exact, and the same in every window."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from odc.geo.geobox import GeoBox

from engine.errors import GridError
from engine.features.coverage import Layers, coverage, in_blocks

BOX = (0.0, 0.0, 100.0, 100.0)


def shapes(seed: int) -> list[shapely.Geometry]:
    """Circles and squares that overlap, some with holes, some on the lines between pixels."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(rng.integers(1, 6)):
        centre = shapely.Point(rng.uniform(0, 100, 2))
        shape = centre.buffer(rng.uniform(1, 60), quad_segs=int(rng.integers(1, 8)))
        if rng.random() < 0.5:
            shape = shape.difference(centre.buffer(rng.uniform(0.5, 20)))
        if shape.is_empty:
            continue
        if rng.random() < 0.3:
            shape = shapely.box(*(np.rint(np.array(shape.bounds) / 5) * 5))
        found.append(shape)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_shares_are_those_of_polygons_cut_by_pixels(seed: int) -> None:
    some = shapes(seed)
    found = coverage(Layers([some]).within(BOX)[0], BOX, 20)
    together = shapely.union_all(some)
    left, top = np.meshgrid(np.arange(20) * 5.0, 100 - np.arange(20) * 5.0)
    pixels = shapely.box(left, top - 5, left + 5, top)
    np.testing.assert_allclose(
        found, shapely.area(shapely.intersection(together, pixels)) / 25, atol=1e-6
    )
    inside, outside = shapely.covers(together, pixels), ~shapely.intersects(together, pixels)
    assert (found[inside] == 1).all()
    assert (found[outside] == 0).all()


def test_what_lies_twice_counts_once_and_classes_stay_apart() -> None:
    square = shapely.box(10, 10, 30, 30)
    one, two = Layers([[square, square, shapely.box(20, 10, 40, 30)], [square]]).within(BOX)
    assert coverage(one, BOX, 20).sum() * 25 == pytest.approx(600)
    assert coverage(two, BOX, 20).sum() * 25 == pytest.approx(400)


def test_polygons_of_very_many_points_are_cut_and_stay_whole() -> None:
    ring = shapely.Point(50, 50).buffer(40, quad_segs=5000).difference(shapely.box(45, 45, 55, 55))
    layers = Layers([[ring]])
    assert len(layers._parts[0]) > 8
    assert layers.within(BOX)[0].area == pytest.approx(ring.area, rel=1e-9)


@pytest.mark.parametrize(("side", "cut"), [(10.0, 37), (10.0, 160), (3.0, 90), (320.0, 3)])
def test_a_window_has_the_bytes_of_the_whole(side: float, cut: int) -> None:
    rng = np.random.default_rng(5)
    anchor = (7.0, -3.0)
    places = rng.uniform(-3000, 3000, (90, 2))
    layers = Layers([[shapely.Point(p).buffer(rng.uniform(5, 300)) for p in places]])

    def read(row: int, col: int, height: int, width: int) -> np.ndarray:
        west, north = anchor[0] + col * side, anchor[1] - row * side
        box = GeoBox.from_bbox(
            (west, north - height * side, west + width * side, north),
            "EPSG:32635",
            resolution=side,
            tight=True,
        )
        return in_blocks(box, anchor, lambda b, n: coverage(layers.within(b)[0], b, n)[None])[0]

    rows, cols = 3 * cut + 2, 2 * cut + 1
    whole = read(-cut, -cut - 1, rows, cols)
    assert 0 < whole.mean() < 1
    parts = np.full_like(whole, np.nan)
    for row in range(0, rows, cut):
        for col in range(0, cols, cut):
            height, width = min(cut, rows - row), min(cut, cols - col)
            part = read(row - cut, col - cut - 1, height, width)
            parts[row : row + height, col : col + width] = part
    assert parts.tobytes() == whole.tobytes()


def test_a_window_off_the_lattice_is_refused() -> None:
    box = GeoBox.from_bbox((4.0, 0.0, 104.0, 100.0), "EPSG:32635", resolution=10, tight=True)
    with pytest.raises(GridError, match="lattice"):
        in_blocks(box, (0.0, 0.0), lambda b, n: np.zeros((1, n, n)))
