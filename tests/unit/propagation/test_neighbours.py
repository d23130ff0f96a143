"""Neighbours are those of brute force in float64, whatever float32 would make of them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from engine.errors import LabelError
from engine.propagation import neighbours
from engine.propagation.neighbours import Index, Metric


def straight(labels: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and distances, all in float64; ties by row."""
    wide = labels.astype(np.float64)
    squares = np.array([((wide - query) ** 2).sum(1) for query in queries.astype(np.float64)])
    rows = np.argsort(squares, axis=1, kind="stable")[:, :k]
    return rows, np.sqrt(np.take_along_axis(squares, rows, 1))


@pytest.mark.parametrize("offset", [0.0, 30.0, 3000.0])
@pytest.mark.parametrize("columns", [3, 200])
def test_neighbours_equal_scikit_learn_in_float64(offset: float, columns: int) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.standard_normal((2000, columns)) + offset).astype(np.float32)
    queries = (rng.standard_normal((600, columns)) + offset).astype(np.float32)
    found = Index(labels).find(queries, 5)
    # a tree, which subtracts: scikit-learn's own brute force expands the square
    tree = NearestNeighbors(n_neighbors=5, algorithm="kd_tree").fit(labels.astype(np.float64))
    distances, rows = tree.kneighbors(queries.astype(np.float64))
    assert (found.rows == rows).all()
    np.testing.assert_allclose(found.distances, distances, rtol=1e-12)


def test_float32_alone_would_be_wrong_at_an_offset() -> None:
    """What is guarded against is there: the plain expansion changes sets of neighbours."""
    rng = np.random.default_rng(1)
    labels = (rng.standard_normal((4000, 64)) * 0.1 + 30).astype(np.float32)
    queries = (rng.standard_normal((300, 64)) * 0.1 + 30).astype(np.float32)
    expanded = (labels**2).sum(1) / 2 - queries @ labels.T
    plain = np.argpartition(expanded, 5, axis=1)[:, :5]
    rows, _ = straight(labels, queries, 5)
    assert (np.sort(plain, axis=1) != np.sort(rows, axis=1)).any(1).sum() > 30
    assert (Index(labels).find(queries, 5).rows == rows).all()


@pytest.mark.parametrize("offset", [0, 30])
def test_duplicates_are_ordered_by_row(offset: int) -> None:
    """Each label is there some 40 times: more often than there are candidates."""
    rng = np.random.default_rng(2)
    kinds = rng.integers(-3, 4, (20, 12)).astype(np.float32) + offset
    labels = kinds[rng.integers(0, 20, 800)]
    queries = np.concatenate([kinds, rng.integers(-3, 4, (50, 12)).astype(np.float32) + offset])
    found = Index(labels).find(queries, 7)
    rows, distances = straight(labels, queries, 7)
    assert (found.rows == rows).all()
    np.testing.assert_array_equal(found.distances, distances)
    assert found.again == len(queries)


def test_a_label_that_float32_puts_too_far_is_found() -> None:
    """Labels on a sphere about the query, far from the middle: float32 orders them by chance."""
    rng = np.random.default_rng(3)
    query = np.full((1, 256), 40, np.float32)
    away = rng.standard_normal((3000, 256))
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    labels = (query + away * (1 + 1e-6 * rng.random((3000, 1)))).astype(np.float32)
    labels = np.concatenate([labels, -labels])  # the middle is at zero, the query is not
    found = Index(labels).find(query, 5)
    rows, _ = straight(labels, query, 5)
    assert (found.rows == rows).all()
    assert found.again == 1


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    labels=st.integers(1, 90),
    columns=st.integers(1, 9),
    k=st.integers(1, 9),
    offset=st.sampled_from([0, 30, -1000]),
    wide=st.booleans(),
)
def test_neighbours_equal_brute_force(
    seed: int, labels: int, columns: int, k: int, offset: int, wide: bool
) -> None:
    """Small integers: distances are exact, and many are equal."""
    rng = np.random.default_rng(seed)
    kind = np.float64 if wide else np.float32
    x = rng.integers(-2, 3, (labels, columns)).astype(kind) + kind(offset)
    q = rng.integers(-2, 3, (23, columns)).astype(kind) + kind(offset)
    k = min(k, labels)
    found = Index(x).find(q, k)
    rows, distances = straight(x, q, k)
    assert (found.rows == rows).all()
    np.testing.assert_array_equal(found.distances, distances)


def test_cosine_equals_scikit_learn() -> None:
    rng = np.random.default_rng(4)
    labels = (rng.standard_normal((2000, 64)) + 1).astype(np.float32)
    queries = (rng.standard_normal((300, 64)) * 50 + 50).astype(np.float32)
    found = Index(labels, "cosine").find(queries, 6)
    brute = NearestNeighbors(n_neighbors=6, algorithm="brute", metric="cosine")
    distances, rows = brute.fit(labels.astype(np.float64)).kneighbors(queries.astype(np.float64))
    assert (found.rows == rows).all()
    np.testing.assert_allclose(found.distances, distances, rtol=1e-9)


def test_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    labels = rng.standard_normal((900, 16)).astype(np.float32)
    queries = np.lib.format.open_memmap(tmp_path / "q.npy", "w+", np.float32, (777, 16))
    queries[:] = rng.standard_normal((777, 16))
    whole = Index(labels).find(queries, 4)
    monkeypatch.setattr(neighbours, "_ROWS", 100)
    for given_as in (np.load(tmp_path / "q.npy", mmap_mode="r"), np.split(queries, [5, 600])):
        parts = list(Index(labels).find_blocks(given_as, 4))
        assert max(len(part.rows) for part in parts) <= 100
        assert (np.concatenate([part.rows for part in parts]) == whole.rows).all()
        assert (np.concatenate([part.distances for part in parts]) == whole.distances).all()


def test_memory_does_not_grow_with_the_queries() -> None:
    rng = np.random.default_rng(6)
    index = Index(rng.standard_normal((3000, 32)).astype(np.float32))

    def peak(blocks: int) -> int:
        each = (rng.standard_normal((600, 32)).astype(np.float32) for _ in range(blocks))
        tracemalloc.start()
        for _ in index.find_blocks(each, 5):
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(1)  # compiles
    assert peak(30) < peak(3) * 1.2 + 1e6


def test_huge_features_are_not_lost_in_infinities() -> None:
    labels = np.array([[1e25, 0], [2e25, 0], [0, 3e25], [5e25, 5e25], *[[9e25, 9e25]] * 20])
    queries = np.array([[1.9e25, 0], [0, 2e25]])
    assert Index(labels).find(queries, 2).rows.tolist() == [[1, 0], [2, 0]]


@pytest.mark.parametrize(
    ("labels", "queries", "k", "metric", "said"),
    [
        (np.zeros((0, 3)), np.zeros((1, 3)), 1, "euclidean", "no labels"),
        (np.zeros((4, 3)), np.zeros((1, 2)), 1, "euclidean", "another number of columns"),
        (np.zeros((4, 3)), np.zeros((1, 3)), 5, "euclidean", "fewer labels than"),
        (np.zeros((4, 3)), np.zeros((1, 3)), 0, "euclidean", "fewer labels than"),
        (np.full((4, 3), np.nan), np.zeros((1, 3)), 1, "euclidean", "not finite"),
        (np.zeros((4, 3)), np.full((1, 3), np.inf), 1, "euclidean", "not finite"),
        (np.zeros(4), np.zeros((1, 3)), 1, "euclidean", "not a table"),
        (np.zeros((4, 3)), np.zeros((1, 3)), 1, "cosine", "no direction"),
        (np.ones((4, 3)), np.zeros((1, 3)), 1, "cosine", "no direction"),
        (np.ones((4, 3)), np.ones((1, 3)), 1, "manhattan", "no such metric"),
        (np.full((4, 3), "a"), np.zeros((1, 3)), 1, "euclidean", "not numbers"),
    ],
)
def test_what_cannot_be_used_is_refused(
    labels: np.ndarray, queries: np.ndarray, k: int, metric: Metric, said: str
) -> None:
    with pytest.raises(LabelError, match=said):
        Index(labels, metric).find(queries, k)


def test_no_queries_have_no_neighbours() -> None:
    found = Index(np.ones((4, 3))).find(np.zeros((0, 3)), 2)
    assert found.rows.shape == found.distances.shape == (0, 2)
