"""Chance that belongs to a place: integer hashes, and smooth noise made of them.

Whatever is made up here is a function of a seed and of integer coordinates, never of a generator
that runs along: so any window of the world can be made on its own, and is the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.jit import compiled

__all__ = ["SALT", "draw", "draws", "fractal", "mix", "noise", "normal"]

_A, _B, _C = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xC2B2AE3D27D4EB4F),
    np.uint64(0x165667B19E3779F9),
)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S16 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(16)
_LOW = np.uint64(0xFFFF)

SALT = {
    name: number
    for number, name in enumerate(
        (
            "city site",
            "city style",
            "district site",
            "district kind",
            "warp x",
            "warp y",
            "river",
            "relief",
            "wood",
            "edge road",
            "block",
            "plot",
            "yard",
            "tree",
            "field",
            "haze",
            "sensor",
            "cloud",
            "cloud mistake",
            "spectrum",
            "patchiness",
        ),
        1,
    )
}
"""Names of the draws: two of them never share a number."""


@compiled
def mix(seed: Any, i: Any, j: Any, salt: Any) -> Any:
    """64 random bits of a seed, two integers and the draw's number (splitmix's finaliser)."""
    h = np.uint64(seed) * _C + np.uint64(i) * _A + np.uint64(j) * _B + np.uint64(salt) * _M1
    h = (h ^ (h >> _S30)) * _M1
    h = (h ^ (h >> _S27)) * _M2
    return h ^ (h >> _S31)


@compiled
def draw(bits: Any, k: int) -> float:
    """The k-th (0 to 3) of four uniform numbers in [0, 1) of 64 bits."""
    return float((bits >> (_S16 * np.uint64(k))) & _LOW) * (1.0 / 65536.0)


@compiled
def draws(seed: Any, i: Any, j: Any, salt: Any) -> tuple[float, float, float, float]:
    """The four uniform numbers of a seed, two integers and a draw's number."""
    bits = mix(seed, i, j, salt)
    return draw(bits, 0), draw(bits, 1), draw(bits, 2), draw(bits, 3)


@compiled
def normal(bits: Any) -> float:
    """A number of mean 0 and variance 1, nearly normal: the sum of four uniform ones."""
    total = draw(bits, 0) + draw(bits, 1) + draw(bits, 2) + draw(bits, 3)
    return (total - 2.0) * 1.7320508075688772


@compiled
def noise(seed: Any, x: float, y: float, length: float, salt: Any) -> float:
    """Smooth noise in [0, 1): random values on a lattice of `length`, blended between."""
    u, v = x / length, y / length
    i, j = int(np.floor(u)), int(np.floor(v))
    u, v = u - i, v - j
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    a, b = draw(mix(seed, i, j, salt), 0), draw(mix(seed, i + 1, j, salt), 0)
    c, d = draw(mix(seed, i, j + 1, salt), 0), draw(mix(seed, i + 1, j + 1, salt), 0)
    above, below = a + (b - a) * u, c + (d - c) * u
    return float(above + (below - above) * v)


@compiled
def fractal(seed: Any, x: float, y: float, length: float, octaves: int, salt: Any) -> float:
    """Noise of several lengths, each half of the last at half its weight, in [0, 1)."""
    total, weight, share = 0.0, 0.0, 1.0
    for k in range(octaves):
        total += share * noise(seed + 7919 * k, x, y, length, salt)
        weight += share
        length, share = length * 0.5, share * 0.5
    return total / weight
