"""Whether cells of a class without labels would be detected as novel: each is left out in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from engine.propagation.guards import Novelty, cap_pool
from engine.propagation.heads import KnnHead, LogisticHead
from engine.propagation.tuning import leave_out

__all__ = ["Detection", "detect"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Detection:
    """How well cells of a class are detected as novel, if no label has it.

    Attributes
    ----------
    cells : labels of it that were looked at.
    auroc_distance, auroc_energy : against known cells: 1 perfect, .5 chance.
    rejected_distance, rejected_energy, rejected : shares that are detected at a fixed loss of
        known cells: by distance alone, by energy alone, and by both.
    """

    cells: int
    auroc_distance: float
    auroc_energy: float
    rejected_distance: float
    rejected_energy: float
    rejected: float


def detect(
    features: npt.NDArray[Any],
    codes: Ints,
    city: npt.NDArray[Any],
    knn: KnnHead,
    linear: LogisticHead | None,
    loss: float = 0.05,
    most: int = 50,
    seed: int = 0,
) -> dict[int, Detection]:
    """Take each class from all labels in turn, and look for it from the other cities.

    Parameters
    ----------
    features, codes, city : of the labels.
    knn, linear : the heads of a propagation; None: its guard goes by distance alone, whatever the
        class that a cell is given, as the notes have it.
    loss : share of known cells that may be lost.
    most : labels of a class and city that are looked at: there are as many fits as classes times
        cities.
    seed : of the draw.

    Returns
    -------
    by class; those that cannot be looked at are missing
    """
    kept = cap_pool(codes, city, most, seed)
    x, y, own = features[kept], codes[kept], city[kept]
    found = {}
    for code in np.unique(y).tolist():
        others = y != code
        parts: list[tuple[Any, ...]] = []
        for _, rest, here, _ in leave_out(y, own):
            learnt = rest & others
            classes = np.unique(y[learnt])
            asked = here & ((y == code) | np.isin(y, classes))
            if len(classes) < 2 or not asked.any():
                continue
            distance = knn.fit(x[learnt], y[learnt]).votes(x[asked])[2]
            energy, predicted = np.full(len(distance), np.nan), np.zeros(len(distance), np.int64)
            if linear is not None:
                scorer = linear.fit(x[learnt], y[learnt], None, seed)
                energy, predicted = scorer.energy(x[asked]), scorer.predict(x[asked])
            parts.append((y[asked] == code, distance, energy, predicted))
        if not parts:
            continue
        new, distance, energy, predicted = (
            np.concatenate(values) for values in zip(*parts, strict=True)
        )
        if not new.any() or new.all():
            continue
        alone = _rejected(new, predicted, loss, distance)
        found[code] = Detection(
            int(new.sum()),
            float(roc_auc_score(new, distance)),
            float("nan") if linear is None else float(roc_auc_score(new, energy)),
            alone,
            float("nan") if linear is None else _rejected(new, predicted, loss, energy),
            alone if linear is None else _rejected(new, predicted, loss, distance, energy),
        )
    return found


def _rejected(
    new: npt.NDArray[np.bool_],
    predicted: Ints,
    loss: float,
    first: Floats,
    second: Floats | None = None,
) -> float:
    """Share of new cells that are told where so many of the others may be lost."""
    novelty = Novelty.of(
        first[~new], None if second is None else second[~new], loss, predicted[~new]
    )
    told = novelty.novel(first[new], None if second is None else second[new], predicted[new])
    return float(told.mean())
