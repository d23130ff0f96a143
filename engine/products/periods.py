"""Cubes with periods: the composites of all periods as one, and what their bands are called."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.errors import RecipeError
from engine.items import of_period
from engine.legend import PRECEDENCE
from engine.models.card import ModelCard
from engine.models.card_parts import require_inputs
from engine.recipes.sections import Cube, Imagery
from engine.runs.stage import Output
from engine.runs.task import TileTask

__all__ = ["CubeBands", "StackPeriods", "cube_bands"]


@dataclass(frozen=True)
class StackPeriods:
    """Composites of the periods -> one cube, composite/*.

    A pixel has data where it has some in each period, and as many usable days as all of them
    together; where it has none, the reason is that of the periods without.
    """

    groups: tuple[str, ...]

    def __call__(self, task: TileTask) -> Iterator[Output]:
        def read(name: str) -> npt.NDArray[Any]:
            return np.stack([task.read(f"{group}/{name}") for group in self.groups])

        seen, dissent = read("observations"), read("dissent")
        known = (seen > 0).all(axis=0)
        days = np.where(known, seen.sum(axis=0, dtype=np.uint32), 0)
        departing = np.where(known, dissent.sum(axis=0, dtype=np.uint32), 0)
        yield Output(
            {
                "composite/bands": np.concatenate(
                    [task.read(f"{group}/bands") for group in self.groups]
                ),
                "composite/observations": np.minimum(days, 65_535).astype(np.uint16),
                "composite/dissent": np.minimum(departing, 255).astype(np.uint8),
                "composite/reason": first_reason(read("reason")),
            }
        )


def first_reason(reasons: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Why a pixel lacks data in some of several planes (n, y, x): `legend.PRECEDENCE`."""
    out: npt.NDArray[np.uint8] = reasons.max(
        axis=0
    )  # of those that the precedence does not name: not computed yet
    for reason in reversed(PRECEDENCE):
        out[(reasons == reason).any(axis=0)] = reason
    return out


class CubeBands(NamedTuple):
    """Bands that are read of scenes, and those of the cube: the same, or one for each period."""

    read: tuple[str, ...]
    cube: tuple[str, ...]


def cube_bands(imagery: Imagery, cube: Cube, card: ModelCard | None) -> CubeBands:
    """The bands of a recipe, else those of its model.

    Raises
    ------
    RecipeError
        Where neither names any.
    CardError
        Where the model takes published vectors.
    """
    if card is not None and card.vectors:
        require_inputs(card.name, card.bands, (), vectors=False)  # which refuses it
    asked = imagery.bands
    if asked is None and card is None:
        raise RecipeError(
            "the recipe names no bands and no model that would",
            expected="imagery.bands, or a model card",
        )
    if asked is None:
        assert card is not None
        asked = tuple(dict.fromkeys(of_period(band)[0] for band in card.imagery))
    every = tuple(f"{band}@{label}" for label in cube.labels for band in asked)
    return CubeBands(asked, every or asked)
