"""The made-up world: the same pixels whatever the window, and a truth that follows from them."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import shapely

from engine.synthetic.clouds import classify_scene, cloudiness
from engine.synthetic.districts import World
from engine.synthetic.light import TALLEST, Sun, reach, shade, sun_at
from engine.synthetic.materials import BANDS, COVER, Cover, Material, spectra
from engine.synthetic.scene import Overpass, see
from engine.synthetic.sensor import WIDTH, look
from engine.synthetic.surface import paint
from engine.synthetic.truth import MISFIT, survey

WORLD = World(11)
LEFT, TOP = 4_464_000, 2_933_000
DAY = Overpass(datetime(2021, 10, 1, 10, 10, tzinfo=UTC), cover=0.3)


def test_the_surface_is_the_same_however_it_is_cut() -> None:
    whole = paint(WORLD, LEFT, TOP, 700, 900)
    assert len(np.unique(whole.material)) > 6
    rng = np.random.default_rng(0)
    for _ in range(12):
        r, c = int(rng.integers(0, 600)), int(rng.integers(0, 800))
        h, w = int(rng.integers(1, 100)), int(rng.integers(1, 100))
        part = paint(WORLD, LEFT + c, TOP - r, h, w)
        for name in ("material", "height", "tone"):
            expected = getattr(whole, name)[r : r + h, c : c + w]
            np.testing.assert_array_equal(getattr(part, name), expected)
        expected = np.array(whole.cities)[whole.city[r : r + h, c : c + w]]
        np.testing.assert_array_equal(np.array(part.cities)[part.city], expected)


def test_scenes_are_the_same_however_they_are_cut() -> None:
    days = [DAY, replace(DAY, when=datetime(2021, 10, 11, 10, 10, tzinfo=UTC))]
    left, top = 700_000, 5_480_000  # zone 32
    whole = see(WORLD, 32, left, top, 64, 72, days)
    for r, c, h, w in ((0, 0, 2, 2), (10, 30, 20, 14), (62, 70, 2, 2), (6, 8, 50, 40)):
        part = see(WORLD, 32, left + 10 * c, top - 10 * r, h, w, days)
        for a, b in zip(part, whole, strict=True):
            np.testing.assert_array_equal(a.ten, b.ten[:, r : r + h, c : c + w])
            half = np.s_[r // 2 : (r + h) // 2, c // 2 : (c + w) // 2]
            np.testing.assert_array_equal(a.twenty, b.twenty[:, *half])
            np.testing.assert_array_equal(a.scl, b.scl[half])
    assert not np.array_equal(whole[0].ten, whole[1].ten)


def test_the_truth_is_the_same_however_it_is_cut() -> None:
    left, top = LEFT // 100 * 100, TOP // 100 * 100
    whole = survey(WORLD, left, top, 24, 30)
    part = survey(WORLD, left + 700, top - 500, 9, 11)
    np.testing.assert_array_equal(part.lcz, whole.lcz[5:14, 7:18])
    np.testing.assert_array_equal(part.features, whole.features[:, 5:14, 7:18])


def test_fractions_of_the_truth_are_those_of_the_pixels() -> None:
    left, top = LEFT // 100 * 100, TOP // 100 * 100
    found = survey(WORLD, left, top, 2, 2)
    square = paint(WORLD, left - 110 + 100, top + 110 - 100, 320, 320)  # of cell (1, 1)
    cover = COVER[square.material]
    for k in Cover:
        assert found.features[k, 1, 1] == pytest.approx((cover == k).mean(), abs=1e-6)
    built = cover == Cover.BUILDING
    if built.any():
        assert found.features[8, 1, 1] == pytest.approx(square.height[built].mean(), rel=1e-5)


@pytest.mark.parametrize("lcz", range(1, 18))
@pytest.mark.parametrize(("seeds", "cells"), [(2, 12), pytest.param(4, 20, marks=pytest.mark.soak)])
def test_a_district_made_of_one_zone_is_of_that_zone(lcz: int, seeds: int, cells: int) -> None:
    """Districts of all sorts, one zone each: what the definitions say of their pixels."""
    shares, fits = [], []
    for seed in range(seeds):
        world = World(100 + seed, only=lcz)
        found = survey(world, LEFT // 100 * 100, TOP // 100 * 100, cells, cells)
        shares.append((found.lcz == lcz).mean())
        fits.append((found.misfit <= MISFIT).mean())
    assert np.mean(shares) > 0.85, (lcz, shares)
    assert np.mean(fits) > 0.7, (lcz, fits)


def test_both_baselines_give_one_reflectance() -> None:
    old, new = (replace(DAY, baseline=baseline) for baseline in ("03.01", "05.00"))
    a, b = see(WORLD, 33, 300_000, 5_480_000, 32, 32, [old, new])
    np.testing.assert_array_equal(a.ten.astype(int) + 1000, b.ten)
    np.testing.assert_array_equal(a.twenty.astype(int) + 1000, b.twenty)
    np.testing.assert_array_equal(a.scl, b.scl)


def test_a_swath_ends_where_it_says() -> None:
    inside = see(WORLD, 33, 300_000, 5_480_000, 32, 32, [DAY])[0]
    assert (inside.ten > 0).all()
    x, y = 4_470_000.0, 2_930_000.0
    for bearing in (0, 90, 193):
        east = replace(DAY, edge=(x, y, bearing))
        point = np.array([[x + 5000 * math.cos(math.radians(bearing))]])
        beside = np.array([[y - 5000 * math.sin(math.radians(bearing))]])
        assert east.inside(point, beside).all()
        assert not east.inside(2 * x - point, 2 * y - beside).any()
        assert east.swath.buffer(1e-6).contains_properly(shapely.Point(point[0, 0], beside[0, 0]))


@pytest.mark.parametrize(
    ("when", "longitude", "latitude", "elevation", "azimuth"),
    [  # by hand from declination, equation of time and hour angle
        (datetime(2021, 6, 21, 12, 0, tzinfo=UTC), 0.0, 51.48, 61.95, 179.2),
        (datetime(2021, 10, 1, 10, 10, tzinfo=UTC), 12.0, 49.0, 36.6, 163.5),
        (datetime(2021, 3, 20, 12, 0, tzinfo=UTC), 0.0, 0.0, 88.1, 94.0),
    ],
)
def test_the_sun_stands_where_it_does(
    when: datetime, longitude: float, latitude: float, elevation: float, azimuth: float
) -> None:
    found = sun_at(when, longitude, latitude)
    assert found.elevation == pytest.approx(elevation, abs=0.7)
    if elevation < 80:
        assert found.azimuth == pytest.approx(azimuth, abs=1.5)


@pytest.mark.parametrize("azimuth", [165.0, 120.0, 250.0, 20.0, 300.0])
def test_a_shadow_is_as_long_as_the_sun_is_low(azimuth: float) -> None:
    sun = Sun(34.0, azimuth)
    height = np.zeros((300, 300), np.float32)
    height[140:160, 140:160] = 20.0
    dark = shade(height, 1000, 2000, sun)
    # brute force: walk from each pixel towards the sun
    rows, cols = np.mgrid[:300, :300] + 0.5
    expected = np.zeros_like(dark)
    for away in np.arange(0.25, 40, 0.25):
        r = rows - away * math.cos(math.radians(azimuth))
        c = cols + away * math.sin(math.radians(azimuth))
        i, j = np.floor(r).astype(int), np.floor(c).astype(int)
        inside = (i >= 0) & (j >= 0) & (i < 300) & (j < 300)
        there = np.where(inside, height[np.clip(i, 0, 299), np.clip(j, 0, 299)], 0)
        expected |= there > height + away * math.tan(math.radians(34)) + 0.3
    assert expected.sum() > 400
    assert (dark != expected).sum() < 0.12 * expected.sum()  # lines are digital
    assert abs(int(dark.sum()) - int(expected.sum())) < 0.06 * expected.sum()
    assert reach(sun) > TALLEST / math.tan(math.radians(34))


def test_shadows_do_not_depend_on_the_window() -> None:
    sun = Sun(34.0, 160.0)
    seen = paint(WORLD, LEFT, TOP, 900, 900)
    far = reach(sun)
    whole = shade(seen.height, LEFT, TOP, sun)
    part = shade(np.ascontiguousarray(seen.height[120:880, 60:870]), LEFT + 60, TOP - 120, sun)
    np.testing.assert_array_equal(
        part[far:-far, far:-far], whole[120 + far : 880 - far, 60 + far : 870 - far]
    )


def test_the_sensor_s_spread_is_as_wide_as_it_says() -> None:
    squares = np.zeros((61, 61, 1), np.float32)
    squares[30, 30] = 1.0
    x = np.arange(-30.0, 31.0, 1.0)[None] + 152.5
    out = np.empty((1, 1, x.shape[1]), np.float32)
    look(squares, 0.0, 305.0, x, np.full(x.shape, 152.5), np.array([0]), out)
    line = out[0, 0]
    above = x[0][line >= line.max() / 2]
    assert above[-1] - above[0] == pytest.approx(WIDTH, abs=2.0)
    flat = np.full((61, 61, 2), 0.25, np.float32)
    both = np.empty((2, 1, x.shape[1]), np.float32)
    look(flat, 0.0, 305.0, x, np.full(x.shape, 152.5), np.array([0, 1]), both)
    np.testing.assert_allclose(both, 0.25, rtol=1e-5)


def test_spectra_vary_by_city_and_little_by_day() -> None:
    first, other = spectra(1, 5, 270), spectra(1, 6, 270)
    assert first.shape == (len(Material), len(BANDS))
    assert 0.05 < np.abs(first / other - 1).mean() < 0.4
    roofs = slice(int(Material.TILE), int(Material.RUST) + 1)
    assert np.abs(spectra(1, 5, 271)[roofs] / first[roofs] - 1).max() < 0.06
    fields = int(Material.CEREAL)
    assert spectra(1, 5, 120)[fields, 6] > 1.3 * spectra(1, 5, 200)[fields, 6]  # green, then ripe


def test_the_classification_of_scenes_errs() -> None:
    y, x = np.mgrid[:400, :400] * 20.0
    sun = Sun(34.0, 160.0)
    cloud, shadow = cloudiness(3, 7, 0.3, sun, x + 4e6, y + 3e6)
    assert 0.2 < (cloud > 0.5).mean() < 0.4
    seen = np.full((4, 400, 400), 0.2, np.float32)
    scl = classify_scene(3, 7, x + 4e6, y + 3e6, cloud, shadow, seen)
    covered = np.isin(scl, (8, 9, 10))
    missed = (cloud > 0.15) & ~covered
    too_much = (cloud < 0.15) & covered
    assert 0.002 < missed.mean() < 0.1
    assert too_much.mean() < 0.05
    assert (scl == 3).any()
    none, _ = cloudiness(3, 7, 0.0, sun, x, y)
    assert not none.any()
