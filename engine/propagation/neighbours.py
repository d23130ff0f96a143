"""Exact k nearest neighbours, out of core: queries by block, labels in memory.

A block of queries meets a block of labels in one float32 matrix product, |b|^2 / 2 - a.b, which
orders the labels of a query as their distances do. The best k + 15 of each query are ranked anew
by their distances in float64. Rounding may have put a true neighbour behind the last of these only
where that one lies within the float32 error of the k-th: such a query is looked at again, against
all labels in float64. Features far from zero would make that error large: they are centred first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.errors import LabelError
from engine.jit import compiled
from engine.propagation.inputs import require_features

__all__ = ["Index", "Metric", "Neighbours"]

Metric = Literal["euclidean", "cosine"]
Array = npt.NDArray[Any]

_SPARE = 15  # candidates beyond k that are ranked in float64
_ROWS, _LABELS = 512, 4096  # of a matrix product: 8 MB
_ROUNDING = 2.0**-24  # unit roundoff of float32
_UNIT = 2.0**-50  # by which a vector brought to length 1 in float64 is wrong, with room


class Neighbours(NamedTuple):
    """The nearest labels of some queries, nearest first; of equal distances the lower row first.

    Attributes
    ----------
    rows : int64 (n, k), of the labels.
    distances : float64 (n, k), Euclidean, or 1 - cosine of the angle.
    again : how many queries were looked at against all labels in float64.
    """

    rows: npt.NDArray[np.int64]
    distances: npt.NDArray[np.float64]
    again: int


class Index:
    """Labels, made ready to be looked up.

    Parameters
    ----------
    features : float32 or float64 (labels, columns)
        Kept, not copied; a centred float32 copy of them is made.
    metric : "euclidean", or "cosine": Euclidean of vectors brought to length 1.

    Raises
    ------
    LabelError
        Where there are none, one is not finite, or has no direction though the metric asks for it.
    """

    def __init__(self, features: npt.ArrayLike, metric: Metric = "euclidean") -> None:
        self._labels = np.ascontiguousarray(require_features(features, "labelled features"))
        if not len(self._labels):
            raise LabelError(
                "there are no labels that could be neighbours", got=0, expected="one or more"
            )
        if metric not in ("euclidean", "cosine"):
            raise LabelError("there is no such metric", got=metric, expected="euclidean or cosine")
        self.metric: Metric = metric
        self._scale = self._scales(self._labels, "labelled features")
        total = np.zeros(self.columns)
        for part in _parts(len(self._labels)):
            total += (self._labels[part] * self._scale[part, None]).sum(0, dtype=np.float64)
        self._middle = total / len(self._labels)
        self._centred = np.empty(self._labels.shape, np.float32)
        self._half = np.empty(len(self._labels), np.float32)
        with np.errstate(over="ignore"):  # whoever is near these is looked at in float64
            for part in _parts(len(self._labels)):
                self._centred[part] = self._centre(self._labels[part], self._scale[part])
                self._half[part] = _squares(self._centred[part]) / 2

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def labels(self) -> Array:
        """Features of the labels, as they were given (labels, columns)."""
        return self._labels

    @property
    def columns(self) -> int:
        """Of the features."""
        return int(self._labels.shape[1])

    def find(self, queries: npt.ArrayLike, k: int) -> Neighbours:
        """Neighbours of queries that fit in memory.

        Parameters
        ----------
        queries : float32 or float64 (n, columns)
        k : 1 to the number of labels.

        Raises
        ------
        LabelError
            Where k or the queries cannot be used.
        """
        parts = list(self.find_blocks([queries], k))
        return Neighbours(
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.distances for part in parts]),
            sum(part.again for part in parts),
        )

    def find_blocks(self, queries: Array | Iterable[npt.ArrayLike], k: int) -> Iterator[Neighbours]:
        """Neighbours of any number of queries, block by block.

        Beside the labels it holds a block and its products: 16 MB and 8 bytes a feature of it.

        Parameters
        ----------
        queries : array (n, columns), such as a memory-mapped one, or an iterable of such arrays.
        k : as of `find`.

        Yields
        ------
        Neighbours of one or more blocks for each array, in order.

        Raises
        ------
        LabelError
        """
        if not 1 <= k <= len(self):
            raise LabelError(
                "there are fewer labels than neighbours asked for",
                got=f"k={k}",
                expected=f"1 to {len(self)}",
            )
        for array in [queries] if isinstance(queries, np.ndarray) else queries:
            values = np.asanyarray(array)
            for part in _parts(len(values), _ROWS) or [slice(0, 0)]:
                block = require_features(values[part], "features of cells", self.columns)
                yield self._find(np.ascontiguousarray(block), k)

    def _find(self, block: Array, k: int) -> Neighbours:
        scale = self._scales(block, "features of cells")
        centred = self._centre(block, scale)
        many = min(k + _SPARE, len(self))
        best = np.full((len(block), many), np.inf, np.float32)
        where = np.full((len(block), many), -1, np.int64)
        for part in _parts(len(self)):
            with np.errstate(over="ignore", invalid="ignore"):  # such queries are looked at again
                products = centred @ self._centred[part].T
            _merge(products, self._half[part], part.start, best, where)
        rows = np.empty((len(block), k), np.int64)
        squares = np.empty((len(block), k))
        _rank(block, scale, self._labels, self._scale, where, rows, squares)
        again = np.flatnonzero(self._doubtful(centred, best, squares[:, -1]))
        if many < len(self) and len(again):
            _rank_all(block, scale, self._labels, self._scale, again, rows, squares)
        else:
            again = again[:0]
        distances = squares / 2 if self.metric == "cosine" else np.sqrt(squares)
        return Neighbours(rows, distances, len(again))

    def _doubtful(
        self, centred: npt.NDArray[np.float32], best: npt.NDArray[np.float32], last: Array
    ) -> npt.NDArray[np.bool_]:
        """Queries of which a label that is no candidate may be nearer than the k-th.

        Such a label b of the query a has |a - b| <= t, the k-th distance, so |b| <= |a| + t. What
        was worked out for it is wrong by at most n u |a||b| for the product of n columns in
        whatever order (Higham 2002, eq. 3.5, u the unit roundoff), u |b|^2 / 2 for its length, and
        u (|a||b| + |b|^2 / 2) for their difference; centring moved it by u (|a| + |b|). A column
        more than there are covers terms of second order.
        """
        squared = _squares(centred)
        length, near = np.sqrt(squared), np.sqrt(last)
        other = length + near
        moved = _ROUNDING * (length + other) + (_UNIT if self.metric == "cosine" else 0.0)
        product = (self.columns + 3) * _ROUNDING * length * other
        error = product + 1.01 * _ROUNDING * other**2 + moved * (near + moved)
        limit = (last - squared) / 2 + error + np.finfo(np.float32).tiny
        # not "<": products that overflow are no numbers, and must be looked at again
        return np.asarray(~(best[:, -1].astype(np.float64) > limit))

    def _scales(self, values: Array, what: str) -> npt.NDArray[np.float64]:
        """What each row is multiplied by: one, or one over its length."""
        if self.metric == "euclidean":
            return np.ones(len(values))
        lengths = np.empty(len(values))
        for part in _parts(len(values)):
            lengths[part] = np.sqrt(_squares(values[part]))
        if not lengths.all():
            raise LabelError(
                f"{what} have rows of nothing but zeros, which have no direction",
                got=f"{int((lengths == 0).sum())} rows, the first {int(np.argmin(lengths))}",
                remedy="use the Euclidean metric, or leave them out",
            )
        return 1 / lengths

    def _centre(self, values: Array, scale: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        return (values * scale[:, None] - self._middle).astype(np.float32)


def _parts(count: int, size: int = _LABELS) -> list[slice]:
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def _squares(values: Array) -> npt.NDArray[np.float64]:
    wide = values.astype(np.float64)
    found: npt.NDArray[np.float64] = np.einsum("ij,ij->i", wide, wide)
    return found


@compiled
def _merge(products: Any, half: Any, first: int, best: Any, where: Any) -> None:
    """Put the labels of a block among the best so far, `best` ascending."""
    rows, cols = products.shape
    last = best.shape[1] - 1
    for i in range(rows):
        worst = best[i, last]
        for start in range(0, cols, 64):
            stop = min(start + 64, cols)
            nearer = np.int32(0)
            for j in range(start, stop):  # nearly always none: a loop without branches is quick
                nearer += np.int32(half[j] - products[i, j] < worst)
            if nearer == 0:
                continue
            for j in range(start, stop):
                value = half[j] - products[i, j]
                if value < worst:
                    at = last
                    while at > 0 and best[i, at - 1] > value:
                        best[i, at] = best[i, at - 1]
                        where[i, at] = where[i, at - 1]
                        at -= 1
                    best[i, at], where[i, at] = value, first + j
                    worst = best[i, last]


@compiled
def _square(query: Any, scale: float, label: Any, other: float) -> float:
    """Squared distance in float64; the order of the sum is always the same."""
    n = query.shape[0]
    a = b = c = d = 0.0
    for k in range(0, n - 3, 4):
        p = query[k] * scale - label[k] * other
        q = query[k + 1] * scale - label[k + 1] * other
        r = query[k + 2] * scale - label[k + 2] * other
        s = query[k + 3] * scale - label[k + 3] * other
        a, b, c, d = a + p * p, b + q * q, c + r * r, d + s * s
    for k in range(n - n % 4, n):
        p = query[k] * scale - label[k] * other
        a += p * p
    return (a + b) + (c + d)


@compiled
def _insert(value: float, row: int, squares: Any, rows: Any, count: int) -> int:
    """Put a label among the k nearest, of which `count` are there; ties by row."""
    k = squares.shape[0]
    if count == k:
        last = squares[k - 1]
        if value > last or (value == last and row > rows[k - 1]):
            return count
        at = k - 1
    else:
        at = count
        count += 1
    while at > 0 and (squares[at - 1] > value or (squares[at - 1] == value and rows[at - 1] > row)):
        squares[at], rows[at] = squares[at - 1], rows[at - 1]
        at -= 1
    squares[at], rows[at] = value, row
    return count


@compiled
def _rank(
    block: Any, scale: Any, labels: Any, scales: Any, where: Any, rows: Any, squares: Any
) -> None:
    """The k nearest of each query's candidates."""
    for i in range(block.shape[0]):
        count = 0
        for j in where[i]:
            if j >= 0:
                value = _square(block[i], scale[i], labels[j], scales[j])
                count = _insert(value, j, squares[i], rows[i], count)
        if count < squares.shape[1]:
            squares[i, :] = np.inf  # products that are no numbers: all labels must be looked at


@compiled
def _rank_all(
    block: Any, scale: Any, labels: Any, scales: Any, again: Any, rows: Any, squares: Any
) -> None:
    """The k nearest of all labels, for some of the queries."""
    for i in again:
        count = 0
        for j in range(labels.shape[0]):
            value = _square(block[i], scale[i], labels[j], scales[j])
            count = _insert(value, j, squares[i], rows[i], count)
