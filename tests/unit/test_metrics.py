"""Accuracy figures against scikit-learn and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as witness

from engine.errors import MetricError
from engine.metrics import assess, confusion, seam_ratio, similarity


def pair(seed: int, n: int = 3000, classes: int = 17) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    reference = rng.integers(1, classes + 1, n)
    wrong = rng.random(n) < 0.4
    return reference, np.where(wrong, rng.integers(1, classes + 1, n), reference)


def test_figures_equal_scikit_learn_s() -> None:
    a, b = pair(0)
    found = assess(confusion(a, b))
    assert found.cells == 3000
    assert found.oa == pytest.approx(witness.accuracy_score(a, b))
    assert found.kappa == pytest.approx(witness.cohen_kappa_score(a, b))
    assert found.f1_macro == pytest.approx(witness.f1_score(a, b, average="macro"))
    assert found.f1_weighted == pytest.approx(witness.f1_score(a, b, average="weighted"))
    assert found.users == pytest.approx(witness.precision_score(a, b, average=None))
    assert found.producers == pytest.approx(witness.recall_score(a, b, average=None))


def test_figures_equal_brute_force() -> None:
    a, b = pair(1)
    found = assess(confusion(a, b))
    both = [(r, p) for r, p in zip(a, b, strict=True) if r <= 10 and p <= 10]
    assert found.oa_u == pytest.approx(np.mean([r == p for r, p in both]))
    assert found.oa_bu == pytest.approx(np.mean((a <= 10) == (b <= 10)))
    assert found.oa_built_rows == pytest.approx((a == b)[a <= 10].mean())
    assert found.oa_natural_rows == pytest.approx((a == b)[a > 10].mean())
    weights = [similarity()[r - 1, p - 1] for r, p in zip(a, b, strict=True)]
    assert found.oa_w == pytest.approx(np.mean(weights))
    assert len({round(v, 6) for v in found.figures().values()}) == len(found.figures())


def test_the_similarity_of_types() -> None:
    weights = similarity()
    assert (weights == weights.T).all()
    assert (np.diag(weights) == 1).all()
    assert (weights[np.triu_indices(17, 1)] < 1).all()
    assert (weights[0, 1], weights[0, 16], weights[14, 15], weights[1, 15]) == (0.92, 0, 0.75, 0.08)


@given(st.lists(st.tuples(st.integers(0, 17), st.integers(0, 17)), min_size=1, max_size=60))
def test_counts_and_bounds(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs).T
    counts = confusion(a, b)
    for r in range(1, 18):
        for p in range(1, 18):
            assert counts[r - 1, p - 1] == pairs.count((r, p))
    found = assess(counts)
    if found.cells:
        assert 0 <= found.oa <= found.oa_w <= 1
        assert assess(np.diag(np.diag(counts) + 1)).oa_w == 1


def test_classes_of_one_s_own_and_wrong_input() -> None:
    assert confusion([1, 1, 0], [1, 2, 1], classes=(2, 1)).tolist() == [[0, 0], [1, 1]]
    with pytest.raises(MetricError, match="different shapes"):
        confusion([1, 2], [1])
    with pytest.raises(MetricError, match="not a class"):
        confusion([1, 18], [1, 1])
    with pytest.raises(MetricError, match="LCZ types"):
        assess(np.eye(3))


def test_absent_classes_have_no_figure() -> None:
    found = assess(confusion([1, 1, 11], [1, 2, 11]))
    assert np.isnan(found.producers[4])
    assert np.isnan(found.f1[4])
    assert found.f1[1] == 0  # predicted and never right
    assert found.f1_macro == pytest.approx((2 / 3 + 1) / 2)


def test_a_seam_shows_in_its_ratio() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (400, 512)).cumsum(axis=1)
    assert seam_ratio(values, 16, 64) == pytest.approx(1, abs=0.1)
    stepped = values + 2 * (np.arange(512) // 64 % 2)
    assert seam_ratio(stepped, 64, 64) > 1.5
    assert seam_ratio(stepped, 16, 64) == pytest.approx(1, abs=0.1)
    values[:, 100:] = np.nan
    assert seam_ratio(values, 16, 64) == pytest.approx(1, abs=0.3)
    assert seam_ratio(np.ones((3, 9)), 3, 3) == 1
    with pytest.raises(MetricError, match="nothing to compare"):
        seam_ratio(values[:, 100:], 16, 64)
