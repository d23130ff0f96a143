"""Sums of numbers and of their squares in integers: the same in whatever order they are added.

A number is taken in steps of 2^-33, which is exact for every float16 and for float32 from 2^-10
on, and otherwise wrong by 6e-11 at most: far below the least spread that is told from none (1e-6).
Numbers and squares are kept in limbs of 32 bits, each the sum of the like limbs of all numbers in
an int64. So two sums are merged by adding their arrays, and mean and spread follow from integers,
without the cancellation of Σx² - (Σx)²/n in floats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import LabelError
from engine.jit import compiled

__all__ = ["LIMIT", "SQUARE_LIMBS", "SUM_LIMBS", "add_number", "require_range"]

LIMIT = 2.0**17
"""What numbers stay below, either side of zero: digital numbers and float16 do."""

SUM_LIMBS, SQUARE_LIMBS = 2, 4

_STEPS = 2.0**33
_LOW = np.int64(2**32 - 1)
_B32 = np.int64(32)


def require_range(values: npt.NDArray[Any], what: str) -> None:
    """Refuse numbers that cannot be summed; NaN may be among them.

    Raises
    ------
    LabelError
        Where one lies beyond `LIMIT`, or is infinite.
    """
    if not values.size:
        return
    most = max(
        abs(float(np.fmax.reduce(values, axis=None))), abs(float(np.fmin.reduce(values, axis=None)))
    )
    if most >= LIMIT:
        raise LabelError(
            f"{what} are too large to be summed",
            got=f"{most:g}",
            expected=f"numbers between -{LIMIT:g} and {LIMIT:g}",
            remedy="look for a wrong scale or an undeclared nodata value; scale them down if meant",
        )


@compiled
def add_number(value: float, sums: Any, squares: Any) -> None:
    """Add a number to its sums.

    Parameters
    ----------
    value : finite, between -`LIMIT` and `LIMIT`.
    sums, squares : int64 (2,) and (4,), lowest limb first; changed in place. 2^31 numbers fit.
    """
    steps = np.int64(np.rint(value * _STEPS))
    sums[0] += steps & _LOW
    sums[1] += steps >> _B32
    if steps < 0:
        steps = -steps
    low, high = np.uint64(steps & _LOW), np.uint64(steps >> _B32)  # 32 and 18 bits
    first, cross, last = low * low, np.uint64(2) * low * high, high * high
    mask, half = np.uint64(_LOW), np.uint64(32)
    squares[0] += np.int64(first & mask)
    squares[1] += np.int64((first >> half) + (cross & mask))
    squares[2] += np.int64((cross >> half) + (last & mask))
    squares[3] += np.int64(last >> half)
