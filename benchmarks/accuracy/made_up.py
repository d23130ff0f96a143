"""Train on made-up worlds, judge on others: the shipped model, and how hard the task is.

    python benchmarks/accuracy/made_up.py freeze              (2 minutes; committed before training)
    python benchmarks/accuracy/made_up.py all --work FOLDER   (about 2 hours of 2 cores; resumable)

`all` makes the frozen worlds (scenes, truth), their composites through the engine, trains the
network and the forests with `natmap train`'s own function, and judges all of them on the same
cells of worlds that no training saw. Whatever is done already is not done again. The worlds are
those of worlds.json: another hash is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import zarr

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
HERE = Path(__file__).resolve().parent

from engine.infer.cells import score_cells  # noqa: E402
from engine.infer.predict import Predictor  # noqa: E402
from engine.maps.filter import filter_halo, gaussian_filter  # noqa: E402
from engine.metrics import assess, confusion  # noqa: E402
from engine.models.card import load_card  # noqa: E402
from engine.publishing.charts import draw_confusion  # noqa: E402
from engine.store.repository import Store  # noqa: E402
from engine.synthetic.country import AUTUMN, Country  # noqa: E402
from engine.synthetic.districts import World  # noqa: E402
from engine.synthetic.make import synthesize  # noqa: E402
from engine.synthetic.surface import paint  # noqa: E402
from engine.synthetic.truth import FEATURES, MISFIT, survey  # noqa: E402

TRAIN = {f"train-{seed:02}": Country(World(seed), 16_000, 9_600, inset=1) for seed in range(1, 11)}
TEST = {f"test-{seed}": Country(World(seed), 9_600, 9_600, inset=1) for seed in range(101, 107)}
PATCHES = 4_000  # of each training world
MORE = 8_000  # for the network that is shipped
VALIDATION = ("train-09", "train-10")
BUILT = slice(0, 10)
FROZEN = HERE / "worlds.json"


# -- worlds ------------------------------------------------------------------------------------


def facts(country: Country) -> dict[str, Any]:
    """Class shares of a world, and a hash of its truth and of a piece of its ground."""
    left, bottom, right, top = country.bounds
    found = survey(country.world, left, top, (top - bottom) // 100, (right - left) // 100)
    counts = np.bincount(found.lcz.ravel(), minlength=18)[1:]
    ground = paint(country.world, (left + right) // 2, (top + bottom) // 2, 400, 400)
    digest = hashlib.sha256()
    for values in (found.lcz, found.misfit <= MISFIT, ground.material, ground.tone):
        digest.update(np.ascontiguousarray(values).tobytes())
    return {
        "seed": country.world.seed,
        "size": [country.width, country.height],
        "cells": int(counts.sum()),
        "built": round(float(counts[BUILT].sum() / counts.sum()), 4),
        "defined": round(float((found.misfit <= MISFIT).mean()), 4),
        "shares": [round(float(n / counts.sum()), 4) for n in counts],
        "sha256": digest.hexdigest(),
    }


def freeze() -> None:
    worlds = {name: facts(country) for name, country in {**TRAIN, **TEST}.items()}
    cells = np.array([worlds[name]["cells"] for name in TEST])
    shares = np.array([worlds[name]["shares"] for name in TEST])
    together = (shares * cells[:, None]).sum(0) / cells.sum()
    result = {
        "dates": [o.when.isoformat() for o in AUTUMN],
        "validation": list(VALIDATION),
        "test_worlds_together": {
            "built": round(float(together[BUILT].sum()), 4),
            "largest_class": round(float(together.max()), 4),
            "shares": [round(float(v), 4) for v in together],
        },
        "worlds": worlds,
    }
    FROZEN.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["test_worlds_together"]))


def make(work: Path, names: Sequence[str] = (*TRAIN, *TEST)) -> None:
    frozen = json.loads(FROZEN.read_text())["worlds"]
    for name in names:
        folder, country = work / name, (TRAIN | TEST)[name]
        if (folder / "made").exists():
            continue
        began = time.perf_counter()
        if facts(country)["sha256"] != frozen[name]["sha256"]:
            sys.exit(f"{name} is not the frozen world: the made-up worlds have changed")
        synthesize(country, folder, name=name, tile=320)
        one = (folder / "recipe.yaml").read_text()
        day = AUTUMN[0].when.date()
        one = one.replace(f"period: {day}/{AUTUMN[-1].when.date()}", f"period: {day}/{day}")
        (folder / "one-date.yaml").write_text(one.replace("./store", "./store-one"))
        (folder / "made").touch()
        print(f"{name}: made in {time.perf_counter() - began:.0f} s", flush=True)


def run_until_composite(recipe: Path) -> Any:
    from engine.pipeline.verbs import run

    return run(recipe, until="composite", workers=1)


KINDS_OF_COMPOSITE = (("recipe", "composed"), ("one-date", "composed-one"))


def compose(
    work: Path,
    names: Sequence[str] = (*TRAIN, *TEST),
    kinds: Sequence[tuple[str, str]] = KINDS_OF_COMPOSITE,
) -> None:
    for name in names:
        for recipe, done in kinds:
            folder = work / name
            if (folder / done).exists():
                continue
            summary = run_until_composite(folder / f"{recipe}.yaml")
            assert not summary.failed, summary.failed
            (folder / done).touch()
            print(f"{name} {recipe}: composite in {summary.seconds:.0f} s", flush=True)


# -- training ----------------------------------------------------------------------------------


def recipe_of(kind: str) -> dict[str, Any]:
    """What each model is trained with."""
    one, wide = kind == "forest-one-date", kind == "network-wide"
    labels = [
        {
            "recipe": f"{name}/{'one-date' if one else 'recipe'}.yaml",
            "raster": f"{name}/truth/truth-lcz.tif",
            "place": name,
            "most": MORE if wide else PATCHES,
        }
        for name in TRAIN
    ]
    base: dict[str, Any] = {
        "name": "lcz-made-up" if wide else f"lcz-made-up-{kind}",
        "labels": labels,
        "patches": "patches-one" if one else "patches-wide" if wide else "patches",
        "context": 6 if wide else 0,
        "split": {"by": "place", "validation": VALIDATION},
        "out": f"models/{kind}",
    }
    licence = {"licence": "Apache-2.0"}
    if kind.startswith("network"):
        # the wider one's first blocks see real neighbours: maps cost it a fifth (benchmarks/dense)
        wider = {"branch": 24, "blocks": [48, 96, 96, 192, 192], "dense": 192, "leading": 2}
        base["model"] = {
            "architecture": "mscnn",
            "parameters": wider
            if wide
            else {"branch": 16, "blocks": [32, 64, 64, 128, 128], "dense": 128},
            "description": "MSCNN trained on made-up worlds only (benchmarks/accuracy): for the "
            "demo and for tests. Autumn dates, sun 32 to 38 degrees high. Not for real places.",
            # 16 cells a block: the card serves every tile that is a multiple of 160 px
            **({"inference_block": 16} if wide else {}),
            **licence,
        }
        base["training"] = {
            "epochs": 24 if wide else 16,
            "draws": 40_000 if wide else None,
            "batch": 128,
            "schedule": "cosine",
            "precision": "bfloat16",
        }
    else:
        statistics, side = {
            "forest-one-date": ("mean", 10),
            "forest-means-spreads": ("mean-std", 10),
            "forest-patches": ("mean-std", 32),
        }[kind]
        base["model"] = {
            "architecture": "forest",
            "parameters": {"statistics": statistics, "side": side, "trees": 100},
            **licence,
        }
    return base


KINDS = ("forest-one-date", "forest-means-spreads", "forest-patches", "network", "network-wide")
SHIPPED = "network-wide"


def train_all(work: Path) -> None:
    from engine.training.train import train

    for kind in KINDS:
        if (work / "models" / kind / "card.json").exists():
            continue
        began = time.perf_counter()
        train(
            recipe_of(kind),
            base=work,
            tell=lambda text: print(text, flush=True),
            epoch=lambda e: print(
                f"  epoch {e.number}: loss {e.loss:.3f}, validation {e.validation_loss:.3f}, "
                f"accuracy {e.validation_accuracy:.3f}",
                flush=True,
            ),
        )
        print(f"{kind}: trained in {time.perf_counter() - began:.0f} s", flush=True)


# -- judging -----------------------------------------------------------------------------------


def classes_of(work: Path, name: str, kind: str, model: Path | None = None) -> np.ndarray:
    """The whole map of a world by a model, unfiltered; 0 where there is none."""
    card = load_card(model or work / "models" / kind)
    store = Store.open(work / name / ("store-one" if kind == "forest-one-date" else "store"))
    root: Any = zarr.open_group(store.reader().store, mode="r")
    bands, seen = root["composite/bands"][:], root["composite/observations"][:]
    halo = card.halo
    pad = ((halo, halo), (halo, halo))
    found = score_cells(
        np.pad(bands, ((0, 0), *pad)), np.pad(seen > 0, pad), card, Predictor(card, "cpu")
    )
    codes = np.array(card.classes, np.uint8)[np.nan_to_num(found.scores).argmax(0)]
    codes = np.where(found.scored, codes, 0)
    # the store is whole tiles; the world lies inside of it
    left, bottom, right, top = (TEST | TRAIN)[name].bounds
    west, _, _, north = store.identity["bounds"]
    r, c = round((north - top) / 100), round((left - west) / 100)
    return codes[r : r + (top - bottom) // 100, c : c + (right - left) // 100]


def oracle(work: Path) -> dict[str, Any]:
    """Forests on the true figures: the ceiling, with and without heights."""
    from sklearn.ensemble import RandomForestClassifier

    def table(name: str) -> tuple[np.ndarray, np.ndarray]:
        with rasterio.open(work / name / "truth" / "truth-features.tif") as file:
            x = file.read().reshape(len(FEATURES), -1).T
        with rasterio.open(work / name / "truth" / "truth-lcz.tif") as file:
            return x, file.read(1).ravel()

    rng = np.random.default_rng(0)
    parts = []
    for name in TRAIN:
        x, y = table(name)
        pick = rng.choice(len(y), PATCHES, replace=False)
        parts.append((x[pick], y[pick]))
    x, y = (np.concatenate(values) for values in zip(*parts, strict=True))
    found = {}
    for label, columns in (("oracle", slice(0, 11)), ("oracle without heights", slice(0, 8))):
        forest = RandomForestClassifier(100, random_state=0, n_jobs=-1).fit(x[:, columns], y)
        accuracies = []
        for name in TEST:
            features, truth = table(name)
            counts = confusion(truth, forest.predict(features[:, columns]))
            accuracies.append(assess(counts).oa)
        found[label] = {"oa": mean_spread(accuracies)}
    return found


def mean_spread(values: list[float]) -> list[float]:
    return [round(float(np.mean(values)), 4), round(float(np.std(values)), 4)]


def judge(work: Path) -> None:
    maps: dict[str, dict[str, np.ndarray]] = {}
    truths, defined = {}, {}
    for name in TEST:
        with rasterio.open(work / name / "truth" / "truth-lcz.tif") as file:
            truths[name] = file.read(1)
        with rasterio.open(work / name / "truth" / "truth-defined.tif") as file:
            defined[name] = file.read(1) > 0
        maps[name] = {kind: classes_of(work, name, kind) for kind in KINDS}
        plain = np.pad(maps[name][SHIPPED], filter_halo("gaussian", 100.0))
        maps[name]["shipped, filtered"] = gaussian_filter(plain, 100.0)
        # the same cells for all: those that every map has
        same = np.all([codes > 0 for codes in maps[name].values()], axis=0)
        truths[name] = np.where(same, truths[name], 0)
        print(f"{name}: mapped, {same.mean():.3f} of its cells in all maps", flush=True)
    present = sum(np.bincount(t.ravel(), minlength=18)[1:] for t in truths.values())
    result: dict[str, Any] = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "cells": int(present.sum()),
        "built": round(float(present[BUILT].sum() / present.sum()), 4),
        "shares": [round(float(n / present.sum()), 4) for n in present],
        "models": {},
        "oracle": oracle(work),
    }
    for kind in (*KINDS, "shipped, filtered"):
        every = [assess(confusion(truths[n], maps[n][kind])) for n in TEST]
        well = [assess(confusion(np.where(defined[n], truths[n], 0), maps[n][kind])) for n in TEST]
        result["models"][kind] = {
            "oa": mean_spread([a.oa for a in every]),
            "kappa": mean_spread([a.kappa for a in every]),
            "oa_u": mean_spread([a.oa_u for a in every]),
            "f1_macro": mean_spread([a.f1_macro for a in every]),
            "defined_oa": mean_spread([a.oa for a in well]),
            "defined_kappa": mean_spread([a.kappa for a in well]),
            "f1": [round(float(v), 3) for v in np.nanmean([a.f1 for a in every], axis=0)],
        }
        print(kind, json.dumps(result["models"][kind]), flush=True)
    counts = sum(confusion(truths[n], maps[n][SHIPPED]) for n in TEST)
    draw_confusion(counts, HERE / "made-up-confusion.png", "test worlds, unfiltered, % of truth")
    (HERE / "made-up.json").write_text(json.dumps(result, indent=1) + "\n")


def ship(work: Path) -> None:
    """The trained network into the package, with its report."""
    target = ROOT / "engine" / "models" / "shipped" / "lcz-made-up"
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted((work / "models" / SHIPPED).iterdir()):
        if path.suffix in (".json", ".safetensors", ".png"):
            shutil.copy(path, target / path.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["freeze", "make", "compose", "train", "judge", "all"])
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--ship", action="store_true", help="copy the network into the package")
    asked = parser.parse_args()
    if asked.what == "freeze":
        return freeze()
    work = asked.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    steps = {"make": make, "compose": compose, "train": train_all, "judge": judge}
    for name, step in steps.items():
        if asked.what in (name, "all"):
            step(work)
    if asked.ship:
        ship(work)


if __name__ == "__main__":
    main()
