"""What other sources would say of the made-up cities' ground, from its truth at 1 m.

On pixels of 10 m: shares of cover, buildings' heights, canopy, water; of a cell, 320 m about its
centre, as many numbers as a source of that kind gives. Published heights are wrong by 1.5 m plus
10 %, and lack a tenth of the buildings: so are those of `with_errors`, each building by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.ndimage import label

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engine.synthetic.country import Country
from engine.synthetic.materials import COVER, Cover
from engine.synthetic.surface import Surface, paint

SOURCES = ("heights", "heights, exact", "canopy", "water")
BLOCK = 1_600  # metres that are painted at once; a building across its edge counts as two
PATCH = 32  # pixels of 10 m
ERROR, SHARE, MISSING = 1.5, 0.10, 0.10
TALL = 2.0  # metres from which on plants are canopy

Array = np.ndarray


def _blocks(place: Country) -> Iterator[tuple[slice, slice, Surface]]:
    """Pieces of the ground, and where they lie on the country's pixels of 10 m."""
    left, bottom, right, top = place.bounds
    for y in range(top, bottom, -BLOCK):
        for x in range(left, right, BLOCK):
            i, j = (top - y) // 10, (x - left) // 10
            here = slice(i, i + BLOCK // 10), slice(j, j + BLOCK // 10)
            yield *here, paint(place.world, x, y, BLOCK, BLOCK)


def _mean(values: Array) -> Array:
    """Of each 10 x 10 pixels of 1 m."""
    rows, cols = values.shape
    return values.reshape(rows // 10, 10, cols // 10, 10).mean((1, 3), dtype=np.float64)


def covers(place: Country) -> Array:
    """Shares of the kinds of cover, float32 (8, y, x), on pixels of 10 m from the upper left."""
    left, bottom, right, top = place.bounds
    found = np.empty((len(Cover), (top - bottom) // 10, (right - left) // 10), np.float32)
    for rows, cols, seen in _blocks(place):
        kind = COVER[seen.material]
        for number in range(len(found)):
            found[number, rows, cols] = _mean(kind == number)
    return found


def chances(keys: Array, salt: int) -> Array:
    """A number from 0 to under 1 for each key (SplitMix64)."""
    z = keys.astype(np.uint64) + np.uint64((salt + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) / 2.0**53


def with_errors(height: Array, built: Array, seed: int) -> tuple[Array, Array]:
    """Heights as they are published, and which pixels are still known to be built.

    A building is what touches and has one height.
    """
    numbers, _ = label(built)
    keys = numbers.astype(np.uint64) << np.uint64(32) | height.view(np.uint32)
    keys ^= np.uint64(seed) << np.uint64(52)
    there = built & (chances(keys, 0) >= MISSING)
    # Box and Muller: two normal numbers of two chances
    far = np.sqrt(-2 * np.log(1 - chances(keys, 1)))
    turn = 2 * np.pi * chances(keys, 2)
    off = ERROR * far * np.cos(turn) + SHARE * height * far * np.sin(turn)
    return np.where(there, np.maximum(height + off, 0), 0).astype(np.float32), there


def sources(place: Country, xy: Array) -> dict[str, Array]:
    """Of each cell, float32 (n, columns): heights' mean, spread, maximum and share of ground;
    canopy's the same; water's share."""
    left, bottom, right, top = place.bounds
    shape = (top - bottom) // 10, (right - left) // 10
    names = ("heights", "heights, exact", "canopy")
    sums = {name: np.zeros((3, *shape)) for name in names}  # share, height, its square
    highest = {name: np.zeros(shape) for name in names}
    wet = np.zeros(shape)
    for number, (rows, cols, seen) in enumerate(_blocks(place)):
        kind = COVER[seen.material]
        built = kind == Cover.BUILDING
        green = ((kind == Cover.TREES) | (kind == Cover.SCRUB)) & (seen.height > TALL)
        seed = (place.world.seed * 97 + number) % 4096
        for name, (height, where) in {
            "heights": with_errors(seen.height, built, seed),
            "heights, exact": (seen.height, built),
            "canopy": (seen.height, green),
        }.items():
            here = np.where(where, height, 0).astype(np.float64)
            sums[name][:, rows, cols] = [_mean(v) for v in (where, here, here**2)]
            tens = here.reshape(BLOCK // 10, 10, BLOCK // 10, 10)
            highest[name][rows, cols] = tens.max((1, 3))
        # as a map of lakes and rivers has it: a pixel is water or not
        wet[rows, cols] = _mean(kind == Cover.WATER) >= 0.5
    corners = np.stack([(top - xy[:, 1]) / 10, (xy[:, 0] - left) / 10], 1) - PATCH / 2
    places = [(int(i), int(j)) for i, j in corners]

    def cells(values: Array) -> Array:
        return np.stack([values[..., i : i + PATCH, j : j + PATCH] for i, j in places])

    found = {}
    for name in names:
        share, first, second = cells(sums[name]).mean((2, 3)).T
        mean = np.divide(first, share, out=np.zeros_like(share), where=share > 0)
        square = np.divide(second, share, out=np.zeros_like(share), where=share > 0)
        spread = np.sqrt(np.maximum(square - mean**2, 0))
        most = cells(highest[name]).max((1, 2))
        found[name] = np.stack([mean, spread, most, share], 1).astype(np.float32)
    found["water"] = cells(wet).mean((1, 2))[:, None].astype(np.float32)
    return found
