"""Periods of a cube: what a recipe may say of them, and what they are called."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import CardError, RecipeError
from engine.items import cube_band, of_period
from engine.models.card import ModelCard
from engine.products.lcz import LczRecipe
from engine.products.registry import load_recipe

RECIPE: dict[str, Any] = {
    "name": "town",
    "product": "lcz",
    "area": {"bbox": [13.3, 52.5, 13.4, 52.6]},
    "grid": {"crs": "EPSG:25833"},
    "imagery": {"catalog": "scenes"},
    "store": "store",
}
SPRING = {"name": "spring", "start": "2023-03-01", "end": "2023-05-31"}
SUMMER = {"name": "summer", "start": "2023-06-01", "end": "2023-08-31"}


def recipe(*periods: Any, **imagery: Any) -> LczRecipe:
    found = load_recipe(
        {
            **RECIPE,
            "imagery": {**RECIPE["imagery"], **imagery},
            "cube": {"periods": list(periods)},
        }
    )
    assert isinstance(found, LczRecipe)
    return found


def test_imagery_is_of_the_first_day_to_the_last() -> None:
    found = recipe(SUMMER, SPRING)
    assert str(found.imagery.period) == "2023-03-01/2023-08-31"
    assert list(found.cube.labels) == ["summer", "spring"]  # as the recipe has them
    assert load_recipe(found.model_dump(mode="json")) == found
    wider = recipe(SPRING, period="2023-01-01/2023-12-31")
    assert str(wider.imagery.period) == "2023-01-01/2023-12-31"


def test_a_period_without_a_name_goes_by_its_number() -> None:
    nameless = {key: value for key, value in SUMMER.items() if key != "name"}
    assert list(recipe(SPRING, nameless).cube.labels) == ["spring", "2"]


@pytest.mark.parametrize(
    ("periods", "imagery", "said"),
    [
        ([], {"period": "2023-03-01/2023-05-31"}, "at least 1"),
        ([SPRING, {**SUMMER, "start": "2023-05-31"}], {}, "share days"),
        ([SPRING, {**SUMMER, "name": "spring"}], {}, "two periods are called spring"),
        ([{**SPRING, "end": "2023-02-28"}], {}, "before it begins"),
        ([{**SPRING, "name": "1"}], {}, "name"),
        ([{**SPRING, "name": "a@b"}], {}, "name"),
        ([{**SPRING, "start": 20217600}], {}, "expected a day"),
        ([{**SPRING, "start": "2023-03-01T00:00"}], {}, "expected a day"),
        ([{**SPRING, "days": 3}], {}, "days"),
        ([SPRING], {"period": "2023-04-01/2023-12-31"}, "does not hold period spring"),
        ([SPRING], {"bands": ["B02@spring"]}, "unknown band"),
        ([5], {}, "periods"),
    ],
)
def test_what_no_cube_has_is_refused(periods: Any, imagery: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe(*periods, **imagery)


def test_a_recipe_without_periods_is_told_as_it_was() -> None:
    found = load_recipe({**RECIPE, "imagery": {"catalog": "c", "period": "2023-03-01/2023-05-31"}})
    assert found.model_dump(mode="json")["cube"] == {
        "composite": "median",
        "keep_scenes": True,
        "cloud_dilation": 60.0,
        "mask_snow": False,
    }


def test_imagery_without_period_and_periods_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"imagery\.period"):
        load_recipe(RECIPE)


def test_bands_of_periods_have_one_name_each() -> None:
    assert of_period("blue@summer") == ("B02", "summer")
    assert cube_band("red@2") == "B04@2"
    assert cube_band("B8A") == "B8A"
    for wrong in ("B04@", "B04@0", "B04@1a", "B04@a-b", "B04@summer\n", "B99@1", "@1"):
        with pytest.raises(RecipeError):
            cube_band(wrong)


def card(*bands: str) -> ModelCard:
    return ModelCard(
        name="m",
        architecture="mscnn",
        bands=bands,
        features=4,
        weights="w.safetensors",
        sha256="0" * 64,
    )


def test_a_card_asks_for_periods_that_the_recipe_has() -> None:
    model = card("B04@spring", "B04@summer")
    model.check_cube(("red@summer", "B04@spring"), 10.0)
    with pytest.raises(CardError, match=r"give cube\.periods those of the model: spring, summer"):
        model.check_cube(("B04@spring",), 10.0)
    with pytest.raises(CardError, match=r"give cube\.periods"):
        model.check_cube(("B04",), 10.0)
    with pytest.raises(CardError, match=r"leave cube\.periods out"):
        card("B04").check_cube(("B04@1", "B04@2"), 10.0)


@pytest.mark.parametrize("bands", [("B04", "B04@1"), ("B04@", "B03@1"), ("red@1",), ("B04@1",) * 2])
def test_a_card_of_other_bands_is_refused(bands: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"bands.* must"):
        card(*bands)
