"""Models of a product's cities: who mapped what, where each one ends, and their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from engine.models.card import ModelCard
from engine.publishing.documents import write_json
from engine.publishing.model import FOLDER, place_model

__all__ = [
    "OUTLINES",
    "CityModel",
    "models_of",
    "outlines_asset",
    "place_models",
    "words_of",
    "write_outlines",
]

OUTLINES = "cities.geojson"
"""Of the product folder: cities with the models that mapped them, for `model.cities` of a recipe
where their weights are in it."""

_NAMED = 20  # cities in a line of text; the report lists all


@dataclass(frozen=True)
class CityModel:
    """A city that a model of its own mapped.

    Attributes
    ----------
    city, name, key : of the city, and of its model.
    card : of the model, None where the one at hand is another.
    square_km : that the model mapped, as the map's pixels with a value; None: not known.
    outline : in degrees, None where the one at hand may be another.
    """

    city: str
    name: str
    key: str
    card: ModelCard | None = None
    square_km: float | None = None
    outline: BaseGeometry | None = None


def words_of(cities: Sequence[CityModel], rest: str) -> list[str]:
    """Where one model ends, for the report's notes; nothing where one mapped all.

    Parameters
    ----------
    cities : of the product.
    rest : name of the model that mapped what lies in none.
    """
    if not cities:
        return []
    told = [f"{each.city} by {each.name}" for each in cities]
    if len(told) > _NAMED:
        told = [*told[:_NAMED], f"{len(told) - _NAMED} more"]
    return [
        f"several models made this map: {', '.join(told)}; all else by {rest}. A model ends at its "
        "city's outline: a pixel is of the city that holds its centre, and nothing is blended "
        "across the border, where values may jump"
    ]


def models_of(
    cities: Sequence[CityModel], rest: tuple[str, str | None], square_km: float
) -> list[dict[str, Any]]:
    """All models of a product, for report and items; nothing where there is one.

    Parameters
    ----------
    cities : of the product.
    rest : name and key of the model that mapped what lies in none.
    square_km : that has a value, in cities or not.
    """
    if not cities:
        return []
    areas = [each.square_km for each in cities]
    known = [area for area in areas if area is not None]
    others = round(square_km - sum(known), 6) if len(known) == len(areas) else None
    return [
        {"name": rest[0], "key": rest[1], "city": None, "area_km2": others},
        *(
            {"name": each.name, "key": each.key, "city": each.city, "area_km2": each.square_km}
            for each in cities
        ),
    ]


def place_models(
    folder: Path, cards: Sequence[ModelCard | None], rest: ModelCard | None
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Put models of cities or scenes where the product's readers find them, each once.

    Returns
    -------
    (weights as assets by a name of their own, folders of cards by the models' keys)
    """
    assets: dict[str, dict[str, Any]] = {}
    folders = {} if rest is None or not (folder / FOLDER).is_dir() else {rest.key: FOLDER}
    seen = set() if rest is None else {rest.key}
    for card in cards:
        if card is None or card.key in seen:
            continue
        seen.add(card.key)
        own = f"{card.name[:60]}-{card.key[:8]}"
        asset = place_model(folder, card, f"models/{own}")
        if asset is not None:
            assets[f"model-{own}"] = asset
        if (folder / "models" / own).is_dir():
            folders[card.key] = f"models/{own}"
    return assets, folders


def write_outlines(folder: Path, cities: Sequence[CityModel], folders: dict[str, str]) -> bool:
    """Write which city was mapped by what; False, and nothing, where outlines are not known."""
    shown = [each for each in cities if each.outline is not None]
    features = [
        {
            "type": "Feature",
            "properties": {
                "name": each.city,
                "model": each.name,
                "key": each.key,
                "card": f"./{folders[each.key]}" if each.key in folders else None,
            },
            "geometry": mapping(shapely.normalize(each.outline)),
        }
        for each in shown
    ]
    if shown:
        write_json(folder / OUTLINES, {"type": "FeatureCollection", "features": features})
    return bool(shown)


def outlines_asset() -> dict[str, dict[str, Any]]:
    """The file of outlines as an asset, its address from the product folder itself."""
    return {
        "cities": {
            "href": f"./{OUTLINES}",
            "type": "application/geo+json",
            "roles": ["metadata"],
            "title": "Cities that models of their own mapped",
        }
    }
