"""A small country mapped on this machine, for runs elsewhere to be compared with."""

from __future__ import annotations

import shutil
from pathlib import Path

import engine
from support import shared
from support.cache import kept, source_hash
from support.worlds import SMALL, change_recipe, synthesize


def near() -> Path:
    """`worlds.SMALL` with its recipe, scenes, truth, store and product; to be read only."""
    return kept("near", f"{SMALL} {source_hash('engine')}", _map)


def copied(folder: Path, store: Path) -> Path:
    """Recipe of the same country in a folder of its own, to be mapped anew into a store."""
    left_out = shutil.ignore_patterns("store*", "product*")
    shutil.copytree(near(), folder, ignore=left_out)
    return change_recipe(folder / "recipe.yaml", store=str(store))


def _map(folder: Path) -> None:
    recipe = synthesize(SMALL, folder, model="lcz-made-up", tile=160)
    assert not shared.run(recipe).failed
    engine.publish(recipe)
