"""What a made-up world is made of: materials, their cover and their reflectance.

Start values of reflectance are those of the made-up country's specification (recalled figures);
cities, roofs and parcels vary about them.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from engine.synthetic.hashing import SALT, draws

__all__ = ["BANDS", "COVER", "SHADE", "Cover", "Material", "spectra"]

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


class Material(IntEnum):
    """Of a 1 m pixel, as seen from above."""

    WATER = 0
    TURBID_WATER = 1
    ASPHALT = 2
    PAVING = 3
    BARE = 4
    SAND = 5
    ROCK = 6
    GRASS = 7
    DRY_GRASS = 8
    CEREAL = 9
    MAIZE = 10
    MEADOW = 11
    FALLOW = 12
    SCRUB = 13
    BROADLEAF = 14
    CONIFER = 15
    TILE = 16
    BITUMEN = 17
    METAL = 18
    CONCRETE = 19
    RUST = 20


class Cover(IntEnum):
    """What a material counts as in the definition of a local climate zone."""

    BUILDING = 0
    PAVED = 1
    ROCK = 2
    TREES = 3
    SCRUB = 4
    LOW_PLANTS = 5
    BARE = 6
    WATER = 7


COVER: npt.NDArray[np.uint8] = np.array(
    [
        Cover.WATER,
        Cover.WATER,
        Cover.PAVED,
        Cover.PAVED,
        Cover.BARE,
        Cover.BARE,
        Cover.ROCK,
        Cover.LOW_PLANTS,
        Cover.LOW_PLANTS,
        *[Cover.LOW_PLANTS] * 4,  # fields, whatever stands on them today
        Cover.SCRUB,
        Cover.TREES,
        Cover.TREES,
        *[Cover.BUILDING] * 5,
    ],
    np.uint8,
)

_BASE = {
    Material.WATER: (0.05, 0.05, 0.03, 0.025, 0.02, 0.02, 0.015, 0.012, 0.006, 0.004),
    Material.TURBID_WATER: (0.08, 0.11, 0.09, 0.08, 0.05, 0.05, 0.04, 0.03, 0.01, 0.008),
    Material.ASPHALT: (0.08, 0.09, 0.10, 0.10, 0.11, 0.11, 0.12, 0.12, 0.14, 0.13),
    Material.PAVING: (0.14, 0.16, 0.18, 0.19, 0.20, 0.20, 0.21, 0.22, 0.25, 0.23),
    Material.BARE: (0.09, 0.12, 0.16, 0.18, 0.20, 0.21, 0.23, 0.25, 0.32, 0.28),
    Material.SAND: (0.18, 0.24, 0.30, 0.33, 0.35, 0.36, 0.38, 0.39, 0.45, 0.42),
    Material.ROCK: (0.13, 0.15, 0.17, 0.18, 0.19, 0.20, 0.21, 0.22, 0.26, 0.23),
    Material.GRASS: (0.04, 0.08, 0.05, 0.12, 0.30, 0.38, 0.41, 0.42, 0.22, 0.11),
    Material.DRY_GRASS: (0.07, 0.11, 0.14, 0.18, 0.23, 0.26, 0.28, 0.30, 0.34, 0.24),
    Material.SCRUB: (0.04, 0.065, 0.06, 0.11, 0.19, 0.23, 0.25, 0.27, 0.24, 0.14),
    Material.BROADLEAF: (0.025, 0.05, 0.03, 0.09, 0.25, 0.32, 0.35, 0.36, 0.18, 0.08),
    Material.CONIFER: (0.02, 0.03, 0.02, 0.05, 0.13, 0.16, 0.18, 0.19, 0.09, 0.04),
    Material.TILE: (0.08, 0.11, 0.20, 0.23, 0.25, 0.27, 0.29, 0.31, 0.36, 0.32),
    Material.BITUMEN: (0.07, 0.07, 0.08, 0.08, 0.08, 0.09, 0.09, 0.09, 0.10, 0.10),
    Material.METAL: (0.32, 0.33, 0.34, 0.34, 0.34, 0.35, 0.35, 0.35, 0.33, 0.30),
    Material.CONCRETE: (0.18, 0.21, 0.23, 0.24, 0.25, 0.26, 0.27, 0.28, 0.31, 0.29),
    Material.RUST: (0.10, 0.11, 0.15, 0.17, 0.18, 0.19, 0.21, 0.23, 0.28, 0.27),
}

SHADE: npt.NDArray[np.float32] = np.array(
    [0.42, 0.38, 0.34, 0.32, 0.30, 0.29, 0.28, 0.27, 0.22, 0.20], np.float32
)
"""What a shaded surface keeps of its reflectance, by band: skylight is blue."""

# What covers a field through the year: (day of year, shares of green, ripe, bare), between which
# the shares go linearly.
_CALENDAR: dict[Material, tuple[tuple[float, float, float, float], ...]] = {
    Material.CEREAL: (
        (0, 0.45, 0.0, 0.55),
        (110, 1.0, 0.0, 0.0),
        (170, 0.4, 0.6, 0.0),
        (200, 0.0, 1.0, 0.0),
        (250, 0.05, 0.55, 0.4),
        (290, 0.15, 0.05, 0.8),
        (365, 0.45, 0.0, 0.55),
    ),
    Material.MAIZE: (
        (0, 0.05, 0.15, 0.8),
        (130, 0.05, 0.0, 0.95),
        (190, 0.95, 0.0, 0.05),
        (250, 0.8, 0.2, 0.0),
        (285, 0.3, 0.6, 0.1),
        (310, 0.05, 0.35, 0.6),
        (365, 0.05, 0.15, 0.8),
    ),
    Material.MEADOW: (
        (0, 0.6, 0.4, 0.0),
        (120, 1.0, 0.0, 0.0),
        (220, 0.7, 0.3, 0.0),
        (365, 0.6, 0.4, 0.0),
    ),
    Material.FALLOW: ((0, 0.15, 0.2, 0.65), (365, 0.15, 0.2, 0.65)),
}


def spectra(seed: int, city: int, day_of_year: int) -> npt.NDArray[np.float32]:
    """Reflectance of sunlit materials in one city on one day.

    Parameters
    ----------
    seed : the world's.
    city : the city's key; negative for a world of another light and other materials.
    day_of_year : 1 to 366.

    Returns
    -------
    float32 (material, band); cities differ by about 20 %, days by a few per cent.
    """
    found = np.zeros((len(Material), len(BANDS)))
    for material, base in _BASE.items():
        found[material] = base
    leaves = np.clip((day_of_year - 270) / 60, 0, 1)  # autumn: broad leaves turn
    found[Material.BROADLEAF] += leaves * (
        0.6 * found[Material.DRY_GRASS] - 0.5 * found[Material.BROADLEAF]
    )
    for material, states in _CALENDAR.items():
        days = [state[0] for state in states]
        green, ripe, bare = (
            np.interp(day_of_year, days, [s[k] for s in states]) for k in (1, 2, 3)
        )
        found[material] = (
            green * found[Material.GRASS]
            + ripe * found[Material.DRY_GRASS]
            + bare * found[Material.BARE]
        )
    for material in Material:
        chance = draws(seed, city, int(material), SALT["spectrum"])
        grey = 1 + 0.65 * (chance[0] - 0.5)
        slope = 1 + 0.4 * (chance[1] - 0.5) * np.linspace(-1, 1, len(BANDS))
        chance = draws(seed + day_of_year, city, int(material), SALT["spectrum"])
        today = 1 + 0.05 * (chance[2] - 0.5)
        found[material] *= grey * slope * today
    return found.astype(np.float32)
