"""Features of more cells than memory holds: read block by block from wherever they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engine.errors import LabelError
from engine.propagation.inputs import require_features
from engine.propagation.pool import Standard, moments, remove_means
from engine.runs.tables import Table, add

__all__ = ["Features", "Pooled", "blocks_of", "moments_of", "taken"]

Array = npt.NDArray[Any]
Rows = slice | npt.NDArray[np.int64]

_AT_ONCE = 2**20  # numbers of a block: 4 MB as they are stored, 8 MB in float64


class Features(Protocol):
    """A table of features (cells, columns): an array, or one that is read when rows are asked for.

    Whoever reads all of it goes by `blocks_of`.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Array: ...


def blocks_of(features: Features) -> list[slice]:
    """Rows of a table that are held in memory together, one block after the other."""
    size = max(_AT_ONCE // max(features.shape[-1], 1), 1)
    return [slice(k, min(k + size, len(features))) for k in range(0, len(features), size)]


def taken(features: Features, rows: npt.NDArray[np.int64]) -> Features:
    """Some rows of a table; of a stored one none is read yet."""
    return features[rows] if isinstance(features, np.ndarray) else _Taken(features, rows)


@dataclass(frozen=True)
class _Taken:
    whole: Features
    rows: npt.NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.rows), *self.whole.shape[1:]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Rows) -> Array:
        return self.whole[self.rows[rows]]


def moments_of(features: Features, table: Table | None = None, number: int = 0) -> Table:
    """Moments of stored features: of those that have a vector at all, with none of it missing.

    Parameters
    ----------
    features : NaN in the whole of a row where a cell has no vector.
    table : moments of their city; its mean is removed first. None: it is not.
    number : of the city.

    Raises
    ------
    LabelError
        Where no cell has a vector, a part of one is missing, or a number is beyond all measure.
    """
    found: Table | None = None
    for block in blocks_of(features):
        values = features[block]
        missing = np.isnan(values)
        there = ~missing.all(1)
        if (missing.any(1) & there).any():
            raise LabelError(
                "parts of vectors are missing",
                got=f"{int((missing.any(1) & there).sum())} cells have some features and lack "
                "others",
                expected="all features of a cell, or none",
                remedy="look for damage with `natmap verify`",
            )
        part = moments(_less_mean(values[there], table, number))
        found = part if found is None else add(found, part)
    if found is None or not int(found["rows"]):
        raise LabelError("no cell has a vector", got=0, expected="one or more")
    return found


def _less_mean(values: Array, table: Table | None, number: int) -> Array:
    if table is None:
        return values
    return remove_means(values, np.full(len(values), number), {number: table})


@dataclass(frozen=True)
class Pooled:
    """Features of all cities, one below the other, on the pool's scale.

    Attributes
    ----------
    cities : features of each; NaN in the whole of a row where a cell has no vector, and there it
        stays.
    standard : of the pool.
    means : moments of each city, whose mean is removed first; empty: it is not.
    """

    cities: Sequence[Features]
    standard: Standard
    means: Sequence[Table] = ()

    @property
    def firsts(self) -> npt.NDArray[np.int64]:
        """Row at which each city begins, and the number of all."""
        return np.cumsum([0, *map(len, self.cities)])

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self), self.standard.apply(self.cities[0][:0]).shape[1]

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def __getitem__(self, rows: Rows) -> Array:
        where = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else np.asarray(rows)
        firsts = self.firsts
        own = np.searchsorted(firsts, where, side="right") - 1
        found = np.empty((len(where), self.shape[1]), np.float32)
        for number in np.unique(own).tolist():
            here = own == number
            values = self.cities[number][where[here] - firsts[number]]
            values = require_features(values, "features of cells", masked=True)
            table = self.means[number] if self.means else None
            scaled = self.standard.apply(_less_mean(values, table, number))
            scaled[np.isnan(values).all(1)] = np.nan
            found[here] = scaled
        return found
