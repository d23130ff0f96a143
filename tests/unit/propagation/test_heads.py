"""Heads score as scikit-learn's own; they are tuned on labels alone, with a safe prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

from engine.errors import LabelError
from engine.propagation.heads import CODES, ForestHead, Head, KnnHead, LogisticHead
from engine.propagation.pool import moments, standard_of
from engine.propagation.tuning import (
    forest_candidates,
    knn_candidates,
    leave_out,
    logistic_candidates,
    tune,
)

HEADS = [LogisticHead(), KnnHead(), ForestHead(trees=20)]


def blobs(classes: list[int], each: int = 20, columns: int = 6, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    y = np.repeat(classes, each)
    middle = rng.standard_normal((18, columns)) * 1.5
    return (middle[y] + rng.standard_normal((len(y), columns))).astype(np.float32), y


@pytest.mark.parametrize("classes", [[3, 5, 11, 17], [2, 9]])
@pytest.mark.parametrize("balanced", [False, True])
def test_the_logistic_head_is_scikit_learns(classes: list[int], balanced: bool) -> None:
    x, y = blobs(classes)
    keep = np.r_[:13, 20 : len(y)]  # classes of unequal size
    x, y = x[keep], y[keep]
    w = np.random.default_rng(1).random(len(y)) + 0.1
    scorer = LogisticHead(0.5, balanced).fit(x, y, w)
    weight = "balanced" if balanced else None
    witness = LogisticRegression(C=0.5, class_weight=weight, max_iter=1000)
    witness.fit(x.astype(np.float64), y, w)
    asked = np.random.default_rng(2).standard_normal((50, 6)).astype(np.float32)
    scores = scorer.scores(asked)
    columns = [CODES.index(code) for code in classes]
    np.testing.assert_allclose(scores[:, columns], witness.predict_proba(asked), atol=1e-6)
    assert (np.delete(scores, columns, axis=1) == 0).all()
    assert (scorer.predict(asked) == witness.predict(asked)).all()
    np.testing.assert_allclose(scorer.energy(asked), -logsumexp(scorer.logits(asked), axis=1))


@pytest.mark.parametrize("weighing", ["uniform", "distance"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_knn_head_is_scikit_learns(weighing: Any, metric: Any) -> None:
    x, y = blobs([1, 4, 6, 12])
    asked = np.concatenate([blobs([1, 4, 6, 12], seed=0)[0][::9], x[:5] + 0.3])
    witness = KNeighborsClassifier(7, weights=weighing, metric=metric, algorithm="brute")
    expected = witness.fit(x.astype(np.float64), y).predict_proba(asked.astype(np.float64))
    scores = KnnHead(7, metric, weighing).fit(x, y).scores(asked)
    columns = [CODES.index(code) for code in (1, 4, 6, 12)]
    if (metric, weighing) == ("cosine", "distance"):
        columns_of_copies = np.arange(len(x[::9]))  # at a distance of 0 or 1e-16, as it rounds
        expected = np.delete(expected, columns_of_copies, axis=0)
        scores = np.delete(scores, columns_of_copies, axis=0)
    np.testing.assert_allclose(scores[:, columns], expected, rtol=1e-6, atol=1e-12)
    assert (np.delete(scores, columns, axis=1) == 0).all()


def test_equal_votes_go_to_the_class_of_the_nearest_label() -> None:
    x = np.array([[0.0], [1.0], [2.1], [3.0], [9.0]])
    y = np.array([2, 1, 1, 2, 5])
    asked = np.array([[1.4], [0.3]])
    scorer = KnnHead(4).fit(x, y)
    assert scorer.scores(asked)[:, :2].tolist() == [[0.5, 0.5]] * 2
    assert scorer.predict(asked).tolist() == [1, 2]


def test_votes_weigh_as_their_labels_do() -> None:
    x, y = np.array([[0.0], [1.0], [2.0]]), np.array([1, 2, 2])
    scores = KnnHead(3).fit(x, y, [2.0, 0.5, 0.5]).scores([[0.5]])
    np.testing.assert_allclose(scores[0, :2], [2 / 3, 1 / 3])


def test_fewer_labels_than_neighbours_all_vote() -> None:
    scores = KnnHead(9).fit(np.eye(3), [1, 2, 2]).scores(np.zeros((1, 3)))
    np.testing.assert_allclose(scores[0, :2], [1 / 3, 2 / 3])


def test_the_forest_is_scikit_learns_and_the_same_for_a_seed() -> None:
    x, y = blobs([1, 8, 17])
    witness = RandomForestClassifier(20, random_state=3).fit(x, y).predict_proba(x)
    scores = [ForestHead(20).fit(x, y, None, seed).scores(x) for seed in (3, 3, 4)]
    np.testing.assert_allclose(scores[0][:, [0, 7, 16]], witness)
    assert (scores[0] == scores[1]).all()
    assert (scores[0] != scores[2]).any()


@pytest.mark.parametrize("head", HEADS)
def test_a_missing_source_changes_no_head(head: Head) -> None:
    x, y = blobs([1, 4, 6])
    lacking = np.insert(x, [0, 3, 6], np.nan, axis=1)
    one, other = (standard_of(moments(each)).apply(each) for each in (x, lacking))
    scores = [head.fit(each, y).scores(each) for each in (one, other)]
    assert (scores[0] == scores[1]).all()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("x", "y", "w", "said"),
    [
        (np.zeros((0, 2)), [], None, "no labels"),
        (np.eye(2), [1, 18], None, "no class"),
        (np.eye(2), [1, 0], None, "no class"),
        (np.eye(2), [1], None, "do not go together"),
        (np.eye(2), [1.0, 2.0], None, "not integers"),
        (np.full((2, 2), np.inf), [1, 2], None, "not finite"),
        (np.eye(2), [1, 2], [1.0, 0.0], "weights"),
        (np.eye(2), [1, 2], [1.0], "weights"),
    ],
)
def test_what_nothing_can_be_learnt_from_is_refused(
    head: Head, x: Any, y: Any, w: Any, said: str
) -> None:
    with pytest.raises(LabelError, match=said):
        head.fit(x, y, w)


@pytest.mark.parametrize("head", [LogisticHead(), ForestHead()])
def test_one_class_is_none(head: Head) -> None:
    with pytest.raises(LabelError, match="too few classes"):
        head.fit(np.eye(3), [4, 4, 4])


@pytest.mark.parametrize("head", HEADS)
def test_cells_of_other_columns_are_refused(head: Head) -> None:
    x, y = blobs([1, 2])
    with pytest.raises(LabelError, match="another number of columns"):
        head.fit(x, y).scores(x[:, 1:])


# -- tuning -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """Predicts what stands in a column of the features: what it gets right is up to the test."""

    column: int
    classes: tuple[int, ...] = CODES

    def fit(self, features: Any, codes: Any, weights: Any = None, seed: int = 0) -> Reader:
        return self

    def predict(self, features: Any) -> Any:
        return np.asarray(features)[:, self.column].astype(np.int64)

    def scores(self, features: Any) -> Any:
        raise NotImplementedError


def read(shares: list[list[float]]) -> tuple[Any, Any, Any]:
    """Labels of two classes in several cities; a candidate is right in such a share of each."""
    y = np.tile([1, 2], 50)
    columns = []
    for of_cities in shares:
        parts = []
        for share in of_cities:
            wrong = np.arange(100) >= round(share * 100)
            parts.append(np.where(wrong, 3 - y, y))
        columns.append(np.concatenate(parts))
    cities = len(shares[0])
    return (
        np.stack(columns, 1).astype(np.float32),
        np.tile(y, cities),
        np.repeat(range(cities), 100),
    )


@pytest.mark.parametrize(
    ("shares", "chosen"),
    [
        ([[0.5, 0.6, 0.7], [0.7, 0.8, 0.8]], 1),  # better everywhere
        ([[0.5, 0.6, 0.7], [0.4, 0.6, 0.7]], 0),  # worse
        ([[0.6, 0.6, 0.6], [0.9, 0.4, 0.6]], 0),  # better on the mean, less than its error
        ([[0.6, 0.6, 0.6], [0.7, 0.6, 0.7], [0.8, 0.7, 0.8]], 2),
        ([[0.1, 0.1], [0.9, 0.9]], 0),  # two cities choose nothing
    ],
)
def test_the_prior_goes_only_where_the_gain_is_beyond_its_error(
    shares: list[list[float]], chosen: int
) -> None:
    x, y, city = read(shares)
    found = tune(x, y, city, [Reader(column) for column in range(len(shares))])
    assert found.head == Reader(chosen)
    assert found.prior == Reader(0)
    if len(shares[0]) > 2:
        for row, of_cities in enumerate(shares):
            for column in range(len(of_cities)):
                here = city == column
                expected = f1_score(y[here], x[here, row].astype(int), average="macro")
                assert found.figures[row, column] == pytest.approx(expected)
    else:
        assert "too few to tune" in found.notes[-1]


def test_a_city_that_cannot_judge_is_passed_over_and_told() -> None:
    x, y, city = read([[0.5] * 3, [0.9] * 3])
    y[city == 2] = 7  # alone with its only class
    found = tune(x, y, city, [Reader(0), Reader(1)])
    assert found.cities == (0, 1)
    assert found.head == Reader(0)
    assert "[2] cannot be used for tuning" in found.notes[0]


def test_classes_that_others_lack_do_not_count() -> None:
    y, city = np.array([1, 2, 1, 2, 3, 1, 2]), np.array([0, 0, 1, 1, 1, 2, 2])
    folds = {name: (rest, own, known) for name, rest, own, known in leave_out(y, city)}
    assert folds[1][2].tolist() == [False, False, True, True, False, False, False]
    assert folds[1][1].sum() == 3
    assert folds[0][2].sum() == 2


@pytest.mark.parametrize(
    "candidates", [logistic_candidates(), knn_candidates(), forest_candidates()[:1]]
)
def test_grids_begin_with_the_prior_and_can_be_fitted(candidates: Any) -> None:
    assert candidates[0] in (LogisticHead(), KnnHead(), ForestHead())
    x, y = blobs([1, 4, 6])
    found = tune(x, y, np.tile([0, 1, 2], 20), candidates)
    assert found.figures.shape == (len(candidates), 3)


def test_what_cannot_be_tuned_is_refused() -> None:
    x, y = blobs([1, 2])
    with pytest.raises(LabelError, match="cities do not go together"):
        tune(x, y, [1, 2], [KnnHead()])
    with pytest.raises(LabelError, match="no head"):
        tune(x, y, y, [])
