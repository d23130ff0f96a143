"""Which tiles of which stages a run is asked for, where it is not all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
from scipy.ndimage import maximum_filter

from engine.errors import RecipeError
from engine.grid.grid import Tile
from engine.runs.stage import Links, Stage

__all__ = ["choose", "named"]

Mask = npt.NDArray[np.bool_]


def choose(
    stages: Mapping[str, Stage],
    links: Links,
    wanted: Mapping[str, Mask],
    only: Iterable[Tile] | None,
) -> dict[str, Mask]:
    """The tiles to run of each stage: `only`, and upstream whole tiles of what they read.

    A chosen tile that reads a result of all of the area asks for all tiles of which that is made.
    A result that none reads is made of the tiles that are there.

    Parameters
    ----------
    stages : by name, in the order of the data's flow.
    links : what follows from them.
    wanted : bool (rows, cols) by stage, the tiles that it is defined on.
    only : tiles; None for all.

    Raises
    ------
    RecipeError
        Where there is no such tile.
    """
    shape = next(iter(wanted.values())).shape
    if only is None:
        return dict.fromkeys(stages, np.ones(shape, bool))
    asked = np.zeros(shape, bool)
    for tile in only:
        if not (0 <= tile.row < shape[0] and 0 <= tile.col < shape[1]):
            raise RecipeError(
                "no such tile",
                got=str(tile),
                expected=f"{Tile(0, 0)} to {Tile(shape[0] - 1, shape[1] - 1)}",
            )
        asked[tile] = True
    chosen: dict[str, Mask] = {}
    whole: set[str] = set()  # stages of which all is read by a chosen tile
    for name in reversed(list(stages)):
        result = stages[name].scope == "area"
        chosen[name] = wanted[name].copy() if result else asked.copy()
        for consumer, source in links.consumers[name]:
            if source.scope == "tile":
                ring = 3 if source.halo else 1
                chosen[name] |= maximum_filter(chosen[consumer], ring, mode="constant")
            elif consumer in whole or stages[consumer].scope == "tile":
                whole.add(name)
        if name in whole:
            chosen[name] = wanted[name].copy()
    return chosen


def named(names: Iterable[str] | None) -> list[Tile] | None:
    """Tiles by their names; None for all.

    Raises
    ------
    RecipeError
        Where none is named: a variable of a shell may be empty, and then nothing would run.
    GridError
        Where one is no tile's name.
    """
    if names is None:
        return None
    found = [Tile.parse(name) for name in names]
    if not found:
        raise RecipeError(
            "no tile is named", got="--tiles without names", expected="as in r0003c0012,r0003c0013"
        )
    return found
