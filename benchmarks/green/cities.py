"""The made-up cities: what they are, their hashes, and how they are written."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

import geopandas
import numpy as np

from engine.synthetic.country import Country
from engine.synthetic.districts import World
from engine.synthetic.light import Sun
from engine.synthetic.photo import JULY, Light, take_photo, write_photos
from engine.synthetic.reference import write_reference
from engine.synthetic.scene import CRS

SIZE = 6_400  # metres of a city
OCTOBER = Light(Sun(31.0, 165.0), 285)
LOW = Light(Sun(24.0, 245.0), 190, 0.7)
HAZE = Light(Sun(48.0, 160.0), 200, haze=1.0)
DECEMBER = Light(Sun(20.0, 170.0), 350)
CAMERA = Light(Sun(40.0, 160.0), 230, haze=0.3, balance=(1.2, 1.0, 0.75, 1.0))


def city(seed: int, *, shifted: bool = False) -> Country:
    return Country(World(seed, shifted=shifted), SIZE, SIZE, inset=1)


TRAIN = {f"train-{seed}": (city(seed), JULY) for seed in range(401, 407)}
VALIDATION = {"validation-411": (city(411), JULY)}
TEST = {f"test-{seed}": (city(seed), JULY) for seed in (501, 502, 503)}
SHIFTS = {
    "none": {f"none-{seed}": (city(seed), JULY) for seed in (601, 602)},
    "light": {f"light-{seed}": (city(seed), LOW) for seed in (601, 602)},
    "season": {f"season-{seed}": (city(seed), OCTOBER) for seed in (601, 602)},
    "materials": {f"materials-{seed}": (city(seed, shifted=True), JULY) for seed in (601, 602)},
}
# Declared when the first four had shown that networks hardly suffer from them, and before any
# network had seen one of these.
HARD = {
    "haze": {f"haze-{seed}": (city(seed), HAZE) for seed in (701, 702)},
    "winter": {f"winter-{seed}": (city(seed), DECEMBER) for seed in (701, 702)},
    "abroad": {f"abroad-{seed}": (city(seed, shifted=True), CAMERA) for seed in (701, 702)},
}
FIRST = TRAIN | VALIDATION | TEST | {k: v for group in SHIFTS.values() for k, v in group.items()}
SECOND = {k: v for group in HARD.values() for k, v in group.items()}
CITIES = FIRST | SECOND
FROZEN = Path(__file__).with_name("cities.json")


def facts(name: str) -> str:
    """A hash of a piece of a city's photo."""
    country, light = CITIES[name]
    left, bottom, right, top = country.bounds
    photo = take_photo(country.world, (left + right) // 2, (top + bottom) // 2, 400, 400, light)
    return hashlib.sha256(np.ascontiguousarray(photo).tobytes()).hexdigest()


def freeze() -> None:
    FROZEN.write_text(json.dumps({name: facts(name) for name in CITIES}, indent=1) + "\n")


def make(work: Path) -> None:
    frozen = json.loads(FROZEN.read_text())
    for name, (country, light) in CITIES.items():
        folder = work / name
        if (folder / "made").exists():
            continue
        began = time.perf_counter()
        if facts(name) != frozen[name]:
            sys.exit(f"{name} is not the frozen city: the made-up worlds have changed")
        write_reference(country, folder / "truth")
        towns = geopandas.read_file(folder / "truth" / "urban.geojson").to_crs(CRS)
        write_photos(country.world, country.bounds, folder / "photos", list(towns.geometry), light)
        recipe = {
            "name": name,
            "product": "ugs",
            "area": {"file": "truth/area.geojson"},
            "grid": {"crs": CRS, "tile": 3200},
            "images": {"catalog": "photos/catalog.json"},
            "model": {"card": "../models/ugsnet-0"},
            "mask": {"boundaries": "truth/urban.geojson"},
            "store": "./store",
            "publish": "./product",
        }
        (folder / "recipe.yaml").write_text(json.dumps(recipe, indent=1) + "\n")
        (folder / "made").touch()
        print(f"{name}: made in {time.perf_counter() - began:.0f} s", flush=True)
