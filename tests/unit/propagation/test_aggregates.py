"""Features of cells equal numpy's, to the bit the same for any tiling and order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import LabelError
from engine.propagation.aggregates import CellSums, aggregate


def straight(pixels: np.ndarray, good: np.ndarray, side: int) -> np.ndarray:
    """Mean, standard deviation, maximum of each cell, cell by cell with numpy in float64."""
    channels, height, width = pixels.shape
    found = np.full((height // side, width // side, 3 * channels), np.nan)
    for row, col in np.ndindex(found.shape[:2]):
        part = np.s_[row * side : (row + 1) * side, col * side : (col + 1) * side]
        values = pixels[:, *part][:, good[part]].astype(np.float64)
        if values.shape[1] >= 0.9 * side**2:
            found[row, col] = np.concatenate([values.mean(1), values.std(1), values.max(1)])
    return found


@pytest.mark.parametrize(("offset", "spread"), [(0, 1), (30, 0.01), (-3000, 200), (0.1, 1e-4)])
def test_features_equal_numpy(offset: float, spread: float) -> None:
    rng = np.random.default_rng(0)
    pixels = (rng.standard_normal((5, 96, 128)) * spread + offset).astype(np.float32)
    good = rng.random((96, 128)) > 0.1
    found = aggregate(pixels, good)
    expected = straight(pixels, good, 32)
    assert (found.kept == np.isfinite(expected[..., 0])).all()
    assert 0 < found.kept.sum() < found.kept.size
    assert found.skipped == (~found.kept).sum()
    assert found.empty == 0
    # numbers are taken in steps of 2^-33
    np.testing.assert_allclose(found.values, expected, rtol=3e-7, atol=2.0**-33)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.lists(st.integers(1, 95), max_size=4, unique=True),
    cols=st.lists(st.integers(1, 63), max_size=4, unique=True),
    scale=st.sampled_from([1e-6, 1.0, 3e4]),
)
def test_any_tiling_and_order_give_the_same_bits(
    seed: int, rows: list[int], cols: list[int], scale: float
) -> None:
    rng = np.random.default_rng(seed)
    pixels = (rng.standard_normal((3, 96, 64)) * scale).astype(np.float32)
    good = rng.random((96, 64)) > 0.08
    whole = aggregate(pixels, good)
    ys = [0, *sorted(rows), 96]
    xs = [0, *sorted(cols), 64]
    pieces = [(a, b, c, d) for a, b in pairwise(ys) for c, d in pairwise(xs)]
    one, other = CellSums.none(3, 2, 3), CellSums.none(3, 2, 3)
    for place in rng.permutation(len(pieces)):
        top, bottom, left, right = pieces[place]
        part = np.s_[top:bottom, left:right]
        (one if rng.random() < 0.5 else other).add(
            np.moveaxis(pixels[:, *part], 0, -1), good[part], top=top, left=left, axes="yxc"
        )
    for merged in (one.merge(other), other.merge(one)):
        found = merged.finish()
        assert found.values.tobytes() == whole.values.tobytes()
        assert (found.skipped, found.empty) == (whole.skipped, whole.empty)


def test_a_constant_cell_has_no_spread() -> None:
    for value in (0.1, 30.123, -65504.0, 2.0**-24):
        found = aggregate(np.full((1, 32, 32), value, np.float32)).values[0, 0]
        assert found[1] == 0
        assert abs(found[0] - np.float32(value)) <= 2.0**-33


def test_nine_tenths_of_the_pixels_are_enough() -> None:
    pixels, good = np.ones((1, 20, 30), np.float32), np.ones((20, 30), bool)
    good[:10, :1] = False  # 10 of 100 of the first cell
    good[:10, 10:11] = False
    good[0, 19] = False  # 11 of the second
    good[:10, 20:] = False  # all of the third
    found = aggregate(pixels, good, side=10)
    assert found.kept.tolist() == [[True, False, False], [True] * 3]
    assert (found.skipped, found.empty) == (1, 1)


def test_a_pixel_with_a_channel_that_is_not_finite_does_not_count() -> None:
    pixels = np.random.default_rng(0).random((2, 32, 32)).astype(np.float16)
    pixels[0, 3, 4], pixels[1, 5, 6] = np.nan, np.inf
    good = np.isfinite(pixels).all(0)
    np.testing.assert_allclose(
        aggregate(pixels).values, straight(pixels, good, 32), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize(
    ("pixels", "valid", "said"),
    [
        (np.zeros((2, 33, 32)), None, "whole cells"),
        (np.zeros((32, 32)), None, "no embedding"),
        (np.zeros((2, 32, 32)), np.ones((32, 31), bool), "different shapes"),
        (np.full((2, 32, 32), 2.8e32, np.float32), None, "beyond all measure"),
        (np.full((2, 32, 32), "x"), None, "no embedding"),
    ],
)
def test_pixels_that_cannot_be_used_are_refused(
    pixels: np.ndarray, valid: np.ndarray | None, said: str
) -> None:
    with pytest.raises((LabelError, TypeError), match=said):
        aggregate(pixels, valid)


def test_pieces_beyond_the_window_are_refused() -> None:
    sums = CellSums.none(1, 1, 2)
    with pytest.raises(LabelError, match="beyond the cells"):
        sums.add(np.zeros((2, 32, 32)), top=1)
    with pytest.raises(LabelError, match="different windows"):
        sums.merge(CellSums.none(1, 2, 2))
    with pytest.raises(LabelError, match="such share"):
        sums.finish(0.0)
    with pytest.raises(LabelError, match="no such cells"):
        CellSums.none(1, 1, 1, side=65)
