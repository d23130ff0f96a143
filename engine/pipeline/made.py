"""What the map in a store was made of: by the store's table of runs, not by the recipe at hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import zarr

from engine.addresses import public
from engine.errors import PublishError
from engine.items import Item
from engine.models.card import ModelCard
from engine.models.mlm import mlm_fields
from engine.pipeline.made_cities import cities_made
from engine.pipeline.made_from import items_by_tile, tiles_before
from engine.pipeline.made_scenes import scenes_made
from engine.pipeline.prepare import Prepared
from engine.publishing.cities import CityModel
from engine.publishing.scenes import ScenesMade
from engine.recipes.periods import CubePeriod
from engine.recipes.sections import Cube
from engine.runs.schedule import Schedule, Status
from engine.runs.why import Why
from engine.store.ledger import State
from engine.store.provenance import read_runs

__all__ = ["AS_GIVEN", "Made", "made_of"]

AS_GIVEN = ("name", "publish", "publication", "price_per_worker_hour")
"""Keys of a recipe that decide no pixel: they are published as the recipe at hand has them."""

_OTHERWISE = (Why.SETTINGS, Why.SUPPORT)
"""Why a tile is stale that a recipe would make otherwise."""

_OF_ITEMS = (Why.PART, Why.NEW_PART, Why.INPUTS)
"""The same, where the items are those that the map was made from."""


@dataclass(frozen=True)
class Made:
    """What a publication says of its making.

    Attributes
    ----------
    runs : that made the map's tiles; number 0 is one that the store knows nothing of.
    recipe, software, model, period, periods : of the newest of them; where the store knows of
        none, the recipe at hand, and no software.
    card : of the model, None where the one at hand is another.
    items : that the map was made from.
    notes : where that is not what the recipe at hand says.
    cities : that models of their own mapped.
    scenes : the models of a map that was made by scene; None where it was not.
    """

    runs: Sequence[Mapping[str, Any]]
    recipe: Mapping[str, Any]
    software: Mapping[str, str]
    model: Mapping[str, Any]
    card: ModelCard | None
    period: tuple[date, date]
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()
    periods: Mapping[str, CubePeriod] = field(default_factory=dict)
    cities: tuple[CityModel, ...] = ()
    scenes: ScenesMade | None = None


def made_of(
    prepared: Prepared,
    schedule: Schedule,
    root: zarr.Group,
    items: Sequence[Item],
    *,
    as_made: bool,
    own_items: bool = True,
) -> Made:
    """Find what made the map, and compare it with a recipe.

    Parameters
    ----------
    prepared : the recipe at hand, with the items of the last run.
    schedule : of it, over the store's ledger.
    root : of the store.
    items : of the last run.
    own_items : whether these are the items that the map was made from.
    as_made : state a map that the recipe would make otherwise as what it is; else it is refused.

    Raises
    ------
    PublishError
        Where tiles in the store are other ones than the recipe would make.
    """
    runs = _runs(schedule, root)
    known = [run for run in runs if run["run"]]
    newest: Mapping[str, Any] = known[-1] if known else {}
    recipe = prepared.recipe.model_dump(mode="json")
    told = dict(newest.get("recipe") or recipe)
    told |= {key: recipe[key] for key in AS_GIVEN if key in recipe}
    others = _otherwise(schedule, (*_OTHERWISE, *(_OF_ITEMS if own_items else ())))
    before = tiles_before(schedule)
    earlier = before & (schedule.ledger.column("map", "run") < len(read_runs(root)))
    if earlier.any() and any(_decisive(run["recipe"]) != _decisive(recipe) for run in known):
        others["map", "made by a run that was told otherwise"] = int(earlier.sum())
    notes: list[str] = []
    if others:
        listed = "; ".join(f"{stage}: {n} tiles, {why}" for (stage, why), n in others.items())
        if not as_made:
            raise PublishError(
                "the recipe would make another map than the one in the store",
                got=listed,
                expected="the recipe that made the map, but for its name and where it is published",
                remedy="`natmap run` makes the recipe's map; `natmap publish --as-made` publishes "
                "what is there, and states what made it",
            )
        whose = "the runs listed" if known else "a run that the store knows nothing of"
        notes.append(f"made by {whose}, not by the recipe that it was published with ({listed})")
    if earlier.any() and not others:
        notes.append(
            f"{earlier.sum()} tiles of the map are of before the last run, which did not get to "
            "them: runs and items that made them are among those listed"
        )
    if (of_unknown := sum(run["tiles"] for run in runs if not run["run"])) and not known:
        notes.append(
            f"the store does not know what made {of_unknown} tiles: the recipe is the one that "
            "they were published with, the software is not known"
        )
    card, model = prepared.resolved.card, {}
    then = newest.get("card") or {}
    if card is not None and others and then and then.get("key") != card.key:
        card, model = None, {"mlm:name": then["name"]}
    if card is not None:
        card = card.model_copy(update={"name": then.get("name", card.name)})
        model = mlm_fields(card)
    made_from = tuple(items)
    if before.any() and own_items:
        made_from = items_by_tile(prepared, schedule, root, items, before)
    return Made(
        runs,
        told,
        newest.get("software") or {},
        model,
        card,
        _period(told, prepared, made_from),
        made_from,
        tuple(notes),
        _periods(told, prepared),
        cities_made(prepared, schedule, root, newest.get("cities") or {}, otherwise=bool(others)),
        scenes_made(prepared, schedule, root, newest.get("scenes") or {}, otherwise=bool(others)),
    )


def _decisive(recipe: Mapping[str, Any]) -> Any:
    """What of a recipe may decide a pixel."""
    return public({key: value for key, value in recipe.items() if key not in AS_GIVEN})


def _runs(schedule: Schedule, root: zarr.Group) -> list[dict[str, Any]]:
    made = schedule.ledger.column("map", "run")[schedule.ledger.states("map") == State.DONE]
    table = read_runs(root)
    return [
        {"run": number, "tiles": int((made == number).sum())}
        | (dict(table[number - 1]) if number else {"provenance": "unknown"})
        for number in sorted(set(made.tolist()))
    ]


def _otherwise(schedule: Schedule, kinds: Sequence[Why]) -> Counter[tuple[str, str]]:
    """Tiles that are there and would be made otherwise, by stage and reason."""
    found: Counter[tuple[str, str]] = Counter()
    for name, stage in schedule.stages.items():
        of_days = any(schedule.stages[source.stage].daily for source in stage.inputs)
        for tile in schedule.tiles(name, Status.READY):
            why = int(schedule.why[name][tile])
            # a layer that a stopped run left behind its map has no data: that is not the recipe's
            if why in kinds and (why != Why.INPUTS or of_days):
                found[name, schedule.reason(name, tile)] += 1
    return found


def _period(
    told: Mapping[str, Any], prepared: Prepared, items: Sequence[Item]
) -> tuple[date, date]:
    """First and last day of imagery: as asked for of the main source, or else as found."""
    section = told.get(prepared.product.main(prepared.recipe)) or {}
    if periods := _periods(told, prepared):
        return min(p.start for p in periods.values()), max(p.end for p in periods.values())
    if asked := section.get("period"):
        return date.fromisoformat(asked["first"]), date.fromisoformat(asked["last"])
    if year := section.get("year"):
        return date(year, 1, 1), date(year, 12, 31)
    days = sorted(item.solar_day for item in items)
    return days[0], days[-1]


def _periods(told: Mapping[str, Any], prepared: Prepared) -> dict[str, CubePeriod]:
    """Periods of a cube, by label; none where it has one composite."""
    if not isinstance(getattr(prepared.recipe, "cube", None), Cube):
        return {}
    return Cube.model_validate(told.get("cube") or {}).labels
