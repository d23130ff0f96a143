"""The shipped LCZ model where it was not trained: another season, other cities, other materials.

    python benchmarks/accuracy/shift.py freeze              (a minute; before anything is judged)
    python benchmarks/accuracy/shift.py all --work FOLDER   (15 minutes of two cores; resumable)

FOLDER is where the worlds are made; the model is the shipped one. Three worlds that nothing was
trained on, each once as the training worlds are and once with each shift: summer dates with a
higher sun; cities closer together, of smaller districts; roofs, grounds and greenery of another
country. All worlds are those of shifted.json. Writes shift.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import rasterio

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(HERE)]

import made_up  # noqa: E402

from engine.metrics import assess, confusion  # noqa: E402
from engine.models.card import find_card  # noqa: E402
from engine.synthetic.country import Country  # noqa: E402
from engine.synthetic.districts import World  # noqa: E402
from engine.synthetic.make import synthesize  # noqa: E402
from engine.synthetic.scene import Overpass  # noqa: E402

SUMMER = (
    Overpass(datetime(2021, 6, 18, 10, 10, tzinfo=UTC), "03.00", 0.10, 0.014),
    Overpass(datetime(2021, 6, 23, 10, 10, tzinfo=UTC), "05.00", 0.25, 0.020),
    Overpass(datetime(2021, 6, 28, 10, 10, tzinfo=UTC), "03.00", 0.15, 0.010),
    Overpass(datetime(2021, 7, 3, 10, 10, tzinfo=UTC), "05.00", 0.20, 0.016),
)
SEEDS = (301, 302, 303)
SHIFTS = {
    "none": lambda seed: Country(World(seed), 9_600, 9_600, inset=1),
    "season": lambda seed: Country(World(seed), 9_600, 9_600, SUMMER, inset=1),
    "structure": lambda seed: Country(World(seed, 5_000.0, 600.0), 9_600, 9_600, inset=1),
    "materials": lambda seed: Country(World(seed, shifted=True), 9_600, 9_600, inset=1),
}
WORLDS = {f"{shift}-{seed}": build(seed) for shift, build in SHIFTS.items() for seed in SEEDS}
FROZEN = HERE / "shifted.json"


def freeze() -> None:
    found = {name: made_up.facts(country) for name, country in WORLDS.items()}
    FROZEN.write_text(json.dumps(found, indent=1) + "\n")


def make(work: Path) -> None:
    frozen = json.loads(FROZEN.read_text())
    for name, country in WORLDS.items():
        folder = work / name
        if (folder / "composed").exists():
            continue
        began = time.perf_counter()
        if made_up.facts(country)["sha256"] != frozen[name]["sha256"]:
            sys.exit(f"{name} is not the frozen world: the made-up worlds have changed")
        synthesize(country, folder, name=name, tile=320)
        summary = made_up.run_until_composite(folder / "recipe.yaml")
        assert not summary.failed, summary.failed
        (folder / "composed").touch()
        print(f"{name}: made in {time.perf_counter() - began:.0f} s", flush=True)


def judge(work: Path) -> None:
    made_up.TEST.update(WORLDS)
    result = {}
    for shift in SHIFTS:
        every, well = [], []
        for seed in SEEDS:
            name = f"{shift}-{seed}"
            codes = made_up.classes_of(work, name, made_up.SHIPPED, find_card("lcz-made-up", ROOT))
            with rasterio.open(work / name / "truth" / "truth-lcz.tif") as file:
                truth = np.where(codes > 0, file.read(1), 0)
            with rasterio.open(work / name / "truth" / "truth-defined.tif") as file:
                defined = np.where(file.read(1) > 0, truth, 0)
            every.append(assess(confusion(truth, codes)))
            well.append(assess(confusion(defined, codes)))
        result[shift] = {
            "cells": sum(a.cells for a in every),
            "oa": made_up.mean_spread([a.oa for a in every]),
            "oa_u": made_up.mean_spread([a.oa_u for a in every]),
            "kappa": made_up.mean_spread([a.kappa for a in every]),
            "defined_oa": made_up.mean_spread([a.oa for a in well]),
        }
        print(shift, json.dumps(result[shift]), flush=True)
    (HERE / "shift.json").write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["freeze", "make", "judge", "all"])
    parser.add_argument("--work", type=Path, default=Path("work"))
    asked = parser.parse_args()
    if asked.what == "freeze":
        return freeze()
    work = asked.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    for name, step in {"make": make, "judge": judge}.items():
        if asked.what in (name, "all"):
            step(work)


if __name__ == "__main__":
    main()
