"""What a pool of cells has in common, labelled or not: mean and spread, by which all are brought
to one scale.

Moments are integers (`engine.propagation.exact`): a fold may merge those of tiles in any order
(`engine.runs.fold`, columns of `moment_columns`, merged by its usual sum).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import LabelError
from engine.jit import compiled
from engine.propagation.exact import SQUARE_LIMBS, SUM_LIMBS, add_number, require_range
from engine.propagation.inputs import require_features
from engine.runs.tables import Column, Table

__all__ = [
    "FLOOR",
    "Standard",
    "moment_columns",
    "moments",
    "remove_means",
    "standard_of",
    "whiten",
]

FLOOR = 1e-6
"""Least spread that a column is divided by."""

_STEPS = 2**33
_WHITENED = 64  # components
_DIGITS = 2**40  # of a spread's root


def moment_columns(columns: int) -> tuple[Column, ...]:
    """The form of a table of moments, as a fold wants it."""
    number = ("column", tuple(range(columns)))
    return (
        Column("rows", "int64"),
        Column("count", "int64", (number,)),
        Column("sums", "int64", (number, ("limb", tuple(range(SUM_LIMBS))))),
        Column("squares", "int64", (number, ("square_limb", tuple(range(SQUARE_LIMBS))))),
    )


def moments(features: npt.ArrayLike) -> Table:
    """Moments of some cells; the sum of two tables (`engine.runs.tables.add`) is that of both.

    Parameters
    ----------
    features : float32 (n, columns), NaN where a source has none.

    Returns
    -------
    int64 tables: rows; count, sums and squares of each column

    Raises
    ------
    LabelError
        Where they are not a table, or a number is beyond all measure.
    """
    values = np.ascontiguousarray(require_features(features, "features of the pool", masked=True))
    require_range(values, "features of the pool")
    n = values.shape[1]
    count = np.zeros(n, np.int64)
    sums, squares = np.zeros((n, SUM_LIMBS), np.int64), np.zeros((n, SQUARE_LIMBS), np.int64)
    _add_rows(values, count, sums, squares)
    return {"rows": np.array(len(values)), "count": count, "sums": sums, "squares": squares}


@compiled
def _add_rows(values: Any, count: Any, sums: Any, squares: Any) -> None:
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            value = values[i, j]
            if value == value:  # not NaN
                count[j] += 1
                add_number(value, sums[j], squares[j])


@dataclass(frozen=True)
class Standard:
    """How cells are brought to one scale: z-scores, a mask for what lacks, whitening.

    Attributes
    ----------
    middle, spread : float64 (columns,), of the pool; the spread is at least `FLOOR`.
    kept : bool (columns,)
        A column that is missing everywhere, or the same everywhere, tells cells apart by nothing
        and is left out: so a missing source changes no model.
    masks : first columns of the sources that some cells lack; each adds a column of its own.
    shares : float64 (masks,), of the cells that lack it.
    rotation : float64 (columns out, components), where the pool was whitened.
    """

    middle: npt.NDArray[np.float64]
    spread: npt.NDArray[np.float64]
    kept: npt.NDArray[np.bool_]
    masks: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()
    rotation: npt.NDArray[np.float64] | None = None

    def apply(self, features: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Cells on the pool's scale.

        Parameters
        ----------
        features : float32 (n, columns); NaN, where a source has none, becomes the pool's mean.

        Returns
        -------
        float32 (n, columns kept + masks), or (n, components)

        Raises
        ------
        LabelError
            Where they have another number of columns, or infinite ones.
        """
        values = require_features(features, "features of cells", len(self.middle), masked=True)
        scaled = (values[:, self.kept] - self.middle[self.kept]) / self.spread[self.kept]
        np.nan_to_num(scaled, copy=False, nan=0.0)
        lacks = [
            (np.isnan(values[:, column]) - share) / max((share * (1 - share)) ** 0.5, FLOOR)
            for column, share in zip(self.masks, self.shares, strict=True)
        ]
        scaled = np.column_stack([scaled, *lacks]) if lacks else scaled
        if self.rotation is not None:
            scaled = scaled @ self.rotation
        return np.asarray(scaled, np.float32)


def standard_of(table: Table, sources: Sequence[int] | None = None) -> Standard:
    """The scale of a pool.

    Parameters
    ----------
    table : moments of labelled and unlabelled cells together.
    sources : of each column a number; columns of one source lack together, and share one mask. By
        default each is its own.

    Raises
    ------
    LabelError
        Where the pool is empty, the sources do not fit, or no column tells cells apart.
    """
    rows, count = int(table["rows"]), np.asarray(table["count"])
    if not rows:
        raise LabelError("the pool has no cells", got=0, expected="one or more")
    own = np.arange(len(count)) if sources is None else np.asarray(sources)
    if own.shape != count.shape:
        raise LabelError(
            "columns and their sources do not go together", got=own.shape, expected=count.shape
        )
    found = [_moment(*row) for row in zip(count, table["sums"], table["squares"], strict=True)]
    middle, spread = (np.array(values) for values in zip(*found, strict=True))
    kept = spread > 0
    if not kept.any():
        raise LabelError(
            "all cells of the pool have the same features",
            got=f"{rows} cells",
            remedy="look at the embedding: it may be empty",
        )
    firsts = [int(np.flatnonzero(own == source)[0]) for source in np.unique(own)]
    masks = tuple(column for column in firsts if 0 < count[column] < rows)
    shares = tuple(float(1 - count[column] / rows) for column in masks)
    return Standard(middle, np.maximum(spread, FLOOR), kept, masks, shares)


def _moment(count: Any, sums: Any, squares: Any) -> tuple[float, float]:
    """Mean and population standard deviation of a column, from its limbs; 0 of none."""
    n = int(count)
    if not n:
        return 0.0, 0.0
    total = sum(int(limb) << 32 * i for i, limb in enumerate(sums))
    square = sum(int(limb) << 32 * i for i, limb in enumerate(squares))
    root = isqrt((n * square - total * total) * _DIGITS**2)
    return float(Fraction(total, n * _STEPS)), float(Fraction(root, n * _STEPS * _DIGITS))


def whiten(standard: Standard, features: npt.ArrayLike, components: int = _WHITENED) -> Standard:
    """A scale that also turns the pool onto its first principal components, each of variance 1.

    Parameters
    ----------
    standard : of the pool.
    features : float32 (n, columns), a sample of the pool that fits in memory.
    components : at most; those whose spread is under `FLOOR` are left out.

    Raises
    ------
    LabelError
        Where the sample has fewer than two cells, or no component is asked for.
    """
    plain = replace(standard, rotation=None)
    scaled = plain.apply(features).astype(np.float64)
    if len(scaled) < 2 or components < 1:
        raise LabelError(
            "a pool cannot be whitened",
            got=f"{len(scaled)} cells, {components} components",
            expected="two cells or more, one component or more",
        )
    values, vectors = np.linalg.eigh(
        np.cov(scaled, rowvar=False, ddof=0).reshape(-1, scaled.shape[1])
    )
    first = np.argsort(-values, kind="stable")[:components]
    first = first[values[first] > FLOOR**2]
    vectors = vectors[:, first]
    # of both directions the one whose largest entry is positive, as scikit-learn's svd_flip has it
    largest = np.abs(vectors).argmax(0)
    vectors *= np.sign(vectors[largest, np.arange(len(first))])
    return replace(plain, rotation=vectors / np.sqrt(values[first]))


def remove_means(
    features: npt.ArrayLike, city: npt.ArrayLike, tables: Mapping[int, Table]
) -> npt.NDArray[np.float32]:
    """Features without the mean of their city: what a city's light and season add to all its cells.

    Parameters
    ----------
    features : float32 (n, columns), NaN where a source has none.
    city : int (n,)
    tables : moments of each city's own pool, labelled and unlabelled.

    Raises
    ------
    LabelError
        Where a city has no moments, or shapes do not fit.
    """
    values, own = require_features(features, "features", masked=True), np.asarray(city)
    if own.shape != values.shape[:1]:
        raise LabelError(
            "features and cities do not go together", got=own.shape, expected=values.shape[:1]
        )
    found = np.empty(values.shape, np.float32)
    for name in np.unique(own).tolist():
        if name not in tables or len(tables[name]["count"]) != values.shape[1]:
            raise LabelError(
                "a city has no moments of these features", got=name, expected=sorted(tables)
            )
        table = tables[name]
        rows = zip(table["count"], table["sums"], table["squares"], strict=True)
        found[own == name] = values[own == name] - [_moment(*row)[0] for row in rows]
    return found
