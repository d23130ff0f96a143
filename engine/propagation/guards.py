"""Guards: which cells may have a pseudo-label, calibrated on labels of cities that are left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from engine.errors import LabelError
from engine.propagation.heads import KnnHead, LogisticHead
from engine.propagation.tuning import leave_out

__all__ = [
    "HeldOut",
    "Novelty",
    "cap_classes",
    "cap_pool",
    "held_out",
    "overlapping",
    "threshold_for",
    "touching",
]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_FEWEST = 20  # cells of left-out cities that a precision or a rank is measured on


@dataclass(frozen=True)
class HeldOut:
    """Labels, as seen from the other cities.

    Attributes
    ----------
    rows : int64 (n,), of the labels; those of cities that could not be left out are missing.
    codes : int64 (n,), their true classes.
    known : bool (n,), whether the others have their class.
    predicted, confidence : by the head of the others, (n,).
    distance : float64 (n,), mean over the k nearest labels of the others.
    energy : float64 (n,), of the others' linear head; NaN without one.
    """

    rows: Ints
    codes: Ints
    known: Bools
    predicted: Ints
    confidence: Floats
    distance: Floats
    energy: Floats


def held_out(
    features: npt.NDArray[Any],
    codes: Ints,
    city: npt.NDArray[Any],
    knn: KnnHead,
    linear: LogisticHead | None,
    seed: int = 0,
) -> HeldOut:
    """Look at each city's labels from the others.

    Parameters
    ----------
    features : float32 (n, columns), on the pool's scale.
    codes, city : (n,)
    knn : measures distances, and predicts where there is no linear head.
    linear : predicts, and measures energies.
    seed : of heads that draw.
    """
    parts: list[tuple[Any, ...]] = []
    for _, rest, own, known in leave_out(codes, city):
        x, rows = features[own], np.flatnonzero(own)
        shares, predicted, distance = knn.fit(features[rest], codes[rest]).votes(x)
        energy = np.full(len(x), np.nan)
        if linear is not None:
            scorer = linear.fit(features[rest], codes[rest], None, seed)
            shares, energy = scorer.scores(x), scorer.energy(x)
            predicted = np.array(linear.classes)[shares.argmax(1)]
        parts.append((rows, codes[own], known[own], predicted, shares.max(1), distance, energy))
    if not parts:
        none, nothing = np.zeros(0, np.int64), np.zeros(0)
        return HeldOut(none, none, none.astype(bool), none, nothing, nothing, nothing)
    return HeldOut(*(np.concatenate(values) for values in zip(*parts, strict=True)))


@dataclass(frozen=True)
class Novelty:
    """How unlike all labels a cell is, by its place among known cells of left-out cities.

    Distance finds cells far from all labels (water, say); energy those that lie between classes.
    Neither finds what the other does, so a cell is as novel as the larger of its two ranks. Ranks
    are among known cells of the class that the head gives it, where there are 20 of them: natural
    cells lie farther apart than built ones and would set the limit for all (a conformal test by
    category: Vovk et al. 2005, Algorithmic learning in a random world, section 4.5). Together they
    lose a fixed share of known cells.

    Attributes
    ----------
    known : of a class, 0 for all cells: distances and energies, float64, each ascending; no
        energies: they do not count.
    limit : rank beyond which a cell is novel.
    """

    known: Mapping[int, tuple[Floats, Floats]]
    limit: float

    @classmethod
    def of(
        cls,
        distance: Floats,
        energy: Floats | None,
        loss: float,
        predicted: Ints | None = None,
    ) -> Novelty:
        """Calibrate on known cells, of which at most `loss` are then novel.

        Parameters
        ----------
        distance, energy : float64 (n,); without energies these do not count.
        loss : share, from 0 to under 1.
        predicted : int64 (n,), the head's class of each; by default all are taken together.

        Raises
        ------
        LabelError
            Where there is no known cell, or the loss is no share.
        """
        if not len(distance) or not 0 <= loss < 1:
            raise LabelError(
                "novelty cannot be calibrated",
                got=f"{len(distance)} known cells, a loss of {loss:g}",
                expected="one cell or more, a loss from 0 to under 1",
            )
        groups = {0: np.ones(len(distance), bool)}
        if predicted is not None:
            each = {code: predicted == code for code in np.unique(predicted).tolist()}
            groups |= {code: here for code, here in each.items() if here.sum() >= _FEWEST}
        nothing = np.zeros(0)
        found = cls(
            {
                code: (
                    np.sort(distance[here]),
                    nothing if energy is None else np.sort(energy[here]),
                )
                for code, here in groups.items()
            },
            1.0,
        )
        ranks = np.sort(found.rank(distance, energy, predicted))
        # a hair less, so that 95 % of 20 is 19
        place = int(np.ceil((1 - loss) * len(ranks) * (1 - 1e-12))) - 1
        return cls(found.known, float(ranks[place]))

    def rank(
        self, distance: Floats, energy: Floats | None, predicted: Ints | None = None
    ) -> Floats:
        """Share of the known cells that are less novel, 0 to 1: (n,)."""
        found = np.zeros(len(distance))
        own = np.zeros(len(distance), np.int64)
        if predicted is not None:
            own = np.where(np.isin(predicted, list(self.known)), predicted, 0)
        for code in np.unique(own).tolist():
            here, (distances, energies) = own == code, self.known[code]
            found[here] = np.searchsorted(distances, distance[here]) / len(distances)
            if energy is not None and len(energies):
                other = np.searchsorted(energies, energy[here]) / len(energies)
                found[here] = np.maximum(found[here], other)
        return found

    def novel(
        self, distance: Floats, energy: Floats | None, predicted: Ints | None = None
    ) -> Bools:
        """Which cells are: bool (n,)."""
        return np.asarray(self.rank(distance, energy, predicted) > self.limit)


def threshold_for(
    confidence: Floats, right: Bools, precision: float, errors: float = 1.0
) -> float | None:
    """The lowest confidence from which on predictions are right often enough.

    Confidences of small sets of labels are not probabilities: what precision they stand for is
    measured on cities that were left out.

    Parameters
    ----------
    confidence : float64 (n,)
    right : bool (n,), whether the prediction was.
    precision : that is wanted, 0 to 1.
    errors : standard errors by which it must be exceeded, since the threshold is picked from many.

    Returns
    -------
    None where no 20 cells reach it
    """
    order = np.argsort(-confidence, kind="stable")
    ranked, hits = confidence[order], np.cumsum(right[order])
    count = np.arange(1, len(order) + 1)
    # of several cells of one confidence all or none are kept
    last = np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)]
    # one hit and one miss more, so that a handful of hits has an error too
    share = (hits + 1) / (count + 2)
    lower = hits / count - errors * np.sqrt(share * (1 - share) / count)
    good = np.flatnonzero(last & (lower >= precision) & (count >= _FEWEST))
    return float(ranked[good[-1]]) if len(good) else None


def cap_pool(codes: Ints, city: npt.NDArray[Any], most: int, seed: int = 0) -> Ints:
    """Rows of at most so many labels of each class in each city, drawn by chance; ascending."""
    rng = np.random.default_rng(seed)
    kept = []
    for name in np.unique(city):
        for code in np.unique(codes):
            here = np.flatnonzero((city == name) & (codes == code))
            kept.append(here if len(here) <= most else rng.choice(here, most, replace=False))
    return np.sort(np.concatenate(kept)).astype(np.int64)


def cap_classes(
    codes: Ints,
    confidence: Floats,
    distance: Floats,
    labelled: Mapping[int, int],
    times: float = 3.0,
    least: int = 200,
) -> Bools:
    """Keep the surest of each class, a multiple of its labels at most.

    Parameters
    ----------
    codes, confidence, distance : of the cells, (n,); of equal confidence the nearer one is kept,
        then the earlier.
    labelled : labels of each class.
    times : pseudo-labels for each label.
    least : that any class may have.

    Returns
    -------
    bool (n,)
    """
    kept = np.zeros(len(codes), bool)
    order = np.lexsort((distance, -confidence))
    for code in np.unique(codes).tolist():
        here = order[codes[order] == code]
        kept[here[: max(int(times * labelled.get(code, 0)), least)]] = True
    return kept


def overlapping(xy: Floats, side: float, others: Floats, other_side: float, share: float) -> Bools:
    """Which squares share more than so much of their area with one of some others.

    Parameters
    ----------
    xy, others : float64 (n, 2), (m, 2)
        Centres in metres of one CRS; others that are NaN lie elsewhere.
    side, other_side : of the squares, in metres.
    share : of a square's area.
    """
    found = np.zeros(len(xy), bool)
    there = others[np.isfinite(others).all(1)]
    if not len(xy) or not len(there):
        return found
    reach = (side + other_side) / 2
    near = cKDTree(there).query_ball_point(xy, reach, p=np.inf, return_sorted=True)
    for row, places in enumerate(near):
        if places:
            apart = np.abs(there[places] - xy[row])
            common = np.clip(reach - apart, 0, min(side, other_side)).prod(1)
            found[row] = bool(common.max() > share * side**2)
    return found


def touching(xy: Floats, side: float, blocks: Floats) -> Bools:
    """Which squares share ground with one of some blocks.

    Parameters
    ----------
    xy : float64 (n, 2), centres.
    side : of the squares.
    blocks : float64 (m, 4): left, bottom, right, top.
    """
    found = np.zeros(len(xy), bool)
    half = side / 2
    for left, bottom, right, top in blocks:
        found |= (
            (xy[:, 0] + half > left)
            & (xy[:, 0] - half < right)
            & (xy[:, 1] + half > bottom)
            & (xy[:, 1] - half < top)
        )
    return found
