"""Mutated items through whole runs of a small country: what others give stays as it was."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np

import engine
from engine.catalog.snapshot import read_snapshot
from engine.errors import NatmapError
from engine.store.view import open_store
from support import shared
from support.cache import kept, source_hash
from support.mutate import Place, mutate
from support.worlds import SMALL, change_recipe, synthesize

__all__ = ["check_run", "sound_country"]


def _map(folder: Path) -> None:
    recipe = synthesize(SMALL, folder, model="lcz-made-up", tile=160)
    assert not shared.run(recipe).failed


def sound_country() -> Path:
    """The country as it is, mapped; kept, and to be read only."""
    return kept("mutated-runs", f"{SMALL} {source_hash('engine')}", _map)


def check_run(seed: int, folder: Path) -> tuple[str, str | None]:
    """What a seed's mutation of one item of the country is, and what is wrong with the run."""
    sound = sound_country()
    place = folder / f"run-{seed}"
    shutil.copytree(sound, place, ignore=shutil.ignore_patterns("store*"))
    recipe = change_recipe(next(place.glob("*.yaml")), store=str(place / "store"))
    random_ = random.Random(f"run {seed}")
    paths = sorted(p for p in (place / "scenes").glob("*.json") if p.name != "catalog.json")
    path = random_.choice(paths)
    mutated, at, what = mutate(json.loads(path.read_text()), random_, _likely)
    path.write_text(json.dumps(mutated))
    name = f"{path.stem} {'/'.join(map(str, at))}: {what}"
    try:
        summary = shared.run(recipe)
    except NatmapError as error:
        return name, f"the whole run was refused: {error}"
    if summary.failed:
        return name, f"tiles failed: {summary.failed}"
    wrong = _others(sound, place)
    try:
        engine.publish(recipe)
    except NatmapError as error:
        wrong = wrong or f"it cannot be published: {error}"
    shutil.rmtree(place)
    return name, wrong


def _others(sound: Path, place: Path) -> str | None:
    """Days on which all items are those of the sound country have its very scenes."""
    days = [_days(folder) for folder in (sound, place)]
    trees: list[Any] = [open_store(_store(folder), decode=False) for folder in (sound, place)]
    same = [day for day in days[0] if days[0][day] == days[1].get(day)]
    if not same:
        return "no day is as it was"
    for name in trees[0]["scenes"].data_vars:
        old, new = (tree["scenes"][name] for tree in trees)
        if "time" not in old.dims:
            continue
        for day in map(np.datetime64, same):
            if not np.array_equal(old.sel(time=day).values, new.sel(time=day).values):
                return f"{name} of {day} changed"
    if days[0] == days[1]:
        for group in ("composite", "map"):
            for name, old in trees[0][group].data_vars.items():
                if not np.array_equal(old.values, trees[1][group][name].values):
                    return f"{group}/{name} changed, and no item did"
    return None


def _days(folder: Path) -> dict[str, list[str]]:
    """Items by solar day, in their normal form, without places and times of files."""
    found: dict[str, list[str]] = {}
    for item in read_snapshot(f"{_store(folder)}.items.parquet"):
        form = item.to_dict()
        form.pop("stamp")
        for asset in form["assets"].values():
            asset["href"] = asset["href"].rpartition("/")[2]
        found.setdefault(str(item.solar_day), []).append(json.dumps(form, sort_keys=True))
    return {day: sorted(items) for day, items in found.items()}


def _store(folder: Path) -> Path:
    return next(p.parent for p in folder.rglob("refs") if p.is_dir())


def _likely(place: Place) -> bool:
    return place[0] in ("geometry", "properties", "assets", "collection", "id")
