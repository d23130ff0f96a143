"""Recipes of green space: what would do nothing is refused."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from engine.errors import RecipeError
from engine.pipeline.templates import TEMPLATES, init
from engine.products.registry import PRODUCTS, load_recipe, load_training
from engine.products.ugs import UgsRecipe
from engine.recipes.adapting import load_adapt_recipe
from engine.recipes.propagating import load_propagation_recipe

RECIPE: dict[str, Any] = {
    "name": "town",
    "product": "ugs",
    "area": {"bbox": [13.3, 52.5, 13.4, 52.6]},
    "grid": {"crs": "EPSG:25833"},
    "images": {"catalog": "photos"},
    "model": {"card": "green"},
    "store": "store",
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("filter.method", "majority"),
        ("cube.composite", "mean"),
        ("instances.segmenter", "slic"),
        ("model.scores", "float16"),
        ("model.sentinel_weight", 0.5),
        ("model.instances", "graphs"),
        ("model.embedding", True),
    ],
)
def test_what_is_of_zones_alone_is_refused(key: str, value: Any) -> None:
    named = key if key.startswith("model") else key.split(".")[0]
    with pytest.raises(RecipeError, match=f"{named}: of product lcz"):
        load_recipe(RECIPE, {key: value})


def test_what_is_of_both_is_taken() -> None:
    found = load_recipe(RECIPE, {"model.precision": "bfloat16"})
    assert isinstance(found, UgsRecipe)
    assert found.model.precision == "bfloat16"
    assert load_recipe(found.model_dump(mode="json")) == found  # as reports tell it


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_templates_are_recipes(name: str) -> None:
    values = yaml.safe_load(init(name))
    if name in PRODUCTS:
        assert load_recipe(values).product == name
    elif name == "adapt":
        assert load_adapt_recipe(values).product == "ugs"
    elif name == "propagate":
        assert len(load_propagation_recipe(values).cities) == 3
    else:
        assert load_training(values).name


def test_a_recipe_without_a_known_product_is_refused() -> None:
    for product in ("towns", ["ugs"], None):
        with pytest.raises(RecipeError, match="product"):
            load_recipe({**RECIPE, "product": product})
    with pytest.raises(RecipeError, match="in quotes"):
        load_training(
            {
                **yaml.safe_load(TEMPLATES["train-cover"]),
                "classes": [{"code": 1, "name": "a", "colour": 6400}],
            }
        )
