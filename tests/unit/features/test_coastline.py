"""The sea: land lies on the left of a coastline, and the border of an extract closes it."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from engine.features.coastline import Coast, Sea, sea_of

EXTENT = shapely.box(0, 0, 1, 1)


def coast(
    way: int,
    *points: tuple[float, float],
    nodes: tuple[int, int] | None = None,
    cut: tuple[bool, bool] = (False, False),
) -> Coast:
    own = nodes or (way * 100, way * 100 + 1)
    return Coast(way, own, np.array(points, float), cut)


def ring(way: int, shape: shapely.Polygon, *, land: bool = True) -> Coast:
    """A closed coast about land, or about water."""
    xy = shapely.get_coordinates(shape.exterior)
    if shape.exterior.is_ccw != land:
        xy = xy[::-1]
    return Coast(way, (way, way), xy)


def water(found: Sea) -> shapely.Geometry:
    return shapely.union_all(found.water)


def same(found: Sea, expected: shapely.Geometry) -> bool:
    return bool(shapely.symmetric_difference(water(found), expected).area < 1e-9)


def test_land_is_left_of_a_coast_from_border_to_border() -> None:
    north = sea_of([coast(1, (-0.1, 0.4), (1.1, 0.4))], EXTENT)
    assert same(north, shapely.box(0, 0, 1, 0.4))
    south = sea_of([coast(1, (1.1, 0.4), (-0.1, 0.4))], EXTENT)
    assert same(south, shapely.box(0, 0.4, 1, 1))
    assert north.lines == 1
    assert north.islands == north.extended == 0
    assert not north.unclosed + north.backward


def test_ways_are_joined_by_their_nodes_in_any_order() -> None:
    parts = [
        coast(7, (0.7, 0.5), (1.0, 0.5), nodes=(3, 4)),
        coast(5, (0.0, 0.5), (0.2, 0.6), nodes=(1, 2)),
        coast(6, (0.2, 0.6), (0.7, 0.5), nodes=(2, 3)),
    ]
    found = sea_of(parts, EXTENT)
    assert found.lines == 1
    assert water(found).area == pytest.approx(0.5 + 0.1 * 0.7 / 2)
    assert same(sea_of([*parts, parts[0]], EXTENT), water(found))  # the same way twice


def test_an_island_is_land_and_an_inland_sea_is_water() -> None:
    shape = shapely.Point(0.5, 0.5).buffer(0.2)
    island = sea_of([ring(1, shape)], EXTENT)
    assert same(island, EXTENT.difference(shape))
    assert island.islands == 1
    assert same(sea_of([ring(1, shape, land=False)], EXTENT), shape)


def test_an_island_of_two_ways_is_a_ring() -> None:
    one = coast(1, (0.4, 0.4), (0.6, 0.4), (0.6, 0.6), nodes=(1, 2))
    two = coast(2, (0.6, 0.6), (0.4, 0.6), (0.4, 0.4), nodes=(2, 1))
    found = sea_of([one, two], EXTENT)
    assert found.islands == 1
    assert same(found, EXTENT.difference(shapely.box(0.4, 0.4, 0.6, 0.6)))


def test_an_island_at_the_border_is_cut_by_it() -> None:
    shape = shapely.box(0.8, 0.3, 1.4, 0.6)
    assert same(sea_of([ring(1, shape)], EXTENT), EXTENT.difference(shape))


def test_a_coast_that_leaves_and_comes_back_closes_each_bay() -> None:
    points = [(-0.1, 0.2), (0.3, 0.2), (0.3, -0.2), (0.6, -0.2), (0.6, 0.5), (1.2, 0.5)]
    found = sea_of([coast(1, *points)], EXTENT)
    expected = shapely.union(shapely.box(0, 0, 0.3, 0.2), shapely.box(0.6, 0, 1, 0.5))
    assert same(found, expected)


def test_an_end_whose_next_node_is_missing_is_drawn_on_to_the_border() -> None:
    near = coast(1, (0.005, 0.4), (0.99, 0.4), cut=(True, True))
    found = sea_of([near], EXTENT)
    assert same(found, shapely.box(0, 0, 1, 0.4))
    assert found.extended == 2
    assert found.farthest == pytest.approx(0.01)


@pytest.mark.parametrize(
    "broken",
    [
        coast(9, (-0.1, 0.4), (0.5, 0.4)),  # it ends at a node beyond which there is nothing
        coast(9, (-0.1, 0.4), (0.5, 0.4), cut=(False, True)),  # and far from the border
    ],
)
def test_what_is_not_closed_is_told_and_its_ground_is_not_known(broken: Coast) -> None:
    found = sea_of([broken], EXTENT)
    assert found.unclosed == (9,)
    assert not found.water
    assert shapely.union_all(found.unknown).area == pytest.approx(1)


def test_a_gap_in_a_coast_leaves_the_islands_known() -> None:
    far = shapely.box(2, 0, 3, 1)
    extent = shapely.union(EXTENT, far)
    gap = [coast(1, (-0.1, 0.4), (0.4, 0.4)), coast(2, (0.6, 0.4), (1.1, 0.4))]
    island = shapely.box(2.4, 0.4, 2.6, 0.6)
    found = sea_of([*gap, ring(3, island)], extent)
    assert found.unclosed == (1, 2)
    assert same(found, far.difference(island))
    assert shapely.union_all(found.unknown).equals(EXTENT)


def test_a_backward_rock_is_told_and_does_not_drain_the_sea() -> None:
    line = coast(1, (-0.1, 0.5), (1.1, 0.5))
    rock = shapely.box(0.5, 0.2, 0.51, 0.21)
    found = sea_of([line, ring(8, rock, land=False)], EXTENT)
    assert found.backward == (8,)
    assert water(found).area == pytest.approx(0.5, abs=2e-4)


def test_coasts_that_disagree_leave_the_ground_between_them_unknown() -> None:
    lines = [coast(1, (-0.1, 0.3), (1.1, 0.3)), coast(2, (-0.1, 0.6), (1.1, 0.6))]
    found = sea_of(lines, EXTENT)
    assert same(found, shapely.box(0, 0, 1, 0.3))
    assert shapely.union_all(found.unknown).equals(shapely.box(0, 0.3, 1, 0.6))


def test_without_a_coast_within_there_is_no_sea() -> None:
    assert sea_of([], EXTENT) == Sea()
    assert not sea_of([coast(1, (2, 2), (3, 3))], EXTENT).water
    assert not sea_of([coast(1, (0.5, 0.5))], EXTENT).water  # one node


@pytest.mark.parametrize("seed", range(12))
def test_the_sea_of_a_made_up_archipelago(seed: int) -> None:
    """Land drawn by chance; its outlines cut into ways, shuffled: what is left is the sea."""
    rng = np.random.default_rng(seed)
    land = shapely.union_all(
        [
            shapely.Point(rng.uniform(-0.2, 1.2, 2)).buffer(rng.uniform(0.02, 0.3), quad_segs=4)
            for _ in range(25)
        ]
    )
    coasts, node = [], 0
    for polygon in shapely.get_parts(land):
        for k, outline in enumerate([polygon.exterior, *polygon.interiors]):
            xy = shapely.get_coordinates(outline)
            if outline.is_ccw == (k > 0):  # land on the left, of lakes as of islands
                xy = xy[::-1]
            cuts = np.sort(rng.choice(np.arange(1, len(xy) - 1), min(3, len(xy) - 2), False))
            first, start = node, 0
            for end in [*cuts.tolist(), len(xy) - 1]:
                last = first if end == len(xy) - 1 else node + 1
                part = xy[start : end + 1]
                coasts.append(Coast(len(coasts) + 1, (node, last), part))
                node, start = node + 1, end
    rng.shuffle(coasts)
    found = sea_of(coasts, EXTENT)
    assert same(found, EXTENT.difference(land))
    assert not found.unknown
    assert not found.unclosed + found.backward
