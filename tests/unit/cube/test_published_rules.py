"""What stored codes mean, against the documented formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.embeddings import square_root

from engine.cube.published.rules import (
    ALPHAEARTH,
    NODATA,
    PER_PIXEL,
    TESSERA,
    VALID,
    WATER,
    Linear,
    PerPixel,
)


def test_tessera_tells_water_from_no_data_and_from_absurd_scales() -> None:
    scales = np.array([[0.05, np.nan, np.inf], [2.8e32, 5.0, 0.0], [-0.1, -np.inf, 1.0]], "f4")
    codes = np.full((3, 3, 3), 100, np.int8)
    vectors, state = TESSERA(codes, scales)
    assert state.tolist() == [
        [VALID, WATER, NODATA],
        [NODATA, NODATA, VALID],
        [NODATA, NODATA, VALID],
    ]
    np.testing.assert_array_equal(vectors[:, 0, 0], np.float32(100) * np.float32(0.05))
    assert (np.isnan(vectors) == (state != VALID)).all()


def test_scales_of_each_channel_multiply_it() -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(-127, 128, (4, 2, 3)).astype(np.int8)
    scales = rng.uniform(0.01, 0.1, (4, 2, 3)).astype(np.float32)
    scales[:, 0, 0] = np.nan
    scales[2, 0, 1] = np.nan
    scales[1, 1, 1] = np.inf
    vectors, state = TESSERA(codes, scales)
    assert state.tolist() == [[WATER, NODATA, VALID], [VALID, NODATA, VALID]]
    good = state == VALID
    np.testing.assert_array_equal(vectors[:, good], (codes.astype("f4") * scales)[:, good])


def test_alphaearth_decodes_every_code() -> None:
    codes = np.arange(-128, 128, dtype=np.int16).astype(np.int8)[None, None]
    vectors, state = ALPHAEARTH(codes, None)
    exact = np.sign(codes) * (codes.astype(np.float64) / 127.5) ** 2
    np.testing.assert_allclose(vectors[0, 0, 1:], exact[0, 0, 1:], rtol=3e-7)
    assert vectors[0, 0, 255] == pytest.approx(0.99217, abs=1e-5)
    assert vectors[0, 0, 128] == 0
    assert state.tolist() == [[NODATA, *[VALID] * 255]]
    np.testing.assert_array_equal(square_root(vectors[..., 1:]), codes[..., 1:])


def test_alphaearth_has_no_vector_without_one_of_its_components() -> None:
    codes = np.ones((64, 1, 3), np.int8)
    codes[:, 0, 1] = -128
    codes[5, 0, 2] = -128
    vectors, state = ALPHAEARTH(codes, None)
    assert state.tolist() == [[VALID, NODATA, NODATA]]
    assert np.isnan(vectors[:, 0, 1:]).all()


@settings(max_examples=50, deadline=None)
@given(st.floats(width=32), st.integers(-128, 127), st.booleans())
def test_whatever_the_scale_a_vector_is_finite_or_none(
    scale: float, code: int, water: bool
) -> None:
    rule = PerPixel(water=water) if water else PER_PIXEL
    vectors, state = rule(np.full((2, 1, 1), code, np.int8), np.full((1, 1), scale, np.float32))
    if state[0, 0] == VALID:
        assert np.isfinite(vectors).all()
        assert (vectors == np.float32(code) * np.float32(scale)).all()
    else:
        assert np.isnan(vectors).all()
        assert (state[0, 0] == WATER) == (water and np.isnan(scale))


def test_one_scale_for_all_and_floats_that_are_none() -> None:
    codes = np.array([[[3, 0, -7]], [[1, 0, 2]]], np.int8)
    vectors, state = Linear(0.5, 1.0, nodata=0)(codes, None)
    assert state.tolist() == [[VALID, NODATA, VALID]]
    assert vectors[:, 0, 2].tolist() == [-2.5, 2.0]
    floats = np.array([[[1.5, np.nan, 2.0]], [[2.5, 1.0, np.inf]]], np.float16)
    vectors, state = Linear()(floats, None)
    assert state.tolist() == [[VALID, NODATA, NODATA]]
    assert vectors[:, 0, 0].tolist() == [1.5, 2.5]
    huge = np.full((1, 1, 1), 1e300)
    assert Linear()(huge, None)[1].tolist() == [[NODATA]]
