"""Which models made a map by scene, and how much of it each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr

from engine.legend import Reason
from engine.models.card import ModelCard
from engine.pipeline.prepare import Prepared
from engine.publishing.scenes import SceneModel, ScenesMade
from engine.runs.schedule import Schedule
from engine.store.ledger import State

__all__ = ["scenes_made", "scenes_told"]

_ARRAY = "scores/model"


def scenes_told(prepared: Prepared) -> dict[str, Any]:
    """Scenes and the cards that map them, as the store's table of runs keeps them."""
    scenes = prepared.resolved.scenes
    if scenes is None or scenes.by is None or scenes.known is None:
        return {}
    models = [
        {"name": card.name, "key": card.key, "scenes": list(scenes.scenes_of(k))}
        for k, card in enumerate(scenes.cards)
    ]
    return {"key": scenes.known.key, "least": scenes.by.least, "models": models}


def scenes_made(
    prepared: Prepared,
    schedule: Schedule,
    root: zarr.Group,
    then: Mapping[str, Any],
    *,
    otherwise: bool,
) -> ScenesMade | None:
    """The models of a map by scene; None where there is one.

    Parameters
    ----------
    prepared : the recipe at hand.
    schedule : of it, over the store's ledger.
    root : of the store.
    then : what the newest run was told of its scenes.
    otherwise : whether the recipe at hand would make another map. Then the models' names are known,
        and neither the scenes nor areas.
    """
    scenes = prepared.resolved.scenes
    cards = {} if scenes is None else {card.key: card for card in scenes.cards}
    if otherwise:
        if not then:
            return None
        models = [
            SceneModel(
                tuple(each["scenes"]),
                each["name"],
                each["key"],
                _called(cards.get(each["key"]), each["name"]),
            )
            for each in then["models"]
        ]
        return ScenesMade(tuple(models), then["least"])
    if scenes is None or scenes.by is None or scenes.known is None:
        return None
    names = {each["key"]: each["name"] for each in then.get("models", ())}
    counts, metres = _count(prepared, schedule, root)
    models = []
    for k, card in enumerate(scenes.cards):
        name = names.get(card.key, card.name)
        area = round(int(counts[k]) * metres**2 / 1e6, 6)
        models.append(SceneModel(scenes.scenes_of(k), name, card.key, _called(card, name), area))
    return ScenesMade(tuple(models), scenes.by.least, scenes.known.document)


def _called(card: ModelCard | None, name: str) -> ModelCard | None:
    """A card under the name that a run was told."""
    return None if card is None else card.model_copy(update={"name": name})


def _count(prepared: Prepared, schedule: Schedule, root: zarr.Group) -> tuple[Any, float]:
    """Pixels of the map with a value by the position of their model, and their size in metres."""
    path = prepared.resolved.form.layer("reason").array
    metres = next(spec.resolution for spec in prepared.specs if spec.path == path)
    n, counts = prepared.grid.pixels(metres), np.zeros(256, np.int64)
    reasons: Any = root[path]
    models: Any = root[_ARRAY]
    done = schedule.ledger.states("map") == State.DONE
    for row, col in np.argwhere(done).tolist():
        here = np.s_[row * n : row * n + n, col * n : col * n + n]
        mapped = np.asarray(reasons[here]) == Reason.DATA
        counts += np.bincount(np.asarray(models[here])[mapped], minlength=256)
    return counts, metres
