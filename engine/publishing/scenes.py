"""Models of a product's scenes: whose a window was, how much each made, and their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.models.card import ModelCard
from engine.publishing.documents import write_json

__all__ = ["FILE", "SceneModel", "ScenesMade", "write_scene_file"]

FILE = "scenes.json"
"""Of the product folder: the scenes with their cards, for `model.scenes.file` of a recipe where
their weights are in it."""

_NAMED = 20  # models in a line of text; the report lists all
_KEPT = (
    "schema",
    "source",
    "frames",
    "patches",
    "settings",
    "texture",
    "kind",
    "pixel",
    "codes",
    "far",
    "spread",
    "scenes",
)
"""Keys of a file of scenes that go with a product."""


@dataclass(frozen=True)
class SceneModel:
    """A model of a map whose windows were mapped by scene.

    Attributes
    ----------
    scenes : numbers of those whose windows it has.
    name, key : of the model.
    card : of it, None where the one at hand is another.
    square_km : in which it has most of a pixel, of the map's pixels with a value; None: not known.
    """

    scenes: tuple[int, ...]
    name: str
    key: str
    card: ModelCard | None = None
    square_km: float | None = None


@dataclass(frozen=True)
class ScenesMade:
    """How a map was made by scene.

    Attributes
    ----------
    models : different ones; the first has the windows that show no scene.
    least : weight below which a scene's model did not run; 1: one model did.
    document : the file of scenes, None where the one at hand may be another.
    """

    models: tuple[SceneModel, ...]
    least: float
    document: Mapping[str, Any] | None = None

    @property
    def words(self) -> str:
        """Who made what, for the report's notes."""
        told = [_words(each) for each in self.models[1:]]
        if len(told) > _NAMED:
            told = [*told[:_NAMED], f"{len(told) - _NAMED} more"]
        rest = self.models[0]
        how = "a window has the model of the scene that it shows"
        if self.least < 1:
            how = (
                "the models of all scenes near a window are blended, by exp(-d2 / s2) of its "
                f"distance d from their centres, weights below {self.least:g} left out"
            )
        return (
            f"several models made this map, by scene: {', '.join(told) or 'none'}; all other "
            f"windows by {rest.name}. {how[0].upper()}{how[1:]}. Windows overlap and are blended, "
            "so a pixel may be of several models: it counts for the one that has most of it, as "
            "layer models shows"
        )

    @property
    def told(self) -> list[dict[str, Any]]:
        """All models, for report and items, in the order of the codes of layer models."""
        return [
            {
                "name": each.name,
                "key": each.key,
                "scenes": list(each.scenes),
                "area_km2": each.square_km,
            }
            for each in self.models
        ]


def write_scene_file(
    folder: Path, made: ScenesMade | None, folders: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Write the scenes with their cards, and give the asset; nothing where they are not known.

    Parameters
    ----------
    folder : the product's.
    made : how the map was made.
    folders : of cards in it, by the models' keys.
    """
    if made is None or made.document is None:
        return {}
    document = {key: made.document[key] for key in _KEPT if key in made.document}
    key_of = {k: each.key for each in made.models[1:] for k in each.scenes}
    scenes = []
    for scene in document["scenes"]:
        own = {name: value for name, value in scene.items() if name != "card"}
        where = folders.get(key_of.get(scene["scene"], ""))
        scenes.append(own if where is None else own | {"card": f"./{where}"})
    write_json(folder / FILE, document | {"scenes": scenes})
    return {
        "scenes": {
            "href": f"./{FILE}",
            "type": "application/json",
            "roles": ["metadata"],
            "title": "Scenes that models of their own mapped",
        }
    }


def _words(model: SceneModel) -> str:
    numbers = ", ".join(map(str, model.scenes[:_NAMED]))
    more = " …" if len(model.scenes) > _NAMED else ""
    return f"scene{'s' if len(model.scenes) > 1 else ''} {numbers}{more} by {model.name}"
