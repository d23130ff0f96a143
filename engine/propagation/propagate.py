"""Propagation: labels of a few cells become pseudo-labels of cells that look like them.

Two ways. The notes': the five nearest labels vote, four of five must agree, and a cell farther
from all labels than nearly all labels are from those of other cities gets none. On made-up cities
that lowered the accuracy of what was trained on it. The default lets a linear head decide, takes
the confidence from which on it was right often enough in cities that it had not seen, tells novel
cells by distance and by energy, and writes nothing unless that helped in cities that were left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.propagation.detection import detect
from engine.propagation.guards import cap_pool
from engine.propagation.heads import KnnHead, LogisticHead
from engine.propagation.pseudo import Cells, Labels, Propagated, Report, empty_report, in_table
from engine.propagation.selection import Selection, Settings
from engine.propagation.tuning import CITIES, mean_error

__all__ = ["DEFAULT", "NOTES", "WATER", "propagate"]

Ints = npt.NDArray[np.int64]

WATER = 17
"""LCZ G."""

_HAIR = 1e-9  # four of five votes are .8


DEFAULT = Settings()

NOTES = Settings(by="votes", energy=False, proved=False)
"""As the work log has it: five votes, four of which agree, and a guard by distance alone."""


def propagate(
    labels: Labels,
    cells: Cells,
    settings: Settings = DEFAULT,
    *,
    linear: LogisticHead | None = None,
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> Propagated:
    """Pseudo-labels of cells.

    Parameters
    ----------
    labels : of all source cities, on the same scale as the cells.
    cells : of the area that is to be labelled.
    settings : `DEFAULT`, `NOTES` or others.
    linear : the tuned head (`engine.propagation.tuning.tune`); by default its prior.
    seed : of all draws: same input and seed, same result.
    tell : hears of each step.

    Raises
    ------
    LabelError
        Where labels or cells cannot be used.
    """
    head = linear or LogisticHead()
    labels.check(head.classes)
    cells.check(labels.features.shape[1], head.classes)
    direct, source = _direct(cells, settings)
    cells.require_features(direct == 0)
    kept = cap_pool(labels.codes, labels.city, settings.most, seed)
    pool = labels.take(kept)
    report = replace(
        empty_report(),
        labels=len(labels),
        used=len(pool),
        labelled=tuple(pool.counts),
        cells=len(cells),
        direct={name: int((source == name).sum()) for name in ("mask", "osm")},
    )
    open_cells = np.flatnonzero(direct == 0)
    offered = cells.take(open_cells)
    work = Selection(settings, head, KnnHead(settings.k, classes=head.classes), seed)
    report, reason = _proof(work, pool, offered, report, tell)
    guard = head if settings.by == "linear" else None
    found = detect(pool.features, pool.codes, pool.city, work.knn, guard, settings.loss, seed=seed)
    report = replace(report, detection=found)
    if reason:
        tell(f"no pseudo-labels: {reason}")
        return Propagated(in_table(cells, direct, source, None, head.classes), report)
    tell(f"{len(offered)} cells are looked at")
    chosen, report = work.select(pool, offered, report)
    whole = chosen.spread(len(cells), open_cells)
    return Propagated(in_table(cells, direct, source, whole, head.classes), report)


def _direct(cells: Cells, settings: Settings) -> tuple[Ints, npt.NDArray[Any]]:
    """Codes of cells that no head is asked about (0 elsewhere), and from where they are."""
    direct = np.zeros(len(cells), np.int64)
    source = np.full(len(cells), "", object)
    if cells.osm is not None:
        direct = cells.osm.astype(np.int64)
        source[direct > 0] = "osm"
    if cells.water is not None and settings.water is not None:
        wet = cells.water >= settings.water - _HAIR
        direct[wet], source[wet] = WATER, "mask"
    return direct, source


def _proof(
    work: Selection, pool: Labels, offered: Cells, report: Report, tell: Callable[[str], None]
) -> tuple[Report, str]:
    """Whether pseudo-labels may be written: a reason why not, empty where they may."""
    settings, cities = work.settings, len(np.unique(pool.city))
    if settings.by == "votes" and not settings.proved:
        return report, ""
    needed = CITIES if settings.proved else 2
    if cities < needed:
        reason = (
            f"labels of {cities} cities are too few to tell what pseudo-labels are worth in "
            f"another one; {needed} are needed"
        )
        return replace(report, reason=reason), reason
    if not settings.proved:
        return report, ""
    gains = work.gains(pool, offered, tell)
    gain, error = mean_error(gains)
    report = replace(report, gains=tuple(gains.tolist()), gain=gain, error=error)
    if gain > error:
        return report, ""
    reason = (
        f"in cities that were left out they changed macro-F1 by {gain:+.3f}, which is not more "
        f"than its standard error of {error:.3f}"
        if np.isfinite(gain)
        else f"only {len(gains)} cities could be left out"
    )
    return replace(report, reason=reason), reason
