"""Scenes that networks of their own map: a window gets the card of what it shows."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.errors import CardError, RecipeError
from engine.infer.by_scene import LOADED, ByScene
from engine.legend import LandClass
from engine.models.card import ModelCard
from engine.products.alike import find_beside, find_within, load_alike
from engine.publishing.forms import Form, Layer
from engine.recipes.sections import SceneModels, WindowModel
from engine.texture.scene_file import KnownScenes, read_scenes

__all__ = ["SceneCards"]

_RGB = ("B04", "B03", "B02")
_MOST = 32  # different cards: each has a plane in the blending of windows
_REMEDY = "train one model for each scene: natmap train --each"


class SceneCards:
    """The scenes of a recipe that other cards map than the rest.

    Parameters
    ----------
    choice : section `model` of the recipe.
    rest : card of windows that show no scene, or one without a card; the others must fit it.
    base : folder of the recipe's relative paths.

    Attributes
    ----------
    by : whose card a window gets; None where scenes have none.
    owner : position of each scene's card in `by.cards`.
    known : the scenes.
    notes : what is in doubt.

    Raises
    ------
    RecipeError, CardError, WeightsError
        Where scenes or cards do not serve; weights are examined, too.
    """

    def __init__(self, choice: WindowModel, rest: ModelCard, base: Path) -> None:
        self.by: ByScene | None = None
        self.known: KnownScenes | None = None
        self.notes: tuple[str, ...] = ()
        self._choice = choice.scenes
        if choice.scenes is None:
            return
        self.known = known = read_scenes(base / choice.scenes.file, RecipeError)
        doubts = _require_seen(known, rest)
        _require_blend(known, choice.scenes)
        own = _cards_of(known, choice.scenes, rest, choice.precision, base)
        cards: list[ModelCard] = []
        for card in (rest, *own.values()):
            if all(card.key != other.key for other in cards):
                cards.append(card)
        if len(cards) > _MOST:
            raise RecipeError(
                "scenes have too many different cards",
                got=f"{len(cards)}, with that of the recipe",
                expected=f"{_MOST} at most",
                remedy="let rare scenes be mapped by model.card",
            )
        place = {card.key: k for k, card in enumerate(cards)}
        owner = tuple(place[own.get(k, rest).key] for k in range(len(known)))
        self.by = ByScene(
            tuple(cards),
            owner,
            known.centres,
            known.radii,
            known.spread,
            choice.scenes.least,
            tuple(rest.bands.index(band) for band in _RGB),
        )
        self.notes = (*doubts, *_without(own, known, rest))

    def __bool__(self) -> bool:
        return self.by is not None

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """The different cards, that of the rest first."""
        return () if self.by is None else self.by.cards

    def scenes_of(self, position: int) -> tuple[int, ...]:
        """Scenes that a card has."""
        owner = () if self.by is None else self.by.owner
        return tuple(k for k, mine in enumerate(owner) if mine == position)

    @property
    def parameters(self) -> dict[str, Any]:
        """What decides scores, for fingerprints."""
        if self.by is None or self.known is None:
            return {}
        keys = [self.by.cards[k].key for k in self.by.owner]
        return {"scenes": {"key": self.known.key, "least": self.by.least, "cards": keys}}

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Of the array that keeps whose card made a pixel."""
        return {"_FillValue": 255, "long_name": "position of a model among those of the report"}

    def gigabytes(self, side: int) -> float:
        """Memory of a task on a tile of so many pixels, beside that of one card."""
        if self.by is None:
            return 0.0
        card, count = self.by.cards[0], len(self.by.cards)
        rows = 3 * card.patch * (side + 2 * card.patch)  # two rows of windows, and some alone
        planes = 4 * count * (rows + 8 * card.patch**2) + side * side
        weights = max((each.folder / each.weights).stat().st_size for each in self.by.cards)
        return (planes + 2 * min(count, LOADED) * weights) / 1e9

    def onto(self, form: Form) -> Form:
        """The form of a product with the layer that says whose card made a pixel."""
        if self.by is None:
            return form
        legend = []
        for k, card in enumerate(self.by.cards):
            shade = colorsys.hls_to_rgb(0.61803 * k % 1, 0.45 + 0.15 * (k % 3), 0.55)
            colour = "".join(f"{round(255 * part):02X}" for part in shade) if k else "BDBDBD"
            scenes = ", ".join(map(str, self.scenes_of(k)))
            words = [f"{'scene' if scenes.isdigit() else 'scenes'} {scenes}"] if scenes else []
            words += [] if k else ["what shows no scene"]
            title = f"{card.name}: {', and '.join(words)}"
            legend.append(LandClass(k, str(k), f"model_{k}", title, colour))
        layer = Layer(
            "models",
            "-models",
            "Model that made most of a pixel",
            "uint8",
            255,
            "mode",
            "scores/model",
            classes=tuple(legend),
        )
        return replace(form, layers=(*form.layers, layer))


def _require_seen(known: KnownScenes, card: ModelCard) -> tuple[str, ...]:
    """Refuse scenes that a window of an image cannot be told by; gives notes."""
    if known.by != "texture":
        raise RecipeError(
            "scenes go by labels, and a map has none before it is made",
            got=f"{known.path.name}: by {known.by}",
            expected="scenes by texture",
            remedy="find scenes again: natmap scenes --by texture",
        )
    lacking = [band for band in _RGB if band not in card.bands]
    if lacking:
        raise CardError(
            "the model lacks bands that make brightness, by which scenes are told",
            got=f"{card.name}: {', '.join(card.bands)}",
            expected=", ".join(_RGB),
        )
    side, pixel = card.patch, card.resolution
    return known.require_alike(f"windows of {card.name}", side, "uint8", pixel, RecipeError)


def _require_blend(known: KnownScenes, choice: SceneModels) -> None:
    if choice.mode == "blend" and not known.spread > 0:
        raise RecipeError(
            "scenes without a spread cannot be blended",
            got=f"{known.path.name}: spread {known.spread:g}",
            expected="patches that differ within their scenes",
            remedy="set model.scenes.mode: choose",
        )


def _cards_of(
    known: KnownScenes, choice: SceneModels, rest: ModelCard, precision: str, base: Path
) -> dict[int, ModelCard]:
    """Cards by scene: those of the recipe, then those of the file."""
    known.require_numbers(tuple(choice.cards), RecipeError, "model.scenes.cards")
    where = {
        k: find_within(text, known.path.parent, f"scene {k}")
        for k, text in known.cards.items()
        if k not in choice.cards
    }
    where |= {k: find_beside(text, base, f"scene {k}") for k, text in choice.cards.items()}
    if not where:
        raise RecipeError(
            "no scene has a card of its own",
            got=f"none in {known.path.name}, none in model.scenes.cards",
            expected="one or more",
            remedy=f"{_REMEDY}; or leave model.scenes out",
        )
    loaded: dict[Path, ModelCard] = {}
    for k, path in sorted(where.items()):
        if path not in loaded:
            loaded[path] = load_alike(path, rest, precision, whose=f"scene {k}", remedy=_REMEDY)
    return {k: loaded[path] for k, path in sorted(where.items())}


def _without(own: Mapping[int, ModelCard], known: KnownScenes, rest: ModelCard) -> tuple[str, ...]:
    """Scenes that have no card, in words."""
    left = [str(k) for k in range(len(known)) if k not in own]
    if not left:
        return ()
    told = f"scenes {', '.join(left[:20])}" + (" …" if len(left) > 20 else "")
    what = f"{len(left)} of {len(known)} scenes have no card of their own ({told})"
    return (f"{what}: {rest.name} maps them",)
