"""Which cities of a map were made by models of their own, and how much of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr

from engine.grid.area import Area
from engine.grid.grid import Tile
from engine.legend import Reason
from engine.models.card import ModelCard
from engine.pipeline.prepare import Prepared
from engine.publishing.cities import CityModel
from engine.runs.schedule import Schedule
from engine.store.ledger import State

__all__ = ["cities_made", "told_of"]


def told_of(prepared: Prepared) -> dict[str, dict[str, str]]:
    """Name and key of each city's card, as the store's table of runs keeps them."""
    cities = prepared.resolved.cities
    cards = {} if cities is None else cities.cards
    return {city: {"name": card.name, "key": card.key} for city, card in cards.items()}


def cities_made(
    prepared: Prepared,
    schedule: Schedule,
    root: zarr.Group,
    then: Mapping[str, Mapping[str, Any]],
    *,
    otherwise: bool,
) -> tuple[CityModel, ...]:
    """The cities of a map.

    Parameters
    ----------
    prepared : the recipe at hand.
    schedule : of it, over the store's ledger.
    root : of the store.
    then : what the newest run was told of its cities.
    otherwise : whether the recipe at hand would make another map. Then the models' names are
        known, and neither outlines nor areas.
    """
    cities = prepared.resolved.cities
    cards = {} if cities is None else cities.cards
    if otherwise:
        return tuple(
            CityModel(city, said["name"], said["key"], _same(cards.get(city), said))
            for city, said in then.items()
        )
    if not cities:
        return ()
    path = prepared.resolved.form.layer("reason").array
    metres = next(spec.resolution for spec in prepared.specs if spec.path == path)
    n, counts = prepared.grid.pixels(metres), Counter[str]()
    array: Any = root[path]
    done = schedule.ledger.states("map") == State.DONE
    for row, col in np.argwhere(done).tolist():
        tile = Tile(row, col)
        if cities.near(tile)[0]:
            reasons = array[row * n : row * n + n, col * n : col * n + n]
            counts.update(cities.count(tile, metres, np.asarray(reasons) == Reason.DATA))
    outlines = cities.outlines
    found = []
    for city, card in cards.items():
        named = _same(card, {"name": card.name, "key": card.key, **then.get(city, {})}) or card
        area = round(counts[city] * metres**2 / 1e6, 6)
        outline = Area(outlines[city], prepared.resolved.area.crs).geographic
        found.append(CityModel(city, named.name, named.key, named, area, outline))
    return tuple(found)


def _same(card: ModelCard | None, said: Mapping[str, Any]) -> ModelCard | None:
    """The card at hand under the name that a run was told, None where it is another."""
    if card is None or card.key != said["key"]:
        return None
    return card.model_copy(update={"name": said["name"]})
