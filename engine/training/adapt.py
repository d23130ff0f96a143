"""Adapt: a segmenter to a city without labels, to a new card and its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from shapely.geometry.base import BaseGeometry

from engine.addresses import public
from engine.datasets.chips import open_chips
from engine.datasets.ground import City
from engine.errors import CardError, RecipeError
from engine.files import together
from engine.models.card import ModelCard, find_card, load_card
from engine.models.device import choose_device
from engine.models.registry import load_weights, save_model
from engine.recipes.adapting import AdaptRecipe, load_adapt_recipe
from engine.training.adversarial import Adapted, AdaptSettings, Checked, align
from engine.training.normalisation import ALIKE
from engine.training.segmenters import Chips
from engine.training.task import write_report

__all__ = ["AdaptedModel", "Start", "adapt"]


class AdaptedModel(NamedTuple):
    """An adapted segmenter, and what its adaptation found."""

    card: ModelCard
    found: Adapted


def adapt(
    recipe: AdaptRecipe | str | Path | Mapping[str, Any],
    *,
    base: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
    look: Callable[[Checked], None] = lambda entry: None,
) -> AdaptedModel:
    """Adapt a segmenter of green space to a city that nobody has labelled.

    Where its source loses too much at the first look, the weights are those of the model; the new
    card has the city's statistics where the city is of another kind, else it is the model as it
    was. The report says which (`step`, `statistics`) and names the model to fall back on.

    Parameters
    ----------
    recipe : an AdaptRecipe, a mapping, or the path of a recipe file.
    base : folder of the recipe's relative paths; by default the file's own.
    tell, look : hear of steps, and of each look at the source.

    Raises
    ------
    NatmapError
        Before the adaptation starts, where model, chips or city do not serve.
    """
    start = Start.of(recipe, base, tell)
    folder = start.base / start.recipe.out
    start.require_other(folder)
    tell(f"drawing chips of {start.city.name}")
    return start.adapt(start.city.name, start.city.boundary(), start.recipe.name, folder, look=look)


@dataclass(frozen=True)
class Start:
    """What an adaptation begins with, for one city or many.

    Attributes
    ----------
    recipe, base : and the folder of its relative paths.
    old : card of the model; `weights` are its own.
    side : of a chip, px.
    train, validation : the chips that the model was trained on.
    city : the map recipe's images, and its boundary.
    tell : hears of steps.
    """

    recipe: AdaptRecipe
    base: Path
    old: ModelCard
    weights: dict[str, Any]
    side: int
    train: Chips
    validation: Chips
    city: City
    tell: Callable[[str], None]

    @classmethod
    def of(
        cls,
        recipe: AdaptRecipe | str | Path | Mapping[str, Any],
        base: Path | None,
        tell: Callable[[str], None],
    ) -> Start:
        """Read all that a recipe names; errors as of `adapt`."""
        if not isinstance(recipe, AdaptRecipe):
            if base is None and isinstance(recipe, str | Path):
                base = Path(recipe).parent
            recipe = load_adapt_recipe(recipe)
        base = base or Path()
        old = load_card(find_card(recipe.model, base))
        if not old.segments:
            raise CardError(
                "only segmenters are adapted",
                got=f"{old.name}: {old.architecture}",
                expected="ugsnet",
            )
        chips = open_chips(base / recipe.chips)
        if chips.bands != old.bands:
            raise CardError(
                "the chips have other bands than the model",
                got=", ".join(chips.bands),
                expected=", ".join(old.bands),
            )
        city = City(base / recipe.target, old.bands)
        train, validation = Chips(*chips.of("train")), Chips(*chips.of("validation"))
        return cls(recipe, base, old, load_weights(old), chips.side, train, validation, city, tell)

    def require_other(self, folder: Path) -> None:
        """Refuse a folder for the adapted model that is the model's own."""
        if folder.resolve() == self.old.folder.resolve():
            raise RecipeError(
                "out is the folder of the model that is adapted",
                got=str(folder),
                expected="another folder: the model is what to fall back on",
            )

    def adapt(
        self,
        place: str,
        within: BaseGeometry,
        name: str,
        folder: Path,
        *,
        look: Callable[[Checked], None],
        **more: Any,
    ) -> AdaptedModel:
        """Adapt to chips of a place and write card, weights and report.

        Parameters
        ----------
        place : what it is called.
        within : where chips are drawn, in the grid's CRS.
        name : of the new card.
        folder : that it is written to.
        look : hears of each look at the source.
        more : what the report says beside.
        """
        old, recipe = self.old, self.recipe
        target, seen = self.city.draw(self.side, recipe.most, recipe.training.seed, within, place)
        settings = AdaptSettings(**recipe.training.model_dump(exclude={"preset", "device"}))
        self.tell(f"adapting {old.name} to {len(target)} chips of {place}")
        found = align(
            old,
            self.weights,
            self.train,
            self.validation,
            target,
            settings,
            seen=seen,
            device=choose_device(recipe.training.device),
            compared=lambda agreed: self.tell(_words(agreed)),
            tell=look,
        )
        kept = (
            "its statistics are the city's, its weights as before" if found.own else "not adapted"
        )
        if not found.step:
            self.tell(f"the source lost over {settings.guard:g} points of F1 at once: {kept}")
        words = f"{old.name} adapted to {place}" if found.step else f"{old.name}, {kept}"
        card = old.model_copy(
            update={"name": name, "provenance": f"{words}; {old.provenance}", "version": "1"}
        )
        with together(folder, mark="card.json") as part:
            card = save_model(card, found.weights, part)
            write_report(
                part,
                ("torch", "numpy"),
                recipe=public(recipe.model_dump(mode="json")),
                fallback={"name": old.name, "key": old.key},
                chips={"source": len(self.train.x), "target": len(target)},
                source_f1_before=found.before,
                agreement=found.agreement,
                statistics="city" if found.own else "source",
                step=found.step,
                history=[asdict(entry) for entry in found.history],
                **more,
            )
        return AdaptedModel(card.model_copy(update={"folder": folder}), found)


def _words(agreed: float) -> str:
    """What an adaptation found of the city before its first step."""
    whose = "the source's, as for one more place of its kind" if agreed >= ALIKE else "the city's"
    return f"maps under the source's and the city's statistics agree by {agreed:.2f}: {whose}"
