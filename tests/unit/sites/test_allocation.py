"""Sites shared out among regions and classes: the equations, bounds, and what is refused."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import LabelError
from engine.sites.allocation import allocate_sites, apportion, frame_of
from engine.sites.indices import Classes, Regions, Units


def world(pixels: np.ndarray, lsi: np.ndarray) -> tuple[Regions, Classes, Units]:
    """Regions of classes in units; pixels and indices are (region, class, unit), 0 for none."""
    region, code, unit = np.nonzero(pixels)
    q = pixels[region, code, unit]
    units = Units(
        row=region.astype(np.int64),
        col=unit.astype(np.int64),
        region=region.astype(np.int64),
        code=code.astype(np.int64),
        pixels=q,
        area=q * 100.0,
        edges=4 * q,
        lsi=lsi[region, code, unit],
    )
    i, k = np.nonzero(pixels.sum(axis=2))
    all_ = pixels.sum(axis=2)[i, k]
    share = all_ / pixels.sum(axis=(1, 2))[i]
    index = 1 + 0.1 * np.arange(len(i))
    classes = Classes(i, k, all_, all_ * 100.0, 4 * all_, index, share)
    whole = pixels.sum(axis=(1, 2))
    regions = Regions(
        np.arange(len(whole)), whole, whole * 100.0, 4 * whole, 2 + np.arange(len(whole)) / 2
    )
    return regions, classes, units


@pytest.fixture
def land() -> tuple[Regions, Classes, Units]:
    """Three regions of four classes in thirty units each."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(1, 400, (3, 4, 30))
    pixels[0, 3] = 0  # a class that a region lacks
    pixels[1, 2, 1:] = 0  # one that lies in a single unit
    pixels[1, 2, 0] = 3
    return world(pixels, 1 + 3 * rng.random(pixels.shape))


def test_the_example_of_the_specification() -> None:
    # rLSI 2 and 4, areas 100 and 50, 10 sites: 5 each
    bounds = np.zeros(2, np.int64), np.full(2, 10)
    assert apportion(10, np.array([2.0, 4.0]) * [100, 50], *bounds).tolist() == [5, 5]


def test_without_bounds_the_equations_are_written_straight(
    land: tuple[Regions, Classes, Units],
) -> None:
    regions, classes, units = land
    found = allocate_sites(
        regions, frame_of(units, classes), 57, least=0, least_of_class=0, per_unit=400
    )
    of_regions = 57 * regions.lsi * regions.area / (regions.lsi * regions.area).sum()
    whole = largest_remainder(of_regions, 57)
    for i, n in enumerate(whole):
        here = classes.region == i
        weights = classes.lsi[here] * classes.share[here]
        assert found.sites[here].tolist() == largest_remainder(n * weights / weights.sum(), n)
    assert found.sites.tolist() == found.equations.tolist()


def largest_remainder(real: np.ndarray, total: int) -> list[int]:
    whole = [int(value) for value in real]
    order = sorted(range(len(whole)), key=lambda k: (-(real[k] - whole[k]), k))
    for k in order[: total - sum(whole)]:
        whole[k] += 1
    return whole


def test_each_stratum_and_each_class_has_its_least(land: tuple[Regions, Classes, Units]) -> None:
    regions, classes, units = land
    found = allocate_sites(regions, frame_of(units, classes), 60, least=3, least_of_class=14)
    assert found.sites.sum() == found.equations.sum() == 60
    assert (found.sites >= 3).all()
    for code in range(4):
        # class 2 of region 1 has one unit: 3 sites in it, and no more
        assert found.sites[classes.code == code].sum() >= 14
    lonely = (classes.region == 1) & (classes.code == 2)
    assert found.sites[lonely].tolist() == found.most[lonely].tolist() == [3]


def test_a_stratum_gets_no_more_than_it_has_room_for(land: tuple[Regions, Classes, Units]) -> None:
    regions, classes, units = land
    frame = frame_of(units, classes)
    room = int(np.bincount(frame.stratum).sum()) + 1  # a unit each; two in the lonely one
    found = allocate_sites(regions, frame, room)
    assert found.sites.tolist() == found.most.tolist()
    with pytest.raises(LabelError, match="more sites than there is room for") as told:
        allocate_sites(regions, frame, room + 1)
    assert f"{room} or fewer" in str(told.value)


def test_units_with_few_pixels_are_left_out_and_counted(
    land: tuple[Regions, Classes, Units],
) -> None:
    regions, classes, units = land
    frame = frame_of(units, classes, 10)
    assert frame.units.pixels.min() >= 10
    assert frame.left_out.sum() + frame.units.pixels.sum() == units.pixels.sum()
    lonely = (classes.region == 1) & (classes.code == 2)
    assert frame.left_out[lonely].tolist() == [3]
    found = allocate_sites(regions, frame, 60)
    assert found.sites[lonely].tolist() == [0]
    assert found.equations.sum() == found.sites.sum() == 60


def test_what_is_there_stays(land: tuple[Regions, Classes, Units]) -> None:
    regions, classes, units = land
    frame = frame_of(units, classes)
    had = np.zeros(len(classes.code), np.int64)
    had[0] = 25
    found = allocate_sites(regions, frame, 60, had=had)
    assert found.sites[0] == 25
    assert found.sites.sum() == 60


def test_regions_of_unlike_sizes_can_be_made_comparable() -> None:
    # the same texture, one region four times as large: LSI is twice as large there
    pixels = np.full((2, 1, 40), 100)
    pixels[1] = 400
    regions, classes, units = world(pixels, np.full(pixels.shape, 2.0))
    regions = Regions(
        regions.region, regions.pixels, regions.area, regions.edges, np.array([2.0, 4.0])
    )
    frame = frame_of(units, classes)
    assert allocate_sites(regions, frame, 45).sites.tolist() == [5, 40]
    assert allocate_sites(regions, frame, 45, even=True).sites.tolist() == [9, 36]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"n": 21}, "too few sites for the least of each class of a region"),
        ({"n": 30, "least_of_class": 10}, "too few sites for the least of each class"),
        ({"n": 0}, "n must be 1 or more"),
        ({"n": 60, "least": -1}, "least must be 0 or more"),
        ({"n": 60, "per_unit": 0}, "per_unit must be 1 or more"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(
    land: tuple[Regions, Classes, Units], settings: dict[str, int], match: str
) -> None:
    regions, classes, units = land
    with pytest.raises(LabelError, match=match):
        allocate_sites(regions, frame_of(units, classes), **settings)  # type: ignore[arg-type]


@given(st.data())
def test_what_is_shared_out_is_nearest_to_proportional(data: st.DataObject) -> None:
    k = data.draw(st.integers(1, 4))
    lower = np.array(data.draw(st.lists(st.integers(0, 2), min_size=k, max_size=k)))
    upper = lower + np.array(data.draw(st.lists(st.integers(0, 4), min_size=k, max_size=k)))
    weights = np.array(data.draw(st.lists(st.integers(0, 5), min_size=k, max_size=k)), np.float64)
    total = data.draw(st.integers(int(lower.sum()), int(upper.sum())))
    found = apportion(total, weights, lower, upper)
    assert found.sum() == total
    assert ((found >= lower) & (found <= upper)).all()
    if (weights > 0).all():
        # clipped shares minimise sum of (x - share)^2 / weight; so do they, rounded, but for one
        f = _factor_by_bisection(total, weights, lower, upper)
        assert (np.abs(found - np.clip(f * weights, lower, upper)) < 1 + 1e-6).all()


def _factor_by_bisection(
    total: int, weights: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> float:
    low, high = 0.0, 1e3
    for _ in range(200):
        middle = (low + high) / 2
        if np.clip(middle * weights, lower, upper).sum() < total:
            low = middle
        else:
            high = middle
    return high


def test_ties_go_to_the_first() -> None:
    for k, total in product((3, 7), (1, 2)):
        found = apportion(total, np.full(k, 0.1), np.zeros(k, np.int64), np.full(k, 9))
        assert found.tolist() == [1] * total + [0] * (k - total)
