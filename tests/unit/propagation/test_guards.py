"""Guards refuse what they are meant to, by what was measured on cities that were left out."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from engine.errors import LabelError
from engine.propagation.detection import detect
from engine.propagation.guards import (
    Novelty,
    cap_classes,
    cap_pool,
    held_out,
    overlapping,
    threshold_for,
    touching,
)
from engine.propagation.heads import KnnHead, LogisticHead


def cities(classes: int = 4, each: int = 12, count: int = 3) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    y = np.tile(np.repeat(np.arange(1, classes + 1), each), count)
    city = np.repeat(np.arange(count), classes * each)
    middle = rng.standard_normal((classes + 1, 5)) * 1.5
    x = middle[y] + rng.standard_normal((len(y), 5)) + city[:, None] * 0.2
    return x.astype(np.float32), y, city


def test_labels_are_seen_from_the_other_cities() -> None:
    x, y, city = cities()
    rest = ~((city == 1) & (y == 2))  # the others have it, this city does not
    rest &= ~((city != 2) & (y == 4))  # this city alone has it
    x, y, city = x[rest], y[rest], city[rest]
    found = held_out(x, y, city, KnnHead(3), LogisticHead(1.0, balanced=False))
    assert sorted(found.rows.tolist()) == list(range(len(y)))
    assert (found.codes == y[found.rows]).all()
    assert (found.known == (found.codes != 4)).all()
    for name in range(3):
        own, others = city == name, city != name
        here = np.isin(found.rows, np.flatnonzero(own))
        near = NearestNeighbors(n_neighbors=3, algorithm="kd_tree").fit(x[others].astype(float))
        np.testing.assert_allclose(
            found.distance[here], near.kneighbors(x[own].astype(float))[0].mean(1)
        )
        witness = LogisticRegression(C=1.0, max_iter=1000).fit(x[others].astype(float), y[others])
        assert (found.predicted[here] == witness.predict(x[own].astype(float))).all()
        chance = witness.predict_proba(x[own].astype(float)).max(1)
        np.testing.assert_allclose(found.confidence[here], chance, atol=1e-6)
        energy = -logsumexp(witness.decision_function(x[own].astype(float)), axis=1)
        np.testing.assert_allclose(found.energy[here], energy, atol=1e-5)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 120),
    loss=st.sampled_from([0.0, 0.05, 0.2, 0.5]),
    steps=st.sampled_from([2, 5, 1000]),
)
def test_novelty_loses_no_more_known_cells_than_it_may(
    seed: int, count: int, loss: float, steps: int
) -> None:
    rng = np.random.default_rng(seed)
    distance, energy = (rng.integers(0, steps, count) / steps for _ in range(2))
    predicted = rng.choice([3, 11, 12], count, p=[0.5, 0.4, 0.1])
    for used, given_as in ((energy, None), (None, None), (energy, predicted)):
        novelty = Novelty.of(distance, used, loss, given_as)
        lost = novelty.novel(distance, used, given_as)
        assert lost.sum() <= loss * count + 1e-9
        # whoever is no less novel by both is novel with it
        if lost.any():
            worst = np.flatnonzero(lost)[0]
            more = None if used is None else used[worst : worst + 1] + 0.5
            own = None if given_as is None else given_as[worst : worst + 1]
            assert novelty.novel(distance[worst : worst + 1] + 0.5, more, own).all()


def test_by_distance_alone_novelty_is_a_percentile() -> None:
    distance = np.random.default_rng(0).random(321)
    limit = np.percentile(distance, 95, method="inverted_cdf")
    asked = np.random.default_rng(1).random(1000) * 1.2
    found = Novelty.of(distance, None, 0.05).novel(asked, None)
    assert (found == (asked > limit)).all()


def test_novelty_is_found_by_either_of_the_two() -> None:
    known = np.arange(100.0)
    novelty = Novelty.of(known, known[::-1], 0.1)
    asked = np.array([50.0, 200.0, 50.0])
    assert novelty.novel(asked, asked[::-1][[0, 0, 1]]).tolist() == [False, True, True]


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 200), steps=st.sampled_from([3, 1000]))
def test_the_threshold_is_the_lowest_that_is_precise_enough(
    seed: int, count: int, steps: int
) -> None:
    rng = np.random.default_rng(seed)
    confidence = rng.integers(0, steps, count) / steps
    right = rng.random(count) < 0.3 + 0.7 * confidence
    found = threshold_for(confidence, right, 0.8, errors=0.0)
    good = [
        limit
        for limit in np.unique(confidence)
        if (confidence >= limit).sum() >= 20 and right[confidence >= limit].mean() >= 0.8
    ]
    assert found == (min(good) if good else None)
    careful = threshold_for(confidence, right, 0.8)
    assert careful is None or (found is not None and careful >= found)


def test_classes_keep_their_surest() -> None:
    codes = np.array([1, 1, 1, 1, 2, 2, 3])
    confidence = np.array([0.9, 0.95, 0.9, 0.8, 0.5, 0.4, 0.9])
    distance = np.array([2.0, 3.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    kept = cap_classes(codes, confidence, distance, {1: 1, 2: 5}, times=2.0, least=1)
    assert kept.tolist() == [False, True, True, False, True, True, True]
    assert cap_classes(codes, confidence, distance, {}, least=200).all()


def test_the_pool_has_so_many_labels_of_a_class_and_city() -> None:
    y = np.repeat([1, 2, 1, 2], [700, 3, 40, 600])
    city = np.repeat([0, 0, 1, 1], [700, 3, 40, 600])
    kept = cap_pool(y, city, 500, seed=1)
    assert [(y[kept] == a)[city[kept] == b].sum() for a, b in ((1, 0), (2, 0), (1, 1), (2, 1))] == [
        500,
        3,
        40,
        500,
    ]
    assert (np.diff(kept) > 0).all()
    assert (kept == cap_pool(y, city, 500, seed=1)).all()
    assert (kept != cap_pool(y, city, 500, seed=2)).any()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    other_side=st.sampled_from([100.0, 320.0, 500.0]),
    share=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_shared_ground_is_that_of_polygons(seed: int, other_side: float, share: float) -> None:
    rng = np.random.default_rng(seed)
    xy = rng.integers(-20, 20, (30, 2)) * 80.0
    others = rng.integers(-20, 20, (15, 2)) * 80.0
    others[0] = np.nan

    def squares(at: np.ndarray, side: float) -> np.ndarray:
        return shapely.box(*(at - side / 2).T, *(at + side / 2).T)

    common = shapely.area(
        shapely.intersection(squares(xy, 320)[:, None], squares(others[1:], other_side)[None])
    )
    found = overlapping(xy, 320.0, others, other_side, share)
    assert (found == (common.max(1) > share * 320**2)).all()
    blocks = np.concatenate([others[1:] - 200, others[1:] + 300], axis=1)
    area = shapely.area(shapely.intersection(squares(xy, 320)[:, None], shapely.box(*blocks.T)))
    assert (touching(xy, 320.0, blocks) == (area.max(1) > 0)).all()


def test_no_labels_nearby_share_nothing() -> None:
    nowhere = np.full((3, 2), np.nan)
    assert not overlapping(np.zeros((2, 2)), 320.0, nowhere, 320.0, 0.1).any()
    assert not touching(np.zeros((2, 2)), 320.0, np.zeros((0, 4))).any()


def test_detection_is_that_of_models_that_never_saw_the_class() -> None:
    """Class 2 by hand, with scikit-learn."""
    x, y, city = cities()
    found = detect(x, y, city, KnnHead(3), LogisticHead(1.0, balanced=False), loss=0.1)
    assert sorted(found) == [1, 2, 3, 4]
    new, distance, energy, given = [], [], [], []
    for name in range(3):
        learnt, own = (city != name) & (y != 2), city == name
        wide = x.astype(float)
        near = NearestNeighbors(n_neighbors=3, algorithm="kd_tree").fit(wide[learnt])
        distance.append(near.kneighbors(wide[own])[0].mean(1))
        model = LogisticRegression(C=1.0, max_iter=1000).fit(wide[learnt], y[learnt])
        energy.append(-logsumexp(model.decision_function(wide[own]), axis=1))
        given.append(model.predict(wide[own]))
        new.append(y[own] == 2)
    parts = (new, distance, energy, given)
    new, distance, energy, given = (np.concatenate(part) for part in parts)
    assert found[2].cells == new.sum() == 36
    assert found[2].auroc_distance == pytest.approx(roc_auc_score(new, distance))
    assert found[2].auroc_energy == pytest.approx(roc_auc_score(new, energy), abs=2e-3)

    def rank(values: np.ndarray) -> np.ndarray:
        """Among known cells of the class that the model gives, where there are 20."""
        places = np.zeros(len(values))
        for code in np.unique(given):
            group = ~new & (given == code)
            group = group if group.sum() >= 20 else ~new
            here = given == code
            places[here] = (values[group][None] < values[here][:, None]).mean(1)
        return places

    assert min(np.bincount(given[~new])[1:4:2]) >= 20
    for ranks, share in (
        (rank(distance), found[2].rejected_distance),
        (np.maximum(rank(distance), rank(energy)), found[2].rejected),
    ):
        limit = np.percentile(ranks[~new], 90, method="inverted_cdf")
        assert share == pytest.approx((ranks[new] > limit).mean(), abs=0.03)


def test_nothing_to_calibrate_by_is_refused() -> None:
    with pytest.raises(LabelError, match="cannot be calibrated"):
        Novelty.of(np.zeros(0), None, 0.05)
    with pytest.raises(LabelError, match="cannot be calibrated"):
        Novelty.of(np.zeros(3), None, 1.0)
