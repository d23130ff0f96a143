"""Figures of patches that may have several labels, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    hamming_loss,
    precision_recall_fscore_support,
)

from engine.metrics import average_precision, best_threshold, by_label, of_labels


def drawn(seed: int, n: int = 200, labels: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Truth and scores that go with it a little; some scores are equal."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((n, labels)) < [0.02, 0.2, 0.5, 0.95][:labels]).astype(float)
    truth[0], truth[1] = 1, 0
    return truth, np.round((truth + rng.normal(0, 1, truth.shape) + 2) / 5, 1).clip(0, 1)


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_scikit_learn(seed: int) -> None:
    truth, score = drawn(seed)
    limits = [0.3, 0.5, 0.5, 0.7]
    found = score >= limits
    each, together = by_label(truth, score, limits), of_labels(truth, score, limits)
    p, r, f, n = precision_recall_fscore_support(truth, found, zero_division=np.nan)
    np.testing.assert_allclose(each["precision"], p)
    np.testing.assert_allclose(each["recall"], r)
    np.testing.assert_allclose(each["f1"], f)
    np.testing.assert_array_equal(each["positives"], n)
    np.testing.assert_array_equal(each["n"], len(truth))
    ap = [average_precision_score(truth[:, k], score[:, k]) for k in range(4)]
    np.testing.assert_allclose(each["average_precision"], ap)
    assert together["average_precision"] == pytest.approx(np.mean(ap))
    assert together["f1_micro"] == pytest.approx(f1_score(truth, found, average="micro"))
    assert together["f1_macro"] == pytest.approx(f1_score(truth, found, average="macro"))
    assert together["wrong"] == pytest.approx(hamming_loss(truth, found))
    assert together["exact"] == pytest.approx(accuracy_score(truth, found))


def test_what_nobody_knows_counts_nowhere() -> None:
    truth, score = drawn(9)
    rng = np.random.default_rng(1)
    unknown, unscored = rng.random(truth.shape) < 0.3, rng.random(len(truth)) < 0.1
    told = np.where(unknown, np.nan, truth)
    given = np.where(unscored[:, None], np.nan, score)
    each = by_label(told, given, [0.5] * 4)
    for k in range(4):
        known = ~unknown[:, k] & ~unscored
        assert each["n"][k] == known.sum()
        mine, his = score[known, k], truth[known, k]
        assert each["f1"][k] == pytest.approx(f1_score(his, mine >= 0.5))
        assert each["average_precision"][k] == pytest.approx(average_precision_score(his, mine))
    whole = ~unknown.any(axis=1) & ~unscored
    exact = accuracy_score(truth[whole], score[whole] >= 0.5)
    assert of_labels(told, given, [0.5] * 4)["exact"] == pytest.approx(exact)


def test_a_label_that_does_not_occur_has_no_figures() -> None:
    truth, score = np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[0.9, 0.6], [0.2, 0.1]])
    each = by_label(truth, score, [0.5, 0.5])
    assert np.isnan(each["f1"][1])
    assert np.isnan(each["recall"][1])
    assert np.isnan(each["average_precision"][1])
    assert each["precision"][1] == 0
    together = of_labels(truth, score, [0.5, 0.5])
    assert together["f1_macro"] == 1
    assert together["f1_micro"] == pytest.approx(2 / 3)  # what was found wrongly counts there
    assert together["exact"] == 0.5
    none = of_labels(np.zeros((0, 2)), np.zeros((0, 2)), [0.5, 0.5])
    assert all(np.isnan(value) for value in none.values())


def test_the_best_threshold_is_that_of_brute_force() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        truth = rng.random(30) < 0.3
        truth[:2] = True, False
        score = np.round(rng.random(30), 1)
        limit = best_threshold(truth, score)
        assert limit is not None

        def f1(limit: float, truth: np.ndarray = truth, score: np.ndarray = score) -> float:
            found = score >= limit
            return float(2 * (truth & found).sum() / (truth.sum() + found.sum()))

        assert f1(limit) == pytest.approx(max(map(f1, np.arange(0, 1.0, 0.01))))
        assert limit not in score or limit == 0  # midway between two that occur
    assert best_threshold([True, True], [0.2, 0.4]) is None
    assert best_threshold([False], [0.2]) is None
    assert best_threshold([], []) is None
    assert np.isnan(average_precision([False], [0.2]))
