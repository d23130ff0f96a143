"""Clouds over the made-up world, their shadows, and a scene classification that errs.

Clouds are a fractal field of the world and the day; their shadow is the same field, displaced away
from the sun by the clouds' height. The classification is made of them with mistakes: thin cloud is
missed, bright ground taken for cloud, edges come out too wide or too narrow.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from engine.jit import compiled
from engine.synthetic.hashing import SALT, draw, fractal, mix, noise
from engine.synthetic.light import Sun

__all__ = ["cast_clouds", "classify_scene", "cloudiness"]

_CLOUD, _MISTAKE = SALT["cloud"], SALT["cloud mistake"]
_HEIGHT = 1500.0  # metres
_BRIGHT = np.array(
    [0.62, 0.60, 0.60, 0.61, 0.63, 0.64, 0.65, 0.66, 0.45, 0.34], np.float32
)  # of thick cloud, by band
_DIM = 0.62  # what thick cloud takes from the ground in its shadow


def cloudiness(
    seed: int,
    day: int,
    cover: float,
    sun: Sun,
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Opacity of cloud over points, and of the cloud whose shadow falls on them.

    Parameters
    ----------
    seed, day : int
    cover : share of the sky under cloud, 0 to 1.
    sun : Sun
    x, y : float64 (rows, columns)
        Metres in the world.

    Returns
    -------
    (cloud, shadow), float32 (rows, columns), 0 to 1
    """
    cloud, shadow = np.zeros(x.shape, np.float32), np.zeros(x.shape, np.float32)
    if cover <= 0:
        return cloud, shadow
    # the field is nearly normal about 0.5 with a deviation of 0.14
    level = 0.5 - 0.14 * float(ndtri(min(max(cover, 1e-4), 1 - 1e-4)))
    away = _HEIGHT / math.tan(math.radians(sun.elevation))
    azimuth = math.radians(sun.azimuth)
    east, north = away * math.sin(azimuth), away * math.cos(azimuth)
    _opacity(seed * 4099 + day, x, y, 0.0, 0.0, level, cloud)
    _opacity(seed * 4099 + day, x, y, east, north, level, shadow)
    return cloud, shadow


@compiled
def _opacity(seed: Any, x: Any, y: Any, east: float, north: float, level: float, out: Any) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            thick = fractal(seed, x[i, j] + east, y[i, j] + north, 5200.0, 6, _CLOUD) - level
            t = min(max((thick + 0.01) / 0.07, 0.0), 1.0)
            out[i, j] = t * t * (3 - 2 * t)


def cast_clouds(
    ground: npt.NDArray[np.float32],
    cloud: npt.NDArray[np.float32],
    shadow: npt.NDArray[np.float32],
    bands: npt.NDArray[np.intp],
) -> None:
    """Put clouds and their shadows over the ground, reflectance (band, y, x), in place."""
    ground *= 1 - _DIM * shadow
    ground *= 1 - cloud
    ground += cloud * _BRIGHT[bands][:, None, None]


def classify_scene(
    seed: int,
    day: int,
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    cloud: npt.NDArray[np.float32],
    shadow: npt.NDArray[np.float32],
    seen: npt.NDArray[np.float32],
) -> npt.NDArray[np.uint8]:
    """A scene classification (SCL) as a processor might give it, mistakes included.

    Parameters
    ----------
    x, y : points of the pixels in the world.
    cloud, shadow : true opacities.
    seen : float32 (4, rows, columns)
        Reflectance of B02, B04, B08, B11 under them, clouds and all.

    Returns
    -------
    uint8 (rows, columns): 3 shadow, 4 plants, 5 bare, 6 water, 8 and 9 cloud, 10 cirrus.
    """
    out = np.empty(x.shape, np.uint8)
    _classify(seed * 4099 + day, x, y, cloud, shadow, seen, out)
    return out


@compiled
def _classify(seed: Any, x: Any, y: Any, cloud: Any, shadow: Any, seen: Any, out: Any) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            # how far edges are off here: some wider, some narrower
            slack = 0.5 * (noise(seed, x[i, j], y[i, j], 900.0, _MISTAKE) - 0.5)
            blue, red = seen[0, i, j], seen[1, i, j]
            near, short = seen[2, i, j], seen[3, i, j]
            green = (near - red) / max(near + red, np.float32(0.01))
            if cloud[i, j] > 0.72 + slack:
                out[i, j] = 9
            elif cloud[i, j] > 0.34 + slack:
                out[i, j] = 8
            elif cloud[i, j] > 0.2 + slack and slack < 0.08:
                out[i, j] = 10
            elif shadow[i, j] > 0.4 + slack:
                out[i, j] = 3
            elif blue > 0.24 and green < 0.12:
                # bright roofs, taken for cloud here and there
                cell = mix(seed, int(np.floor(x[i, j] / 60)), int(np.floor(y[i, j] / 60)), _MISTAKE)
                out[i, j] = 8 if draw(cell, 0) < 0.35 else 5
            elif short < 0.05 and near < 0.08:
                out[i, j] = 6
            elif green > 0.35:
                out[i, j] = 4
            else:
                out[i, j] = 5
