"""Embedding vectors: how they are stored, and the statistics of a cell's pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import RunError
from engine.infer.aggregate import aggregate_cells, aggregate_names
from engine.infer.vectors import decode_vectors, encode_vectors, vector_arrays, vector_outputs

SEEDS = st.integers(0, 2**32 - 1)


def some(seed: int, loudness: float = 1.0) -> np.ndarray:
    """Vectors of seven features, a tenth of them missing, one quiet, one of zeros."""
    rng = np.random.default_rng(seed)
    found = (rng.standard_normal((7, 5, 6)) * loudness).astype(np.float32)
    found[:, rng.random((5, 6)) < 0.1] = np.nan
    found[:, 0, 0] *= 1e-6
    found[:, 1, 1] = 0
    return found


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from([1e-20, 1.0, 1e4, 1e30]))
def test_int8_is_within_half_a_step_of_each_vectors_own_scale(seed: int, loudness: float) -> None:
    vectors = some(seed, loudness)
    values, scale = encode_vectors(vectors, "int8")
    assert values.dtype == np.int8
    assert values.min() >= -127
    assert scale is not None
    missing = np.isnan(vectors).any(axis=0)
    np.testing.assert_array_equal(np.isnan(scale), missing)
    assert (values[:, missing] == 0).all()
    found = decode_vectors(values, scale)
    step = np.abs(vectors).max(axis=0) / 127
    off = np.abs(found - vectors)[:, ~missing]
    assert (off <= step[~missing] * 0.501).all()
    assert np.isnan(found[:, missing]).all()


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_floats_are_rounded_once(kind: str) -> None:
    vectors = some(3)
    values, scale = encode_vectors(vectors, kind)
    assert scale is None
    np.testing.assert_array_equal(values, vectors.astype(kind))
    np.testing.assert_array_equal(decode_vectors(values, None), vectors.astype(kind))


@pytest.mark.parametrize(
    ("kind", "value"),
    [("float16", 7e4), ("float16", np.inf), ("int8", np.inf), ("float32", -np.inf)],
)
def test_what_does_not_fit_is_refused(kind: str, value: float) -> None:
    vectors = some(4)
    vectors[2, 3, 3] = value
    with pytest.raises(RunError, match=rf"does not fit {kind}(.|\n)*int8"):
        encode_vectors(vectors, kind)


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_arrays_and_outputs_have_one_form(kind: str) -> None:
    specs = vector_arrays("scores/embedding", kind, range(7), 100.0, 5)
    outputs = vector_outputs("scores/embedding", kind, some(5)[:, :5, :5])
    assert {spec.path for spec in specs} == outputs.keys()
    for spec in specs:
        assert outputs[spec.path].dtype == spec.dtype
        assert outputs[spec.path].shape == (*spec.lead_shape, 5, 5)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.sampled_from([2, 4, 8]), st.floats(0, 0.3), st.sampled_from([0.0, 30.0]))
def test_aggregates_are_numpys_for_any_cut(
    seed: int, side: int, gaps: float, offset: float
) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((3, 4 * side, 6 * side)) + offset).astype(np.float32)
    valid = rng.random(values.shape[1:]) >= gaps
    values[:, ~valid] = rng.choice([np.nan, 1e30])
    found = aggregate_cells(values, valid, side)
    assert found.shape == (9, 4, 6)
    for row in range(4):
        for col in range(6):
            here = np.s_[row * side : (row + 1) * side, col * side : (col + 1) * side]
            inside = values[:, *here][:, valid[here]].astype(np.float64)
            if inside.shape[1] < 0.9 * side * side:
                assert np.isnan(found[:, row, col]).all()
                continue
            wanted = [*inside.mean(axis=1), *inside.std(axis=1), *inside.max(axis=1)]
            np.testing.assert_allclose(found[:, row, col], wanted, rtol=1e-6, atol=1e-7)
    parts = [
        aggregate_cells(values[:, r], valid[r], side) for r in np.split(np.arange(4 * side), 4)
    ]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), found)


def test_names_follow_the_values() -> None:
    names = aggregate_names(["B02", "B03"])
    assert names == ("B02_mean", "B03_mean", "B02_std", "B03_std", "B02_max", "B03_max")
    values = np.stack([np.full((2, 2), 1.0), np.arange(4.0).reshape(2, 2)])
    found = aggregate_cells(values, np.ones((2, 2), bool), 2)[:, 0, 0]
    np.testing.assert_allclose(found, [1, 1.5, 0, np.std([0, 1, 2, 3]), 1, 3], rtol=1e-6)
