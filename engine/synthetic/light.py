"""Sunlight on the made-up world: cast shadows, and where the sun stands."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.jit import compiled

__all__ = ["TALLEST", "Sun", "reach", "shade", "sun_at"]

TALLEST = 110.0
"""Metres; nothing in a made-up world is taller."""


@dataclass(frozen=True)
class Sun:
    """Where the sun stands, in degrees: above the horizon, and clockwise from north."""

    elevation: float
    azimuth: float


def sun_at(when: datetime, longitude: float, latitude: float) -> Sun:
    """The sun's place, to about half a degree.

    Declination and equation of time by the usual series in the fractional year (Spencer 1971, as
    given by NOAA's solar calculation notes).
    """
    day = when.timetuple().tm_yday
    hours = when.hour + when.minute / 60 + when.second / 3600
    g = 2 * math.pi / 365 * (day - 1 + (hours - 12) / 24)
    declination = (
        0.006918
        - 0.399912 * math.cos(g)
        + 0.070257 * math.sin(g)
        - 0.006758 * math.cos(2 * g)
        + 0.000907 * math.sin(2 * g)
        - 0.002697 * math.cos(3 * g)
        + 0.00148 * math.sin(3 * g)
    )
    minutes = 229.18 * (
        0.000075
        + 0.001868 * math.cos(g)
        - 0.032077 * math.sin(g)
        - 0.014615 * math.cos(2 * g)
        - 0.040849 * math.sin(2 * g)
    )
    angle = math.radians((hours * 60 + minutes + 4 * longitude) / 4 - 180)
    phi = math.radians(latitude)
    up = math.sin(phi) * math.sin(declination) + math.cos(phi) * math.cos(declination) * math.cos(
        angle
    )
    east = -math.cos(declination) * math.sin(angle)
    north = math.cos(phi) * math.sin(declination) - math.sin(phi) * math.cos(
        declination
    ) * math.cos(angle)
    return Sun(math.degrees(math.asin(up)), math.degrees(math.atan2(east, north)) % 360)


def reach(sun: Sun) -> int:
    """Metres beyond a window within which something may cast a shadow into it."""
    return math.ceil(TALLEST / math.tan(math.radians(sun.elevation))) + 2


def shade(height: npt.NDArray[np.float32], left: int, top: int, sun: Sun) -> npt.NDArray[np.bool_]:
    """Which pixels lie in the shadow of another.

    Shadow is carried away from the sun line by line, along digital lines that belong to the world,
    falling with the sun's slope, never below the ground: so it does not depend on where a window
    starts, beyond `reach` from its edge.

    Parameters
    ----------
    height : float32 (y, x)
        Metres above ground at 1 m; at most `TALLEST`.
    left, top : of the window, in whole metres.
    sun : Sun

    Returns
    -------
    bool (y, x); right at pixels further than `reach` from the edges.
    """
    slope = math.tan(math.radians(sun.elevation))
    azimuth = math.radians(sun.azimuth)
    to_east, to_north = math.sin(azimuth), math.cos(azimuth)
    dark = np.zeros(height.shape, np.bool_)
    if abs(to_north) >= abs(to_east):
        drop = slope / abs(to_north)
        lean = -to_east / abs(to_north)  # columns that a shadow moves from one row to the next
        # rows in the order that the shadow falls: up the picture if the sun is in the south
        if to_north < 0:
            _sweep(height[::-1], top - height.shape[0], lean, drop, dark[::-1])
        else:
            _sweep(height, -top, lean, drop, dark)
        return dark
    drop = slope / abs(to_east)
    lean = to_north / abs(to_east)  # rows, which count downwards
    sides, flipped = height.T, dark.T
    if to_east > 0:
        sides, flipped = sides[::-1], flipped[::-1]
        _sweep(sides, -(left + height.shape[1]), lean, drop, flipped)
    else:
        _sweep(sides, left, lean, drop, flipped)
    return dark


@compiled
def _sweep(height: Any, first: int, lean: float, drop: float, dark: Any) -> None:
    """Carry shadow from line to line.

    `first` numbers the first line in the world: the shift between two lines is a difference of
    rounded multiples of `lean`, whatever the window.
    """
    lines, length = height.shape
    carried = np.zeros(length, np.float32)
    moved = np.zeros(length, np.float32)
    for i in range(1, lines):
        number = first + i
        shift = int(np.floor(number * lean) - np.floor((number - 1) * lean))
        for j in range(length):
            back = j - shift
            if 0 <= back < length:
                high = max(carried[back], height[i - 1, back]) - np.float32(drop)
                moved[j] = max(high, np.float32(0.0))
            else:
                moved[j] = 0.0
            dark[i, j] = moved[j] > height[i, j] + np.float32(0.3)
        carried, moved = moved, carried
