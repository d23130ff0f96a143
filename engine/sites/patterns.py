"""What the truth may be where a map is wrong: made-up references, as counts by unit.

Patterns of errors, at one overall accuracy. ``boundaries``: a wrong pixel is of the class of a
neighbour across a border of classes. ``anywhere``: it is of any other class of its region, by area.
``uneven``: the same, but each class of a region has an accuracy of its own, which is wrong by
nothing to twice as much. All designs draw pixels of a class in a unit at random, so counts of true
classes in these are all that can matter, and no map of the truth is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.jit import compiled
from engine.sites.allocation import Frame
from engine.sites.drawing import Ground
from engine.sites.edges import NOWHERE

__all__ = ["PATTERNS", "Truth", "make_truths", "neighbours"]

PATTERNS = ("boundaries", "anywhere", "uneven")

_BLOCK = 1024  # pixels along a block, at least a unit

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """A made-up reference.

    Attributes
    ----------
    pattern : of `PATTERNS`.
    codes : int64 (class,), ascending.
    counts : int64 (unit, class), pixels of each row of the frame by their true class.
    mapped : int64 (unit,), place of the map's class in `codes`.
    """

    pattern: str
    codes: Ints
    counts: Ints
    mapped: Ints

    @property
    def accuracy(self) -> float:
        """Share of pixels whose class is the map's."""
        right = self.counts[np.arange(len(self.mapped)), self.mapped].sum()
        return float(right / self.counts.sum())

    @property
    def shares(self) -> Floats:
        """True share of each class: float (class,)."""
        found: Floats = self.counts.sum(axis=0) / self.counts.sum()
        return found


def make_truths(ground: Ground, accuracy: float, rng: np.random.Generator) -> list[Truth]:
    """A reference of each pattern.

    Parameters
    ----------
    ground : what the map's sites are drawn from; all of its pixels are in the frame.
    accuracy : overall accuracy that is wanted. Errors on borders alone may not suffice for a
        lower one: then all pixels there are wrong whose drawn neighbour differs.
    rng : Generator
    """
    frame = ground.frame
    units = frame.units
    codes = np.unique(units.code)
    own = np.searchsorted(codes, units.code)
    beside = neighbours(ground, codes).astype(np.float64)
    wrong = 1 - accuracy
    # one of a pixel's four neighbours is looked at; where it differs the pixel may be wrong
    differs = beside / (4 * units.pixels[:, None])
    rate = min(wrong * units.pixels.sum() / max((differs * units.pixels[:, None]).sum(), 1e-12), 1)
    others = _others(frame, codes, own)
    each = np.minimum(2 * wrong * rng.random(len(frame.classes.code)), 1)
    made = differs * rate, others * wrong, others * each[frame.stratum][:, None]
    found = []
    for pattern, chances in zip(PATTERNS, made, strict=True):
        chances[np.arange(len(own)), own] = 0
        chances[np.arange(len(own)), own] = np.maximum(1 - chances.sum(axis=1), 0)
        chances /= chances.sum(axis=1, keepdims=True)
        found.append(Truth(pattern, codes, rng.multinomial(units.pixels, chances), own))
    return found


def neighbours(ground: Ground, codes: Ints) -> Ints:
    """Sides of pixels of each row of the frame, by the class of another class's neighbour.

    Parameters
    ----------
    ground : Ground
    codes : of the classes, ascending.

    Returns
    -------
    int64 (unit, class)
    """
    frame, source, side = ground.frame, ground.source, ground.side
    units = frame.units
    found = np.zeros((len(units.code), len(codes)), np.int64)
    across = -(-source.shape[1] // side)
    place = np.full(int(codes[-1]) + 1, -1, np.int64)
    place[codes] = np.arange(len(codes))
    of_unit = units.row * across + units.col
    width = int(units.region.max()) + 1
    keys = (of_unit * width + units.region) * len(codes) + place[units.code]
    order = np.argsort(keys, kind="stable")
    step = side * max(_BLOCK // side, 1)
    height, length = source.shape
    for top in range(0, height, step):
        for left in range(0, length, step):
            rows, cols = slice(top, min(top + step, height)), slice(left, min(left + step, length))
            ring = (
                slice(max(top - 1, 0), min(rows.stop + 1, height)),
                slice(max(left - 1, 0), min(cols.stop + 1, length)),
            )
            where = ground.regions.read(rows, cols)
            if (where == NOWHERE).all():
                continue
            raw = source.read(*ring)
            near = np.full((rows.stop - top + 2, cols.stop - left + 2), -1, np.int64)
            known = raw >= 0
            # a class that is in no region is none that the truth could have
            inner = np.where(known & (raw <= codes[-1]), place[np.clip(raw, 0, codes[-1])], -1)
            near[
                1 - (top - ring[0].start) : 1 + ring[0].stop - top,
                1 - (left - ring[1].start) : 1 + ring[1].stop - left,
            ] = inner
            here = near[1:-1, 1:-1]
            unit = (np.arange(top, rows.stop) // side * across)[:, None] + np.arange(
                left, cols.stop
            ) // side
            key = (unit * width + where) * len(codes) + here
            there = (where != NOWHERE) & (here >= 0)
            at = np.searchsorted(keys[order], key)
            at = np.minimum(at, len(keys) - 1)
            there &= keys[order][at] == key
            _count(near, np.where(there, order[at], -1), found)
    return found


@compiled
def _count(near: Any, row: Any, found: Any) -> None:
    for i in range(row.shape[0]):
        for j in range(row.shape[1]):
            k = row[i, j]
            if k >= 0:
                own = near[i + 1, j + 1]
                for other in (
                    near[i, j + 1],
                    near[i + 2, j + 1],
                    near[i + 1, j],
                    near[i + 1, j + 2],
                ):
                    if other >= 0 and other != own:
                        found[k, other] += 1


def _others(frame: Frame, codes: Ints, own: Ints) -> Floats:
    """Shares of the other classes of each unit's region: float (unit, class)."""
    classes = frame.classes
    shares = np.zeros((int(classes.region.max()) + 1, len(codes)))
    shares[classes.region, np.searchsorted(codes, classes.code)] = classes.pixels
    found = shares[frame.units.region]
    found[np.arange(len(own)), own] = 0
    total = found.sum(axis=1, keepdims=True)
    found /= np.maximum(total, 1)  # pixels: where a class is alone, there are no others
    return found
