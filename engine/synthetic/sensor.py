"""What Sentinel-2 would see of the made-up world: area means through a point spread function.

The ground is summed to squares of 5 m that belong to the world, sunlit and shaded materials apart;
a pixel is the mean of those about it, weighted by a Gaussian.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.jit import compiled
from engine.synthetic.hashing import SALT, mix, noise, normal
from engine.synthetic.light import Sun, shade
from engine.synthetic.materials import BANDS, SHADE
from engine.synthetic.surface import Surface

__all__ = ["SQUARE", "WIDTH", "add_haze", "add_noise", "look", "radiance"]

SQUARE = 5
"""Metres of the squares that the ground is summed to."""

WIDTH = 22.0
"""Full width at half maximum of the point spread function, in metres."""

_SIGMA = WIDTH / 2.3548
_REACH = 5  # squares each way that a pixel sees: 2.7 sigma

_NOISE = np.array(
    [0.0012, 0.0011, 0.0010, 0.0010, 0.0012, 0.0013, 0.0014, 0.0014, 0.0012, 0.0010], np.float32
)  # reflectance: a signal to noise of 100 to 170 at reference radiance
_HAZE = np.array([1.0, 0.75, 0.55, 0.5, 0.42, 0.36, 0.3, 0.28, 0.1, 0.06], np.float32)
_HAZE_SALT, _SENSOR = SALT["haze"], SALT["sensor"]


def radiance(surface: Surface, sun: Sun, table: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Mean reflectance of squares of 5 m.

    Parameters
    ----------
    surface : Surface
        Its corner lies on multiples of 5 m; what lies nearer than `light.reach` to its edge has
        wrong shadows.
    sun : Sun
    table : float32 (city, material, band)
        Of the surface's cities.

    Returns
    -------
    float32 (y, x, band)
    """
    dark = shade(surface.height, surface.left, surface.top, sun)
    rows, cols = (side // SQUARE for side in dark.shape)
    found = np.empty((rows, cols, len(BANDS)), np.float32)
    _sum_squares(surface.material, surface.tone, surface.city, dark, table, SHADE, found)
    return found


@compiled
def _sum_squares(
    material: Any, tone: Any, city: Any, dark: Any, table: Any, shaded: Any, out: Any
) -> None:
    bands = out.shape[2]
    total = np.empty(bands, np.float32)
    share = np.float32(1.0 / (128 * SQUARE * SQUARE))
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            total[:] = 0
            for r in range(i * SQUARE, (i + 1) * SQUARE):
                for c in range(j * SQUARE, (j + 1) * SQUARE):
                    weight = np.float32(tone[r, c]) * share
                    spectrum = table[city[r, c], material[r, c]]
                    if dark[r, c]:
                        for b in range(bands):
                            total[b] += weight * spectrum[b] * shaded[b]
                    else:
                        for b in range(bands):
                            total[b] += weight * spectrum[b]
            for b in range(bands):
                out[i, j, b] = total[b]


@compiled
def look(squares: Any, left: float, top: float, x: Any, y: Any, bands: Any, out: Any) -> None:
    """See the squares at points, through the point spread function.

    Parameters
    ----------
    squares : float32 (y, x, band)
    left, top : corner of the squares, in metres.
    x, y : float64 (rows, columns)
        The points, at least 28 m inside the squares.
    bands : positions of the bands wanted.
    out : float32 (band, rows, columns)
    """
    count = 2 * _REACH + 1
    across, down = np.empty(count, np.float32), np.empty(count, np.float32)
    total = np.empty(squares.shape[2], np.float32)
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            u, v = (x[i, j] - left) / SQUARE, (top - y[i, j]) / SQUARE
            col, row = int(np.floor(u)) - _REACH, int(np.floor(v)) - _REACH
            weight_u, weight_v = np.float32(0.0), np.float32(0.0)
            for k in range(count):
                du = (col + k + 0.5 - u) * (SQUARE / _SIGMA)
                dv = (row + k + 0.5 - v) * (SQUARE / _SIGMA)
                across[k] = np.exp(-0.5 * du * du)
                down[k] = np.exp(-0.5 * dv * dv)
                weight_u += across[k]
                weight_v += down[k]
            total[:] = 0
            for k in range(count):
                for m in range(count):
                    weight = down[k] * across[m]
                    seen = squares[row + k, col + m]
                    for b in range(bands.shape[0]):
                        total[b] += weight * seen[bands[b]]
            for b in range(bands.shape[0]):
                out[b, i, j] = total[b] / (weight_u * weight_v)


@compiled
def _haze(seed: Any, x: Any, y: Any, amount: float, shares: Any, out: Any) -> None:
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            much = 0.65 * noise(seed, x[i, j], y[i, j], 21_000.0, _HAZE_SALT)
            much += 0.35 * noise(seed, x[i, j], y[i, j], 6_000.0, _HAZE_SALT + 100)
            for b in range(out.shape[0]):
                out[b, i, j] += shares[b] * np.float32(amount * much)


def add_haze(
    seed: int,
    day: int,
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    amount: float,
    bands: npt.NDArray[np.intp],
    out: npt.NDArray[np.float32],
) -> None:
    """Add a smooth veil, strongest in blue; `amount` is its most, in reflectance of B02."""
    _haze(seed * 4099 + day, x, y, amount, _HAZE[bands], out)


@compiled
def _sensor(seed: Any, row: int, col: int, sigma: Any, numbers: Any, out: Any) -> None:
    for b in range(out.shape[0]):
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                bits = mix(seed + 131 * numbers[b], row + i, col + j, _SENSOR)
                out[b, i, j] += sigma[b] * np.float32(normal(bits))


def add_noise(
    seed: int,
    day: int,
    row: int,
    col: int,
    bands: npt.NDArray[np.intp],
    out: npt.NDArray[np.float32],
) -> None:
    """Add the sensor's noise; `row`, `col` number the first pixel in its zone's own grid."""
    _sensor(seed * 4099 + day, row, col, _NOISE[bands], bands, out)
