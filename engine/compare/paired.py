"""Several systems on the same examples: figures, and what they differ by.

Neighbouring examples are no independent witnesses, so groups of them (cities, blocks of ground,
training areas) are drawn with replacement, the same ones for all systems: what is hard for one is
hard for another, and a difference is surer than the figures that it is of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.stats import binomtest, chi2

from engine.errors import MetricError
from engine.legend import LCZ
from engine.metrics import assess

__all__ = ["BOUNDS", "Difference", "Pairs", "Ranked", "rank"]

BOUNDS = (0.025, 0.975)
"""Quantiles of the draws: 95 % intervals."""

_N = len(LCZ)
_AT_ONCE = 2**21  # draws of groups that are held
_MOST = 2**62  # that a number of a column may reach
_FEW_PAIRS = 1000  # up to which McNemar's test is exact

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Examples of which all systems say something; alike ones of a group are one row.

    Attributes
    ----------
    truth : int64 (n,), codes 1 to 17.
    said : int64 (systems, n), codes 1 to 17.
    group : int64 (n,), from 0.
    count : int64 (n,), examples of a row.
    weight : float64 (groups,), of each example of a group: what it stands for; 1 of all that was
        not drawn by strata.
    stratum : int64 (groups,), groups are drawn within theirs.
    """

    truth: Ints
    said: Ints
    group: Ints
    count: Ints
    weight: Floats
    stratum: Ints

    @property
    def examples(self) -> int:
        """How many."""
        return int(self.count.sum())

    @property
    def groups(self) -> int:
        """How many."""
        return len(self.weight)

    def counts(self, system: int) -> csr_array:
        """Of each group a row (17 * 17), rows reference, columns the system."""
        pairs = (self.truth - 1) * _N + self.said[system] - 1
        shape = (self.groups, _N * _N)
        return csr_array((self.count.astype(np.float64), (self.group, pairs)), shape=shape)


@dataclass(frozen=True)
class Difference:
    """What a system has more than another.

    Attributes
    ----------
    figures : by name (difference, lower, upper bound of 95 %); NaN where it cannot be told.
    f1 : float64 (3, 17), the same by class.
    right : examples that only this one has right, and that only the other has.
    p : of McNemar's test: how likely so uneven a split would be, were both as good and each example
        a witness of its own.
    """

    figures: dict[str, tuple[float, float, float]]
    f1: Floats
    right: tuple[int, int]
    p: float


@dataclass(frozen=True)
class Ranked:
    """A system's figures.

    Attributes
    ----------
    figures : by name (value, lower, upper bound of 95 %).
    f1 : float64 (3, 17), by class the same; NaN of a class that neither reference nor system has.
    counts : float64 (17, 17), rows reference, columns the system.
    less : than the system that all are compared with; None of that one itself.
    """

    figures: dict[str, tuple[float, float, float]]
    f1: Floats
    counts: Floats
    less: Difference | None


def rank(pairs: Pairs, against: int = 0, repeats: int = 1000, seed: int = 0) -> tuple[Ranked, ...]:
    """Figures of each system, and their differences to one.

    Parameters
    ----------
    pairs : Pairs
    against : position of the system that the others are compared with.
    repeats : draws of groups.
    seed : of the draws.

    Raises
    ------
    MetricError
        Where there are no examples, or too few draws.
    """
    if not pairs.examples or repeats < 2:
        raise MetricError(
            "there is nothing to compare", got=f"{pairs.examples} examples, {repeats} draws",
            expected="an example or more that all systems classify, two draws or more",
        )  # fmt: skip
    counts = [pairs.counts(system) for system in range(len(pairs.said))]
    tables = [[np.asarray(pairs.weight @ each)[None]] for each in counts]
    for times in _draws(pairs, repeats, seed):
        for table, each in zip(tables, counts, strict=True):
            table.append(np.asarray(times @ each))
    found = [_Judged.of(np.concatenate(table)) for table in tables]
    base = found[against]
    right = pairs.said == pairs.truth
    ranked = []
    for system, own in enumerate(found):
        less = None
        if system != against:
            only = [
                int(pairs.count[right[a] & ~right[b]].sum())
                for a, b in ((system, against), (against, system))
            ]
            less = Difference(
                {name: _bounds(own.figures[name] - base.figures[name]) for name in own.figures},
                _class_bounds(own.f1 - base.f1),
                (only[0], only[1]),
                mcnemar(*only),
            )
        ranked.append(
            Ranked(
                {name: _bounds(values) for name, values in own.figures.items()},
                _class_bounds(own.f1),
                own.counts,
                less,
            )
        )
    return tuple(ranked)


@dataclass(frozen=True)
class _Judged:
    """Figures (1 + draws,) and F1 (1 + draws, 17), the first of all examples as they are."""

    figures: dict[str, Floats]
    f1: Floats
    counts: Floats

    @classmethod
    def of(cls, tables: Floats) -> _Judged:
        each = [assess(table.reshape(_N, _N)) for table in tables]
        names = [name for name in each[0].figures() if name != "cells"]
        return cls(
            {name: np.array([getattr(one, name) for one in each]) for name in names},
            np.stack([one.f1 for one in each]),
            tables[0].reshape(_N, _N),
        )


def _draws(pairs: Pairs, repeats: int, seed: int) -> Iterator[Floats]:
    """How often each group is drawn, times its weight: (some of the repeats, groups) at once."""
    rng = np.random.default_rng(seed)
    strata = [np.flatnonzero(pairs.stratum == code) for code in np.unique(pairs.stratum)]
    at_once = max(_AT_ONCE // pairs.groups, 1)
    for first in range(0, repeats, at_once):
        times = np.zeros((min(at_once, repeats - first), pairs.groups))
        for here in strata:
            share = np.full(len(here), 1 / len(here))
            times[:, here] = rng.multinomial(len(here), share, len(times))
        yield times * pairs.weight


def _bounds(values: Floats) -> tuple[float, float, float]:
    """The first value, and bounds of the others."""
    known = values[1:][np.isfinite(values[1:])]
    low, high = np.quantile(known, BOUNDS) if known.size else (np.nan, np.nan)
    return float(values[0]), float(low), float(high)


def _class_bounds(values: Floats) -> Floats:
    return np.array([_bounds(column) for column in values.T]).T


def mcnemar(first: int, second: int) -> float:
    """McNemar's test of examples that one system alone has right, and the other alone.

    Source: McNemar 1947; the binomial test of few pairs, chi-squared with one degree of freedom and
    Edwards' correction of many.
    """
    total = first + second
    if not total:
        return 1.0
    if total <= _FEW_PAIRS:
        return float(binomtest(first, total).pvalue)
    return float(chi2.sf((abs(first - second) - 1) ** 2 / total, 1))


def pairs_of(
    truth: Ints,
    said: Ints,
    group: Ints,
    weight: Floats | None = None,
    stratum: Ints | None = None,
) -> Pairs:
    """Examples one by one, made rows.

    Parameters
    ----------
    truth, group : (n,)
    said : (systems, n)
    weight, stratum : (n,), of the examples of a group all alike.
    """
    _, group = np.unique(group, return_inverse=True)
    groups = int(group.max()) + 1 if len(group) else 0
    weights, strata = np.ones(groups), np.zeros(groups, np.int64)
    if weight is not None:
        weights[group] = weight
    if stratum is not None:
        strata[group] = stratum
    return _merged(np.vstack([group[None], truth[None], said]), None, weights, strata)


def join_rows(parts: Sequence[tuple[Ints, Ints]], systems: int) -> Pairs:
    """Rows of parts, each of group, truth and what systems say (2 + systems, n), with counts."""
    nothing = np.zeros((2 + systems, 0), np.int64), np.zeros(0, np.int64)
    rows, counts = (np.concatenate(values, axis=-1) for values in zip(nothing, *parts, strict=True))
    names, group = np.unique(rows[0], return_inverse=True)
    ones, zeros = np.ones(len(names)), np.zeros(len(names), np.int64)
    return _merged(np.vstack([group[None], rows[1:]]), counts, ones, zeros)


def _merged(rows: Ints, counts: Ints | None, weight: Floats, stratum: Ints) -> Pairs:
    kept, count = count_rows(rows, counts)
    return Pairs(kept[1], kept[2:], kept[0], count, weight, stratum)


def count_rows(rows: Ints, counts: Ints | None = None) -> tuple[Ints, Ints]:
    """Different columns of (kinds, n) in ascending order, and how many there are of each.

    Numbers are 0 or more. A column is made one number: numpy sorts those twenty times as fast.
    """
    key, top = np.zeros(rows.shape[1], np.int64), 1
    for row in rows:
        size = int(row.max(initial=0)) + 1
        if top * size > _MOST:
            values, key = np.unique(key, return_inverse=True)
            top = len(values)
        key, top = key * size + row, top * size
    _, first, place = np.unique(key, return_index=True, return_inverse=True)
    found = np.bincount(place, weights=counts, minlength=len(first))
    return rows[:, first].astype(np.int64), np.rint(found).astype(np.int64)
