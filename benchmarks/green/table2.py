"""Table 2 of UGS-1m from recipes: nine networks on the same chips, by the same settings and seeds.

    python benchmarks/green/table2.py --work FOLDER                    (`make table2`; 18 minutes
        of a core for each of --seeds, by default one)
    python benchmarks/green/table2.py --work FOLDER --ugset FOLDER     (the paper's own chips)

Without ``--ugset`` the chips are synthetic: photos of the cities of `cities.py`, cut once into a
folder laid out like UGSet (six cities train, one validates, three that nothing is trained on are
the test), for networks of a quarter of the width. With it they are UGSet's, at the published size
and length: days of a GPU. Each training is a recipe of product `ugs` through `natmap train`, and
one line of the log; what is there is not trained again. The table is written from the log after
each training, beside the paper's figures.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy looks

import numpy as np  # noqa: E402
import rasterio  # noqa: E402

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from cities import TEST, TRAIN, VALIDATION  # noqa: E402

from engine.models.registry import build  # noqa: E402
from engine.synthetic.country import Country  # noqa: E402
from engine.synthetic.photo import GREEN, Light, take_photo  # noqa: E402
from engine.synthetic.surface import paint  # noqa: E402
from engine.training.train import train  # noqa: E402

Row = dict[str, Any]
_BASE = {"attention": False, "point_head": False}
NETWORKS: dict[str, tuple[Row, tuple[float, float, float, float]]] = {
    "SegNet": ({"architecture": "segnet"}, (71.70, 77.34, 74.42, 59.26)),
    "U-Net": ({"architecture": "unet"}, (75.57, 74.92, 75.25, 60.31)),
    "UperNet": ({"architecture": "upernet"}, (74.81, 76.11, 75.45, 60.58)),
    "BiSeNet": ({"architecture": "bisenet"}, (75.13, 76.26, 75.69, 60.89)),
    "PSPNet": ({"architecture": "pspnet"}, (76.57, 74.94, 75.74, 60.96)),
    "base": ({"parameters": _BASE}, (76.52, 76.22, 76.37, 61.77)),
    "base, attention": ({"parameters": _BASE | {"attention": True}}, (76.87, 76.13, 76.49, 61.94)),
    "base, point head": (
        {"parameters": _BASE | {"point_head": True}},
        (74.99, 78.89, 76.89, 62.46),
    ),
    "UGSNet": ({}, (75.40, 79.29, 77.30, 62.99)),
}
"""What `model` of each recipe says; the paper's precision, recall, F1 and IoU on UGSet's test."""

FIGURES = ("precision", "recall", "f1", "iou")
SIDE = 128
COUNTS = {"train": 160, "val": 32, "test": 96}
GROUPS = {"train": TRAIN, "val": VALIDATION, "test": TEST}
SMALL: Row = {"epochs": 14, "batch": 8, "rate": 2e-3, "precision": "bfloat16"}
PUBLISHED: Row = {"preset": "paper"}


def draw_chips(folder: Path) -> None:
    """Write synthetic chips as UGSet is laid out, as many of each city of a split."""
    for number, (split, count) in enumerate(COUNTS.items()):
        cities = list(GROUPS[split].values())
        rng = np.random.default_rng(number)
        for name in ("images", "labels"):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            place, light = cities[k % len(cities)]
            photo, green = _draw_chip(place, light, rng)
            _write(folder / split / "images" / f"{k:04}.png", photo)
            _write(folder / split / "labels" / f"{k:04}.png", green[None])


def _draw_chip(place: Country, light: Light, rng: np.random.Generator) -> tuple[Any, Any]:
    """A photo and 255 where it is green, of a square in which some of both is seen."""
    west, south, east, north = place.bounds
    while True:
        left = int(rng.integers(west + 500, east - 500 - SIDE))
        top = int(rng.integers(south + 500 + SIDE, north - 500))
        green = GREEN[paint(place.world, left, top, SIDE, SIDE).material]
        if 0.02 < green.mean() < 0.98:
            photo = take_photo(place.world, left, top, SIDE, SIDE, light)[:3]
            return photo, np.where(green, 255, 0).astype(np.uint8)


def _write(path: Path, values: Any) -> None:
    form = {"height": values.shape[1], "width": values.shape[2], "count": len(values)}
    with rasterio.open(path, "w", driver="PNG", dtype="uint8", **form) as file:
        file.write(values)


def recipe_of(name: str, seed: int, asked: argparse.Namespace) -> Row:
    """The recipe of one training."""
    published = asked.ugset is not None
    slug = name.lower().replace(", ", "-").replace(" ", "-")
    return {
        "name": f"{slug}-{seed}",
        "product": "ugs",
        "labels": [{"ugset": str(asked.ugset.resolve() if published else "ugset")}],
        "chips": "chips",
        "side": 512 if published else SIDE,
        "split": {"by": "own"},
        "model": {
            "size": "published" if published else "small",
            "overlap": 64 if published else SIDE // 4,
            **NETWORKS[name][0],
        },
        "training": {**(PUBLISHED if published else SMALL), "seed": seed},
        "out": f"models/{slug}-{seed}",
    }


def piece(name: str, seed: int, asked: argparse.Namespace) -> Row:
    """Train one network and judge it on the test chips."""
    recipe = recipe_of(name, seed, asked)
    began, cpu = time.perf_counter(), time.process_time()
    found = train(recipe, base=asked.work, tell=lambda text: print(text, flush=True))
    assert found.figures is not None
    report = json.loads((found.card.folder / "report.json").read_text())
    return {
        "network": name,
        "seed": seed,
        "settings": _settings(recipe),
        **{key: found.figures[key] for key in (*FIGURES, "oa")},
        "chips": report["chips"],
        "best_epoch": report["best_epoch"],
        "parameters": sum(p.numel() for p in build(found.card).parameters()),
        "seconds": round(time.perf_counter() - began),
        "cpu_seconds": round(time.process_time() - cpu),
    }


def _settings(recipe: Row) -> str:
    """A hash of what all lines of one log must have in common."""
    training = {key: value for key, value in recipe["training"].items() if key != "seed"}
    told = [recipe["side"], recipe["model"]["size"], training]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def write_table(rows: list[Row], target: Path) -> None:
    """Means over seeds beside the paper's figures; a spread where there are several seeds."""
    lines = [
        "| network | parameters | seeds | precision | recall | F1 | IoU | published | CPU s |",
        "|--|--|--|--|--|--|--|--|--|",
    ]
    for name, (_, paper) in NETWORKS.items():
        mine = [row for row in rows if row["network"] == name]
        if not mine:
            continue
        told = [_spread([100 * row[key] for row in mine]) for key in FIGURES]
        seconds = float(np.mean([row["cpu_seconds"] for row in mine]))
        lines.append(
            f"| {name} | {mine[0]['parameters'] / 1e6:.2f} M | {len(mine)} | {' | '.join(told)} | "
            f"{', '.join(f'{value:.2f}' for value in paper)} | {seconds:.0f} |"
        )
    target.write_text("\n".join(lines) + "\n")


def _spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work"))
    parser.add_argument("--ugset", type=Path, help="folder of UGSet: train, val and test")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--log", type=Path, help="by default beside this file, by set")
    asked = parser.parse_args()
    asked.work = asked.work.resolve()
    log = asked.log or HERE / ("table2.jsonl" if asked.ugset is None else "table2-ugset.jsonl")
    if asked.ugset is None and not (asked.work / "ugset" / "whole").exists():
        draw_chips(asked.work / "ugset")
        (asked.work / "ugset" / "whole").touch()
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    wanted = _settings(recipe_of("UGSNet", 0, asked))
    if any(row["settings"] != wanted for row in rows):
        sys.exit(f"{log} is of other settings than these: move it away, or name another with --log")
    done = {(row["network"], row["seed"]) for row in rows}
    for seed, name in product(asked.seeds, NETWORKS):
        if (name, seed) in done:
            continue
        rows.append(piece(name, seed, asked))
        with log.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(rows[-1], flush=True)
        write_table(rows, log.with_suffix(".md"))


if __name__ == "__main__":
    main()
