"""What a reviewer of a propagation looks at: pseudo-labels, the labels they follow, and maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely
from shapely.geometry.base import BaseGeometry

from engine.datasets.embedded import Embedded
from engine.datasets.pictures import StoredImage
from engine.errors import LabelError
from engine.features.osm import ground_in
from engine.features.osm_classes import LCZ_OF
from engine.legend import LCZ
from engine.products.embedding import embedding_of
from engine.products.registry import load_recipe
from engine.propagation.features import Pooled
from engine.propagation.heads import KnnHead
from engine.propagation.pseudo import Labels
from engine.publishing.audit_page import Drawn, PseudoCard
from engine.recipes.propagating import PropagationRecipe
from engine.store.location import location_of
from engine.training.pseudo_table import corner_of, owners_of

__all__ = ["APART", "audit_cards"]

APART = 1e9
"""Metres between cities in a pool, so that their own guards never meet."""

_SHOWN = 6  # pseudo-labels of a class and city on the page
_UNSURE = 0.5  # share of votes below which a pseudo-label is to be looked at
_MOSTLY = 0.5  # share of a cell that one class of a map covers, for the map to have a say
_LEAST = 0.01  # share of a cell from which a class is told


def audit_cards(
    recipe: PropagationRecipe,
    base: Path,
    cities: Sequence[Embedded],
    pool: tuple[Labels, Pooled],
    table: pa.Table,
) -> list[PseudoCard]:
    """Some pseudo-labels of each class and city, drawn by chance, with pictures.

    Parameters
    ----------
    recipe : of the propagation.
    base : folder of its relative paths.
    cities : of the pool, in the recipe's order.
    pool : labels that took part, and features of all cells.
    table : of the propagation; `cell` is of the pool.
    """
    labels, features = pool
    rows = np.flatnonzero(np.array(table["source"].to_pylist()) == "pseudo")
    if not len(rows):
        return []
    ids, codes = table["cell"].to_numpy(), table["code"].to_numpy()
    number, place = owners_of(cities, ids)
    rng = np.random.default_rng(recipe.seed)
    picked: list[int] = []
    for city in range(len(cities)):
        for code in np.unique(codes[rows]).tolist():
            mine = rows[(number[rows] == city) & (codes[rows] == code)]
            picked += rng.permutation(mine)[:_SHOWN].tolist()
    head = KnnHead(1).fit(labels.features, labels.codes)
    nearest = head.index.find(features[ids[picked]], 1).rows[:, 0]
    images = [_image(entry.recipe, base) for entry in recipe.cities]
    found = []
    for row, label in zip(picked, nearest.tolist(), strict=True):
        city, code = cities[number[row]], int(codes[row])
        neighbour, other = int(labels.codes[label]), int(labels.city[label])
        corner = corner_of(city, *divmod(int(city.ids[place[row]]), city.cells.shape[1]))
        middle = labels.xy[label] - (other * APART, 0.0)
        theirs = middle[0] - city.side / 2, middle[1] + city.side / 2
        votes = float(table["votes"][row].as_py()[code - 1])
        drawn, told, doubts = _map_of(city, corner, code)
        if neighbour != code:
            doubts.append(f"the nearest label is {LCZ[neighbour - 1].label}")
        if votes < _UNSURE:
            doubts.append("few of the nearest labels agree")
        found.append(
            PseudoCard(
                city.name,
                int(city.ids[place[row]]),
                code,
                float(table["confidence"][row].as_py()),
                neighbour,
                votes,
                float(table["distance"][row].as_py()),
                _picture(images[number[row]], corner, city.side),
                tuple(doubts),
                cities[other].name,
                _picture(images[other], theirs, city.side),
                drawn,
                told,
            )
        )
    return found


def _map_of(
    city: Embedded, corner: tuple[float, float], code: int
) -> tuple[tuple[Drawn, ...], str, list[str]]:
    """What OpenStreetMap draws about a cell, what it says of it, and doubts that it raises."""
    if city.source is None:
        return (), "", []
    west, north = corner
    side = city.side
    cell = shapely.box(west, north - side, west + side, north)
    seen = shapely.box(west - side / 2, north - 1.5 * side, west + 1.5 * side, north + side / 2)
    drawn, words, doubts = [], [], []
    for name, shape in ground_in(city.source.reader, seen.bounds).items():
        share = shapely.area(shapely.intersection(shape, cell)) / side**2
        rings = tuple(_framed(ring, seen) for ring in _rings(shape))
        if rings:
            drawn.append(Drawn(name, rings))
        if share < _LEAST:
            continue
        words.append(f"{name} {share:.0%}")
        own = LCZ_OF.get(name)
        if own is not None and own != code and share >= _MOSTLY:
            doubts.append(f"OpenStreetMap has {name} on {share:.0%} of it")
    return tuple(drawn), "OpenStreetMap: " + (", ".join(words) or "nothing"), doubts


def _rings(shape: BaseGeometry) -> list[npt.NDArray[np.float64]]:
    parts = [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon"]
    every = [ring for part in parts for ring in (part.exterior, *part.interiors)]
    return [shapely.get_coordinates(ring) for ring in every]


def _framed(ring: npt.NDArray[np.float64], box: BaseGeometry) -> npt.NDArray[np.float64]:
    """A ring in the frame of a square, 0 to 1, y downward."""
    west, south, east, north = box.bounds
    x, y = ring.T
    return np.stack([(x - west) / (east - west), (north - y) / (north - south)], axis=1)


def _picture(
    image: StoredImage | None, corner: tuple[float, float], side: float
) -> npt.NDArray[np.uint8] | None:
    """A cell and half of its side about it."""
    if image is None:
        return None
    return image.picture((corner[0] - side / 2, corner[1] + side / 2, 2 * side))


def _image(recipe: str, base: Path) -> StoredImage | None:
    path = base / recipe
    place = location_of(embedding_of(load_recipe(path)).store, path.parent)
    try:
        return StoredImage(place, "natmap embed")
    except LabelError:
        return None  # an embedding of somebody else's has no composite
