"""Which products there are: those of natmap, and those of other packages."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from engine.errors import RecipeError
from engine.products import cover, embedding, lcz, ugs
from engine.products.product import Product
from engine.recipes.base import load_values, read_recipe
from engine.recipes.run import Recipe
from engine.recipes.training import TrainingRecipe

__all__ = ["GROUP", "PRODUCTS", "find_product", "load_recipe", "load_training"]

GROUP = "natmap.products"
"""Entry points of this group name a `Product` each, by the name that recipes have."""

PRODUCTS: Mapping[str, Product[Any]] = {
    p.name: p for p in (lcz.PRODUCT, ugs.PRODUCT, cover.PRODUCT, embedding.PRODUCT)
}
"""The products of natmap."""


def find_product(name: str) -> Product[Any]:
    """A product by its name; other packages' are looked for where natmap has none of it.

    Raises
    ------
    RecipeError
        Where there is no such product, or a package's cannot be loaded.
    """
    if name in PRODUCTS:
        return PRODUCTS[name]
    others = {point.name: point for point in entry_points(group=GROUP)}
    if name not in others:
        raise RecipeError(
            "no such product",
            got=name,
            expected=", ".join([*PRODUCTS, *sorted(others)]),
            remedy="install the package that brings it, on every worker too",
        )
    point = others[name]
    try:
        found = point.load()
    except Exception as error:  # whatever a foreign module does when it is imported
        raise RecipeError(
            f"product {name} cannot be loaded", got=f"{point.value}: {error}"
        ) from error
    if not isinstance(found, Product) or found.name != name:
        raise RecipeError(
            f"product {name} is not a product",
            got=f"{point.value}: {found!r:.100}",
            expected=f"an engine.products.product.Product called {name}",
        )
    return found


def load_recipe(
    source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> Recipe:
    """Read and validate a recipe of a map.

    Parameters
    ----------
    source : path of a YAML file, or a mapping.
    overrides : mapping of dotted keys to values, as in ``{"grid.tile": 800}``.

    Returns
    -------
    Recipe
        Of the product's own schema.

    Raises
    ------
    RecipeError
        With the path of every wrong field, what was got and what was expected.
    """
    named = (overrides or {}).get("product", load_values(source, "lcz").get("product"))
    if not isinstance(named, str) or not named:
        return read_recipe(Recipe, source, overrides, template="lcz")  # refused: it has no product
    product = find_product(named)

    def whose(path: tuple[str | int, ...]) -> str | None:
        """Other products that know a key."""
        others = [name for name, other in PRODUCTS.items() if _knows(other.schema, path)]
        several = " and ".join([", ".join(others[:-1]), others[-1]] if others[1:] else others)
        return f"of product {several}, not of {named}" if others else None

    found: Recipe = read_recipe(product.schema, source, overrides, template=named, whose=whose)
    return found


def load_training(
    source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> TrainingRecipe:
    """Read and validate the recipe of a training: of the product that it names, or of the first.

    Parameters and errors as of `load_recipe`.
    """
    named = (overrides or {}).get("product", load_values(source, "train").get("product"))
    product = find_product(str(named or next(iter(PRODUCTS))))
    if product.training is None:
        raise RecipeError(
            "natmap trains no models of this product",
            got=product.name,
            expected=", ".join(name for name, p in PRODUCTS.items() if p.training),
        )
    schema = product.training
    return read_recipe(schema, source, overrides, template=schema.template)


def _knows(schema: Any, path: tuple[str | int, ...]) -> bool:
    """Whether a schema has a key of a path."""
    for key in path:
        fields = getattr(schema, "model_fields", {})
        if key not in fields:
            return False
        kinds = [fields[key].annotation, *getattr(fields[key].annotation, "__args__", ())]
        models = (k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel))
        schema = next(models, None)
    return True
