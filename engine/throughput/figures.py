"""Figures of several rounds: their middle, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from engine.errors import MetricError

__all__ = ["Estimate", "Rounds", "compare_rounds", "estimate", "ratio", "read_rounds"]

Rounds = list[dict[str, float]]
"""Of each round the figures that were measured in it, by name."""

_SURE = 0.95


class Estimate(NamedTuple):
    """A figure of several rounds.

    Attributes
    ----------
    middle : geometric mean over rounds.
    low, high : bounds of its 95 % interval, from Student's t of the logarithms; NaN of one round.
    """

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.middle:.3g}"
        return f"{self.middle:.3g} ({self.low:.3g} to {self.high:.3g})"


def estimate(values: Sequence[float]) -> Estimate:
    """The middle of positive figures, as Student (1908) has it for their logarithms.

    Raises
    ------
    MetricError
        Where there is none, or one is not positive.
    """
    logs = _logs(values)
    middle = float(logs.mean())
    if len(logs) < 2:
        return Estimate(float(np.exp(middle)), float("nan"), float("nan"))
    half = _half(logs.std(ddof=1) ** 2 / len(logs), len(logs) - 1)
    return Estimate(*(float(np.exp(value)) for value in (middle, middle - half, middle + half)))


def ratio(rounds: Rounds, name: str, floor: str) -> Estimate:
    """One figure over another of the same round: what slows a whole round down cancels."""
    pairs = [(each[name], each[floor]) for each in rounds if name in each and floor in each]
    return estimate([a / b for a, b in pairs if b > 0])


def compare_rounds(new: Sequence[float], old: Sequence[float]) -> tuple[Estimate, bool]:
    """How many times the old figures the new ones are, and whether that is more than noise.

    Welch's interval (1947) of the difference of mean logarithms: rounds of two sessions are not
    paired with each other, only each with what else was measured in it.

    Returns
    -------
    (ratio with its 95 % interval, whether the interval leaves out 1)
    """
    a, b = _logs(new), _logs(old)
    middle = float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2:
        return Estimate(float(np.exp(middle)), float("nan"), float("nan")), False
    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    if va + vb == 0:
        return Estimate(*[float(np.exp(middle))] * 3), middle != 0
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    half = _half(va + vb, freedom)
    found = Estimate(*(float(np.exp(v)) for v in (middle, middle - half, middle + half)))
    return found, bool(abs(middle) > half)


def _half(variance: float, freedom: float) -> float:
    return float(stats.t.ppf(0.5 + _SURE / 2, freedom) * np.sqrt(variance))


def _logs(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    found = np.asarray(values, np.float64)
    if not len(found) or not (np.isfinite(found) & (found > 0)).all():
        raise MetricError(
            "a figure of a benchmark is not positive",
            got=", ".join(f"{v:g}" for v in found[:8]) or "no round",
            expected="seconds, bytes or rates over 0",
        )
    logs: np.ndarray[Any, np.dtype[np.float64]] = np.log(found)
    return logs


def read_rounds(told: Mapping[str, Any]) -> Rounds:
    """Rounds of a report that was read from a file.

    Raises
    ------
    MetricError
        Where they are none.
    """
    found = told.get("rounds")
    right = isinstance(found, list) and all(
        isinstance(each, dict)
        and all(
            isinstance(v, int | float) and not isinstance(v, bool) and np.isfinite(v)
            for v in each.values()
        )
        for each in found
    )
    if not right or not found:
        raise MetricError(
            "the file holds no rounds of a benchmark",
            got=type(found).__name__,
            expected="bench.json, as natmap bench writes it",
        )
    return list(found)
