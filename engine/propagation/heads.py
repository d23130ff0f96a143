"""Heads: small classifiers on features of cells, all fitted and asked in one way.

A head is told the classes that there are. Those that its labels lack have score 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from engine.errors import LabelError
from engine.legend import LCZ
from engine.propagation.inputs import require_features, require_labels
from engine.propagation.neighbours import Index, Metric

__all__ = [
    "CODES",
    "ForestHead",
    "Head",
    "KnnHead",
    "KnnScorer",
    "Linear",
    "LogisticHead",
    "Scorer",
    "Trees",
    "best_of",
    "learnt_from",
]

CODES = tuple(land.code for land in LCZ)

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Weighing = Literal["uniform", "distance"]

_STEPS = 1000  # of the logistic head's optimizer


class Scorer(Protocol):
    """A head that was fitted."""

    def scores(self, features: npt.ArrayLike) -> Floats:
        """Scores (n, classes), 0 to 1, each row's sum 1; 0 for classes without labels."""

    def predict(self, features: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The code of each cell's best class (n,)."""


class Head(Protocol):
    """A classifier and its settings; `classes` are the codes of the columns of scores."""

    @property
    def classes(self) -> tuple[int, ...]: ...

    def fit(
        self,
        features: npt.ArrayLike,
        codes: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
        seed: int = 0,
    ) -> Scorer:
        """Learn from labelled cells.

        Parameters
        ----------
        features : float32 (n, columns), on the pool's scale.
        codes : integers (n,), two classes or more.
        weights : float (n,), over 0: 1 for a label, its confidence for a pseudo-label.
        seed : of whatever is drawn.

        Raises
        ------
        LabelError
            Where features, codes or weights cannot be used.
        """


@dataclass(frozen=True)
class Linear:
    """Fitted logistic regression.

    Attributes
    ----------
    classes : codes of the columns of scores.
    places : columns of the classes that it knows.
    weights : float64 (known classes, columns)
    offsets : float64 (known classes,)
    """

    classes: tuple[int, ...]
    places: npt.NDArray[np.int64]
    weights: Floats
    offsets: Floats

    def logits(self, features: npt.ArrayLike) -> Floats:
        """Of the known classes: float64 (n, known classes)."""
        x = require_features(features, "features of cells", self.weights.shape[1])
        return np.asarray(x.astype(np.float64) @ self.weights.T + self.offsets)

    def scores(self, features: npt.ArrayLike) -> Floats:
        """Softmax of the logits (n, classes)."""
        logits = self.logits(features)
        found = np.zeros((len(logits), len(self.classes)))
        powers = np.exp(logits - logits.max(1, keepdims=True))
        found[:, self.places] = powers / powers.sum(1, keepdims=True)
        return found

    def predict(self, features: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The code of each cell's best class (n,), of equal ones the first."""
        return best_of(self.scores(features), self.classes)

    def energy(self, features: npt.ArrayLike) -> Floats:
        """Minus the log of the sum of the logits' powers (n,): high where no class claims a cell.

        Source: Liu et al. 2020, Energy-based out-of-distribution detection, eq. 4 with T = 1.
        """
        return _energy(self.logits(features))


def _energy(logits: Floats) -> Floats:
    most = logits.max(1)
    return np.asarray(-(most + np.log(np.exp(logits - most[:, None]).sum(1))))


@dataclass(frozen=True)
class LogisticHead:
    """Multinomial logistic regression with an L2 penalty: the default.

    Parameters
    ----------
    inverse_penalty : C of scikit-learn: weight of the labels' loss, summed, against the penalty.
        Of 5 to 20 labels of a class and city on made-up cities, 1 came within .02 of the best value
        on every feature set; .01 lost .05 to .18 on each, more than a linear head gains.
    balanced : weigh each class as much as any other; gained .01 to .03 there.
    classes : codes of the columns of scores, ascending.
    """

    inverse_penalty: float = 1.0
    balanced: bool = True
    classes: tuple[int, ...] = CODES

    def fit(
        self,
        features: npt.ArrayLike,
        codes: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
        seed: int = 0,
    ) -> Linear:
        """As of `Head`; the optimum is one, so the seed decides nothing."""
        x, y, w = learnt_from(features, codes, weights, self.classes)
        known, place = np.unique(y, return_inverse=True)
        model = LogisticRegression(
            C=self.inverse_penalty,
            class_weight="balanced" if self.balanced else None,
            max_iter=_STEPS,
        )
        model.fit(x.astype(np.float64), place, w)
        coefficients, offsets = model.coef_, model.intercept_
        if len(known) == 2:
            # scikit-learn keeps one row, of the second class against the first
            coefficients = np.concatenate([-coefficients, coefficients]) / 2
            offsets = np.concatenate([-offsets, offsets]) / 2
        return Linear(self.classes, np.searchsorted(self.classes, known), coefficients, offsets)


@dataclass(frozen=True)
class KnnScorer:
    """Labels that vote.

    Attributes
    ----------
    classes : codes of the columns of scores.
    index : of the labels.
    places : of each label's class among the columns.
    weights : float64 (labels,)
    k : how many vote.
    weighing : see `KnnHead`.
    """

    classes: tuple[int, ...]
    index: Index
    places: npt.NDArray[np.int64]
    weights: Floats
    k: int
    weighing: Weighing

    def votes(self, features: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.int64], Floats]:
        """Ask the neighbours.

        Returns
        -------
        scores : float64 (n, classes), shares of the votes
        codes : int64 (n,), of the class with most votes; of equal ones that of the nearest label
        distances : float64 (n,), mean of the neighbours
        """
        rows, distances, _ = self.index.find(features, self.k)
        each = self.weights[rows]
        if self.weighing == "distance":
            # a label in the same place has all of the votes, as in scikit-learn
            same = distances == 0
            near = np.where(same.any(1, keepdims=True), same, 1 / np.where(same, 1, distances))
            each = each * near
        n = len(rows)
        shares = np.zeros((n, len(self.classes)))
        np.add.at(shares, (np.arange(n)[:, None], self.places[rows]), each)
        shares /= shares.sum(1, keepdims=True)
        of_each = np.take_along_axis(shares, self.places[rows], 1)
        best = of_each >= shares.max(1, keepdims=True) * (1 - 1e-12)
        first = self.places[rows][np.arange(n), best.argmax(1)]
        return shares, np.array(self.classes)[first], distances.mean(1)

    def scores(self, features: npt.ArrayLike) -> Floats:
        """Shares of the votes (n, classes)."""
        return self.votes(features)[0]

    def predict(self, features: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The class with most votes (n,), of equal ones that of the nearest label."""
        return self.votes(features)[1]


@dataclass(frozen=True)
class KnnHead:
    """The k nearest labels vote.

    Parameters
    ----------
    k : how many; all, where there are fewer labels.
    metric : see `engine.propagation.neighbours.Index`.
    weighing : "uniform": a vote each; "distance": one over the distance.
    classes : codes of the columns of scores, ascending.
    """

    k: int = 5
    metric: Metric = "euclidean"
    weighing: Weighing = "uniform"
    classes: tuple[int, ...] = CODES

    def fit(
        self,
        features: npt.ArrayLike,
        codes: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
        seed: int = 0,
    ) -> KnnScorer:
        """As of `Head`; one class is enough, nothing is drawn."""
        x, y, w = learnt_from(features, codes, weights, self.classes, least=1)
        if self.k < 1:
            raise LabelError("no neighbour would vote", got=f"k={self.k}", expected="1 or more")
        whole = np.ones(len(y)) if w is None else w
        places = np.searchsorted(self.classes, y)
        index = Index(x, self.metric)
        return KnnScorer(self.classes, index, places, whole, min(self.k, len(y)), self.weighing)


@dataclass(frozen=True)
class Trees:
    """A grown forest."""

    classes: tuple[int, ...]
    places: npt.NDArray[np.int64]
    forest: Any = field(repr=False)

    def scores(self, features: npt.ArrayLike) -> Floats:
        """Mean of the trees' shares (n, classes)."""
        x = require_features(features, "features of cells", self.forest.n_features_in_)
        found = np.zeros((len(x), len(self.classes)))
        if len(x):
            found[:, self.places] = self.forest.predict_proba(x)
        return found

    def predict(self, features: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The code of each cell's best class (n,), of equal ones the first."""
        return best_of(self.scores(features), self.classes)


@dataclass(frozen=True)
class ForestHead:
    """A random forest (Breiman 2001) with the square root of the features at a split.

    Parameters
    ----------
    trees : int
    balanced : weigh each class as much as any other.
    classes : codes of the columns of scores, ascending.
    """

    trees: int = 300
    balanced: bool = False
    classes: tuple[int, ...] = CODES

    def fit(
        self,
        features: npt.ArrayLike,
        codes: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
        seed: int = 0,
    ) -> Scorer:
        """As of `Head`."""
        x, y, w = learnt_from(features, codes, weights, self.classes)
        # one thread: several add up the trees' shares in an order of chance
        forest = RandomForestClassifier(
            self.trees,
            class_weight="balanced" if self.balanced else None,
            random_state=seed,
            n_jobs=1,
        )
        forest.fit(x, y, w)
        return Trees(self.classes, np.searchsorted(self.classes, forest.classes_), forest)


def best_of(scores: Floats, classes: Sequence[int]) -> npt.NDArray[np.int64]:
    """The code of each row's best class (n,), of equal ones the first."""
    return np.asarray(np.array(classes)[scores.argmax(1)])


def learnt_from(
    features: npt.ArrayLike,
    codes: npt.ArrayLike,
    weights: npt.ArrayLike | None,
    classes: Sequence[int],
    least: int = 2,
) -> tuple[Array, npt.NDArray[np.int64], Floats | None]:
    """Features, codes and weights that a head is given, looked at; errors as of `Head.fit`."""
    x = require_features(features, "labelled features")
    y = require_labels(codes, classes, len(x), least=least)
    if weights is None:
        return x, y, None
    w = np.asarray(weights, np.float64)
    if w.shape != y.shape or not np.isfinite(w).all() or (w <= 0).any():
        raise LabelError(
            "weights do not fit the labels",
            got=f"{w.shape}, from {w.min() if w.size else 0:g}",
            expected=f"{y.shape}, each over 0",
        )
    return x, y, w
