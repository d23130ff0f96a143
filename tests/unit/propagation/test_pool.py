"""The pool's scale: exact in any order, and without a trace of a source that is missing."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from engine.errors import LabelError
from engine.propagation.pool import (
    FLOOR,
    moment_columns,
    moments,
    remove_means,
    standard_of,
    whiten,
)
from engine.runs.tables import add, formed


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    cuts=st.lists(st.integers(0, 300), max_size=6),
    scale=st.sampled_from([1e-5, 1.0, 1e4]),
)
def test_moments_are_the_same_in_any_order_and_those_of_numpy(
    seed: int, cuts: list[int], scale: float
) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((300, 4)) * scale + 3 * scale).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    whole = moments(x)
    parts = [moments(part) for part in np.split(x[rng.permutation(300)], sorted(cuts))]
    merged = reduce(add, [parts[i] for i in rng.permutation(len(parts))])
    formed(merged, moment_columns(4), "merged table")
    assert all((merged[name] == whole[name]).all() for name in whole)
    standard = standard_of(whole)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(standard.middle, np.nanmean(wide, 0), rtol=1e-9, atol=2.0**-33)
    np.testing.assert_allclose(
        standard.spread, np.maximum(np.nanstd(wide, 0), FLOOR), rtol=1e-7, atol=2.0**-33
    )


def test_the_pool_is_brought_to_mean_0_and_spread_1() -> None:
    x = (np.random.default_rng(0).random((500, 6)) * 7 + 30).astype(np.float32)
    found = standard_of(moments(x)).apply(x)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(0), 1, rtol=1e-5)


def test_a_missing_source_is_as_one_that_was_dropped() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((200, 5)).astype(np.float32)
    lacking = np.insert(x, [2, 2, 5], np.nan, axis=1)
    one, other = standard_of(moments(x)), standard_of(moments(lacking))
    assert one.apply(x).tobytes() == other.apply(lacking).tobytes()
    # what has the source later all the same is not judged by it
    lacking[:, 2] = 9.0
    assert one.apply(x).tobytes() == other.apply(lacking).tobytes()


def test_a_source_that_some_cells_lack_has_one_mask_and_its_mean() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((400, 4)).astype(np.float32)
    lacks = rng.random(400) < 0.25
    x[lacks, 2:] = np.nan
    found = standard_of(moments(x), sources=[0, 0, 1, 1]).apply(x)
    assert found.shape == (400, 5)
    assert (found[lacks, 2:4] == 0).all()
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(found[:, 4].std(), 1, rtol=1e-5)
    assert (found[lacks, 4] > 0).all()
    assert (found[~lacks, 4] < 0).all()


def test_a_column_of_nearly_one_value_is_not_blown_up() -> None:
    x = np.random.default_rng(3).standard_normal((100, 2)).astype(np.float32)
    x[:, 1] = 5e-9 * np.sign(x[:, 1])
    found = standard_of(moments(x)).apply(x)
    assert np.abs(found[:, 1]).max() < 0.01


def test_whitening_equals_scikit_learn() -> None:
    rng = np.random.default_rng(4)
    x = (rng.standard_normal((500, 3)) @ rng.standard_normal((3, 20))).astype(np.float32)
    x += rng.standard_normal(x.shape).astype(np.float32) * 0.1
    standard = standard_of(moments(x))
    found = whiten(standard, x, 6).apply(x)
    scaled = standard.apply(x).astype(np.float64)
    witness = PCA(6, whiten=True, svd_solver="full").fit_transform(scaled)
    witness *= np.sqrt(500 / 499)  # its variance is the sample's, ours the population's
    np.testing.assert_allclose(np.abs(found), np.abs(witness), atol=1e-4)
    assert whiten(standard, x, 64).apply(x).shape == (500, 20)


def test_whitening_leaves_out_what_does_not_vary() -> None:
    x = np.random.default_rng(5).standard_normal((300, 2)).astype(np.float32)
    x = np.column_stack([x, x[:, :1]])
    assert whiten(standard_of(moments(x)), x).apply(x).shape == (300, 2)


def test_cities_lose_their_means() -> None:
    rng = np.random.default_rng(6)
    city = rng.integers(0, 3, 300)
    x = (rng.standard_normal((300, 4)) + city[:, None] * 10).astype(np.float32)
    tables = {name: moments(x[city == name]) for name in range(3)}
    found = remove_means(x, city, tables)
    for name in range(3):
        np.testing.assert_allclose(found[city == name].mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(found[city == name].std(0), x[city == name].std(0), rtol=1e-5)
    with pytest.raises(LabelError, match="no moments"):
        remove_means(x, city, {0: tables[0]})


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (np.zeros((0, 3)), "no cells"),
        (np.ones((9, 3)), "same features"),
        (np.full((9, 3), np.nan), "same features"),
        (np.full((9, 3), np.inf), "not finite"),
        (np.full((9, 3), 1e9), "too large"),
        (np.zeros(9), "not a table"),
    ],
)
def test_pools_that_cannot_be_used_are_refused(features: np.ndarray, said: str) -> None:
    with pytest.raises(LabelError, match=said):
        standard_of(moments(features))
