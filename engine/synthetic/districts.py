"""Where the cities of a made-up world lie, and what their districts are like.

Sites lie on jittered lattices, so that those about a window are found without the rest. A district
draws its parameters inside the ranges of its local climate zone (Stewart and Oke 2012, table 3);
what it then truly is, its pixels say (`engine.synthetic.truth`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from engine.synthetic.hashing import SALT, draws, noise

__all__ = ["CITY", "DISTRICT", "Lattice", "World", "cities_about", "districts_about"]


@dataclass(frozen=True)
class World:
    """A made-up world, whole in its parameters; lengths in metres.

    Attributes
    ----------
    seed : int
    city_spacing, district_spacing : float
        Pitches of the jittered lattices that their sites lie on.
    shifted : bool
        Cities of other roofs, grounds and greenery than all others: a domain shift.
    only : int
        Every district is of this zone, 1 to 17, and there are no rivers; 0 for a country.
    """

    seed: int
    city_spacing: float = 7_000.0
    district_spacing: float = 850.0
    shifted: bool = False
    only: int = 0


CITY = np.dtype([(name, np.float64) for name in ("x", "y", "radius")] + [("key", np.int64)])

DISTRICT = np.dtype(
    [
        ("x", np.float64),
        ("y", np.float64),
        ("key", np.int64),
        ("lcz", np.int64),
        ("city", np.int64),  # key of the city that it belongs to
        ("cos", np.float64),
        ("sin", np.float64),
        ("bend", np.float64),  # of its streets, as a share of the warp
        ("street", np.float64),  # width
        ("block_u", np.float64),  # side of a block, street included
        ("block_v", np.float64),
        ("plots_u", np.int64),  # plots along a block
        ("plots_v", np.int64),
        ("ring", np.float64),  # depth of buildings about a courtyard; 0 for houses on plots
        ("built", np.float64),  # share of a plot under its building
        ("slab", np.float64),  # length of a building over its width
        ("height", np.float64),
        ("spread", np.float64),  # of height, as a share
        ("paved", np.float64),  # shares of the open plots
        ("bare", np.float64),
        ("trees", np.float64),
        ("tall", np.float64),  # height of trees
        ("roofs", np.float64, (5,)),  # cumulated shares of tile, bitumen, metal, concrete, rust
    ]
)


@dataclass(frozen=True)
class Style:
    """What a city's districts share."""

    angle: float
    bend: float
    rings: float  # share of perimeter blocks in compact and open mid-rise
    roofs: tuple[float, ...]
    green: float
    tall: float
    flavour: int


@dataclass(frozen=True)
class Lattice:
    """Sites of a jittered lattice: those whose cell meets a window or lies next to one that does.

    Attributes
    ----------
    row, col : of the first cell, from the world's origin; rows go up with y.
    sites : record array (rows, columns)
    """

    row: int
    col: int
    pitch: float
    sites: npt.NDArray[np.void]


# What districts of built zones draw, low:high: widths and sides in metres, plots along a block,
# share built of the whole ground, length over width, height in metres and its spread as a share,
# then shares of the open plots.
_TABLE = """
zone street  block_u block_v plots_u plots_v built   slab    height  spread paved   bare    trees
1    13:18   85:130  85:130  2:3.99  2:3.99  .44:.56 1:1.5   32:65   .35:.5 .85:1   0:0     .02:.1
2    10:14   65:105  65:105  2:4.99  2:2.99  .5:.64  1:1.6   12.5:20 .1:.25 .55:.8  0:.1    .05:.2
3    5:8     40:75   32:48   4:6.99  2:2.99  .46:.62 1:1.4   4:8     .1:.35 .45:.75 0:.2    .03:.15
4    11:16   110:160 100:140 2:2.99  1:2.99  .22:.3  1.2:3.5 32:60   .1:.35 .3:.45  0:.08   .05:.4
5    9:13    85:130  70:110  1:2.99  2:2.99  .23:.34 1.5:4   12.5:20 .1:.2  .2:.55  0:.1    .05:.4
6    6:9     75:130  45:60   3:5.99  2:2.99  .22:.34 1:1.4   4:8     .1:.3  .2:.55  0:.1    .05:.4
7    1.5:2.8 42:64   26:38   7:9.99  4:4.99  .8:.92  1:1.3   2.2:3.6 .1:.2  .05:.2  .75:.95 0:.03
8    12:18   120:200 100:150 1:2.99  1:1.99  .34:.46 1:2     5:9     .1:.3  .75:.95 0:.1    .02:.08
9    4:6     130:200 80:120  2:4.99  2:2.99  .11:.17 1:1.4   4:8     .1:.3  .05:.1  0:.05   .2:.4
10   8:12    90:150  80:120  2:3.99  1:2.99  .22:.29 1:3     6.5:13  .3:.6  .15:.3  .6:.8   .02:.06
"""


def _read_table() -> dict[int, dict[str, tuple[float, float]]]:
    head, *lines = (line.split() for line in _TABLE.strip().splitlines())
    found: dict[int, dict[str, tuple[float, float]]] = {}
    for zone, *words in lines:
        pairs = [word.split(":") for word in words]
        ranges = [(float(low), float(high)) for low, high in pairs]
        found[int(zone)] = dict(zip(head[1:], ranges, strict=True))
    return found


_BUILT = _read_table()

# Weights of zones by ring about a city: core, inner, outer, edge; then the open country.
_WEIGHTS = np.array(
    [
        # 1   2   3  4   5   6  7  8  9 10  A  B  C  D  E  F  G
        [28, 26, 14, 10, 4, 0, 1, 2, 0, 0, 0, 4, 0, 1, 5, 2, 3],
        [6, 18, 18, 14, 16, 5, 5, 5, 0, 2, 1, 4, 0, 2, 4, 2, 2],
        [0, 4, 8, 9, 13, 17, 8, 12, 5, 9, 1, 4, 1, 2, 3, 3, 1],
        [0, 0, 3, 2, 5, 16, 6, 10, 15, 9, 6, 6, 4, 8, 3, 5, 2],
        [0, 0, 0, 0, 0, 2, 0, 0, 8, 1, 22, 15, 15, 19, 6, 8, 8],
    ],
    np.float64,
)
_RINGS = (0.3, 0.6, 0.93, 1.2)  # of a city's radius


def cities_about(world: World, left: float, bottom: float, right: float, top: float) -> Lattice:
    """The cities that can matter in a window."""
    return _lattice(world, "city", world.city_spacing, left, bottom, right, top)


def districts_about(world: World, left: float, bottom: float, right: float, top: float) -> Lattice:
    """The districts that can matter in a window."""
    return _lattice(world, "district", world.district_spacing, left, bottom, right, top)


def _lattice(
    world: World, kind: str, pitch: float, left: float, bottom: float, right: float, top: float
) -> Lattice:
    # two cells more each way: one since a site of the next cell may be nearer, one for the warp
    col, row = int(np.floor(left / pitch)) - 2, int(np.floor(bottom / pitch)) - 2
    cols, rows = int(np.floor(right / pitch)) + 3 - col, int(np.floor(top / pitch)) + 3 - row
    make = _city if kind == "city" else _district
    sites = np.array(
        [[make(world, col + c, row + r)[()] for c in range(cols)] for r in range(rows)],
        CITY if kind == "city" else DISTRICT,
    )
    return Lattice(row, col, pitch, sites)


@lru_cache(maxsize=65536)
def _city(world: World, col: int, row: int) -> npt.NDArray[np.void]:
    site = np.zeros((), CITY)
    east, north, wide, name = draws(world.seed, col, row, SALT["city site"])
    site["x"] = (col + 0.2 + 0.6 * east) * world.city_spacing
    site["y"] = (row + 0.2 + 0.6 * north) * world.city_spacing
    site["radius"] = world.city_spacing * (0.28 + 0.18 * wide)
    key = int(name * 65536) * 65536 + int(wide * 65536)
    site["key"] = -key - 1 if world.shifted else key + 1
    return site


@lru_cache(maxsize=4096)
def _style(seed: int, key: int) -> Style:
    first, second, third = (draws(seed, key, k, SALT["city style"]) for k in range(3))
    shifted = key < 0
    # all dwellings of a city share one palette, so that a roof's colour tells nothing of height
    shares = np.array(second) ** 2 + 0.08
    shares[2] *= 0.4  # bright metal is rarer on dwellings
    if shifted:
        shares = shares[[3, 2, 1, 0]]
    roofs = np.cumsum(shares / shares.sum())
    return Style(
        angle=first[0] * np.pi / 2,
        bend=(0.0, 0.25, 0.8)[int(3 * first[1])],
        rings=(0.15, 0.5, 0.85)[int(3 * first[2])],
        roofs=(*map(float, roofs), 1.0),
        green=0.6 + 0.8 * first[3] - 0.2 * shifted,
        tall=5 + 7 * third[0],
        flavour=int(4 * third[1]),
    )


@lru_cache(maxsize=65536)
def _district(world: World, col: int, row: int) -> npt.NDArray[np.void]:
    site = np.zeros((), DISTRICT)
    east, north, high, low = draws(world.seed, col, row, SALT["district site"])
    x = (col + 0.18 + 0.64 * east) * world.district_spacing
    y = (row + 0.18 + 0.64 * north) * world.district_spacing
    site["x"], site["y"] = x, y
    site["key"] = int(high * 32768) * 65536 + int(low * 65536)

    near = cities_about(world, x, y, x, y).sites.ravel()
    reach = np.hypot(near["x"] - x, near["y"] - y) / near["radius"]
    city = near[int(np.argmin(reach))]
    style = _style(world.seed, int(city["key"]))
    kind = draws(world.seed, col, row, SALT["district kind"])
    ragged = reach.min() + 0.3 * (noise(world.seed, x, y, 2500.0, SALT["patchiness"]) - 0.5)
    ring = int(np.searchsorted(_RINGS, ragged))
    site["city"] = city["key"]
    site["lcz"] = world.only or _zone(ring, style.flavour, kind[0])
    grid = kind[1] < 0.6  # streets of the whole city, or its own
    angle = style.angle if grid else kind[2] * np.pi / 2
    site["cos"], site["sin"], site["bend"] = np.cos(angle), np.sin(angle), style.bend
    _furnish(site, style, world.seed, kind[3])
    return site


def _zone(ring: int, flavour: int, chance: float) -> int:
    weights = _WEIGHTS[ring].copy()
    if flavour == 1:  # industrial
        weights[[7, 9]] *= 1.8
    elif flavour == 2:  # informal
        weights[[6, 2]] *= 1.8
    elif flavour == 3:  # towers
        weights[[0, 3]] *= 1.6
    shares = np.cumsum(weights / weights.sum())
    return int(np.searchsorted(shares, chance, side="right")) + 1


def _furnish(site: npt.NDArray[np.void], style: Style, seed: int, chance: float) -> None:
    """Draw a district's parameters inside the ranges of its zone."""
    lcz, key = int(site["lcz"]), int(site["key"])
    site["tall"] = style.tall
    if lcz not in _BUILT:
        trees, tall, bare, tone = draws(seed, key, 99, SALT["district kind"])
        low, high = {11: (0.78, 0.98), 12: (0.3, 0.75), 13: (0.64, 0.92)}.get(lcz, (0.0, 0.04))
        site["trees"] = low + (high - low) * trees
        site["tall"] = 7 + 13 * tall
        site["bare"], site["spread"] = bare, tone
        return
    for number, (name, (low, high)) in enumerate(_BUILT[lcz].items()):
        site[name] = low + (high - low) * draws(seed, key, number, SALT["district kind"])[1]
    block = float(site["block_u"] * site["block_v"])
    inner_u, inner_v = site["block_u"] - site["street"], site["block_v"] - site["street"]
    share = float(site["built"]) * block / float(inner_u * inner_v)  # of the ground between streets
    site["built"] = min(share, 0.97)
    if lcz in (2, 5) and chance < style.rings * (1.0 if lcz == 2 else 0.5):
        # the depth that leaves the courtyard which the share asks for
        half = float(inner_u + inner_v) / 4
        root = half**2 - share * float(inner_u * inner_v) / 4
        site["ring"] = np.clip(half - np.sqrt(max(root, 0.0)), 9.0, 19.0)
    site["trees"] = min(float(site["trees"]) * style.green, 0.7)
    site["paved"] = np.clip(site["paved"] * (2 - style.green), 0.02, 1.0)
    if lcz <= 6 or lcz == 9:
        site["roofs"] = style.roofs
    elif lcz == 7:
        site["roofs"] = (0.02, 0.12, 0.25, 0.4, 1.0)
    else:
        site["roofs"] = (0.05, 0.4, 0.7, 0.92, 1.0)
