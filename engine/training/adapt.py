"""Adapt: a segmenter to a city without labels, to a new card and its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from engine.addresses import public
from engine.datasets.chips import open_chips
from engine.datasets.ground import City
from engine.errors import CardError, RecipeError
from engine.files import together
from engine.infer.predict import choose_device
from engine.models.card import ModelCard, find_card, load_card
from engine.models.registry import load_weights, save_model
from engine.recipes.adapting import AdaptRecipe, load_adapt_recipe
from engine.training.adversarial import Adapted, AdaptSettings, Checked, align
from engine.training.normalisation import ALIKE
from engine.training.segmenters import Chips
from engine.training.task import write_report

__all__ = ["AdaptedModel", "adapt"]


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
    if not isinstance(recipe, AdaptRecipe):
        if base is None and isinstance(recipe, str | Path):
            base = Path(recipe).parent
        recipe = load_adapt_recipe(recipe)
    base = base or Path()
    old = load_card(find_card(recipe.model, base))
    if not old.segments:
        raise CardError(
            "only segmenters are adapted", got=f"{old.name}: {old.architecture}", expected="ugsnet"
        )
    folder = base / recipe.out
    if folder.resolve() == old.folder.resolve():
        raise RecipeError(
            "out is the folder of the model that is adapted",
            got=str(folder),
            expected="another folder: the model is what to fall back on",
        )
    chips = open_chips(base / recipe.chips)
    if chips.bands != old.bands:
        raise CardError(
            "the chips have other bands than the model",
            got=", ".join(chips.bands),
            expected=", ".join(old.bands),
        )
    city = City(base / recipe.target, old.bands)
    tell(f"drawing chips of {city.name}")
    target, seen = city.draw(chips.side, recipe.most, recipe.training.seed)
    settings = AdaptSettings(**recipe.training.model_dump(exclude={"preset", "device"}))
    tell(f"adapting {old.name} to {len(target)} chips of {city.name}")
    found = align(
        old,
        load_weights(old),
        Chips(*chips.of("train")),
        Chips(*chips.of("validation")),
        target,
        settings,
        seen=seen,
        device=choose_device(recipe.training.device),
        compared=lambda agreed: tell(_words(agreed)),
        tell=look,
    )
    kept = "its statistics are the city's, its weights as before" if found.own else "not adapted"
    if not found.step:
        tell(f"the source lost over {settings.guard:g} points of F1 at once: {kept}")
    words = f"{old.name} adapted to {city.name}" if found.step else f"{old.name}, {kept}"
    card = old.model_copy(
        update={"name": recipe.name, "provenance": f"{words}; {old.provenance}", "version": "1"}
    )
    with together(folder, mark="card.json") as part:
        card = save_model(card, found.weights, part)
        write_report(
            part,
            ("torch", "numpy"),
            recipe=public(recipe.model_dump(mode="json")),
            fallback={"name": old.name, "key": old.key},
            chips={"source": int((chips.split == 0).sum()), "target": len(target)},
            source_f1_before=found.before,
            agreement=found.agreement,
            statistics="city" if found.own else "source",
            step=found.step,
            history=[asdict(entry) for entry in found.history],
        )
    return AdaptedModel(card.model_copy(update={"folder": folder}), found)


def _words(agreed: float) -> str:
    """What an adaptation found of the city before its first step."""
    whose = "the source's, as for one more place of its kind" if agreed >= ALIKE else "the city's"
    return f"maps under the source's and the city's statistics agree by {agreed:.2f}: {whose}"
