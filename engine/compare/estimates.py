"""Figures with what they leave uncertain: of groups drawn again, of samples stratified by a map.

The matrices of `stratified` and `by_strata` have rows of the map, as their sources do; all others
have rows of the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from engine.errors import MetricError
from engine.metrics import assess

__all__ = ["Stratified", "bootstrap", "by_strata", "poststrata", "stratified"]

Floats = npt.NDArray[np.float64]


def bootstrap(
    groups: Mapping[str, npt.ArrayLike] | csr_array,
    repeats: int = 25,
    seed: int = 0,
    judge: Callable[[npt.ArrayLike], dict[str, float]] = lambda counts: assess(counts).figures(),
    bounds: tuple[float, float] = (0.25, 0.75),
) -> dict[str, tuple[float, float, float]]:
    """Mean and quartiles of the figures over resampled groups (polygons, blocks, worlds).

    Parameters
    ----------
    groups : confusion matrix (n, n) of each group, or a row (n * n) of a sparse array for each;
        groups are drawn with replacement, never cells.
    repeats : int
    seed : int
    judge : figures of a confusion matrix.
    bounds : quantiles in place of the quartiles.

    Returns
    -------
    dict of figure to (mean, lower quartile, upper quartile)
    """
    if isinstance(groups, csr_array):
        flat: Any = groups
    else:
        flat = np.array([np.ravel(np.asarray(m, np.float64)) for m in groups.values()])
    n = flat.shape[0]
    if not n:
        raise MetricError("no groups to resample", got=0, expected="1 or more")
    side = math.isqrt(flat.shape[1])
    rng = np.random.default_rng(seed)

    def draw() -> Floats:
        times = np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)
        found: Floats = (times @ flat).reshape(side, side)  # exact, since these are counts
        return found

    drawn = [judge(draw()) for _ in range(repeats)]
    found: dict[str, tuple[float, float, float]] = {}
    for name in drawn[0]:
        values = np.array([figures[name] for figures in drawn])
        known = values[np.isfinite(values)]
        if known.size:
            low, high = np.quantile(known, bounds)
            found[name] = float(known.mean()), float(low), float(high)
        else:
            found[name] = np.nan, np.nan, np.nan
    return found


@dataclass(frozen=True)
class Stratified:
    """Design-based estimates with half-widths of their 95 % confidence intervals.

    Attributes
    ----------
    oa, oa_ci : float
    users, users_ci, producers, producers_ci : (class,)
    areas, areas_ci : (class,), in the unit of the areas given.
    """

    oa: float
    oa_ci: float
    users: Floats
    users_ci: Floats
    producers: Floats
    producers_ci: Floats
    areas: Floats
    areas_ci: Floats


def stratified(
    counts: npt.ArrayLike, areas: npt.ArrayLike, whole: npt.ArrayLike = False
) -> Stratified:
    """Estimates from a sample stratified by the map (Olofsson et al. 2014, eq. 1-11).

    Parameters
    ----------
    counts : (map class, reference class)
        Sample counts; each row at least 2, or none of a class that the map does not have; of a
        class taken whole 1 is enough.
    areas : (class,)
        Mapped area of each class, any unit.
    whole : bool (class,)
        Classes of which every cell was looked at: nothing of them is uncertain.

    Raises
    ------
    MetricError
    """
    n, area = np.asarray(counts, np.float64), np.asarray(areas, np.float64)
    if n.ndim != 2 or n.shape[0] != n.shape[1] or area.shape != n.shape[:1]:
        raise MetricError("counts and areas do not fit", got=(n.shape, area.shape))
    rows = n.sum(axis=1)
    unmapped = (rows == 0) & (area == 0)
    known = np.broadcast_to(np.asarray(whole, bool), rows.shape) & (rows > 0)
    if (rows[~unmapped & ~known] < 2).any():
        raise MetricError(
            "too few samples in a class",
            got=rows.astype(int).tolist(),
            expected="2 or more of each mapped class",
        )
    rows = np.where(unmapped, 2.0, rows)  # any: its weight is 0
    freedom = np.where(known, np.inf, rows - 1)
    weight = area / area.sum()
    p = weight[:, None] * n / rows[:, None]
    users = np.where(unmapped, np.nan, np.diag(n) / rows)
    total = p.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        producers = np.diag(p) / total
        spread = (n / rows[:, None]) * (1 - n / rows[:, None]) / freedom[:, None]
        users_var = users * (1 - users) / freedom
        oa_var = np.nansum(weight**2 * users_var)
        estimated = (area[:, None] * n / rows[:, None]).sum(axis=0)
        others = (area[:, None] ** 2 * spread).sum(axis=0) - area**2 * np.diag(spread)
        producers_var = (
            area**2 * (1 - producers) ** 2 * np.nan_to_num(users_var) + producers**2 * others
        ) / estimated**2
        share_se = np.sqrt(((weight[:, None] * p - p**2) / freedom[:, None]).sum(axis=0))
    return Stratified(
        oa=float(np.diag(p).sum()),
        oa_ci=float(1.96 * np.sqrt(oa_var)),
        users=users,
        users_ci=1.96 * np.sqrt(users_var),
        producers=producers,
        producers_ci=1.96 * np.sqrt(producers_var),
        areas=total * area.sum(),
        areas_ci=1.96 * share_se * area.sum(),
    )


def by_strata(counts: npt.ArrayLike, cells: npt.ArrayLike, cell: float = 1.0) -> Stratified:
    """Estimates from a sample whose strata are not the map's classes (Stehman 2014).

    Areas and overall accuracy are stratified means, users' and producers' accuracies are combined
    ratios.

    Parameters
    ----------
    counts : (stratum, map class, reference class)
        Sample counts; 2 or more in each stratum, or all that it has.
    cells : (stratum,)
        Cells of each stratum, 1 or more.
    cell : area of a cell, any unit.

    Raises
    ------
    MetricError
    """
    n, whole = np.asarray(counts, np.float64), np.asarray(cells, np.float64)
    if n.ndim != 3 or n.shape[1] != n.shape[2] or whole.shape != n.shape[:1]:
        raise MetricError("counts and strata do not fit", got=(n.shape, whole.shape))
    drawn = n.sum(axis=(1, 2))
    if (drawn > whole).any() or (drawn < np.minimum(whole, 2)).any() or not len(whole):
        raise MetricError(
            "too few or too many samples in a stratum",
            got=drawn.astype(int).tolist(),
            expected="2 or more of each stratum, or all that it has",
        )
    total = whole.sum()
    # what a cell of the sample adds to the variance of a sum, by stratum
    factor = whole**2 * (1 - drawn / whole) / drawn

    def of(values: Floats) -> tuple[Floats, Floats]:
        """Estimated sums and their variances, of values by map and reference class."""
        first = np.einsum("hmr,...mr->...h", n, values)
        second = np.einsum("hmr,...mr->...h", n, values**2)
        spread = (second - first**2 / drawn) / np.maximum(drawn - 1, 1)
        return first @ (whole / drawn), np.maximum(spread, 0) @ factor

    def ratio(part: Floats, all_: Floats) -> tuple[Floats, Floats]:
        found, below = of(part)[0], of(all_)[0]
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(below > 0, found / below, np.nan)
            _, variance = of(part - np.nan_to_num(share)[:, None, None] * all_)
            half = 1.96 * np.sqrt(variance) / below
        return share, np.where(below > 0, half, np.nan)

    k = n.shape[1]
    mapped = np.repeat(np.eye(k)[:, :, None], k, axis=2)  # (class, map, reference)
    reference = mapped.transpose(0, 2, 1)
    oa, oa_variance = of(np.eye(k))
    areas, areas_variance = of(reference)
    users, users_ci = ratio(mapped * reference, mapped)
    producers, producers_ci = ratio(mapped * reference, reference)
    return Stratified(
        oa=float(oa / total),
        oa_ci=float(1.96 * np.sqrt(oa_variance) / total),
        users=users,
        users_ci=users_ci,
        producers=producers,
        producers_ci=producers_ci,
        areas=areas * cell,
        areas_ci=1.96 * np.sqrt(areas_variance) * cell,
    )


def poststrata(counts: npt.ArrayLike, mapped: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Strata by the map's classes for a simple random sample that was drawn already.

    Classes of which fewer than 2 cells were drawn are one stratum together; where that has too
    few as well, the class with the fewest other cells joins it.

    Parameters
    ----------
    counts : int (map class,), cells of the sample.
    mapped : int (map class,), cells of the map.

    Returns
    -------
    int64 (map class,)
        The stratum of each class, from 0; of classes that the map does not have -1.
    """
    drawn, whole = np.asarray(counts, np.int64), np.asarray(mapped, np.int64)
    enough = drawn >= np.minimum(whole, 2)
    together = ~enough & (whole > 0)
    for k in np.argsort(drawn, kind="stable").tolist():
        if not together.any() or drawn[together].sum() >= min(2, whole[together].sum()):
            break
        together[k] |= whole[k] > 0
    found = np.full(len(whole), -1)
    apart = (whole > 0) & ~together
    found[apart] = np.arange(int(apart.sum()))
    found[together] = int(apart.sum())
    return found
