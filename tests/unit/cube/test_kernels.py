"""Radiometry, clouds and composites against numpy written straight."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cube.clouds import NO_SCL, READ_FAILED, dilate, dilation_halo, find_usable
from engine.cube.composite import (
    DISSENT,
    _network,
    count_dissent,
    explain,
    mean,
    median,
    medoid,
    reduce_days,
)
from engine.cube.radiometry import decode, encode, find_suspect
from engine.items import Asset
from engine.legend import Reason


@pytest.mark.parametrize("n", range(1, 11))
def test_the_network_sorts_every_input_of_zeros_and_ones(n: int) -> None:
    """A comparator network that sorts all 0-1 inputs sorts everything (Knuth)."""
    for bits in itertools.product((0, 1), repeat=n):
        row = list(bits)
        for low, high in _network(n):
            row[low], row[high] = min(row[low], row[high]), max(row[low], row[high])
        assert row == sorted(bits)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 18), st.integers(0, 2**31), st.floats(0, 1))
def test_median_is_numpy_s(days: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 65535, (days, 70, 9)).astype(np.uint16)
    usable = rng.random(values.shape) < share
    masked = np.where(usable, values.astype(float), np.nan)
    expected = np.zeros((70, 9))
    some = usable.any(axis=0)
    expected[some] = np.rint(np.nanmedian(masked[:, some], axis=0))
    assert (median(values, usable) == expected).all()


def test_an_even_median_rounds_half_to_even() -> None:
    values = np.array([[[1, 2, 65534]], [[2, 3, 65533]]], np.uint16)
    assert median(values, np.ones((2, 1, 3), bool)).tolist() == [[2, 2, 65534]]


def test_mean_and_medoid() -> None:
    rng = np.random.default_rng(1)
    bands = rng.integers(1, 9000, (6, 3, 5, 4)).astype(np.uint16)
    usable = rng.random((6, 5, 4)) < 0.6
    usable[:, 0, 0] = False
    by_mean, by_medoid = reduce_days("mean", bands, usable), medoid(bands, usable)
    for y, x in np.ndindex(5, 4):
        days = [t for t in range(6) if usable[t, y, x]]
        if not days:
            assert not by_mean[:, y, x].any()
            assert not by_medoid[:, y, x].any()
            continue
        points = bands[days][:, :, y, x].astype(float)
        assert (by_mean[:, y, x] == np.rint(points.mean(axis=0))).all()
        cost = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1)).sum(1)
        assert (by_medoid[:, y, x] == points[cost.argmin()]).all()
    assert (mean(bands[:, 0], usable) == by_mean[0]).all()


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 7.5), st.integers(0, 2**31))
def test_dilation_is_a_disc_between_centres(radius: float, seed: int) -> None:
    halo = int(np.floor(radius))
    mask = np.random.default_rng(seed).random((24 + 2 * halo, 17 + 2 * halo)) < 0.02
    rows, cols = np.indices(mask.shape)
    brute = np.zeros_like(mask)
    for r, c in np.argwhere(mask):
        brute |= np.hypot(rows - r, cols - c) <= radius
    core = brute[halo : halo + 24, halo : halo + 17]
    assert (dilate(mask, radius) == core).all()


def test_classes_that_may_be_used() -> None:
    scl = np.array([[*range(13), READ_FAILED, NO_SCL]], np.uint8)
    found = find_usable(scl, 10.0, 0.0)[0]
    assert [int(c) for c, ok in zip(scl[0], found, strict=True) if ok] == [2, 4, 5, 6, 7, 11, 255]
    assert not find_usable(scl, 10.0, 0.0, snow=True)[0, 11]
    assert dilation_halo(60.0, 10.0) == 6
    assert dilation_halo(60.0, 120.0) == 0


def test_only_cloud_and_shadow_are_grown() -> None:
    for value, near in [(1, True), (3, False), (8, False), (9, False), (10, False), (11, True)]:
        scl = np.full((13, 13), 4, np.uint8)
        scl[6, 6] = value
        assert bool(find_usable(np.pad(scl, 6, constant_values=4), 10.0, 60.0)[6, 0]) == near


def test_the_offset_is_applied_once() -> None:
    """One place and time as both baselines give it: the same stored number."""
    truth = np.array([1, 250, 9000], np.uint16)
    valid = np.ones(3, bool)
    old = encode(truth, 1e-4, 0.0, valid)
    new = encode(truth + np.uint16(1000), 1e-4, -0.1, valid)
    assert old.tolist() == new.tolist() == [1001, 1250, 10000]
    assert np.allclose(decode(old), truth * 1e-4)


def test_stored_numbers_keep_their_range() -> None:
    stored = encode(
        np.array([0, 5, 65535, 100], np.uint16), 1e-4, -0.1, np.array([1, 1, 1, 0], bool)
    )
    assert stored.tolist() == [1, 5, 65534, 0]
    assert np.isnan(decode(stored)[3])


@given(st.integers(0, 20000))
def test_other_scales_round_to_nearest(value: int) -> None:
    """Exactly, by fractions; halves go up."""
    stored = encode(np.array([value]), 2.75e-5, -0.2, np.array([True]))
    exact = Fraction(value * 275, 1000) - 2000 + 1000
    assert stored[0] == max(1, min(65534, math.floor(exact + Fraction(1, 2))))


def test_suspect_items() -> None:
    shifted = {"B02": Asset("x", offset=-0.1)}
    dark = np.full((50, 50), 900)
    assert find_suspect({"B02": dark}, {"B02": Asset("x")}) is None
    assert "B02 is below" in str(find_suspect({"B02": np.full((50, 50), 700)}, shifted))
    water = {"SCL": np.full((50, 50), 6), "B12": np.full((50, 50), 1100)}
    assert "over water" in str(find_suspect(water, {"B12": Asset("x")}))
    assert find_suspect(water, {"B12": Asset("x", offset=-0.1)}) is None


def test_reasons_of_empty_pixels() -> None:
    scl = np.array([[[0, 9, 254, 0, 4]], [[0, 0, 9, 0, 254]]], np.uint8)
    observations = np.array([[0, 0, 0, 0, 1]], np.uint16)
    suspect = np.array([[False, False, True, True, True]])
    assert explain(observations, scl, suspect).tolist() == [
        [Reason.NO_SCENE, Reason.ALL_CLOUD, Reason.READ_FAILED, Reason.SUSPECT, Reason.DATA]
    ]


def test_days_in_dissent_are_counted() -> None:
    rng = np.random.default_rng(2)
    values = rng.integers(1000, 3000, (5, 6, 7)).astype(np.uint16)
    usable = rng.random(values.shape) < 0.7
    composite = median(values, usable)
    found = count_dissent(values, usable, composite)
    for r, c in itertools.product(range(6), range(7)):
        days = values[usable[:, r, c], r, c].astype(int)
        assert found[r, c] == sum(abs(day - int(composite[r, c])) > DISSENT for day in days)
    assert not found[usable.sum(axis=0) < 2].any()
    many = np.full((300, 1, 1), 2000, np.uint16)
    assert count_dissent(many, np.ones((300, 1, 1), bool), np.full((1, 1), 1000, np.uint16)) == 255
