"""Settings of a head, chosen on the labels alone by leaving out one city after another.

What a head is for is the city that nobody labelled: so a candidate is judged on a city that it did
not see. Few cities make a poor judge. The first candidate is therefore a prior that is safe
anywhere, and another one takes its place only if its mean gain over the cities is more than the
standard error of that gain: the rule of one standard error (Breiman et al. 1984) with the prior in
the simplest model's place. A standard error of two cities says nothing, so two choose nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import LabelError
from engine.metrics import confusion, several
from engine.propagation.heads import CODES, ForestHead, Head, KnnHead, LogisticHead
from engine.propagation.inputs import require_features, require_labels

__all__ = [
    "CITIES",
    "Tuned",
    "forest_candidates",
    "knn_candidates",
    "leave_out",
    "logistic_candidates",
    "macro_f1",
    "mean_error",
    "tune",
]

CITIES = 3
"""Cities without which nothing is chosen."""

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Tuned:
    """A head's settings, and how they were come by.

    Attributes
    ----------
    head : the one chosen.
    prior : what it would be without a look at the labels.
    cities : those that were left out in turn.
    figures : float64 (candidates, cities), macro-F1 on the city that was left out.
    gain, error : of the best candidate over the prior, mean and standard error; NaN of too few.
    notes : what could not be done as meant.
    """

    head: Head
    prior: Head
    cities: tuple[int, ...]
    figures: npt.NDArray[np.float64]
    gain: float
    error: float
    notes: tuple[str, ...]


def logistic_candidates(classes: tuple[int, ...] = CODES) -> tuple[LogisticHead, ...]:
    """Penalties and weights of classes about the prior, the prior first."""
    prior = LogisticHead(classes=classes)
    penalties = (0.1, 0.3, 3.0, 10.0)
    others = (replace(prior, inverse_penalty=value) for value in penalties)
    return (prior, *others, replace(prior, balanced=False))


def knn_candidates(classes: tuple[int, ...] = CODES) -> tuple[KnnHead, ...]:
    """Numbers of neighbours, metrics and weights about the prior, the prior first."""
    prior = KnnHead(classes=classes)
    return (
        prior,
        *(replace(prior, k=k) for k in (1, 3, 10, 20)),
        replace(prior, metric="cosine"),
        replace(prior, weighing="distance"),
        replace(prior, metric="cosine", weighing="distance"),
    )


def forest_candidates(classes: tuple[int, ...] = CODES) -> tuple[ForestHead, ...]:
    """Weights of classes, the prior first."""
    prior = ForestHead(classes=classes)
    return prior, replace(prior, balanced=True)


def macro_f1(codes: npt.NDArray[Any], predicted: npt.NDArray[Any], classes: Sequence[int]) -> float:
    """Mean F1 of the classes that the reference has; NaN where it has none."""
    return several(confusion(codes, predicted, classes))["f1"]


def mean_error(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Mean of some cities' figures and its standard error; NaN of fewer than `CITIES`."""
    if len(values) < CITIES:
        return float("nan"), float("nan")
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def leave_out(
    codes: npt.NDArray[np.int64], city: npt.NDArray[Any], least: int = 2
) -> Iterator[tuple[int, Bools, Bools, Bools]]:
    """Leave out each city in turn.

    Parameters
    ----------
    codes, city : (n,)
    least : classes that the other cities must have, or the city is passed over.

    Yields
    ------
    city; which labels are of others; which are its own; which of these have a class that others
    have: bool (n,) each
    """
    for name in np.unique(city).tolist():
        own = np.asarray(city == name)
        known = np.unique(codes[~own])
        if len(known) >= least:
            yield name, ~own, own, own & np.isin(codes, known)


def tune(
    features: npt.ArrayLike,
    codes: npt.ArrayLike,
    city: npt.ArrayLike,
    candidates: Sequence[Head],
    weights: npt.NDArray[np.float64] | None = None,
    seed: int = 0,
) -> Tuned:
    """Choose among heads.

    Parameters
    ----------
    features : float32 (n, columns), on the pool's scale.
    codes : integers (n,)
    city : integers (n,)
    candidates : of one set of classes; the first is the prior.
    weights : of the labels, as of `Head.fit`.
    seed : of heads that draw.

    Raises
    ------
    LabelError
        Where labels cannot be used, or there is no candidate.
    """
    if not candidates:
        raise LabelError("there is no head to choose from", got=0, expected="one or more")
    classes = candidates[0].classes
    x = require_features(features, "labelled features")
    y = require_labels(codes, classes, len(x))
    own = np.asarray(city)
    if own.shape != y.shape:
        raise LabelError("labels and cities do not go together", got=own.shape, expected=y.shape)
    folds = [(name, rest, known) for name, rest, _, known in leave_out(y, own) if known.any()]
    notes = []
    passed = sorted(set(np.unique(own).tolist()) - {name for name, *_ in folds})
    if passed:
        notes.append(
            f"cities {passed} cannot be used for tuning: the others share no class with them, or "
            "have only one"
        )
    if len(folds) < CITIES:
        notes.append(f"{len(folds)} cities are too few to tune on: the prior settings are kept")
        nothing = np.full((len(candidates), 0), np.nan)
        cities = tuple(name for name, *_ in folds)
        return Tuned(candidates[0], candidates[0], cities, nothing, np.nan, np.nan, tuple(notes))
    figures = np.empty((len(candidates), len(folds)))
    for column, (_, rest, known) in enumerate(folds):
        w = None if weights is None else weights[rest]
        for row, head in enumerate(candidates):
            found = head.fit(x[rest], y[rest], w, seed).predict(x[known])
            figures[row, column] = macro_f1(y[known], found, classes)
    gains = figures - figures[0]
    best = int(gains.mean(1).argmax())
    gain, error = mean_error(gains[best])
    return Tuned(
        candidates[best if gain > error else 0],
        candidates[0],
        tuple(name for name, *_ in folds),
        figures,
        gain,
        error,
        tuple(notes),
    )
