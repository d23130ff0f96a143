"""Green space of made-up cities: UGSNet, its parts, U-Net, thresholds; adaptation under shifts.

    python benchmarks/green/made_up.py freeze              (a minute; committed before training)
    python benchmarks/green/made_up.py all --work FOLDER   (about 6 CPU hours; resumable)
    python benchmarks/green/made_up.py ship --work FOLDER  (the first UGSNet, into the package)

Six cities to train on, one to validate, three that nothing is trained on, and for each of four
shifts two more: none (other cities, the same light), light (low sun, darker), season (October),
materials (other roofs, tiles and streets). Networks are the `small` ones, on chips of 256 px.
Each training and each adaptation is one line of results.jsonl; what is there is not done again, on
whatever machine. `judge` writes results.json and results.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import geopandas
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
HERE = Path(__file__).resolve().parent

from engine.green_recipe import load_green_recipe  # noqa: E402
from engine.metrics import binary  # noqa: E402
from engine.models.card import load_card  # noqa: E402
from engine.models.registry import load_model, load_weights, save_model  # noqa: E402
from engine.pipeline.chips import cut_chips  # noqa: E402
from engine.pipeline.train_green import adapt_green, train_green  # noqa: E402
from engine.synthetic.country import Country  # noqa: E402
from engine.synthetic.districts import World  # noqa: E402
from engine.synthetic.light import Sun  # noqa: E402
from engine.synthetic.photo import JULY, Light, take_photo, write_photos  # noqa: E402
from engine.synthetic.reference import write_reference  # noqa: E402
from engine.synthetic.scene import CRS  # noqa: E402
from engine.training.segmenters import Chips, count_pixels  # noqa: E402
from engine.training.splits import SPLITS  # noqa: E402

SIZE = 6_400  # metres of a city
OCTOBER = Light(Sun(31.0, 165.0), 285)
LOW = Light(Sun(24.0, 245.0), 190, 0.7)


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
CITIES = TRAIN | VALIDATION | TEST | {k: v for group in SHIFTS.values() for k, v in group.items()}
FROZEN, ROWS = HERE / "cities.json", HERE / "results.jsonl"
SIDE, CHIPS, JUDGED = 256, 45, 30  # px; chips of each city
SEEDS = (0, 1, 2)
EPOCHS, STEPS = 25, 400
MODELS: dict[str, dict[str, Any]] = {
    "ugsnet": {"architecture": "ugsnet"},
    "no attention": {"architecture": "ugsnet", "parameters": {"attention": False}},
    "no point head": {"architecture": "ugsnet", "parameters": {"point_head": False}},
    "neither": {
        "architecture": "ugsnet",
        "parameters": {"attention": False, "point_head": False},
    },
    "unet": {"architecture": "unet"},
}


def say(text: str) -> None:
    print(text, flush=True)


# -- cities ------------------------------------------------------------------------------------


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
        say(f"{name}: made in {time.perf_counter() - began:.0f} s")


# -- training ----------------------------------------------------------------------------------


def recipe_of(model: str, seed: int) -> dict[str, Any]:
    """One training; the chips are those of all."""
    chosen = MODELS[model]
    return {
        "name": f"{model.replace(' ', '-')}-{seed}",
        "product": "ugs",
        "labels": [
            {
                "recipe": f"{name}/recipe.yaml",
                "raster": f"{name}/photos/green.tif",
                "place": name,
                "most": CHIPS if name in TRAIN | VALIDATION else JUDGED,
            }
            for name in CITIES
        ],
        "chips": "chips",
        "side": SIDE,
        "split": {
            "by": "place",
            "validation": list(VALIDATION),
            "test": [name for name in CITIES if name not in TRAIN | VALIDATION],
        },
        "model": {"size": "small", "licence": "Apache-2.0", "overlap": 64, **chosen},
        "training": {
            "epochs": EPOCHS,
            "batch": 8,
            "rate": 2e-3,
            "precision": "bfloat16",
            "seed": seed,
        },
        "out": f"models/{model.replace(' ', '-')}-{seed}",
    }


def recorded() -> list[dict[str, Any]]:
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def record(**row: Any) -> None:
    with ROWS.open("a") as file:
        file.write(json.dumps(row) + "\n")
    counts = np.sum(list(row["counts"].values()), axis=0)
    say(f"{row['what']} {row['model']} {row['seed']}: F1 {binary(counts)['f1']:.3f} of all cities")


@cache
def chips_of(work: Path) -> Any:
    return cut_chips(load_green_recipe(recipe_of("ugsnet", 0)), work, tell=say)


def judged(work: Path, folder: Path, names: list[str]) -> dict[str, list[list[int]]]:
    """Confusion matrices of a model, by city."""
    card = load_card(folder)
    network = load_model(card)
    chips = chips_of(work)
    found = {}
    for name in names:
        where = np.flatnonzero(chips.place == chips.places.index(name))
        part = Chips(np.asarray(chips.x[:])[where], np.asarray(chips.y[:])[where])
        found[name] = count_pixels(network, None, card, part)[0].tolist()
    return found


def train_all(work: Path) -> None:
    made = {(r["what"], r["model"], r["seed"]) for r in recorded()}
    names = [name for name in CITIES if name not in TRAIN | VALIDATION]
    for seed in SEEDS:
        for model in MODELS:
            if ("trained", model, seed) in made:
                continue
            recipe = recipe_of(model, seed)
            began, cpu = time.perf_counter(), time.process_time()
            if not (work / recipe["out"] / "report.json").exists():
                train_green(
                    recipe,
                    base=work,
                    tell=say,
                    epoch=lambda e: say(
                        f"  epoch {e.number}: loss {e.loss:.3f}, "
                        f"validation F1 {e.validation_f1:.3f}"
                    ),
                )
            record(
                what="trained",
                model=model,
                seed=seed,
                seconds=round(time.perf_counter() - began),
                cpu_seconds=round(time.process_time() - cpu),
                counts=judged(work, work / recipe["out"], names),
            )


def adapt_all(work: Path) -> None:
    """UGSNet adapted to each shifted city by chips of it that nobody labelled."""
    made = {(r["what"], r["model"], r["seed"]) for r in recorded()}
    for seed in SEEDS:
        start = recipe_of("ugsnet", seed)
        for group in SHIFTS.values():
            for name in group:
                if ("adapted", name, seed) in made:
                    continue
                if not (work / start["out"] / "report.json").exists():
                    train_green(start, base=work, tell=say)
                recipe = {
                    "name": f"{name}-{seed}",
                    "product": "ugs",
                    "model": f"./{start['out']}",
                    "chips": "chips",
                    "target": f"{name}/recipe.yaml",
                    "most": 100,
                    "training": {"steps": STEPS, "check": 100, "batch": 4, "seed": seed},
                    "out": f"adapted/{name}-{seed}",
                }
                began, cpu = time.perf_counter(), time.process_time()
                _, found = adapt_green(recipe, base=work, tell=say)
                record(
                    what="adapted",
                    model=name,
                    seed=seed,
                    step=found.step,
                    source_f1=[found.before, *(look.source_f1 for look in found.history)],
                    seconds=round(time.perf_counter() - began),
                    cpu_seconds=round(time.process_time() - cpu),
                    counts=judged(work, work / recipe["out"], [name]),
                )


def thresholds(work: Path) -> None:
    """NDVI and excess green, each with the threshold that is best on the training chips."""
    if any(r["what"] == "threshold" for r in recorded()):
        return
    chips = chips_of(work)
    x, y = np.asarray(chips.x[:]).astype(np.float32), np.asarray(chips.y[:])
    total = np.maximum(x.sum(axis=1), 1)
    indices = {"excess green": (2 * x[:, 1] - x[:, 0] - x[:, 2]) / total}

    def counts(index: np.ndarray, where: np.ndarray, threshold: float) -> np.ndarray:
        known = y[where] != 255
        pairs = 2 * (y[where] == 1) + (index[where] > threshold)
        return np.bincount(pairs[known], minlength=4).reshape(2, 2)

    for name, index in indices.items():
        home = np.flatnonzero(chips.split == SPLITS.index("train"))
        best = max(np.linspace(-0.2, 0.4, 61), key=lambda t: binary(counts(index, home, t))["f1"])
        found = {
            city: counts(index, np.flatnonzero(chips.place == k), best).tolist()
            for k, city in enumerate(chips.places)
            if city not in TRAIN | VALIDATION
        }
        record(what="threshold", model=name, seed=0, threshold=float(best), counts=found)


# -- judging -----------------------------------------------------------------------------------


def f1(counts: Any) -> float:
    return 100 * binary(np.sum(list(counts), axis=0))["f1"]


def spread(values: list[float]) -> list[float]:
    return [round(float(np.mean(values)), 2), round(float(np.std(values)), 2)]


def judge(work: Path) -> None:
    """F1 pooled over pixels: means and spreads over seeds; of adaptation the gain."""
    rows = recorded()
    result: dict[str, Any] = {"unseen": {}, "shifts": {}}
    for what, names in (("threshold", ["excess green"]), ("trained", list(MODELS))):
        for name in names:
            found = [r for r in rows if (r["what"], r["model"]) == (what, name)]
            if found:
                every = [[r["counts"][city] for city in TEST] for r in found]
                figures = [binary(np.sum(e, axis=0)) for e in every]
                result["unseen"][name] = {
                    "seeds": len(found),
                    **{k: spread([100 * f[k] for f in figures]) for k in figures[0]},
                }
    for shift, group in SHIFTS.items():
        gains, before, after = {}, [], []
        for name in group:
            for seed in SEEDS:
                plain = [
                    r
                    for r in rows
                    if (r["what"], r["model"], r["seed"]) == ("trained", "ugsnet", seed)
                ]
                moved = [
                    r for r in rows if (r["what"], r["model"], r["seed"]) == ("adapted", name, seed)
                ]
                if plain and moved:
                    before.append(f1([plain[0]["counts"][name]]))
                    after.append(f1([moved[0]["counts"][name]]))
                    gains[f"{name} {seed}"] = round(after[-1] - before[-1], 2)
        if gains:
            rng = np.random.default_rng(0)
            values = np.array(list(gains.values()))
            drawn = [float(rng.choice(values, len(values)).mean()) for _ in range(2000)]
            result["shifts"][shift] = {
                "before": spread(before),
                "after": spread(after),
                "gain": round(float(values.mean()), 2),
                "gain_95": [round(float(v), 2) for v in np.quantile(drawn, [0.025, 0.975])],
                "each": gains,
            }
    (HERE / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    (HERE / "results.md").write_text(table(result))
    print(table(result))


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["| on unseen cities | precision | recall | F1 | IoU | OA |", "|--|--|--|--|--|--|"]
    for name, row in result["unseen"].items():
        cells = [
            f"{row[k][0]:.1f} +- {row[k][1]:.1f}"
            for k in ("precision", "recall", "f1", "iou", "oa")
        ]
        lines.append(f"| {name} ({row['seeds']}) | {' | '.join(cells)} |")
    lines += ["", "| shift | F1 before | F1 adapted | gain | 95 % |", "|--|--|--|--|--|"]
    for name, row in result["shifts"].items():
        low, high = row["gain_95"]
        lines.append(
            f"| {name} | {row['before'][0]:.1f} | {row['after'][0]:.1f} | {row['gain']:+.1f} | "
            f"{low:+.1f} to {high:+.1f} |"
        )
    return "\n".join(lines) + "\n"


def ship(work: Path) -> None:
    """Put the first UGSNet into the package; filters in half precision are half as large."""
    source = work / recipe_of("ugsnet", 0)["out"]
    target = ROOT / "engine" / "models" / "shipped" / "ugs-made-up"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    card = load_card(source)
    weights = {k: v.half() if v.ndim > 1 else v for k, v in load_weights(card).items()}
    words = f"trained on the made-up cities {', '.join(TRAIN)}; half precision"
    card = card.model_copy(update={"name": "ugs-made-up", "provenance": words})
    save_model(card, weights, target)
    for name in ("report.json", "curves.png"):
        shutil.copy(source / name, target / name)
    names = list(TEST)
    before = f1(judged(work, source, names).values())
    after = f1(judged(work, target, names).values())
    say(f"F1 on unseen cities {before:.2f}, as shipped {after:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    steps = {
        "make": make,
        "threshold": thresholds,
        "train": train_all,
        "adapt": adapt_all,
        "judge": judge,
    }
    parser.add_argument("what", choices=["freeze", *steps, "all", "ship"])
    parser.add_argument("--work", type=Path, default=Path("work"))
    asked = parser.parse_args()
    if asked.what == "freeze":
        return freeze()
    work = asked.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if asked.what == "ship":
        return ship(work)
    for name, step in steps.items():
        if asked.what in (name, "all"):
            step(work)


if __name__ == "__main__":
    main()
