"""Designs of samples that judge a map, each drawn many times on a truth that is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from engine.compare.estimates import poststrata
from engine.errors import LabelError
from engine.sites.allocation import Frame, allocate_sites
from engine.sites.indices import Regions
from engine.sites.patterns import Truth
from engine.sites.selection import choose, plan_units
from engine.sites.strata import sizes_of

__all__ = ["Drawn", "SampleDesign", "designs_for", "places_of", "simulate"]

_LARGEST = 1_000_000_000  # cells that numpy draws from without replacement

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SampleDesign:
    """A design.

    Attributes
    ----------
    key, title : for files, and for people.
    draw : options of `natmap sample` that draw it; None where none do.
    stratum : int64 (unit,), of each row of the frame; all designs of units have their classes.
    sizes : int64 (stratum,)
    kind : "strata", "after" (strata after the fact by the map's classes), or "units".
    """

    key: str
    title: str
    draw: str | None
    stratum: Ints
    sizes: Ints
    kind: str = "strata"


@dataclass(frozen=True)
class Drawn:
    """What repeats of a design estimate.

    Attributes
    ----------
    shares : float (repeat, class)
    oa : float (repeat,), overall accuracy.
    """

    shares: Floats
    oa: Floats


def designs_for(
    frame: Frame, regions: Regions, n: int, least: int = 2
) -> tuple[list[SampleDesign], list[str]]:
    """All designs that `n` cells allow, the simplest first.

    Returns
    -------
    (designs, notes of those that need more cells)
    """
    units, both = frame.units, frame.stratum
    _, by_map = np.unique(units.code, return_inverse=True)
    of_map = np.bincount(by_map, units.pixels).astype(np.int64)
    of_both = np.bincount(both, units.pixels, len(frame.classes.code)).astype(np.int64)
    whole = np.zeros(len(by_map), np.int64)
    every = np.array([units.pixels.sum()])
    several = len(np.unique(units.region)) > 1

    def lsi(least: int) -> Ints:
        return allocate_sites(
            regions, frame, n, least=least, least_of_class=0, per_unit=int(of_both.max())
        ).sites

    wanted: list[tuple[str, str, str | None, Ints, Callable[[], Ints], str]] = [
        ("random", "simple random", None, whole, lambda: sizes_of(every, n, "random"), "strata"),
        (
            "after",
            "simple random, post-stratified",
            "--allocation random",
            whole,
            lambda: sizes_of(every, n, "random"),
            "after",
        ),
        (
            "map",
            "map's classes, by area",
            "--allocation proportional",
            by_map,
            lambda: sizes_of(of_map, n, "proportional", least),
            "strata",
        ),
        (
            "map-mixed",
            "map's classes, half equal",
            "--allocation mixed",
            by_map,
            lambda: sizes_of(of_map, n, "mixed", least),
            "strata",
        ),
        (
            "regions",
            f"regions x map, area, {least} or more",
            "--allocation proportional with the regions",
            both,
            lambda: sizes_of(of_both, n, "proportional", least),
            "strata",
        ),
        (
            "lsi",
            f"regions x map, LSI, {least} or more",
            "--allocation lsi with the regions",
            both,
            lambda: lsi(least),
            "strata",
        ),
        ("lsi-0", "regions x map, LSI, as written", None, both, lambda: lsi(0), "strata"),
        ("units", "units by their LSI (pps)", None, both, lambda: lsi(least), "units"),
    ]
    found, notes = [], []
    for key, title, draw, stratum, sizes, kind in wanted:
        if key == "regions" and not several:
            continue
        try:
            found.append(SampleDesign(key, title, draw, stratum, sizes(), kind))
        except LabelError as error:
            notes.append(f"{title}: {error.what}, {error.got}, expected {error.expected}")
    return found, notes


def simulate(
    design: SampleDesign, frame: Frame, truth: Truth, repeats: int, rng: np.random.Generator
) -> Drawn:
    """Draw a design again and again, and estimate from each draw.

    Strata without a cell add nothing to an estimate, which is why designs need a least number.

    Parameters
    ----------
    design : SampleDesign
    frame : the design's.
    truth : what looking at a pixel tells.
    repeats : 1 or more.
    rng : Generator
    """
    if design.kind == "units":
        return _of_units(design, frame, truth, repeats, rng)
    classes = len(truth.codes)
    total = truth.counts.sum()
    shares, oa = np.zeros((repeats, classes)), np.zeros(repeats)
    table = np.zeros((len(design.sizes), classes, classes), np.int64)
    np.add.at(table, (design.stratum, truth.mapped), truth.counts)
    for k, size in enumerate(design.sizes.tolist()):
        cells = int(table[k].sum())
        if not size or not cells:
            continue
        drawn = _drawn(table[k].ravel(), size, repeats, rng).reshape(-1, classes, classes)
        if design.kind == "after":
            return _after(drawn, table[k].sum(axis=1))
        shares += drawn.sum(axis=1) * (cells / size / total)
        oa += np.trace(drawn, axis1=1, axis2=2) * (cells / size / total)
    return Drawn(shares, oa)


def places_of(design: SampleDesign, frame: Frame) -> float:
    """How many different units the design's cells lie in, on average.

    A unit is missed where each stratum misses it: of n cells of N, by C(N - q, n) / C(N, n) for q
    of them in the unit.
    """
    units = frame.units
    place = _numbers(units.row, units.col)
    if design.kind == "units":
        plan = plan_units(frame, design.sizes)
        with np.errstate(divide="ignore"):
            missed = np.log(np.where(plan.whole > 0, 0.0, 1 - plan.chance))
    else:
        part = _numbers(place, design.stratum)
        _, first = np.unique(part, return_index=True)
        q, place, stratum = np.bincount(part, units.pixels), place[first], design.stratum[first]
        cells = np.bincount(design.stratum, units.pixels, len(design.sizes))[stratum]
        n = design.sizes[stratum]
        can = cells - q >= n
        left = np.where(can, cells - q, n).astype(np.float64)
        missed = np.where(can, _log_choose(left, n) - _log_choose(cells, n), -np.inf)
    found = np.zeros(int(place.max()) + 1)
    np.add.at(found, place, missed)
    return float((1 - np.exp(np.minimum(found, 0.0))).sum())


def _numbers(one: Ints, other: Ints) -> Ints:
    """Numbers of pairs, from 0."""
    _, found = np.unique(np.stack([one, other]), axis=1, return_inverse=True)
    return found.ravel()


def _log_choose(n: npt.NDArray[Any], k: Ints) -> Floats:
    """The logarithm of n over k, but for the factorial of k."""
    found: Floats = gammaln(n + 1) - gammaln(n - k + 1)
    return found


def _drawn(table: Ints, size: int, repeats: int, rng: np.random.Generator) -> Ints:
    """Counts of cells that are drawn without replacement: int64 (repeat, kind)."""
    total = table.sum()
    if total > _LARGEST:  # that none is drawn twice makes no difference then
        return rng.multinomial(size, table / total, repeats)
    return rng.multivariate_hypergeometric(table, size, repeats, method="marginals")


def _after(drawn: Ints, mapped: Ints) -> Drawn:
    """Estimates of simple random samples, by the map's classes as strata after the fact.

    Parameters
    ----------
    drawn : int64 (repeat, map class, true class)
    mapped : int64 (map class,), cells of the map.
    """
    repeats, classes, _ = drawn.shape
    shares, oa = np.zeros((repeats, classes)), np.zeros(repeats)
    for r, counts in enumerate(drawn):
        stratum = poststrata(counts.sum(axis=1), mapped)
        here = stratum >= 0
        cells = np.bincount(stratum[here], mapped[here])
        sizes = np.bincount(stratum[here], counts.sum(axis=1)[here])
        weight = np.zeros(classes)
        weight[here] = (cells / sizes / mapped.sum())[stratum[here]]
        shares[r] = weight @ counts
        oa[r] = weight @ np.diag(counts)
    return Drawn(shares, oa)


def _of_units(
    design: SampleDesign, frame: Frame, truth: Truth, repeats: int, rng: np.random.Generator
) -> Drawn:
    """Estimates by Horvitz and Thompson of cells in units that are drawn by their index."""
    classes, total = len(truth.codes), truth.counts.sum()
    plan = plan_units(frame, design.sizes)
    with np.errstate(divide="ignore"):
        weight = frame.units.pixels / plan.expected / total
    upper = np.cumsum(truth.counts, axis=1)
    shares, oa = np.zeros((repeats, classes)), np.zeros(repeats)
    for r in range(repeats):
        sites = choose(plan, rng)
        one, more = np.flatnonzero(sites == 1), np.flatnonzero(sites > 1)
        place = rng.integers(0, frame.units.pixels[one])
        kind = (place[:, None] >= upper[one]).sum(axis=1)
        shares[r] = np.bincount(kind, weight[one], classes)
        oa[r] = weight[one[kind == truth.mapped[one]]].sum()
        for k in more.tolist():
            found = _drawn(truth.counts[k], int(sites[k]), 1, rng)[0]
            shares[r] += weight[k] * found
            oa[r] += weight[k] * found[truth.mapped[k]]
    return Drawn(shares, oa)
