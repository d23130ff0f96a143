"""With which probability a pixel became a site: exact, or estimated by drawing again and again.

A pixel of a class in a unit has the probability m / q of being a site, for m expected sites and q
pixels. Without a distance between sites, and in one draw, m is known. Otherwise the whole design
is simulated: m is what the plans give on average, times the share of sites that could be kept. That
is (kept + s) / (drawn + 1) of a unit, with the share s of all units as one draw more, so that it is
never 0 (Fattorini 2006 adds a draw that hits, which flatters units that were seldom drawn).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.sites.drawing import Drawing, Ground, hits_of
from engine.sites.selection import Mode, Plan, choose, plan_units

__all__ = ["Chances", "Round", "estimated", "exact"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Round:
    """One draw of a sample that was drawn in several.

    Attributes
    ----------
    sites : int64, of each class of the frame, that this draw adds.
    mode : how units were selected.
    spacing : metres between sites, 0 for any.
    """

    sites: Ints
    mode: Mode
    spacing: float


@dataclass(frozen=True)
class Chances:
    """What is known of units before a sample is drawn.

    Attributes
    ----------
    expected : float (unit,), sites of the class in the unit.
    included : float (unit,), 0 to 1: that the unit has a site of the class.
    repeats : draws by which both were estimated; 0 where they are exact.
    """

    expected: Floats
    included: Floats
    repeats: int = 0


def exact(plan: Plan) -> Chances:
    """Chances in one draw whose sites may lie at any distance."""
    return Chances(plan.expected, np.where(plan.whole > 0, 1.0, plan.chance))


def estimated(
    ground: Ground,
    rounds: Sequence[Round],
    repeats: int,
    seed: np.random.SeedSequence,
    tell: Callable[[str], None] = lambda text: None,
) -> Chances:
    """Chances in a sample of one draw or several, by repeating all of it.

    Parameters
    ----------
    ground : Ground
    rounds : in the order in which they were drawn.
    repeats : 1 or more.
    seed : another one than the sample's own.
    tell : gets a line for each round.
    """
    frame, units = ground.frame, len(ground.frame.stratum)
    rngs = [np.random.default_rng(each) for each in seed.spawn(repeats)]
    drawing = Drawing(ground, rngs)
    spaced = any(each.spacing for each in rounds)
    had: list[list[Ints]] = [[] for _ in rngs]  # units of sites, by draw
    plans: list[list[Plan]] = [[] for _ in rngs]
    drawn, kept = np.zeros(units, np.int64), np.zeros(units, np.int64)
    for number, each in enumerate(rounds, 1):
        tell(f"round {number} of {len(rounds)}: {repeats} draws")
        free = plan_units(frame, each.sites, each.mode)
        hits = []
        for r, rng in enumerate(rngs):
            taken = np.bincount(np.concatenate(had[r]), minlength=units) if had[r] else None
            # what was taken matters only where it leaves a unit too few pixels for the plan
            short = taken is not None and (frame.units.pixels - taken < free.whole + 1).any()
            plan = plan_units(frame, each.sites, each.mode, taken) if short else free
            plans[r].append(plan)
            found = choose(plan, rng)
            drawn += found
            hits.append(hits_of(r, found))
            if not spaced:
                had[r].append(np.repeat(hits[r]["unit"], hits[r]["sites"]))
        if spaced:
            sites = drawing.draw(np.concatenate(hits), each.spacing)
            later = [after.spacing for after in rounds[number:] if after.spacing]
            if later and not each.spacing:  # later sites keep their distance from these as well
                drawing.keep(sites, later[0])
            order = np.argsort(sites["draw"], kind="stable")
            ends = np.searchsorted(sites["draw"][order], np.arange(repeats + 1))
            for r in range(repeats):
                had[r].append(sites["unit"][order[ends[r] : ends[r + 1]]])
            kept += np.bincount(sites["unit"], minlength=units)
    expected, missed = np.zeros(units), np.zeros(units)
    for each_of in plans:
        expected += sum(plan.expected for plan in each_of)
        missed += np.prod([1 - exact(plan).included for plan in each_of], axis=0)
    usual = kept.sum() / max(int(drawn.sum()), 1)
    share = (kept + usual) / (drawn + 1) if spaced else np.ones(units)
    return Chances(expected / repeats * share, (1 - missed / repeats) * share, repeats)
