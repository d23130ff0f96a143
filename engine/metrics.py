"""Accuracy figures, each under a name of its own.

A confusion matrix has a row for each reference class and a column for each predicted one. Figures
that are often mixed up have distinct names: ``oa_u`` counts cells that are built in map *and*
reference, ``oa_built_rows`` all cells that are built in the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import MetricError
from engine.legend import LCZ

__all__ = [
    "BUILT",
    "NATURAL",
    "Accuracy",
    "assess",
    "average_precision",
    "best_threshold",
    "binary",
    "by_class",
    "by_label",
    "confusion",
    "of_labels",
    "seam_ratio",
    "several",
    "similarity",
]

BUILT = tuple(range(1, 11))
"""LCZ 1 to 10."""

NATURAL = tuple(range(11, 18))
"""LCZ A to G, codes 11 to 17; E counts as natural."""

# Climatic similarity of LCZ types, rows from the diagonal's right neighbour on.
# Source: tables/LCZ_metric.csv of the multitemporal LCZ mapping tool (Demuzere et al.).
_SIMILARITY = """
.92 .83 .67 .58 .50 .58 .75 .42 .75 .33 .25 .08 .00 .25 .00 .00
.92 .58 .67 .58 .67 .83 .42 .83 .42 .33 .25 .08 .33 .08 .08
.50 .58 .67 .75 .92 .58 .92 .50 .42 .33 .17 .42 .17 .17
.92 .83 .75 .50 .75 .58 .50 .58 .50 .33 .08 .33 .33
.92 .83 .67 .83 .67 .58 .67 .50 .42 .17 .42 .42
.92 .75 .92 .75 .67 .75 .67 .58 .25 .50 .50
.67 .83 .67 .75 .67 .58 .42 .17 .42 .42
.75 .92 .42 .50 .42 .25 .50 .33 .33
.67 .58 .67 .75 .58 .33 .58 .58
.42 .50 .42 .25 .50 .33 .33
.92 .83 .67 .42 .67 .67
.92 .75 .50 .75 .75
.83 .58 .83 .83
.75 .92 .92
.75 .75
.92
"""

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@cache
def similarity() -> Floats:
    """Weights of `oa_w`: (17, 17), symmetric, 1 on the diagonal."""
    weights = np.eye(17)
    for row, line in enumerate(_SIMILARITY.split("\n")[1:-1]):
        values = [float(word) for word in line.split()]
        weights[row, row + 1 :] = weights[row + 1 :, row] = values
    weights.setflags(write=False)
    return weights


def confusion(
    reference: npt.ArrayLike, predicted: npt.ArrayLike, classes: Sequence[int] | None = None
) -> Counts:
    """Count pairs of classes.

    Parameters
    ----------
    reference, predicted : integer arrays of one shape
        Class codes; pairs with a 0 on either side are left out.
    classes : codes of rows and columns; by default 1 to 17.

    Returns
    -------
    int64 (reference, predicted)

    Raises
    ------
    MetricError
        Where shapes differ, or a code is none of the classes.
    """
    codes = np.array(classes if classes is not None else [c.code for c in LCZ])
    a, b = np.asarray(reference).ravel(), np.asarray(predicted).ravel()
    if np.shape(reference) != np.shape(predicted):
        raise MetricError(
            "map and reference have different shapes",
            got=f"{np.shape(predicted)} and {np.shape(reference)}",
            remedy="bring both onto one grid first",
        )
    both = (a != 0) & (b != 0)
    a, b = a[both], b[both]
    strange = sorted(set(np.unique(np.concatenate([a, b])).tolist()) - set(codes.tolist()))
    if strange:
        raise MetricError("codes that are not a class", got=strange, expected=codes.tolist())
    order = np.argsort(codes)
    rows = order[np.searchsorted(codes, a, sorter=order)]
    cols = order[np.searchsorted(codes, b, sorter=order)]
    n = len(codes)
    return np.bincount(rows * n + cols, minlength=n * n).reshape(n, n).astype(np.int64)


@dataclass(frozen=True)
class Accuracy:
    """Figures of a confusion matrix of the 17 LCZ types; nan where nothing was counted.

    Attributes
    ----------
    cells : how many pairs.
    oa : share of the diagonal.
    kappa : (Po - Pe) / (1 - Pe).
    oa_u : share of the diagonal among cells that are built in both.
    oa_bu : share of cells on the right side of built and natural.
    oa_w : share weighted by climatic similarity.
    oa_built_rows, oa_natural_rows : share of cells of built (natural) reference with their class.
    f1_macro : mean F1 of classes that occur in the reference.
    f1_weighted : mean F1 weighted by the reference.
    f1, users, producers : per class; UA = precision, PA = recall.
    """

    cells: int
    oa: float
    kappa: float
    oa_u: float
    oa_bu: float
    oa_w: float
    oa_built_rows: float
    oa_natural_rows: float
    f1_macro: float
    f1_weighted: float
    f1: Floats
    users: Floats
    producers: Floats

    def figures(self) -> dict[str, float]:
        """The single figures, by name."""
        return {k: float(v) for k, v in vars(self).items() if not isinstance(v, np.ndarray)}


def assess(counts: npt.ArrayLike) -> Accuracy:
    """Figures of a 17 x 17 confusion matrix.

    Sources: Demuzere et al. 2020 (oa_u, oa_bu, oa_w), DF4LCZ (oa_built_rows, oa_natural_rows).
    """
    c = np.asarray(counts, np.float64)
    if c.shape != (17, 17):
        raise MetricError("not a matrix of the LCZ types", got=c.shape, expected=(17, 17))
    total, rows, cols, hit = c.sum(), c.sum(axis=1), c.sum(axis=0), np.diag(c)
    built, natural = slice(0, 10), slice(10, 17)
    with np.errstate(invalid="ignore", divide="ignore"):
        chance = (rows * cols).sum() / total**2
        oa = hit.sum() / total
        f1 = 2 * hit / (rows + cols)
        seen = rows > 0
        return Accuracy(
            cells=int(total),
            oa=float(oa),
            kappa=float((oa - chance) / (1 - chance)),
            oa_u=float(hit[built].sum() / c[built, built].sum()),
            oa_bu=float((c[built, built].sum() + c[natural, natural].sum()) / total),
            oa_w=float((similarity() * c).sum() / total),
            oa_built_rows=float(hit[built].sum() / rows[built].sum()),
            oa_natural_rows=float(hit[natural].sum() / rows[natural].sum()),
            f1_macro=float(np.mean(f1[seen])) if seen.any() else float("nan"),
            f1_weighted=float((f1[seen] * rows[seen]).sum() / total),
            f1=np.where(seen | (cols > 0), f1, np.nan),
            users=hit / cols,
            producers=hit / rows,
        )


def binary(counts: npt.ArrayLike) -> dict[str, float]:
    """Figures of a map of one class, pooled over pixels.

    Parameters
    ----------
    counts : int (2, 2), rows reference, columns map; position 1 is the class.

    Returns
    -------
    precision, recall, f1, iou, oa: each 0 to 1, NaN where it has no meaning.
    """
    (tn, fp), (fn, tp) = np.asarray(counts, np.float64)

    def share(part: float, whole: float) -> float:
        return float(part / whole) if whole else float("nan")

    return {
        "precision": share(tp, tp + fp),
        "recall": share(tp, tp + fn),
        "f1": share(2 * tp, 2 * tp + fp + fn),
        "iou": share(tp, tp + fp + fn),
        "oa": share(tp + tn, tp + tn + fp + fn),
    }


def by_class(counts: npt.ArrayLike) -> dict[str, Floats]:
    """Figures of each class of a map; a class that the reference lacks has none (NaN).

    Parameters
    ----------
    counts : int (n, n), rows reference, columns map.

    Returns
    -------
    precision, recall, f1, iou: float (n,), 0 to 1
    """
    table = np.asarray(counts, np.float64)
    right, there, found = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        figures = {
            "precision": right / found,
            "recall": right / there,
            "f1": 2 * right / (there + found),
            "iou": right / (there + found - right),
        }
    return {name: np.where(there > 0, values, np.nan) for name, values in figures.items()}


def several(counts: npt.ArrayLike) -> dict[str, float]:
    """Single figures of a map of several classes, pooled over pixels.

    Parameters
    ----------
    counts : as of `by_class`.

    Returns
    -------
    oa, kappa; f1, iou: means over the classes that the reference has; NaN where nothing was
    counted.
    """
    table = np.asarray(counts, np.float64)
    total = table.sum()
    if not total:
        return dict.fromkeys(("oa", "kappa", "f1", "iou"), float("nan"))
    each = by_class(table)
    oa, chance = np.trace(table) / total, (table.sum(axis=0) @ table.sum(axis=1)) / total**2
    return {
        "oa": float(oa),
        "kappa": float((oa - chance) / (1 - chance)) if chance < 1 else float("nan"),
        "f1": float(np.nanmean(each["f1"])),
        "iou": float(np.nanmean(each["iou"])),
    }


def average_precision(truth: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """Mean over all positives of the precision among those that score as high as it, or higher.

    Parameters
    ----------
    truth : bool (n,); score : float (n,).

    Returns
    -------
    0 to 1; NaN where there is no positive.
    """
    right, count, _ = _ranked(truth, score)
    if not len(right) or not right[-1]:
        return float("nan")
    return float((np.diff(right, prepend=0) * right / count).sum() / right[-1])


def best_threshold(truth: npt.ArrayLike, score: npt.ArrayLike) -> float | None:
    """The threshold on probabilities with the largest F1, midway between two that occur.

    Of several as good the highest; None where all are positives, or none is.
    """
    right, count, levels = _ranked(truth, score)
    if not len(right) or right[-1] in (0, count[-1]):
        return None
    best = int(np.argmax(2 * right / (count + right[-1])))
    below = float(levels[best + 1]) if best + 1 < len(levels) else 0.0
    return (float(levels[best]) + below) / 2


def _ranked(truth: npt.ArrayLike, score: npt.ArrayLike) -> tuple[Floats, Floats, Floats]:
    """From the highest level of scores down: positives and examples so far, and the levels."""
    scores = np.asarray(score, np.float64)
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order], np.asarray(truth, bool)[order]
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], len(scores) > 0))
    right = np.cumsum(positive)[last].astype(np.float64)
    return right, (last + 1).astype(np.float64), scores[last]


def by_label(
    truth: npt.ArrayLike, score: npt.ArrayLike, thresholds: Sequence[float]
) -> dict[str, Floats]:
    """Figures of each label of patches that may have several.

    Parameters
    ----------
    truth : float (n, label), 1 where it occurs, 0 where it does not, NaN where nobody knows.
    score : float (n, label), its probability; NaN where there is none.
    thresholds : of each label; it is found from this probability on.

    Returns
    -------
    n, positives (patches that are known, and those with the label), found, right (those it is found
    in, and rightly); precision, recall, f1, average_precision, 0 to 1, NaN where there is nothing
    to count: float (label,)
    """
    told, given = np.asarray(truth, np.float64), np.asarray(score, np.float64)
    known = np.isfinite(told) & np.isfinite(given)
    there = known & (told == 1)
    found = known & (np.where(known, given, -1.0) >= np.asarray(thresholds))
    n, positives, some, right = (
        np.count_nonzero(each, axis=0).astype(float)
        for each in (known, there, found, there & found)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        figures = {
            "precision": right / some,
            "recall": right / positives,
            "f1": np.where(positives > 0, 2 * right / (positives + some), np.nan),
        }
    ap = [average_precision(there[known[:, k], k], given[known[:, k], k]) for k in range(len(n))]
    counts = {"n": n, "positives": positives, "found": some, "right": right}
    return {**counts, **figures, "average_precision": np.array(ap)}


def of_labels(
    truth: npt.ArrayLike, score: npt.ArrayLike, thresholds: Sequence[float]
) -> dict[str, float]:
    """Single figures of patches that may have several labels.

    Parameters
    ----------
    truth, score, thresholds : as of `by_label`.

    Returns
    -------
    f1_micro, precision, recall : of all labels' decisions pooled.
    f1_macro, average_precision : means over the labels that occur.
    exact : share of the patches, of which every label is known, with all of them right.
    wrong : share of decisions that are wrong (Hamming loss).
    """
    each = by_label(truth, score, thresholds)
    told, given = np.asarray(truth, np.float64), np.asarray(score, np.float64)
    known = np.isfinite(told) & np.isfinite(given)
    wrong = known & ((told == 1) != (np.where(known, given, -1.0) >= np.asarray(thresholds)))
    whole = known.all(axis=1)
    n, positives, found, right = (
        float(each[name].sum()) for name in ("n", "positives", "found", "right")
    )
    occurs = each["positives"] > 0

    def share(part: float | np.integer[Any], of: float | np.integer[Any]) -> float:
        return float(part / of) if of else float("nan")

    def mean(values: Floats) -> float:
        return share(float(values[occurs].sum()), int(occurs.sum()))

    return {
        "f1_micro": share(2 * right, positives + found),
        "f1_macro": mean(each["f1"]),
        "precision": share(right, found),
        "recall": share(right, positives),
        "average_precision": mean(each["average_precision"]),
        "exact": share(np.count_nonzero(whole & ~wrong.any(axis=1)), np.count_nonzero(whole)),
        "wrong": share(np.count_nonzero(wrong), n),
    }


def seam_ratio(values: npt.ArrayLike, first: int, period: int) -> float:
    """How much more a map changes across lines than elsewhere: 1 where no seam shows.

    The mean difference of neighbours on both sides of a line over that of all other neighbours.

    Parameters
    ----------
    values : float (y, x), NaN where there is none.
    first : column that begins behind the first line.
    period : columns from one line to the next.

    Raises
    ------
    MetricError
        Where no line, or nothing beside lines, has values.
    """
    steps = np.abs(np.diff(np.asarray(values, np.float64), axis=1))
    lines = np.zeros(steps.shape[1], bool)
    lines[(first - 1) % period :: period] = True
    means = []
    for part in (steps[:, lines], steps[:, ~lines]):
        if not np.isfinite(part).any():
            raise MetricError("there is nothing to compare at or beside the lines", got=period)
        means.append(float(np.nanmean(part)))
    return means[0] / means[1] if means[1] else (1.0 if means[0] == 0 else np.inf)
