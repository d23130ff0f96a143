"""The made-up world at 1 m: material, height, tone and city of every pixel, in one
compiled pass.

A pixel finds its district (the nearest site, in warped coordinates), its block, plot and building
by integer division, and what varies by hashes of those integers: nothing depends on the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.jit import compiled
from engine.synthetic.districts import World, districts_about
from engine.synthetic.hashing import SALT, draw, fractal, mix, noise
from engine.synthetic.materials import Material

__all__ = ["Surface", "paint"]

_NODE = 16  # metres between nodes of the slow fields
_WARP, _RIVER, _PATCH = 0, 2, 3  # fields; the warp has two

_EDGE_ROAD, _BLOCK, _PLOT, _YARD, _TREE, _FIELD = (
    SALT[name] for name in ("edge road", "block", "plot", "yard", "tree", "field")
)
_WARP_X, _WARP_Y, _RIVER_SALT, _PATCH_SALT = (
    SALT[name] for name in ("warp x", "warp y", "river", "patchiness")
)
_WATER, _TURBID = int(Material.WATER), int(Material.TURBID_WATER)
_ASPHALT, _PAVING = int(Material.ASPHALT), int(Material.PAVING)
_BARE, _SAND, _ROCK = int(Material.BARE), int(Material.SAND), int(Material.ROCK)
_GRASS, _DRY = int(Material.GRASS), int(Material.DRY_GRASS)
_CEREAL = int(Material.CEREAL)
_SCRUB, _BROADLEAF, _CONIFER = (
    int(m) for m in (Material.SCRUB, Material.BROADLEAF, Material.CONIFER)
)
_TILE = int(Material.TILE)
_BLEND = 45.0  # metres either side of a border within which districts mix


@dataclass(frozen=True)
class Surface:
    """A window of the world at 1 m.

    Attributes
    ----------
    left, top : int
        Of the window, in whole metres of the world's CRS.
    material : uint8 (y, x)
        `Material` of what is seen from above.
    height : float32 (y, x)
        Of it above ground, in metres.
    tone : uint8 (y, x)
        128 times its brightness over the material's.
    city : uint16 (y, x)
        The city whose materials it has, as a position among `cities`.
    cities : keys of the cities, as `materials.spectra` takes them.
    """

    left: int
    top: int
    material: npt.NDArray[np.uint8]
    height: npt.NDArray[np.float32]
    tone: npt.NDArray[np.uint8]
    city: npt.NDArray[np.uint16]
    cities: tuple[int, ...]


def paint(world: World, left: int, top: int, rows: int, cols: int) -> Surface:
    """Make a window of the world; y goes down from `top`, in whole metres.

    Returns
    -------
    Surface; the same pixels whatever the window.
    """
    bottom, right = top - rows, left + cols
    lattice = districts_about(world, left, bottom, right, top)
    row, col = bottom // _NODE - 1, left // _NODE - 1
    nodes = np.empty((4, top // _NODE + 3 - row, right // _NODE + 3 - col))
    _fields(world.seed, row, col, nodes)
    keys, cities = np.unique(lattice.sites["city"], return_inverse=True)
    shape = rows, cols
    found = Surface(
        left,
        top,
        np.empty(shape, np.uint8),
        np.empty(shape, np.float32),
        np.empty(shape, np.uint8),
        np.empty(shape, np.uint16),
        tuple(map(int, keys)),
    )
    _paint(
        world.seed,
        lattice.sites,
        cities.reshape(lattice.sites.shape),
        lattice.row,
        lattice.col,
        lattice.pitch,
        nodes,
        row,
        col,
        world.only == 0,
        left,
        top,
        found.material,
        found.height,
        found.tone,
        found.city,
    )
    return found


@compiled
def _fields(seed: Any, row: int, col: int, nodes: Any) -> None:
    """The slow fields at nodes: warp in x and y (m), river, patchiness."""
    for i in range(nodes.shape[1]):
        for j in range(nodes.shape[2]):
            x, y = float((col + j) * _NODE), float((row + i) * _NODE)
            nodes[0, i, j] = 190.0 * (fractal(seed, x, y, 480.0, 3, _WARP_X) - 0.5)
            nodes[1, i, j] = 190.0 * (fractal(seed, x, y, 480.0, 3, _WARP_Y) - 0.5)
            nodes[2, i, j] = noise(seed, x, y, 9000.0, _RIVER_SALT)
            nodes[3, i, j] = fractal(seed, x, y, 150.0, 2, _PATCH_SALT)


@compiled
def _paint(
    seed: Any,
    sites: Any,
    cities: Any,
    site_row: int,
    site_col: int,
    pitch: float,
    nodes: Any,
    node_row: int,
    node_col: int,
    rivers: bool,
    left: int,
    top: int,
    material: Any,
    height: Any,
    tone: Any,
    city: Any,
) -> None:
    for r in range(material.shape[0]):
        y = top - r - 0.5
        v = y / _NODE - node_row
        i = int(v)
        v -= i
        for c in range(material.shape[1]):
            x = left + c + 0.5
            u = x / _NODE - node_col
            j = int(u)
            u -= j
            wu = _at(nodes, 0, i, j, u, v)
            wv = _at(nodes, 1, i, j, u, v)
            wx, wy = x + wu, y + wv

            # the nearest two sites
            ci, cj = int(np.floor(wy / pitch)) - site_row, int(np.floor(wx / pitch)) - site_col
            first, second = 1e18, 1e18
            a, b, p, q = 0, 0, 0, 0
            for k in range(max(ci - 1, 0), min(ci + 2, sites.shape[0])):
                for m in range(max(cj - 1, 0), min(cj + 2, sites.shape[1])):
                    dx, dy = wx - sites[k, m].x, wy - sites[k, m].y
                    away = dx * dx + dy * dy
                    if away < first:
                        second, p, q = first, a, b
                        first, a, b = away, k, m
                    elif away < second:
                        second, p, q = away, k, m
            here, next_ = sites[a, b], sites[p, q]
            city[r, c] = cities[a, b]
            dx, dy = here.x - next_.x, here.y - next_.y
            edge = (second - first) / (2 * np.sqrt(dx * dx + dy * dy))  # metres to the border

            if rivers:
                river = abs(_at(nodes, 2, i, j, u, v) - 0.5)
                if river < 0.008:
                    material[r, c] = _TURBID if river > 0.004 else _WATER
                    height[r, c], tone[r, c] = 0.0, 128
                    continue
            width = _road_between(seed, here, next_)
            if edge < width / 2:
                material[r, c], height[r, c], tone[r, c] = _ASPHALT, 0.0, 126
                continue

            patch = _at(nodes, 3, i, j, u, v)
            d = here
            if edge < _BLEND and next_.lcz != here.lcz:
                # pieces of 24 m change sides, the more the nearer to the border
                bits = mix(seed, int(np.floor(wx / 24)), int(np.floor(wy / 24)), _EDGE_ROAD)
                if draw(bits, 1) < 0.5 * (1 - edge / _BLEND):
                    d = next_
                    city[r, c] = cities[p, q]
            if d.lcz <= 10:
                found = _settle(seed, d, x + d.bend * wu - d.x, y + d.bend * wv - d.y, patch)
            else:
                found = _grow(seed, d, x - d.x, y - d.y, patch)
            material[r, c], height[r, c], tone[r, c] = found


@compiled
def _at(nodes: Any, k: int, i: int, j: int, u: float, v: float) -> float:
    below = nodes[k, i, j] + (nodes[k, i, j + 1] - nodes[k, i, j]) * u
    above = nodes[k, i + 1, j] + (nodes[k, i + 1, j + 1] - nodes[k, i + 1, j]) * u
    return float(below + (above - below) * v)


@compiled
def _road_between(seed: Any, a: Any, b: Any) -> float:
    """Width of the road along a border, 0 for none; the same from either side."""
    bits = mix(seed, a.key + b.key, a.key * b.key, _EDGE_ROAD)
    chance, width = draw(bits, 0), draw(bits, 1)
    if a.lcz <= 10 and b.lcz <= 10 and a.lcz != 9 and b.lcz != 9:
        return 13 + 9 * width if chance < 0.6 else 0.0
    if a.lcz == 17 or b.lcz == 17:
        return 0.0
    return 6 + 3 * width if chance < 0.35 else 0.0


@compiled
def _settle(seed: Any, d: Any, x: float, y: float, patch: float) -> tuple[int, float, int]:
    """A pixel of a built district: street, building, tree or open ground."""
    u, v = x * d.cos + y * d.sin, y * d.cos - x * d.sin
    bu, bv = int(np.floor(u / d.block_u)), int(np.floor(v / d.block_v))
    fu, fv = u - bu * d.block_u - d.street, v - bv * d.block_v - d.street
    block = mix(seed + d.key, bu, bv, _BLOCK)
    if fu < 0 or fv < 0:
        if d.street > 9 and (-d.street + 2 > fu >= -d.street or -2 < fu < 0):
            return _PAVING, 0.0, 128
        if d.lcz == 7 and draw(block, 3) < 0.4:
            return _BARE, 0.0, 120  # a lane that was never paved
        return _ASPHALT, 0.0, 122 + int(12 * draw(block, 3))
    inner_u, inner_v = d.block_u - d.street, d.block_v - d.street
    trees = d.trees

    if draw(block, 0) < 0.04 and d.lcz != 8 and d.lcz != 10:
        trees = 0.5  # a small park in place of the block
        paved, bare = 0.1, 0.05
    else:
        paved, bare = d.paved, d.bare
        if d.ring > 0:
            across, along = min(fu, inner_u - fu), min(fv, inner_v - fv)
            depth = min(across, along) - 1.0
            if 0 <= depth < d.ring:
                piece = int(fv / 17) if across < along else 64 + int(fu / 17)
                if across < along:
                    piece += 128 * int(fu > inner_u / 2)
                else:
                    piece += 128 * int(fv > inner_v / 2)
                plot = mix(seed + d.key, bu * 512 + piece, bv, _PLOT)
                if draw(plot, 0) > 0.05:
                    return _building(d, plot, block)
        else:
            wide, deep = inner_u / d.plots_u, inner_v / d.plots_v
            pu, pv = min(int(fu / wide), d.plots_u - 1), min(int(fv / deep), d.plots_v - 1)
            plot = mix(seed + d.key, bu * 16 + pu, bv * 16 + pv, _PLOT)
            shape = mix(seed + d.key, bu * 16 + pu, bv * 16 + pv, _PLOT + 1000)
            if draw(plot, 0) > 0.04:
                area = d.built * wide * deep * (0.86 + 0.36 * draw(shape, 0))
                short = np.sqrt(area / d.slab)
                turned = (wide < deep) != (draw(block, 1) < 0.2)
                long_u = short if turned else short * d.slab
                long_u = min(long_u, wide - 0.2)
                long_v = min(area / long_u, deep - 0.2)
                long_u = min(area / long_v, wide - 0.2)
                at_u = (wide - long_u) * (0.5 + 0.7 * (draw(shape, 1) - 0.5))
                at_v = (deep - long_v) * (0.5 + 0.7 * (draw(shape, 2) - 0.5))
                on_u, on_v = fu - pu * wide - at_u, fv - pv * deep - at_v
                if 0 <= on_u < long_u and 0 <= on_v < long_v:
                    return _building(d, plot, block)

    crown = _crown(seed + d.key, u, v, 8.0, trees * 1.5, d.tall)
    if crown > 0:
        return _BROADLEAF, crown, 118 + int(20 * draw(block, 2))
    yard = mix(seed + d.key, int(np.floor(u / 5)), int(np.floor(v / 5)), _YARD)
    chance = draw(yard, 0)
    if chance < paved:
        return (_PAVING if draw(block, 2) < 0.5 else _ASPHALT), 0.0, 120 + int(16 * draw(yard, 1))
    if chance < paved + (1 - paved) * bare:
        return _BARE, 0.0, 116 + int(24 * draw(yard, 1))
    return (_GRASS if patch < 0.56 else _DRY), 0.0, 118 + int(20 * draw(yard, 1))


@compiled
def _building(d: Any, plot: Any, block: Any) -> tuple[int, float, int]:
    height = d.height * (1 + 2 * d.spread * (draw(plot, 1) - 0.5))
    chance = draw(plot, 2) if draw(block, 3) < 0.55 else draw(block, 2)
    roof = 0
    while roof < 4 and chance >= d.roofs[roof]:
        roof += 1
    return _TILE + roof, height, 114 + int(28 * draw(plot, 3))


@compiled
def _crown(seed: Any, u: float, v: float, pitch: float, share: float, tall: float) -> float:
    """Height of a tree over a point, 0 for none; each lattice cell holds one crown or none."""
    i, j = int(np.floor(u / pitch)), int(np.floor(v / pitch))
    bits = mix(seed, i, j, _TREE)
    if draw(bits, 0) >= share:
        return 0.0
    radius = pitch * (0.34 + 0.14 * draw(bits, 1))
    du = u / pitch - i - 0.5 - (0.5 - radius / pitch) * (2 * draw(bits, 2) - 1)
    dv = v / pitch - j - 0.5 - (0.5 - radius / pitch) * (2 * draw(bits, 3) - 1)
    away = (du * du + dv * dv) * pitch * pitch
    if away >= radius * radius:
        return 0.0
    return float(tall * (0.7 + 0.5 * draw(bits, 1)) * (1 - 0.5 * away / (radius * radius)))


@compiled
def _grow(seed: Any, d: Any, x: float, y: float, patch: float) -> tuple[int, float, int]:
    """A pixel of a natural district."""
    u, v = x * d.cos + y * d.sin, y * d.cos - x * d.sin
    lcz, shade = d.lcz, int(34 * (d.spread - 0.5))  # districts differ in brightness
    if lcz == 17:
        return (_TURBID if d.bare > 0.6 else _WATER), 0.0, 128
    if lcz == 11:
        bits = mix(seed + d.key, int(np.floor(u / 6)), int(np.floor(v / 6)), _TREE)
        if draw(bits, 0) < d.trees:
            kind = _CONIFER if patch + 0.6 * (d.bare - 0.5) > 0.5 else _BROADLEAF
            height = d.tall * (0.75 + 0.4 * draw(bits, 1))
            return kind, height, 116 + shade + int(24 * draw(bits, 2))
        return _GRASS, 0.0, 128 + shade
    if lcz == 12:
        crown = _crown(seed + d.key, u, v, 13.0, d.trees * (0.5 + patch), d.tall * 0.7)
        if crown > 0:
            return _BROADLEAF, crown, 126 + shade
        kind = _GRASS if patch < 0.3 + 0.4 * d.bare else _DRY
        return kind, 0.0, 122 + shade + int(14 * patch)
    if lcz == 13:
        bits = mix(seed + d.key, int(np.floor(u / 3)), int(np.floor(v / 3)), _TREE)
        if draw(bits, 0) < d.trees:
            return _SCRUB, 0.8 + draw(bits, 1), 112 + shade + int(32 * draw(bits, 2))
        kind = _DRY if patch < 0.3 + 0.5 * d.bare else _BARE
        if draw(bits, 3) < 0.5:
            kind = _GRASS
        return kind, 0.0, 124 + shade
    if lcz == 14:
        wide, long = 60 + 90 * d.bare, 160 + 120 * d.bare
        i, j = int(np.floor(u / wide)), int(np.floor(v / long))
        bits = mix(seed + d.key, i, j, _FIELD)
        if u - i * wide < 6:
            if draw(bits, 2) < 0.4:  # a hedge
                crown = _crown(seed + d.key, u - i * wide, v, 6.0, 0.8, 6.0)
                if crown > 0:
                    return _BROADLEAF, crown, 120
            if u - i * wide < 2:
                return _GRASS, 0.0, 124
        crop = _CEREAL + int(draw(bits, 0) * 4)
        if d.bare < 0.25:
            crop = _CEREAL + 2  # meadows all over
        return crop, 0.0, 108 + int(40 * draw(bits, 1))
    if lcz == 15:
        if d.bare < 0.5:  # paved: yards, aprons, parking
            slab = mix(seed + d.key, int(np.floor(u / 24)), int(np.floor(v / 40)), _YARD)
            kind = _PAVING if d.bare < 0.3 else _ASPHALT
            return kind, 0.0, 118 + shade + int(20 * draw(slab, 0))
        return _ROCK, 0.0, 104 + shade + int(48 * patch)
    tuft = mix(seed + d.key, int(np.floor(u / 3)), int(np.floor(v / 3)), _TREE)
    if draw(tuft, 0) < 3 * d.trees * patch:
        return _DRY, 0.0, 124
    return (_SAND if d.bare > 0.7 else _BARE), 0.0, 108 + shade + int(40 * patch)
