"""Which units get sites: along the curve of their indices, descending, class by class of a region.

``pps`` draws units with probabilities proportional to their index, by systematic sampling along the
curve (Madow 1949). A unit whose probability would exceed 1 is taken for certain and the rest is
shared out anew. ``top`` takes the highest units, ``quantile`` the middle ones of equal parts; both
draw nothing, so nothing can be estimated from them.

Where there are at least as many sites as units, each unit gets one first; what is left is selected
as if they were none, among units that have a pixel left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from engine.errors import LabelError
from engine.sites.allocation import Frame

__all__ = ["MODES", "Mode", "Plan", "choose", "inclusion", "plan_units", "systematic"]

Mode = Literal["pps", "top", "quantile"]
MODES: tuple[Mode, ...] = ("pps", "top", "quantile")

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """How many sites units get.

    Attributes
    ----------
    order : int64, rows of the frame along the curves, stratum by stratum.
    stratum : int64, of each row of the frame.
    whole : int64, sites that each unit gets for certain.
    chance : float, 0 to less than 1, of one more.
    """

    order: Ints
    stratum: Ints
    whole: Ints
    chance: Floats

    @property
    def expected(self) -> Floats:
        """Expected sites of the class in each unit."""
        found: Floats = self.whole + self.chance
        return found


def plan_units(frame: Frame, sites: Ints, mode: Mode = "pps", taken: Ints | None = None) -> Plan:
    """What each unit gets.

    Parameters
    ----------
    frame : Frame
    sites : of each of the frame's classes, in their order; no more than pixels that are left.
    mode : "pps", "top" or "quantile".
    taken : pixels of each unit's class that are sites already.

    Raises
    ------
    LabelError
        Where there is no such mode.
    """
    if mode not in MODES:
        raise LabelError("no such selection", got=mode, expected=", ".join(MODES))
    units, stratum = frame.units, frame.stratum
    left = units.pixels if taken is None else units.pixels - taken
    order = np.lexsort([units.col, units.row, -units.lsi, stratum])
    starts = np.searchsorted(stratum, np.arange(len(sites) + 1))
    whole = np.zeros(len(stratum), np.int64)
    chance = np.zeros(len(stratum))
    for k in np.flatnonzero(sites).tolist():
        here = order[starts[k] : starts[k + 1]]
        first, rest = _rounds(left[here], int(sites[k]))
        whole[here] = first
        if not rest:
            continue
        curve = here[left[here] > first]
        if mode == "top":
            whole[curve[:rest]] += 1
        elif mode == "quantile":  # of a part with an even number of units the higher one
            ends = np.arange(rest + 1) * len(curve) // rest
            whole[curve[(ends[:-1] + ends[1:] - 1) // 2]] += 1
        else:
            found = inclusion(units.lsi[curve], rest)
            whole[curve[found == 1]] += 1
            chance[curve] = np.where(found == 1, 0.0, found)
    return Plan(order, stratum, whole, chance)


def inclusion(sizes: Floats, n: int) -> Floats:
    """Probabilities proportional to size, those that would exceed 1 set to 1; they sum to `n`.

    Parameters
    ----------
    sizes : more than 0.
    n : at most as many as there are sizes.

    Returns
    -------
    float (unit,)
    """
    found = np.ones(len(sizes))
    open_ = np.ones(len(sizes), bool)
    while (rest := n - int((~open_).sum())) > 0 and open_.any():
        found[open_] = rest * sizes[open_] / sizes[open_].sum()
        certain = open_ & (found >= 1 - 1e-12)
        if not certain.any():
            return found
        found[certain] = 1.0
        open_ &= ~certain
    found[open_] = 0.0
    return found


def choose(plan: Plan, rng: np.random.Generator) -> Ints:
    """Sites of each unit, drawn once; each stratum has a random start of its own."""
    strata = int(plan.stratum[-1]) + 1 if len(plan.stratum) else 0
    return systematic(plan, rng.random(strata))


def systematic(plan: Plan, starts: Floats) -> Ints:
    """Sites of each unit, for given random starts.

    Parameters
    ----------
    plan : Plan
    starts : float (stratum,), each from 0 to less than 1.
    """
    along, stratum = plan.chance[plan.order], plan.stratum[plan.order]
    # a line of its own for each stratum; its length is a whole number but for rounding, which must
    # not lose the last tick
    first = np.searchsorted(stratum, stratum)
    upper = np.cumsum(along)
    upper = upper - (upper - along)[first]
    ends = np.round(upper[np.searchsorted(stratum, stratum, "right") - 1])
    upper = np.where(upper > ends - 1e-9, ends, upper)
    lower = np.where(first == np.arange(len(along)), 0.0, np.roll(upper, 1))
    start = np.minimum(starts, 1 - 1e-9)[stratum]
    ticks = np.ceil(upper - start) - np.ceil(lower - start)
    found = plan.whole.copy()
    found[plan.order] += ticks.astype(np.int64)
    return found


def _rounds(left: Ints, n: int) -> tuple[Ints, int]:
    """Sites that each unit gets before the last round, and what that has to share out."""
    found = np.zeros(len(left), np.int64)
    while n:
        open_ = left > found
        if not open_.any():
            raise ValueError("there are more sites than pixels")
        if n < open_.sum():
            break
        found += open_
        n -= int(open_.sum())
    return found, n
