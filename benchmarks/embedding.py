"""What an embedding beside the scores costs: the stage `scores` of a made-up country, in turns.

    python benchmarks/embedding.py --work FOLDER --log benchmarks/embedding.json    (10 minutes)

A composite of 12.8 x 12.8 km is made once. Copies of its store are then scored without and with the
penultimate features, in float16 and int8, by one worker; what is compared are the worker's own
seconds by the ledger, of the median round. It resumes: a composite that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import yaml

import engine
from engine.store.ledger import Ledger
from engine.store.repository import Store
from engine.synthetic.country import AUTUMN, Country
from engine.synthetic.districts import World
from engine.synthetic.make import synthesize

KINDS = (False, "float16", "int8")


def prepare(work: Path, model: str) -> dict[str, Any]:
    """The recipe of a country whose composite is made."""
    folder = work / "country"
    country = Country(World(5), 12_800, 12_800, AUTUMN[:2])
    if not (folder / "country.json").exists():
        synthesize(country, folder, model=model, tile=640)
    path = next(folder.glob("*.yaml"))
    recipe = yaml.safe_load(path.read_text())
    recipe["area"] = {"file": str(folder / "truth" / "area.geojson")}
    recipe["imagery"]["catalog"] = str(folder / "scenes" / "catalog.json")
    recipe |= {"store": str(work / "store"), "mask": None, "publish": None}
    recipe["cube"] = {"keep_scenes": False}
    assert not engine.run(recipe, workers=1, until="composite").failed
    return dict(recipe)


def score(recipe: dict[str, Any], work: Path, kind: str | bool) -> float:
    """Seconds that the worker took for the scores, by the ledger."""
    store = work / f"store-{kind}"
    shutil.rmtree(store, ignore_errors=True)
    for path in work.glob("store*"):
        name = path.name.removeprefix("store")
        if not name or name.startswith("."):
            target = work / f"store-{kind}{name}"
            shutil.copytree(path, target) if path.is_dir() else shutil.copy(path, target)
    wanted = {
        **recipe,
        "store": str(store),
        "model": {**recipe["model"], "embedding": kind},
    }
    assert not engine.run(wanted, workers=1, until="scores").failed
    ledger = Ledger.of(Store.open(store).reader())
    return ledger.rates["scores"]["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="lcz-made-up")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--log", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    work = args.work.resolve()
    recipe = prepare(work, args.model)
    found: dict[str, list[float]] = {str(kind): [] for kind in KINDS}
    for number in range(args.rounds):
        for k in range(len(KINDS)):
            kind = KINDS[(k + number) % len(KINDS)]
            found[str(kind)].append(score(recipe, work, kind))
            print(number, kind, round(found[str(kind)][-1], 2), flush=True)
    plain = statistics.median(found["False"])
    figures = {
        "model": args.model,
        "seconds": found,
        "ratio": {
            kind: round(statistics.median(values) / plain, 3)
            for kind, values in found.items()
            if kind != "False"
        },
    }
    print(json.dumps(figures["ratio"]))
    if args.log:
        args.log.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
