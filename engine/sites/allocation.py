"""How many sites regions and their classes get: as their indices ask, within bounds.

Equations 2 and 3 of Chen et al. 2016 share a total out by index times area, first among regions,
then among the classes of each. Alone they leave rare strata (a class of a region) without a site,
so each has a least number. Fractions go to the largest remainders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import LabelError
from engine.sites.indices import Classes, Regions, Units

__all__ = ["Frame", "Strata", "allocate_sites", "apportion", "frame_of"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """What sites can be drawn from: classes in the parts of units that lie in regions.

    Attributes
    ----------
    units : rows of the frame, ascending by stratum.
    stratum : int64, place of each unit's class and region in `classes`.
    classes : all classes of all regions, those without a unit in the frame too.
    left_out : pixels of each class of a region that lie in units with too few of them.
    """

    units: Units
    stratum: Ints
    classes: Classes
    left_out: Ints


@dataclass(frozen=True)
class Strata:
    """Sites by class of a region, in the order of the frame's classes.

    Attributes
    ----------
    equations : as the equations have it, without bounds, rounded; the sum is exact.
    sites : with them; the sum is exact.
    most : how many sites there is room for.
    """

    equations: Ints
    sites: Ints
    most: Ints


def frame_of(units: Units, classes: Classes, least_pixels: int = 1) -> Frame:
    """A frame of units in which a class has enough pixels.

    Parameters
    ----------
    units, classes : of one map.
    least_pixels : of the class in the unit; those of fewer are counted, and left out.
    """
    known = classes.region << 32 | classes.code
    stratum = np.searchsorted(known, units.region << 32 | units.code)
    enough = units.pixels >= least_pixels
    left_out = np.zeros(len(known), np.int64)
    np.add.at(left_out, stratum[~enough], units.pixels[~enough])
    order = np.flatnonzero(enough)
    order = order[np.lexsort([units.col[order], units.row[order], stratum[order]])]
    kept = Units(**{name: getattr(units, name)[order] for name in units.__dataclass_fields__})
    return Frame(kept, stratum[order], classes, left_out)


def allocate_sites(
    regions: Regions,
    frame: Frame,
    n: int,
    *,
    least: int = 2,
    least_of_class: int = 2,
    per_unit: int = 1,
    even: bool = False,
    had: Ints | None = None,
) -> Strata:
    """Share out sites among regions (eq. 2) and among the classes of each (eq. 3).

    ::

        N_i = N rLSI_i A_i / sum_j rLSI_j A_j
        cN_ik = N_i cLSI_ik W_ik / sum_m cLSI_im W_im

    Parameters
    ----------
    regions : with their areas and indices.
    frame : Frame
    n : sites in all.
    least : of each class of a region; one that has fewer pixels is taken whole.
    least_of_class : of each class in all regions together.
    per_unit : sites of a class in one unit at most; `least` may put more there.
    had : of each class of a region, sites that are there already; none of them goes.
    even : whether LSI over the root of the area takes the place of LSI, for regions of very
        unlike sizes: with edges as dense everywhere, LSI grows with the root of the area.

    Raises
    ------
    LabelError
        Where `n` cannot reach the least numbers, or is more than there is room for.
    """
    for name, value in (("n", n), ("per_unit", per_unit)):
        if value < 1:
            raise LabelError(f"{name} must be 1 or more", got=value)
    for name, value in (("least", least), ("least_of_class", least_of_class)):
        if value < 0:
            raise LabelError(f"{name} must be 0 or more", got=value)
    classes = frame.classes
    of = np.searchsorted(regions.region, classes.region)
    scale = np.sqrt(regions.area) if even else np.ones(len(regions.area))
    by_region = regions.lsi / scale * regions.area
    by_class = classes.lsi * classes.share
    pixels = _sums(frame.stratum, frame.units.pixels, len(of))
    room = _sums(frame.stratum, np.minimum(frame.units.pixels, per_unit), len(of))
    lower = np.minimum(least, pixels)
    if had is not None:
        lower = np.maximum(lower, had)
    most = np.maximum(room, lower)
    names = len(np.unique(classes.code))
    if n < lower.sum():
        raise LabelError(
            "too few sites for the least of each class of a region",
            got=f"n {n}, {int((lower > 0).sum())} classes of regions, least {least}"
            + (f", {int(had.sum())} sites already" if had is not None and had.any() else ""),
            expected=f"{int(lower.sum())} or more",
            remedy="take more sites, fewer regions, or a smaller least",
        )
    if n > most.sum():
        raise LabelError(
            "more sites than there is room for",
            got=f"n {n}, {len(frame.stratum)} classes of units with {per_unit} each",
            expected=f"{int(most.sum())} or fewer",
            remedy="take fewer sites, smaller units, or more of a class in a unit",
        )
    expected = by_region[of] / by_region.sum() * by_class / _sums(of, by_class, len(by_region))[of]
    lower = _raised(expected, classes.code, lower, most, least_of_class)
    if n < lower.sum():
        raise LabelError(
            "too few sites for the least of each class",
            got=f"n {n}, {names} classes with {least_of_class} each",
            expected=f"{int(lower.sum())} or more",
            remedy="take more sites, or a smaller least of each class",
        )
    nothing, all_ = np.zeros(len(of), np.int64), np.full(len(of), n)
    return Strata(
        _nested(n, by_region, by_class, of, nothing, all_),
        _nested(n, by_region, by_class, of, lower, most),
        most,
    )


def apportion(total: int, weights: Floats, lower: Ints, upper: Ints) -> Ints:
    """Whole numbers within bounds, as proportional to weights as bounds and rounding allow.

    Real numbers ``clip(f * weights, lower, upper)`` that sum to the total are rounded by the
    largest remainder; of equal ones the first gets it.

    Parameters
    ----------
    total : from the sum of `lower` to that of `upper`.
    weights : 0 or more.
    lower, upper : int64, of each.
    """
    low, high = int(lower.sum()), int(upper.sum())
    if not low <= total <= high:
        raise ValueError(f"{total} does not lie between {low} and {high}")
    # where bounds leave no choice, or only what weighs nothing has room
    heavy = weights > 0
    most_heavy = int(upper[heavy].sum() + lower[~heavy].sum())
    if total > most_heavy:
        found = np.where(heavy, upper, lower)
        return found + apportion(
            total - most_heavy, np.ones(len(found)), np.zeros_like(lower), upper - found
        )
    real = np.clip(_factor(total, weights, lower, upper) * weights, lower, upper)
    near = np.round(real)
    real = np.where(np.abs(real - near) < 1e-9 * np.maximum(near, 1), near, real)
    found = np.floor(real).astype(np.int64)
    rest = total - int(found.sum())
    # equal fractions differ by rounding errors, which must not decide
    fractions = np.round(real - found, 9)
    open_ = found < upper
    order = np.lexsort([np.arange(len(real)), -fractions, ~open_])
    found[order[: max(rest, 0)]] += 1
    return found


def _factor(total: int, weights: Floats, lower: Ints, upper: Ints) -> float:
    """The f for which ``clip(f * weights, lower, upper)`` sums to the total."""
    heavy = weights > 0
    w, low, high = weights[heavy], lower[heavy], upper[heavy]
    if not len(w):
        return 0.0
    wanted = total - int(lower[~heavy].sum())
    breaks = np.unique(np.concatenate([low / w, high / w]))
    sums = np.array([np.clip(f * w, low, high).sum() for f in breaks])
    k = int(np.searchsorted(sums, wanted))
    if k == 0:
        return float(breaks[0])
    if k == len(breaks):
        return float(breaks[-1])
    middle = (breaks[k - 1] + breaks[k]) / 2
    free = (middle * w > low) & (middle * w < high)
    if not free.any():
        return float(breaks[k])
    fixed = np.clip(middle * w, low, high)[~free].sum()
    return float((wanted - fixed) / w[free].sum())


def _nested(
    n: int, by_region: Floats, by_class: Floats, of: Ints, lower: Ints, upper: Ints
) -> Ints:
    regions = len(by_region)
    each = apportion(n, by_region, _sums(of, lower, regions), _sums(of, upper, regions))
    found = np.zeros(len(of), np.int64)
    for region, sites in enumerate(each.tolist()):
        here = of == region
        found[here] = apportion(sites, by_class[here], lower[here], upper[here])
    return found


def _raised(expected: Floats, codes: Ints, lower: Ints, most: Ints, least: int) -> Ints:
    """Least numbers of strata, such that those of a class sum to its least."""
    found = lower.copy()
    for code in np.unique(codes):
        here = codes == code
        wanted = min(least, int(most[here].sum()))
        if found[here].sum() < wanted:
            found[here] = apportion(wanted, expected[here], lower[here], most[here])
    return found


def _sums(at: Ints, values: npt.NDArray[Any], n: int) -> npt.NDArray[Any]:
    found = np.zeros(n, values.dtype)
    np.add.at(found, at, values)
    return found
