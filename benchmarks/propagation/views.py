"""The made-up cities of the comparison, as a satellite sees them."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pyproj import Transformer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine.synthetic.country import AUTUMN, Country
from engine.synthetic.districts import World
from engine.synthetic.scene import CRS, Overpass, see

CLEAR = replace(AUTUMN[1], cover=0.0)
SUMMER = Overpass(datetime(2021, 6, 23, 10, 10, tzinfo=UTC), "05.00", 0.0, 0.020)
STEP, ZONE = 3, 33
SIDE = 32  # pixels of 10 m along a cell


def country(seed: int, day: Overpass = CLEAR) -> Country:
    return Country(World(seed), 8_000, 8_000, (day,), inset=1)


def centres(place: Country) -> np.ndarray:
    """Of the cells, every third of the truth: (n, 2), metres."""
    left, bottom, right, top = place.bounds
    rows, cols = (top - bottom) // 100, (right - left) // 100
    y, x = np.mgrid[2 : rows - 2 : STEP, 2 : cols - 2 : STEP] * 100 + 50
    return np.stack([left + x.ravel(), top - y.ravel()], 1)


def _in_zone(place: Country) -> tuple[np.ndarray, np.ndarray]:
    xy = centres(place)
    there = Transformer.from_crs(CRS, f"EPSG:{32600 + ZONE}", always_xy=True)
    return there.transform(xy[:, 0], xy[:, 1])


def scene(place: Country) -> tuple[np.ndarray, int, int]:
    """Reflectance, float32 (10, y, x), and its left upper corner in the zone."""
    ux, uy = _in_zone(place)
    west, north = int(ux.min() - 400) // 20 * 20, int(uy.max() + 400) // 20 * 20
    tall, wide = int(north - uy.min() + 400) // 20 * 2, int(ux.max() - west + 400) // 20 * 2
    [view] = see(place.world, ZONE, west, north, tall, wide, place.overpasses)
    whole = np.concatenate([view.ten, view.twenty.repeat(2, 1).repeat(2, 2)]).astype(np.float32)
    return (whole - place.overpasses[0].shift) / 10_000, west, north


def cut(place: Country, whole: np.ndarray, west: int, north: int) -> np.ndarray:
    """What a scene, or what was made of it, shows of the cells: (n, channels, side, side)."""
    ux, uy = _in_zone(place)
    first = np.rint((north - uy) / 10 - SIDE / 2).astype(int)
    second = np.rint((ux - west) / 10 - SIDE / 2).astype(int)
    cells = [whole[:, a : a + SIDE, b : b + SIDE] for a, b in zip(first, second, strict=True)]
    return np.stack(cells)
